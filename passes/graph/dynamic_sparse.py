"""The pass `dynamic-sparse`: weights become block-sparse operands whose pattern is an input."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.graph.dynamic_schemas import INITIAL
from ipucc.graph.edit import AttrLike, Editor, copy_type, dtype_name, prune, static_shape, value_dtype
from ipucc.graph.schemas import DOMAIN, attach_functions
from ipucc.graph.tensors import MissingTensor
from ipucc.graph.weight_names import source_name
from ipucc.ops.bucket_choice import choose_buckets
from ipucc.pass_manager import Pass, PassContext, option
from ipucc.passes.graph.products import Product, find_products, matches
from ipucc.passes.graph.sparse_form import epilogue_operands, put_in_place
from ipucc.sparsity import block_scores, check_block, choose, kept_count
from ipucc.sparsity.blocks import Array, Block, grid_of
from ipucc.sparsity.buckets import OVERFLOW, Buckets, capacity_for

__all__ = ["DynamicSparse"]


@dataclass(frozen=True)
class DynamicSparse(Pass):
    """Replaces matrix products with a constant weight by DynamicSparseMatMul.

    The weight `w` becomes the graph inputs `w.values` and `w.places`, its blocks in buckets (`ipucc.sparsity.Buckets`):
    one program runs any pattern that fits the buckets. It starts with the blocks of highest L1 score, `density` of all.
    Buckets are made for random patterns of this density, or have the `capacity` that is given; blocks of the first
    pattern that find no slot are left out, those of lowest score. Cells and reach are chosen by the planner's
    prediction where they are not given. A remark says what was chosen, and what taking overflow costs.
    """

    name: ClassVar[str] = "dynamic-sparse"

    block: int | tuple[int, int] = option(16, "size of a block: 1, 4, 8 or 16, or [along k, along n]")
    density: float = option(0.1, "share of the blocks that buckets are made for, above 0 and at most 1")
    layers: tuple[str, ...] = option(("*",), "names, or patterns of names, of nodes or weights")
    capacity: int = option(0, "blocks that a bucket holds; 0: as many as random patterns need")
    cell: tuple[int, ...] = option((), "block rows and block columns of a bucket; empty: chosen")
    reach: int = option(0, "1: a bucket holds blocks of its own columns; 2: of the next ones too; 0: chosen")
    overflow: float = option(OVERFLOW, "chance that a random pattern does not fit")

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        block = self._checked()
        if ctx.target is None:
            raise error("IPU0304", f"{self.name} needs a machine to choose buckets for, and this run has none")
        products = [p for p in find_products(model, ("matmul",), ctx) if matches(p, self.layers)]
        used = {pattern for product in products for pattern in matches(product, self.layers)}
        if unknown := [name for name in self.layers if name not in used and name != "*"]:
            raise error("IPU0304", f"no product with a constant weight has the name {', '.join(unknown)}")
        editor, made = Editor(model), dict[tuple[ir.Value, bool], tuple[Buckets, ir.Value, ir.Value]]()
        chosen: dict[tuple[object, ...], tuple[Buckets, str]] = {}
        for product in products:
            key = product.constant, product.turned
            if key not in made:
                weight = product.read()
                if weight is None:
                    ctx.missed(product.node, "kept dense: the values of the weight are absent", id="IPU0410")
                    continue
                alike = _form(product)
                if alike not in chosen:
                    chosen[alike] = self._buckets(product, block, ctx)
                buckets, text = chosen[alike]
                ctx.passed(
                    product.node, text, capacity=buckets.capacity, reach=buckets.reach, slots=buckets.slots
                )  # fmt: skip
                made[key] = buckets, *_inputs(model, product, buckets, weight[0], self.density, ctx)
            buckets, values, places = made[key]
            put_in_place(product, "DynamicSparseMatMul", (values, places), _attributes(product, buckets), editor)
        if made:
            prune(model)
            attach_functions(model)
        return bool(made)

    def _checked(self) -> Block:
        try:
            block = check_block(self.block)
        except ValueError as failure:
            raise error("IPU0304", str(failure)) from failure
        if not 0 < self.density <= 1:
            raise error("IPU0304", f"density must be above 0 and at most 1, not {self.density}")
        if not 0 < self.overflow < 1:
            raise error("IPU0304", f"overflow must be between 0 and 1, not {self.overflow}")
        if self.capacity < 0 or self.reach not in (0, 1, 2):
            raise error("IPU0304", "capacity must not be negative, and reach is 1, 2 or 0")
        if self.cell and (len(self.cell) != 2 or min(self.cell) < 1):
            raise error("IPU0304", f"cell must be two positive numbers, not {list(self.cell)}")
        return block

    def _buckets(self, product: Product, block: Block, ctx: PassContext) -> tuple[Buckets, str]:
        """The fastest buckets by the planner's prediction, or those of lowest estimate where nobody predicts; and what
        to say of them."""
        candidates = self._candidates(product, block, ctx)
        if ctx.predict is None:
            cycles = [0] * len(candidates)
        else:
            cycles = [_predicted(product, c, ctx) for c in candidates]
        best = int(np.argmin(cycles))
        buckets = candidates[best]
        grid = buckets.blocks
        text = (
            f"{prod(buckets.grid)} buckets of {buckets.capacity} slots for {buckets.cell[0]} x {buckets.cell[1]} "
            f"blocks, {buckets.slots} slots for {kept_count(prod(grid), self.density)} blocks"
        )
        if ctx.predict is not None:
            text += f"; predicted {cycles[best]:,} cycles"
            if buckets.reach > 1:
                alone = Buckets(buckets.shape, block, buckets.cell, buckets.capacity, 1)
                text += f", {cycles[best] - _predicted(product, alone, ctx):,} of them to take overflow"
        return buckets, text

    def _candidates(self, product: Product, block: Block, ctx: PassContext) -> list[Buckets]:
        _, k, n = product.shape
        grid = grid_of(product.shape, block)[1:]
        count = kept_count(prod(grid), self.density)
        dtype = _NAMES.get(dtype_name(value_dtype(product.constant)), "float32")
        rows = prod((static_shape(product.node.outputs[0]) or (1,))[:-1])
        assert ctx.target is not None  # run has looked
        if self.cell:
            cell = min(self.cell[0], grid[0]), min(self.cell[1], grid[1])
            reaches = [r for r in (1, 2) if self.reach in (0, r) and r <= -(-grid[1] // cell[1])]
            if not reaches:
                raise error("IPU0304", f"a cell of {cell[0]} x {cell[1]} blocks makes one group: reach must be 1")
            found = [Buckets((k, n), block, cell, capacity_for(grid, count, cell, r, self.overflow), r)
                     for r in reaches]  # fmt: skip
        else:
            found = choose_buckets(
                rows, (k, n), block, self.density, dtype, dtype, ctx.target, overflow=self.overflow, reach=self.reach
            )
        if self.capacity:
            found = [Buckets(f.shape, block, f.cell, self.capacity, f.reach) for f in found]
        return list(dict.fromkeys(found))


_NAMES = {"float": "float32", "double": "float32", "float16": "float16"}


def _form(product: Product) -> tuple[object, ...]:
    """Equal for products of equal predictions."""
    node = product.node
    expr = node.attributes.get_string("expr", "")
    operands = [
        (value_dtype(v), static_shape(v)) for v in (*node.inputs[:1], *epilogue_operands(node)) if v is not None
    ]
    return product.shape, expr, tuple(operands)


def _attributes(product: Product, buckets: Buckets) -> dict[str, AttrLike]:
    return {
        "block": buckets.block, "cell": buckets.cell, "expr": product.node.attributes.get_string("expr", "x"),
        "reach": buckets.reach, "shape": buckets.shape, "transposed": 0,
    }  # fmt: skip


def _predicted(product: Product, buckets: Buckets, ctx: PassContext) -> int:
    """The planner's prediction of a product with buckets that have a shape and no values."""
    assert ctx.predict is not None
    size = (*buckets.grid, buckets.capacity)
    operands = []
    for name, dtype, shape in (
        ("values", value_dtype(product.constant), (*size, *buckets.block)), ("places", ir.DataType.INT16, (*size, 2)),
    ):  # fmt: skip
        held = MissingTensor(name, dtype, ir.Shape(shape), "only a prediction is wanted")
        operands.append(ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=held))
    node = product.node
    made = ir.node(
        "DynamicSparseMatMul",
        [node.inputs[0], *operands, *epilogue_operands(node)],
        _attributes(product, buckets),
        domain=DOMAIN,
    )
    made.name, made.outputs[0].name = f"{node.name}.dynamic", "dynamic"
    copy_type(node.outputs[0], made.outputs[0])
    try:
        return ctx.predict(made)
    finally:
        for i in range(len(made.inputs)):
            made.replace_input_with(i, None)


