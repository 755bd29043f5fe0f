"""Block-sparse products whose pattern is an operand: forward, transposed, and sampled at the pattern's blocks.

The blocks lie in buckets (`ipucc.sparsity.buckets`), each of which one vertex multiplies: bucket [r, c] needs the rows
of the dense operand that belong to its band, and makes partials for the columns of its group, and of the next one where
its reach is 2. A second op adds the partials of every column over the bands, a view, and applies the epilogue. The rows
of the dense operand are an axis that the planner cuts.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.codelets.dynamic_sparse import DynamicSparse, SampledProduct
from ipucc.codelets.reduce import Reduce
from ipucc.dtypes import is_float
from ipucc.graph.dynamic_schemas import ATTRIBUTES, buckets_of
from ipucc.ops.builder import Builder, lowering, shape_of
from ipucc.ops.graph import Ref
from ipucc.ops.matmul import aligned
from ipucc.ops.spec import Along, Axis, DimMap, Everything, Operand, Span
from ipucc.sparsity.buckets import Buckets, PatternInput
from ipucc.tiles.view import Group, View

__all__: list[str] = []

Ints = NDArray[np.int64]


@lowering("DynamicSparseMatMul", domain="ipucc")
def _dynamic_sparse(b: Builder, node: ir.Node) -> None:
    a, values, places = b.ref(node, 0), b.ref(node, 1), b.ref(node, 2)
    buckets = _buckets(b, node, values.shape[2], a.dtype)
    _declare(b, node, buckets)
    transposed = bool(node.attributes.get_int("transposed"))
    shape = shape_of(node.outputs[0])
    m, n = prod(shape[:-1]), shape[-1]
    partials = b.options.partials if a.dtype == "float16" else a.dtype
    block = buckets.block
    taken = _taken(b, b.reshape(a, (m, buckets.shape[transposed])), buckets, transposed)
    width = _windows(buckets, not transposed)[1]
    axes = (*_bucket_axes(buckets), Axis("m", m), Axis("p", width, "whole"))
    operands = [taken, _slots(b, values, (*block,)), _slots(b, places, (2,))]
    codelet = DynamicSparse(
        block, buckets.cell, buckets.grid[1], buckets.reach, buckets.capacity, a.dtype, partials, transposed
    )
    made = b.compute(
        node.op_type, axes, operands, ("r", "c", "m", "p"), partials, codelet, 2 if _narrow(buckets) else 3,
        f"{b.name()}.partials", macs=m * prod(buckets.shape), sparse_macs=m * buckets.slots * prod(block),
    )  # fmt: skip
    extras = [b.ref(node, i) for i in range(3, len(node.inputs))]
    b.define(node, _join(b, node, made, buckets, (m, n), extras, transposed, a.dtype))


@lowering("SampledMatMul", domain="ipucc")
def _sampled(b: Builder, node: ir.Node) -> None:
    a, right, places = b.ref(node, 0), b.ref(node, 1), b.ref(node, 2)
    buckets = _buckets(b, node, places.shape[2], a.dtype)
    m = prod(a.shape[:-1])
    (bk, bn), dtype = buckets.block, a.dtype
    partials = b.options.partials if dtype == "float16" else dtype
    operands = [
        _taken(b, b.reshape(a, (m, buckets.shape[0])), buckets, False),
        _taken(b, b.reshape(right, (m, buckets.shape[1])), buckets, True),
        _slots(b, places, (2,)),
    ]
    axes = (
        *_bucket_axes(buckets), Axis("z", buckets.capacity, "whole"), Axis("i", bk, "whole"), Axis("j", bn, "whole"),
        Axis("m", m, "reduce"),
    )  # fmt: skip
    results = ("r", "c", "z", "i", "j")

    def codelet(made: str) -> SampledProduct:
        return SampledProduct(
            buckets.block, buckets.cell, buckets.grid[1], buckets.reach, buckets.capacity, dtype, made
        )

    made = b.compute(
        node.op_type, axes, operands, results, dtype, codelet(partials), 2 if _narrow(buckets) else 4,
        partial=codelet(partials), partial_dtype=partials, combine=Reduce("sum", ("m",), results, dtype),
        macs=m * prod(buckets.shape), sparse_macs=m * buckets.slots * bk * bn,
    )  # fmt: skip
    b.define(node, made)


def _buckets(b: Builder, node: ir.Node, capacity: int, dtype: str) -> Buckets:
    if not is_float(dtype):
        raise b.fail("IPU0203", f"a block-sparse product of {dtype} is not supported")
    attrs = {name: node.attributes.get_ints(name) for name in ATTRIBUTES}
    try:
        return buckets_of(attrs, node.attributes.get_int("reach"), capacity)
    except ValueError as failure:
        raise b.fail("IPU0205", str(failure)) from failure


def _declare(b: Builder, node: ir.Node, buckets: Buckets) -> None:
    """A pattern that is an input of the graph can be set by name (`Executable.set_pattern`)."""
    values, places = node.inputs[1], node.inputs[2]
    if values is None or places is None or not (values.is_graph_input() and places.is_graph_input()):
        return
    made = PatternInput(str(values.name), str(places.name), buckets)
    if b.graph.patterns.setdefault(made.name, made) != made:
        raise b.fail("IPU0202", f"two ops read the pattern {made.name!r} as buckets of different forms")


def _narrow(buckets: Buckets) -> bool:
    """Single elements: vectors run over the rows of the dense operand, and over the slots of a bucket."""
    return max(buckets.block) == 1


def _bucket_axes(buckets: Buckets) -> tuple[Axis, Axis]:
    return Axis("r", buckets.grid[0], pinned=True), Axis("c", buckets.grid[1], pinned=True)


def _windows(buckets: Buckets, columns: bool) -> tuple[Ints, int]:
    """Which rows (columns) of the weight every band (group) of buckets takes, [count, width], -1 past the end; width.

    A bucket with a reach of 2 takes two groups of columns, the last one begins again with the first.
    """
    d = int(columns)
    side, count = buckets.cell[d] * buckets.block[d], buckets.grid[d]
    width = side * (buckets.reach if columns else 1)
    at = (np.arange(count)[:, None] * side + np.arange(width)[None, :]) % (count * side)
    return np.where(at < buckets.shape[d], at, -1), width


def _taken(b: Builder, dense: Ref, buckets: Buckets, columns: bool) -> Operand:
    """What every bucket takes of a dense operand [m, k], with `columns` [m, n]."""
    along = 0 if _narrow(buckets) else 1
    need, width = _windows(buckets, columns)
    # Every window begins on a grain.
    padded = -(-width // b.grain(dense.dtype)) * b.grain(dense.dtype) if along else width
    need = np.pad(need, ((0, 0), (0, padded - width)), constant_values=-1)
    again = columns and buckets.reach > 1
    if need.size != dense.shape[1] or again:
        dense = b.settled(dense, 1) if along else b.in_grains(dense, 0)
        dense = b.view(dense, View.take(dense.shape, 1, need.reshape(-1)))
    begin = np.arange(need.shape[0]) * padded
    span = Span("c" if columns else "r", begin, begin + padded)
    return b.operand(dense, (Along("m"), span), want=along, fetched=again)


def _slots(b: Builder, ref: Ref, inner: tuple[int, ...]) -> Operand:
    """Values or places, [bands, groups, capacity, inner...]."""
    dims: list[DimMap] = [Along("r"), Along("c"), *(Everything(n) for n in (ref.shape[2], *inner))]
    return b.operand(ref, dims, want=3 if min(inner) > 2 else 2)


def _join(
    b: Builder, node: ir.Node, partials: Ref, buckets: Buckets, result: tuple[int, int], extras: Sequence[Ref],
    transposed: bool, dtype: str,
) -> Ref:  # fmt: skip
    """[m, n]: the sum of every column's partials, then the epilogue. Transposed, of every row's [m, k]."""
    (bands, groups, m, width), n = partials.shape, result[1]
    need, _ = _windows(buckets, not transposed)
    reach = 1 if transposed else buckets.reach
    window, offset = np.nonzero(need >= 0)
    nth = offset // (width // reach)
    others = np.arange(groups if transposed else bands)
    bucket = window[:, None] * groups + others[None, :] if transposed else others[None, :] * groups + window[:, None]
    index = np.full((others.size, reach, n), -1, np.int64)
    index[others[None, :], nth[:, None], need[window, offset][:, None]] = bucket * width + offset[:, None]
    depth = others.size * reach
    view = View(
        partials.shape, (depth, m, n), (Group((0, 1, 3), (0, 2), index.reshape(-1)), Group((2,), (1,), m))
    )  # fmt: skip
    stacked = b.view(partials, view)
    axes = (Axis("d", depth, "whole"), Axis("m", m), Axis("n", n))
    grain = 0 if _narrow(buckets) else 1
    operands = [b.operand(stacked, (Along("d"), Along("m"), Along("n")))]
    shape = shape_of(node.outputs[0])
    for extra in extras:
        ref, dims = aligned(b, extra, shape, (m, n), ("m", "n"))
        operands.append(b.operand(ref, dims, want=0 if grain == 0 and ref.shape[0] > 1 else None))
    expr = node.attributes.get_string("expr", "")
    codelet = Reduce("sum", ("d",), ("m", "n"), dtype, 1.0, "" if expr == "x" else expr, tuple(e.dtype for e in extras))
    return b.reshape(b.compute(node.op_type, axes, operands, ("m", "n"), dtype, codelet, grain), shape)
