"""The pass `sparsify`: products keep only some blocks of their weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.graph.edit import Editor, prune
from ipucc.graph.schemas import attach_functions
from ipucc.pass_manager import Pass, PassContext, option
from ipucc.passes.graph.budget import Decision, within_budget
from ipucc.passes.graph.calibrate import layer_inputs, read_calibration
from ipucc.passes.graph.mask_file import read_masks
from ipucc.passes.graph.predictions import Predictions
from ipucc.passes.graph.products import KINDS, Product, find_products, matches
from ipucc.passes.graph.sparse_form import Kept, replace
from ipucc.sparsity import PATTERNS, SCORES, block_scores, blocks_with_any, check_block, choose, erk, obs_update
from ipucc.sparsity.balanced import balanced
from ipucc.sparsity.blocks import Array, Block, Mask
from ipucc.sparsity.scores import CALIBRATED, Gram, element_mask

SHARES: Final = ("uniform", "erk")
CHOICES: Final = ("top", *PATTERNS, "zeros")


@dataclass(frozen=True)
class Sparsify(Pass):
    """Replaces products with a constant weight by BlockSparseMatMul and BlockSparseConv.

    The weight [taps, k, n] is cut into blocks along k and n, zero padded at the edges. `pattern=top` keeps those of
    highest `score`, equal ones by place; other patterns keep blocks by place alone, `zeros` those that are not all
    zero, a `mask` those that the user names. The share kept is `density`, one block at least. With the score
    `sparsegpt` the weights that are kept are changed so that outputs change little.

    A layer stays dense if `exclude` fits a name of it, if no density is given for it or a density of 1, if a mask file
    has no mask for it, and with `when=pays` if the planner predicts no gain; a remark gives the reason, as one gives
    the density of each sparse layer.
    """

    name: ClassVar[str] = "sparsify"

    block: int | tuple[int, int] = option(16, "size of a block: 1, 4, 8 or 16, or [along k, along n]")
    density: float | tuple[tuple[str, float], ...] = option(
        0.1, "share of the blocks that is kept, above 0 and at most 1; or a list of [name or pattern, share]"
    )
    distribution: str = option("uniform", "how a density is shared out among layers", choices=SHARES)
    cycles: int = option(0, "instead of a density: what the whole model may take, with the least score lost")
    blocks: tuple[int | tuple[int, int], ...] = option((16, 8, 4), "blocks that cycles= chooses from, layer by layer")
    score: str = option("l1", "what makes a block matter", choices=SCORES)
    pattern: str = option("top", "which blocks are kept", choices=CHOICES)
    mask: str = option("", "an .npz of masks by name of weight or node, instead of a density")
    calibration: str = option("", "an .npz of inputs of the model, for the scores wanda and sparsegpt")
    ops: tuple[str, ...] = option(("matmul",), "which products: matmul, conv")
    balance: tuple[int, ...] = option(
        (), "a grid [bands, across] of tiles whose cells keep equally many blocks, and which the blocks are dealt to"
    )
    slack: float = option(0.0, "by which share a cell of that grid may hold more than the mean")
    when: str = option("always", "which layers: all, or those where it pays", choices=("always", "pays"))
    exclude: tuple[str, ...] = option((), "names, or patterns of names, of nodes or weights that stay dense")

    def files(self) -> tuple[str, ...]:
        """Files that the result depends on."""
        return tuple(path for path in (self.mask, self.calibration) if path)

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        block = self._checked(ctx)
        layers = self._layers(find_products(model, self.ops, ctx), ctx)
        weights: dict[ir.Value, Array] = {}
        for product in list(layers):
            found = weights.get(product.constant)
            if found is None and (found := product.read()) is None:
                ctx.missed(product.node, "kept dense: the values of the weight are absent", id="IPU0410")
                layers.remove(product)
            elif found is not None:
                weights[product.constant] = found
        kept = self._choose(model, layers, weights, block, ctx)
        editor, changed = Editor(model), False
        predictions = None if ctx.predict is None else Predictions(ctx.predict)
        for product in layers:
            blocks = kept.get(product.constant)
            if blocks is None:
                continue
            if self.when == "pays" and predictions is not None:
                dense, sparse = predictions.dense(product), predictions.sparse(product, blocks.mask, blocks.block)
                if sparse >= dense:
                    text = f"kept dense: predicted {sparse:,} cycles block-sparse, {dense:,} dense"
                    ctx.missed(product.node, text, id="IPU0411")
                    continue
            replace(product, blocks, editor)
            size = f"{blocks.block[0]} x {blocks.block[1]}"
            ctx.passed(
                product.node,
                f"{blocks.count} of {blocks.mask.size} blocks of {size} kept, density {blocks.density:.4f}",
                density=blocks.density,
                blocks=blocks.count,
            )
            changed = True
        if changed:
            prune(model)
            attach_functions(model)
        return changed

    def _checked(self, ctx: PassContext) -> Block:
        """The block. Raises CompileError for values that an option's type admits and this pass does not."""
        try:
            block = check_block(self.block)
            for offered in self.blocks:
                check_block(offered)
        except ValueError as failure:
            raise error("IPU0304", str(failure)) from failure
        densities = [d for _, d in self.density] if isinstance(self.density, tuple) else [self.density]
        for density in densities:
            if not 0 < density <= 1:
                raise error("IPU0304", f"density must be above 0 and at most 1, not {density}")
        if unknown := [kind for kind in self.ops if kind not in KINDS]:
            raise error("IPU0304", f"ops are {' and '.join(KINDS)}, not {', '.join(unknown)}")
        if self.distribution != "uniform" and isinstance(self.density, tuple):
            raise error("IPU0304", f"distribution={self.distribution} shares out one density, not a list of them")
        if self.mask and self.pattern != "top":
            raise error("IPU0304", f"a mask says which blocks are kept, and so does pattern={self.pattern}")
        if self.balance and (len(self.balance) != 2 or min(self.balance) < 1):
            raise error("IPU0304", f"balance is two whole numbers from 1, not {list(self.balance)}")
        if self.balance and (self.mask or self.pattern != "top"):
            raise error("IPU0304", "balance chooses blocks by their scores, which a mask or another pattern does not")
        if self.slack < 0 or (self.slack and not self.balance):
            raise error("IPU0304", "slack is a share from 0, and of use with balance only")
        if self.score in CALIBRATED and not self.calibration:
            raise error(
                "IPU0304", f"the score {self.score} needs inputs of the model",
                help=["calibration=FILE.npz, on the command line --calibrate FILE.npz"],
            )  # fmt: skip
        if self.cycles < 0 or not self.blocks:
            raise error("IPU0304", "cycles must be a positive number, and blocks name at least one block")
        given = self.mask or self.balance or self.pattern != "top" or self.distribution != "uniform"
        if self.cycles and (given or self.score == "max"):
            what = "a budget of cycles goes with pattern=top, scores other than max, no mask, balance or distribution"
            raise error("IPU0304", what)
        if (self.when == "pays" or self.cycles) and ctx.predict is None:
            option = "cycles" if self.cycles else "when=pays"
            raise error("IPU0304", f"sparsify{{{option}}} needs a planner to ask, and this run has none")
        return block

    def _layers(self, products: Sequence[Product], ctx: PassContext) -> list[Product]:
        """The products that are not excluded."""
        used = {pattern for product in products for pattern in matches(product, self.exclude)}
        if unknown := [name for name in self.exclude if name not in used]:
            raise error(
                "IPU0304",
                f"sparsify excludes {', '.join(unknown)}, but no product with a constant weight has that name",
            )
        layers = []
        for product in products:
            if matches(product, self.exclude):
                ctx.missed(product.node, "kept dense: excluded by name")
            else:
                layers.append(product)
        return layers

    def _choose(
        self, model: ir.Model, layers: Sequence[Product], weights: Mapping[ir.Value, Array], block: Block,
        ctx: PassContext,
    ) -> dict[ir.Value, Kept]:  # fmt: skip
        """What every weight keeps; weights that stay dense have no entry."""
        first = {product.constant: product for product in reversed(layers)}
        masks: dict[ir.Value, tuple[Mask, Mask | None]] = {}
        shares: dict[ir.Value, Decision] = {}
        inputs: dict[ir.Value, Gram] = {}
        if self.mask:
            masks = read_masks(self.mask, layers, block)
            for product in layers:
                if product.constant not in masks:
                    ctx.missed(product.node, "kept dense: there is no mask for it")
        elif self.pattern == "zeros":
            masks = {value: (blocks_with_any(weights[value], block), None) for value in first}
        elif self.cycles:
            inputs = self._inputs(model, layers)
            shares = self._budgeted(model, layers, weights, inputs, ctx)
        else:
            shares = {value: (block, share) for value, share in self._shares(layers, ctx).items()}
        chosen = [product for value, product in first.items() if value in masks or value in shares]
        # A pattern needs no scores, and the update of sparsegpt serves every mask.
        if not self.cycles and (self.score == "sparsegpt" or (shares and self.pattern == "top")):
            values = {product.constant for product in chosen}
            inputs = self._inputs(model, [p for p in layers if p.constant in values])
        kept = {}
        for product in chosen:
            value, weight, size = product.constant, weights[product.constant], block
            if value in shares:
                size, share = shares[value]
                masks[value] = self._mask(weight, size, share, inputs.get(value)), None
            mask, elements = masks[value]
            if not mask.any():
                ctx.missed(product.node, "kept dense: all of its weights are zero")
                continue
            dealt = "plain {}x{}".format(*self._grid(mask.shape)) if self.balance else ""
            kept[value] = Kept(size, mask, self._values(weight, size, mask, elements, inputs.get(value)), dealt)
        return kept

    def _inputs(self, model: ir.Model, layers: Sequence[Product]) -> dict[ir.Value, Gram]:
        """What the score needs of the inputs of the layers."""
        if self.score not in CALIBRATED:
            return {}
        return layer_inputs(model, layers, read_calibration(self.calibration, model), self.score == "sparsegpt")

    def _budgeted(
        self, model: ir.Model, layers: Sequence[Product], weights: Mapping[ir.Value, Array],
        inputs: Mapping[ir.Value, Gram], ctx: PassContext,
    ) -> dict[ir.Value, Decision]:  # fmt: skip
        """Blocks and densities by weight under the budget of cycles."""
        assert ctx.predict is not None  # _checked has looked
        if not layers:
            return {}
        blocks = [check_block(offered) for offered in self.blocks]
        found = within_budget(model, layers, weights, inputs, blocks, self.score, self.cycles, ctx.predict)
        ctx.analysis(
            layers[0].node,
            f"layers lose {found.lost:.3%} of their score in the mean, {found.bound:.3%} at least with any choice of "
            f"these blocks; predicted {found.cycles:,} of {self.cycles:,} cycles",
            lost=found.lost, bound=found.bound, cycles=found.cycles,
        )  # fmt: skip
        for product in layers:
            if product.constant not in found.decisions:
                ctx.missed(product.node, "kept dense: the budget of cycles allows it")
        return dict(found.decisions)

    def _shares(self, layers: Sequence[Product], ctx: PassContext) -> dict[ir.Value, float]:
        """Densities by weight, of the weights that get one below 1."""
        found: dict[ir.Value, float] = {}
        if isinstance(self.density, tuple):
            used: set[str] = set()
            for product in layers:
                rules = [(p, d) for p, d in self.density if matches(product, [p])]
                used.update(p for p, _ in rules)
                if rules:
                    found.setdefault(product.constant, rules[0][1])
                else:
                    ctx.missed(product.node, "kept dense: no density is given for it")
            if unknown := [pattern for pattern, _ in self.density if pattern not in used]:
                raise error("IPU0304", f"densities are given for {', '.join(unknown)}, but no layer has such a name")
        else:
            distinct = list(dict.fromkeys(product.constant for product in layers))
            by_value = {product.constant: product for product in layers}
            if self.distribution == "erk":
                shares = erk([by_value[value].dims for value in distinct], self.density).tolist()
            else:
                shares = [self.density] * len(distinct)
            found = dict(zip(distinct, shares, strict=True))
        if self.distribution == "erk":
            for product in layers:
                if found[product.constant] >= 1:
                    ctx.missed(product.node, "kept dense: its share by ERK is all of it")
            found = {value: share for value, share in found.items() if share < 1}
        return found

    def _mask(self, weight: Array, block: Block, density: float, inputs: Gram | None) -> Mask:
        if self.pattern != "top":
            taps, k, n = weight.shape
            one = PATTERNS[self.pattern](-(-k // block[0]), -(-n // block[1]), density)
            return np.repeat(one[None], taps, axis=0)
        scores = block_scores(weight, block, self.score, inputs)
        if self.balance:
            return balanced(scores, density, self._grid(scores.shape), self.slack)
        return choose(scores, density, "output" if self.score == "wanda" else "layer")

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """The grid that is asked for, with no more parts than a weight has blocks."""
        return min(self.balance[0], shape[1]), min(self.balance[1], shape[2])

    def _values(self, weight: Array, block: Block, mask: Mask, elements: Mask | None, inputs: Gram | None) -> Array:
        """The weight as it is kept: elements that a mask drops are zero, with sparsegpt others make up for them."""
        if inputs is not None and inputs.whole:
            taps, k, n = weight.shape
            stays = element_mask(mask, block, (taps, k, n)) if elements is None else elements
            return obs_update(weight, stays, inputs).astype(weight.dtype)
        return weight if elements is None else np.where(elements, weight, np.zeros((), weight.dtype))