def _inputs(
    model: ir.Model, product: Product, buckets: Buckets, weight: Array, density: float, ctx: PassContext
) -> tuple[ir.Value, ir.Value]:
    """The graph inputs of a pattern, with the blocks of highest score as what they hold at first."""
    scores = block_scores(weight[None], buckets.block, "l1")
    mask = choose(scores, density)[0]
    kept = buckets.capped(mask, scores[0])
    if (left := int(mask.sum() - kept.sum())) > 0:
        ctx.missed(product.node, f"{left} blocks of the first pattern find no slot and are left out")
    encoded = buckets.encode(kept, weight)
    taken = {str(v.name) for v in model.graph.inputs} | set(model.graph.initializers)
    stem = name = source_name(product.constant)[0]
    number = 1
    while {f"{name}.values", f"{name}.places"} & taken:
        name, number = f"{stem}.{number}", number + 1
    out = []
    for suffix, array, dtype in (
        ("values", encoded.values, value_dtype(product.constant)), ("places", encoded.places, ir.DataType.INT16),
    ):  # fmt: skip
        value = ir.Value(name=f"{name}.{suffix}", shape=ir.Shape(array.shape), type=ir.TensorType(dtype))
        value.meta[INITIAL] = array
        model.graph.inputs.append(value)
        out.append(value)
    return out[0], out[1]
