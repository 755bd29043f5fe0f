"""Block and density per layer under one budget of cycles: the least score is lost.

Every layer may stay dense or take one of a grid of blocks and densities. What it then loses is the score of the
blocks dropped, summed over elements so that block sizes compare, as a share of the layer's own score: a small layer
that loses half of its weight hurts as much as a large one. What it then takes is the planner's prediction of a
random pattern. One knapsack over all layers (`ipucc.sparsity.budget`) chooses. What the other nodes take is the quick
placement of the whole model less its layers; the choice is placed as a whole in turn, with the blocks that it keeps,
and the budget of the layers is set right by the difference until the whole model keeps to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.diagnostics import error
from ipucc.graph.edit import Editor, prune
from ipucc.graph.schemas import attach_functions
from ipucc.pass_manager import PassContext
from ipucc.pass_manager.base import Predict
from ipucc.passes.graph.predictions import Predictions
from ipucc.passes.graph.products import KINDS, Product, find_products
from ipucc.passes.graph.sparse_form import Kept, replace
from ipucc.sparsity.blocks import Array, Block, Mask, grid_of
from ipucc.sparsity.budget import Form, allocate
from ipucc.sparsity.masks import choose, kept_count
from ipucc.sparsity.scores import Gram, additive, block_scores

__all__ = ["Budgeted", "Decision", "within_budget"]

PREDICTED: Final = (0.02, 0.06, 0.15, 0.35, 0.75)
"""Densities at which the planner is asked; between them cycles are taken to be linear."""

DENSITIES: Final = (
    0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.075, 0.09, 0.11, 0.13,
    0.15, 0.18, 0.22, 0.26, 0.3, 0.35, 0.42, 0.5, 0.6, 0.75,
)  # fmt: skip
_ROUNDS: Final = 6
_SLACK: Final = 0.01
"""Share of the budget that may be left over."""

Decision = tuple[Block, float]
"""A block and the density of its blocks."""


@dataclass(frozen=True)
class Budgeted:
    """Decisions by weight; weights without one stay dense. `cycles` is the quick placement of the whole model with
    them, `lost` the share of its score that a layer loses in the mean, `bound` what no choice of this grid whose layers
    take as few cycles can be below."""

    decisions: Mapping[ir.Value, Decision]
    cycles: int
    lost: float
    bound: float


def within_budget(
    model: ir.Model,
    layers: Sequence[Product],
    weights: Mapping[ir.Value, Array],
    inputs: Mapping[ir.Value, Gram],
    blocks: Sequence[Block],
    score: str,
    budget: int,
    predict: Predict,
) -> Budgeted:
    """The decisions of least loss with which the model is predicted to take at most `budget` cycles.

    Raises CompileError IPU0316 where no choice is found to keep to the budget.
    """
    predictions = Predictions(predict)
    products: dict[ir.Value, list[Product]] = {}
    for product in layers:
        products.setdefault(product.constant, []).append(product)
    offers = {
        value: _offers(users, weights[value], inputs.get(value), blocks, score, predictions)
        for value, users in products.items()
    }
    table = [[form for _, form in forms] for forms in offers.values()]
    dense = sum(forms[0].cycles for forms in table)
    cheapest = sum(min(form.cycles for form in forms) for forms in table)
    low, high = cheapest, dense
    allowed = budget - max(0, predict.whole(model) - dense)
    best, least = None, None
    tried: set[tuple[int, ...]] = set()
    for _ in range(_ROUNDS):
        found = allocate(table, min(max(allowed, cheapest), dense))
        assert found is not None  # the leanest forms fit in what they take
        if found.chosen in tried:
            break
        tried.add(found.chosen)
        decisions = {
            value: decision
            for (value, forms), at in zip(offers.items(), found.chosen, strict=True)
            if (decision := forms[at][0]) is not None
        }
        masks = {
            value: (block, _mask(block_scores(weights[value], block, score, inputs.get(value)), density, score))
            for value, (block, density) in decisions.items()
        }
        cycles = _whole(model, layers, masks, predict)
        least = cycles if least is None else min(least, cycles)
        if cycles <= budget and (best is None or found.loss < best.lost * len(table)):
            best = Budgeted(decisions, cycles, found.loss / len(table), found.bound / len(table))
        if 0 <= budget - cycles <= _SLACK * budget:
            break
        # What fits bounds the layers' share of the budget from below, what does not from above.
        low, high = (found.cycles, high) if cycles <= budget else (low, found.cycles)
        allowed = found.cycles + budget - cycles
        if not low < allowed < high:
            allowed = (low + high) // 2
    if best is None:
        raise error(
            "IPU0316", f"no choice of blocks keeps to {budget:,} cycles: {least:,} are predicted for the best found",
            help=["a larger budget, smaller densities than those offered by layers, or fewer layers excluded"],
        )  # fmt: skip
    return best


def _offers(
    users: Sequence[Product], weight: Array, inputs: Gram | None, blocks: Sequence[Block], score: str,
    predictions: Predictions,
) -> list[tuple[Decision | None, Form]]:  # fmt: skip
    """What a weight may become: dense first."""
    dense = sum(predictions.dense(product) for product in users)
    found: list[tuple[Decision | None, Form]] = [(None, Form(0.0, dense))]
    for block in blocks:
        scores = block_scores(weight, block, score, inputs)
        sums = additive(scores, score)
        whole = float(sums.sum())
        cycles = _curve(users, block, dense, predictions)
        for density, taken in zip(DENSITIES, cycles, strict=True):
            if taken >= dense:
                continue
            mask = _mask(scores, density, score)
            lost = 1.0 - float(sums[mask].sum()) / whole if whole else 0.0
            found.append(((block, density), Form(max(0.0, lost), taken)))
    return found


def _curve(users: Sequence[Product], block: Block, dense: int, predictions: Predictions) -> list[int]:
    """Predicted cycles of the layers of a weight at DENSITIES, not below `dense` where nobody was asked."""
    points: list[tuple[float, int]] = []
    total = int(np.prod(grid_of(users[0].shape, block)))
    for density in PREDICTED:
        if sum(predictions.floor(product, kept_count(total, density), block) for product in users) >= dense:
            break
        points.append((density, sum(predictions.at_density(product, block, density) for product in users)))
        if points[-1][1] >= dense:
            break
    if not points:
        return [dense] * len(DENSITIES)
    asked, cycles = zip(*points, strict=True)
    return [int(c) for c in np.interp(DENSITIES, asked, cycles, right=dense)]


def _whole(
    model: ir.Model, layers: Sequence[Product], masks: Mapping[ir.Value, tuple[Block, Mask]], predict: Predict
) -> int:
    """The quick placement of the model with these blocks of its weights only."""
    copy = model.clone()
    position = {node: i for i, node in enumerate(model.graph.all_nodes())}
    chosen = {position[p.node]: masks[p.constant] for p in layers if p.constant in masks}
    at = {node: i for i, node in enumerate(copy.graph.all_nodes())}
    editor = Editor(copy)
    for product in find_products(copy, KINDS, PassContext()):
        if at[product.node] not in chosen:
            continue
        block, mask = chosen[at[product.node]]
        values = editor.absent((int(mask.sum()), *block), product.constant.dtype or ir.DataType.FLOAT)
        replace(product, Kept(block, mask, np.zeros(0), values=values), editor)
    prune(copy)
    attach_functions(copy)
    return predict.whole(copy)


def _mask(scores: NDArray[np.float64], density: float, score: str) -> Mask:
    """The mask that the pass will choose."""
    return choose(scores, density, "output" if score == "wanda" else "layer")
