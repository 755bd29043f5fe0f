"""The pass `use-zeros`: weights that are zero in whole blocks are multiplied block by block, where that is faster."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import Editor, prune
from ipucc.graph.schemas import attach_functions
from ipucc.pass_manager import Pass, PassContext, option
from ipucc.passes.graph.predictions import NEVER, Predictions
from ipucc.passes.graph.products import Product, find_products, matches
from ipucc.passes.graph.sparse_form import Kept, replace
from ipucc.sparsity import Scan, blocks_with_any, grid_of, scan
from ipucc.sparsity.blocks import Array, Block
from ipucc.sparsity.scan import zero_blocks_bound

__all__ = ["UseZeros", "best_block"]

_BLOCKS: Final = ((16, 16), (8, 8), (4, 4))
"""Blocks that are asked about: a prediction takes a tenth of a second."""

_GAIN: Final = 0.05
"""Share of the dense cycles that sparsity must be predicted to gain. Layers are predicted alone on the chip; what a
change of one costs its neighbours is not in the prediction."""

_WORTH_A_REMARK: Final = 0.05
"""Share of elements that are zero from which a layer that stays dense is told about."""


@dataclass(frozen=True)
class UseZeros(Pass):
    """Makes block-sparse the products whose weights have enough zero blocks for the planner to predict a gain.

    Numbers stay: every block with an element other than zero is kept. Blocks are 16, 8 or 4 long and wide, the one of
    fewest predicted cycles. A product that gains less than 5 % by it stays dense. One with many zeros that stays dense
    is named in a remark, with the densities of its blocks and the prediction. Without a planner nothing changes.
    """

    name: ClassVar[str] = "use-zeros"

    ops: tuple[str, ...] = option(("matmul", "conv"), "which products: matmul, conv")
    exclude: tuple[str, ...] = option((), "names, or patterns of names, of nodes or weights that stay dense")

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        if ctx.predict is None:
            return False
        predictions = Predictions(ctx.predict)
        editor, changed = Editor(model), False
        looked: dict[ir.Value, tuple[Array, Scan] | None] = {}
        kept: dict[tuple[ir.Value, Block], Kept] = {}
        for product in find_products(model, self.ops, PassContext()):
            if matches(product, self.exclude):
                continue
            if product.constant not in looked:
                looked[product.constant] = _look(product)
            found = looked[product.constant]
            if found is None:
                continue
            weight, densities = found
            block, cycles = best_block(product, weight, densities, predictions, _BLOCKS)
            dense = predictions.dense(product)
            if block is None or cycles > (1 - _GAIN) * dense:
                ctx.missed(product.node, _reason(densities, block, cycles, dense), id="IPU0411")
                continue
            key = product.constant, block
            if key not in kept:
                kept[key] = Kept(block, blocks_with_any(weight, block), weight)
            replace(product, kept[key], editor)
            ctx.passed(
                product.node,
                f"{kept[key].count} of {kept[key].mask.size} blocks of {block[0]} x {block[1]} are not zero: "
                f"predicted {cycles:,} cycles block-sparse, {dense:,} dense",
                density=kept[key].density,
                blocks=kept[key].count,
            )
            changed = True
        if changed:
            prune(model)
            attach_functions(model)
        return changed


def best_block(
    product: Product, weight: Array, densities: Scan, predictions: Predictions, blocks: Sequence[Block] | None = None
) -> tuple[Block | None, int]:
    """The block (of those scanned) of fewest predicted cycles for what is not zero, and these cycles.

    Blocks whose arithmetic alone takes longer than the dense product, or than a better block, are not looked at
    further; None where that leaves none.
    """
    best: Block | None = None
    cycles = NEVER
    limit = predictions.dense(product)
    by_floor = []
    for block in densities.densities if blocks is None else blocks:
        count = round(densities.densities[block] * int(np.prod(grid_of(product.shape, block))))
        if count:
            by_floor.append((predictions.floor(product, count, block), block))
    for floor, block in sorted(by_floor):
        if floor >= min(limit, cycles):
            break
        found = predictions.sparse(product, blocks_with_any(weight, block), block)
        if found < cycles:
            best, cycles = block, found
    return best, cycles


def _look(product: Product) -> tuple[Array, Scan] | None:
    """A weight and what a scan says of it; None for one whose values are absent or that has hardly any zeros.

    A sixteenth of the elements is looked at first, which bounds the zero blocks from above and estimates the zeros.
    """
    first = product.peek()
    none = first is None or not zero_blocks_bound(first)
    del first
    if none:
        product.let_go()
        return None
    weight = product.read()
    assert weight is not None  # it has been looked at
    found = scan(weight)
    few = found.densities[4, 4] == 1 and found.elements > 1 - _WORTH_A_REMARK
    if few or found.elements == 0:
        del weight
        product.let_go()
        return None
    return weight, found


def _reason(densities: Scan, block: Block | None, cycles: int, dense: int) -> str:
    """Why a layer with zeros stays dense."""
    shares = ", ".join(f"{b}x{b} {1 - densities.densities[b, b]:.1%}" for b in (4, 8, 16))
    zeros = f"{1 - densities.elements:.1%} of the elements are zero, of the blocks {shares}"
    if block is None:
        return f"kept dense: {zeros}; the other blocks alone take longer than the {dense:,} cycles predicted dense"
    less = f", less than {_GAIN:.0%} saved" if cycles < dense else ""
    blocks = f"blocks of {block[0]} x {block[1]}"
    return f"kept dense: {zeros}; predicted {cycles:,} cycles with {blocks}, {dense:,} dense{less}"
