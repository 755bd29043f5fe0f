"""Block-sparse products with a pattern known while compiling: of matrices, and convolutions along channel blocks.

The blocks are dealt to runs (`ipucc.ops.distribution`); a run is what one vertex multiplies. It needs the rows (for a
convolution the channels) of the dense operand that its blocks touch, a gather by constant indices, which is a view, and
makes partials for the block columns that it touches. A second op adds the partials of every column, a view with gaps,
and applies the epilogue. Several distributions are offered to placement as chains of these two ops.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.codelets.reduce import Reduce
from ipucc.codelets.sparse import BlockSparse
from ipucc.dtypes import itemsize
from ipucc.graph.schemas import DOMAIN
from ipucc.ops.builder import Builder, dtype_of, lowering, shape_of
from ipucc.ops.distribution import Pattern, Runs, Scheme, dealt, worthwhile, worthwhile_fixed
from ipucc.ops.graph import Ref
from ipucc.ops.matmul import aligned
from ipucc.ops.spec import Along, Axis, Everything, Operand, Span
from ipucc.tiles.view import Group, View

__all__ = [
    "Product", "blocks_of_runs", "distributions", "gathered_rows", "joined_columns", "multiply", "product_of",
    "products_alike",
]  # fmt: skip

Ints = NDArray[np.int64]
_PLACES: Final = ("rows", "cols", "taps")
"""Attributes that say where the blocks of a node are."""
_MANY: Final = 100
"""Sparse products of which each is offered half as many distributions."""
_STATIC: Final = ("BlockSparseMatMul", "BlockSparseConv")


@dataclass(frozen=True, eq=False)
class Product:
    """A block-sparse product with its epilogue: `values` [blocks, bk, bn] at `rows` and `cols` of a weight [k, n]; a
    result of `shape`, whose last dimension is n."""

    a: Ref
    values: Ref
    block: tuple[int, int]
    rows: Ints
    cols: Ints
    weight: tuple[int, int]
    extras: Sequence[Ref]
    expr: str
    shape: tuple[int, ...]


@lowering("BlockSparseMatMul", domain="ipucc")
def _block_sparse(b: Builder, node: ir.Node) -> None:
    b.define(node, multiply(b, node, product_of(b, node)))


def product_of(b: Builder, node: ir.Node) -> Product:
    """What a node BlockSparseMatMul computes."""
    (bk, bn), (k, n) = (node.attributes.get_ints(name) for name in ("block", "shape"))
    rows, cols = (np.asarray(node.attributes.get_ints(name), np.int64) for name in ("rows", "cols"))
    expr = node.attributes.get_string("expr", "")
    extras = [b.ref(node, i) for i in range(2, len(node.inputs))]
    return Product(
        b.ref(node, 0), b.ref(node, 1), (bk, bn), rows, cols, (k, n), extras, "" if expr == "x" else expr,
        shape_of(node.outputs[0]),
    )  # fmt: skip


def multiply(b: Builder, node: ir.Node, product: Product) -> Ref:
    """Lowers a product; `node` says how it is distributed."""
    (bk, bn), (k, n), shape = product.block, product.weight, product.shape
    m = prod(shape[:-1])
    a = b.reshape(product.a, (m, k))
    # Blocks narrower than a grain: the host writes an input in grains of rows, so that what is gathered of a row of
    # blocks lies together; a result is not copied for it, and comes in whole grains.
    along = 0 if _narrow(bk, a.dtype) or (bk < b.grain(a.dtype) and b.is_hosted(a)) else 1
    together = max(1, b.grain(a.dtype) // bk) if along else 1
    pattern = Pattern(product.rows, product.cols, (-(-k // bk), -(-n // bn)), (bk, bn), None, together)
    a = b.settled(a, 1) if along else b.in_grains(a, 0)
    partials = b.options.partials if a.dtype == "float16" else a.dtype

    def chain(name: str, runs: Runs) -> Ref:
        made = _multiply(b, a, product.values, runs, pattern, (k, n), along, partials, name)
        return _join(b, made, runs, (m, n), bn, product.extras, product.expr, shape, a.dtype)

    offered = distributions(b, node, pattern, m, a.dtype, partials)
    return b.reshape(b.offered([(str(scheme), partial(chain, str(scheme), runs)) for scheme, runs in offered]), shape)


def distributions(
    b: Builder, node: ir.Node, pattern: Pattern, rows: int, dtype: str, partials: str
) -> list[tuple[Scheme, Runs]]:  # fmt: skip
    """What is offered to placement, or what the node asks for. IPU0120 for a distribution that cannot be."""
    text = node.attributes.get_string("distribution", "")
    if not text:
        target, offered = b.options.target, b.options.distributions
        # Each has edges of its own to price, as many as there are products.
        if sum(other.op_type in _STATIC for other in node.graph or ()) > _MANY:
            offered = -(-offered // 2)
        alike = _alike(b, node, pattern, rows, dtype, partials) if b.options.alike else []
        return [(scheme, dealt(pattern, scheme, capacity)) for scheme, capacity in alike] or worthwhile(
            pattern, rows, dtype, partials, target, offered
        )
    try:
        scheme = Scheme.parse(text)
    except ValueError as failure:
        raise b.fail("IPU0120", f"attribute 'distribution': {failure}") from failure
    if scheme.count > b.options.target.tiles:
        raise b.fail("IPU0120", f"attribute 'distribution': {text!r} has more runs than there are tiles")
    wide = pattern.size if scheme.kind == "banded" else pattern.shape[1]
    if scheme.bands > pattern.shape[0] or scheme.across > wide:
        raise b.fail("IPU0120", f"attribute 'distribution': {text!r} has more parts than there are blocks")
    return [(scheme, dealt(pattern, scheme))]


def products_alike(graph: ir.Graph) -> bool:
    """Whether any two sparse products of a graph differ in the places of their blocks alone."""
    kinds = [_but_places(node) for node in graph if node.domain == DOMAIN and node.op_type in _STATIC]
    return len(set(kinds)) < len(kinds)


def _alike(
    b: Builder, node: ir.Node, pattern: Pattern, rows: int, dtype: str, partials: str
) -> list[tuple[Scheme, int]]:  # fmt: skip
    """Schemes, with their capacities, for all nodes of a graph that differ from a node in the places of their blocks
    alone; none where there are no others. `pattern` is its own."""
    key = _but_places(node)
    if key not in b.alike:
        others = [n for n in node.graph or () if n.domain == DOMAIN and n.op_type == node.op_type]
        patterns = [_moved(pattern, other) for other in others if _but_places(other) == key]
        b.alike[key] = (
            worthwhile_fixed(patterns, rows, dtype, partials, b.options.target, b.options.distributions)
            if len(patterns) > 1 else []
        )  # fmt: skip
    return b.alike[key]


def _moved(pattern: Pattern, node: ir.Node) -> Pattern:
    """A pattern with the places of the blocks of another node."""
    rows, cols, *taps = (np.asarray(node.attributes.get_ints(x), np.int64) for x in _PLACES if x in node.attributes)
    return replace(pattern, rows=rows, cols=cols, taps=taps[0] if taps else None)


def _but_places(node: ir.Node) -> Hashable:
    """What nodes have in common that differ in the places of their blocks alone."""
    attributes = tuple((name, str(a.value)) for name, a in sorted(node.attributes.items()) if name not in _PLACES)
    left, _, *extras = node.inputs
    kinds = tuple(None if v is None else (shape_of(v), dtype_of(v)) for v in (left, *extras))
    return node.op_type, attributes, kinds


def _narrow(side: int, dtype: str) -> bool:
    """Whether blocks of this side are gathered element by element: then the grains run over the rows beside them."""
    return side * itemsize(dtype) < 8


def gathered_rows(runs: Runs, height: int, size: int) -> tuple[Ints, Ints]:
    """Which of `size` elements the runs need, in pieces of `height`, run by run (-1: none), and where each begins."""
    need = (runs.rows[:, None] * height + np.arange(height)[None, :]).reshape(-1)
    return np.where(need < size, need, -1), runs.row_start * height


def _multiply(
    b: Builder, a: Ref, values: Ref, runs: Runs, pattern: Pattern, shape: tuple[int, int], along: int, partials: str,
    name: str,
) -> Ref:  # fmt: skip
    """[runs, m, slots x bn]: the partials of every run."""
    (bk, bn), m = pattern.block, a.shape[0]
    outputs = runs.columns.shape[1]
    need, begin = gathered_rows(runs, bk * pattern.together, shape[0])
    gathered = b.view(a, View.take(a.shape, 1, need))
    axes = (Axis("r", runs.count, pinned=True), Axis("m", m), Axis("p", outputs * bn, "whole"))
    operands: list[Operand] = [
        b.operand(gathered, (Along("m"), Span("r", begin[:-1], begin[1:])), want=along, fetched=True),
        *blocks_of_runs(b, values, runs, runs.place, name),
    ]
    codelet = BlockSparse((bk, bn), runs.capacity, outputs, a.dtype)
    return b.compute(
        "BlockSparseMatMul", axes, operands, ("r", "m", "p"), partials, codelet,
        1 if _narrow(bn, partials) else 2, f"{b.name()}.partials",
        macs=m * prod(shape), sparse_macs=m * runs.order.size * bk * bn,
    )  # fmt: skip


def blocks_of_runs(b: Builder, values: Ref, runs: Runs, places: Ints, name: str) -> list[Operand]:
    """Three operands with a row per run, padded to its capacity: the blocks, one after the other; per block its entry
    of `places`; and where the blocks of every slot begin, and end. Blocks lie slot by slot."""
    count, most = np.diff(runs.start), runs.capacity
    nth = np.arange(most)
    order = np.where(nth < count[:, None], runs.start[:-1, None] + nth, -1)
    inside = order >= 0
    _, bk, bn = values.shape
    held = View.take(values.shape, 0, np.where(inside, runs.order[order], -1).reshape(-1))
    # Blocks of whole grains stay a dimension of their own: the view then names blocks and not elements.
    whole = bk * bn % b.grain(values.dtype) == 0
    shape = (runs.count, most, bk * bn) if whole else (runs.count, most * bk * bn)
    values = b.reshape(b.view(values, held), shape)
    kind = "uint16" if int(places.max()) < 1 << 16 else "int32"
    table = np.where(inside, places[order], 0).astype(kind)
    slots = runs.columns.shape[1]
    run = np.repeat(np.arange(runs.count), count)
    first = np.zeros((runs.count, slots + 1), np.int32)
    np.add.at(first, (run, runs.slot + 1), 1)
    rows = (
        values,
        b.literal(f"{b.name()}.places {name}", table, kind),
        b.literal(f"{b.name()}.slots {name}", first.cumsum(axis=1, dtype=np.int32), "int32"),
    )
    return [b.operand(x, (Along("r"), *map(Everything, x.shape[1:])), want=len(x.shape) - 1) for x in rows]


def joined_columns(runs: Runs, blocks: int, bn: int, width: int, n: int) -> tuple[int, Ints]:
    """How many partials the fullest block column has, and [depth x n] the places of them among [runs, width] (-1:
    none)."""
    run, slot = np.nonzero(runs.columns >= 0)
    column = runs.columns[run, slot]
    by = np.argsort(column, kind="stable")
    run, slot, column = run[by], slot[by], column[by]
    nth = np.arange(column.size) - np.searchsorted(column, column, side="left")
    depth = int(nth.max(initial=0)) + 1
    index = np.full((depth, blocks, bn), -1, np.int64)
    index[nth, column] = (run * width + slot * bn)[:, None] + np.arange(bn)[None, :]
    return depth, index.reshape(depth, blocks * bn)[:, :n].reshape(-1)


def _join(
    b: Builder, partials: Ref, runs: Runs, result: tuple[int, int], bn: int, extras: Sequence[Ref], expr: str,
    shape: tuple[int, ...], dtype: str,
) -> Ref:  # fmt: skip
    """[m, n]: the sum of every column's partials, then the epilogue."""
    m, n = result
    depth, flat = joined_columns(runs, -(-n // bn), bn, partials.shape[2], n)
    view = View(partials.shape, (depth, m, n), (Group((0, 2), (0, 2), flat), Group((1,), (1,), m)))
    stacked = b.view(partials, view)
    axes = (Axis("d", depth, "whole"), Axis("m", m), Axis("n", n))
    grain = 0 if _narrow(bn, partials.dtype) else 1
    operands = [b.operand(stacked, (Along("d"), Along("m"), Along("n")))]
    for extra in extras:
        ref, dims = aligned(b, extra, shape, (m, n), ("m", "n"))
        # What has all rows is walked along with the result, in its grains.
        operands.append(b.operand(ref, dims, want=0 if grain == 0 and ref.shape[0] > 1 else None))
    codelet = Reduce("sum", ("d",), ("m", "n"), dtype, 1.0, expr, tuple(e.dtype for e in extras))
    return b.compute("BlockSparseMatMul", axes, operands, ("m", "n"), dtype, codelet, grain)
