"""The pass `sparsify`: the weights of matrix products keep their heaviest blocks only."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.graph.edit import (
    Array,
    AttrLike,
    Editor,
    constant_array,
    copy_type,
    describe,
    is_constant,
    merge_origin,
    prune,
    static_shape,
)
from ipucc.graph.schemas import DOMAIN, attach_functions, extra_operands
from ipucc.pass_manager import Pass, PassContext, option

BLOCKS: Final = (4, 8, 16)


@dataclass(frozen=True)
class Sparsify(Pass):
    """Replaces MatMul and FusedMatMul with a constant weight [k, n] by BlockSparseMatMul.

    The weight is cut into blocks (zero padded at the edges), which are ordered by their L1 norm, equal ones
    by their place, row by row; the share `density` of them is kept, one at least, and the rest is dropped.
    A layer stays dense if its node or weight is named in `exclude`, and with `when=pays` if the planner
    predicts no gain; a remark gives the reason, as one gives the density of each sparse layer.
    """

    name: ClassVar[str] = "sparsify"

    block: int | tuple[int, int] = option(16, "size of a block: 4, 8 or 16, or [along k, along n]")
    density: float = option(0.1, "share of the blocks that is kept, above 0 and at most 1")
    when: str = option("always", "which layers: all, or those where it pays", choices=("always", "pays"))
    exclude: tuple[str, ...] = option((), "names of nodes or weights that stay dense")

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        size = self._block()
        if not 0 < self.density <= 1:
            raise error("IPU0304", f"density must be above 0 and at most 1, not {self.density}")
        if self.when == "pays" and ctx.pays is None:
            raise error("IPU0304", "sparsify{when=pays} needs a planner to ask, and this run has none")
        editor = Editor(model)
        found: set[str] = set()
        blocks: dict[ir.Value, Blocks] = {}
        changed = False
        for node in list(model.graph.all_nodes()):
            if node.graph is not None and _is_product(node):
                changed |= self._layer(node, size, editor, ctx, found, blocks)
        if unknown := [name for name in self.exclude if name not in found]:
            raise error(
                "IPU0304",
                f"sparsify excludes {', '.join(unknown)}, but no product with a constant weight has that name",
            )
        if changed:
            prune(model)
            attach_functions(model)
        return changed

    def _block(self) -> tuple[int, int]:
        sizes = (self.block, self.block) if isinstance(self.block, int) else self.block
        if any(size not in BLOCKS for size in sizes):
            raise error("IPU0304", f"a block is 4, 8 or 16 long, not {' x '.join(map(str, sizes))}")
        return sizes

    def _layer(
        self,
        node: ir.Node,
        size: tuple[int, int],
        editor: Editor,
        ctx: PassContext,
        found: set[str],
        known: dict[ir.Value, "Blocks"],
    ) -> bool:
        weight = node.inputs[1]
        assert weight is not None  # a product has two operands
        if not is_constant(weight) or len(static_shape(weight) or ()) != 2:
            return False
        names = {name for name in (node.name, weight.name, *describe(node).split(",")) if name}
        found |= names
        if names & set(self.exclude):
            ctx.missed(node, "kept dense: excluded by name")
            return False
        dense = constant_array(weight)
        if dense is None:
            ctx.missed(node, "kept dense: the values of the weight are absent", id="IPU0410")
            return False
        if weight not in known:
            known[weight] = choose_blocks(dense, size, self.density)
        blocks = known[weight]
        if self.when == "pays" and ctx.pays is not None:
            pays, reason = ctx.pays(node, list(zip(blocks.rows, blocks.cols, strict=True)), size)
            if not pays:
                ctx.missed(node, f"kept dense: {reason}", id="IPU0411")
                return False
        if blocks.values is None:
            kept = cut(dense, size)[list(blocks.rows), list(blocks.cols)]
            blocks.values = editor.constant(np.ascontiguousarray(kept), name=f"{weight.name}_blocks")
        _replace(node, dense.shape, size, blocks, blocks.values, editor)
        share = len(blocks.rows) / blocks.total
        ctx.passed(
            node,
            f"{len(blocks.rows)} of {blocks.total} blocks of {size[0]} x {size[1]} kept, density {share:.4f}",
            density=share,
            blocks=len(blocks.rows),
        )
        return True


@dataclass(slots=True)
class Blocks:
    """The blocks kept of one weight, row by row, out of `total`; `values` is made when a layer first uses
    them."""

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    total: int
    values: ir.Value | None = None


def _replace(
    node: ir.Node,
    shape: tuple[int, ...],
    size: tuple[int, int],
    blocks: Blocks,
    values: ir.Value,
    editor: Editor,
) -> None:
    result = node.outputs[0]
    extras = extra_operands(node) if node.domain == DOMAIN else ()
    attrs: dict[str, AttrLike] = {
        "block": size,
        "cols": blocks.cols,
        "expr": node.attributes.get_string("expr", "x"),
        "rows": blocks.rows,
        "shape": shape,
    }
    operands = [node.inputs[0], values, *extras]
    sparse = editor.node("BlockSparseMatMul", operands, attrs, before=node, domain=DOMAIN)
    copy_type(result, sparse.outputs[0])
    merge_origin(sparse, [node])
    name, value_name, is_output = node.name, result.name, result.is_graph_output()
    editor.replace(result, sparse.outputs[0])
    editor.remove_dead([node])
    sparse.name = name
    if not is_output:
        sparse.outputs[0].name = value_name


def cut(dense: Array, size: tuple[int, int]) -> Array:
    """A matrix as [block rows, block columns, block height, block width], zero padded at the edges."""
    pads = [(0, -n % b) for n, b in zip(dense.shape, size, strict=True)]
    padded = np.pad(dense, pads)
    (k, n), (bk, bn) = padded.shape, size
    return padded.reshape(k // bk, bk, n // bn, bn).transpose(0, 2, 1, 3)


def choose_blocks(dense: Array, size: tuple[int, int], density: float) -> Blocks:
    """The heaviest blocks by L1 norm (summed in float64), equal ones by place.

    The number kept is density times all, rounded to the nearest (halves up), one at least.
    """
    blocks = cut(dense, size)
    norms: npt.NDArray[np.float64] = np.abs(blocks.astype(np.float64)).sum(axis=(2, 3))
    count = min(norms.size, max(1, math.floor(density * norms.size + 0.5)))
    # A stable sort of the negated norms keeps equal blocks in the order of their place.
    kept = np.sort(np.argsort(-norms.reshape(-1), kind="stable")[:count])
    rows, cols = np.unravel_index(kept, norms.shape)
    return Blocks(tuple(map(int, rows)), tuple(map(int, cols)), norms.size)


def _is_product(node: ir.Node) -> bool:
    return (node.domain, node.op_type) in (("", "MatMul"), (DOMAIN, "FusedMatMul")) and len(node.inputs) >= 2
