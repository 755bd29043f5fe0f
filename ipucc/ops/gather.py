"""Gathers. Constant indices make a view; indices from data make a contraction in which one tile's row wins."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from ipucc.codelets.base import Array
from ipucc.codelets.gather import Gather
from ipucc.codelets.reduce import Reduce
from ipucc.ops.builder import Builder, lowering, shape_of
from ipucc.ops.elementwise import elementwise
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Axis
from ipucc.tiles.view import View

__all__ = ["gather", "position", "select"]


def select(b: Builder, data: Ref, index: Ref, batch: int) -> Ref:
    """y[batch.., i, rest..] = data[batch.., index[batch.., i], rest..], `batch` leading dimensions in common.

    The gathered axis may be cut over tiles: every tile contributes its own rows and zeros.
    """
    lead, size, rest = data.shape[:batch], data.shape[batch], data.shape[batch + 1 :]
    first = tuple(f"b{i}" for i in range(batch))
    last = tuple(f"q{i}" for i in range(len(rest)))
    axes = (
        *(Axis(a, n) for a, n in zip(first, lead, strict=True)), Axis("i", index.shape[batch]),
        *(Axis(a, n) for a, n in zip(last, rest, strict=True)), Axis("v", size, "reduce"),
    )  # fmt: skip
    rows = b.operand(data, [Along(a) for a in (*first, "v", *last)])
    where = b.operand(index, [Along(a) for a in (*first, "i")])
    results = (*first, "i", *last)
    codelet = Gather(first, last, size, data.dtype)
    return b.compute(
        "Gather", axes, [rows, where], results, data.dtype, codelet, rows.grain_dim,
        partial=codelet, partial_dtype=data.dtype, combine=Reduce("sum", ("v",), results, data.dtype),
    )  # fmt: skip


def gather(b: Builder, data: Ref, index: Ref, dim: int) -> Ref:
    """ONNX Gather along `dim` with indices from data."""
    rank = len(data.shape)
    order = [dim, *(d for d in range(rank) if d != dim)]
    moved = b.view(data, View.transpose(data.shape, order)) if dim else data
    made = select(b, moved, b.reshape(index, (prod(index.shape),)), 0)
    if dim:
        made = b.view(made, View.transpose(made.shape, [*range(1, dim + 1), 0, *range(dim + 1, rank)]))
    return b.reshape(made, (*data.shape[:dim], *index.shape, *data.shape[dim + 1 :]))


def _taken(b: Builder, data: Ref, dim: int, index: Array) -> Ref:
    """`data` at constant indices of one dimension, which may count from its end."""
    size = data.shape[dim]
    at = index.astype(np.int64).reshape(-1)
    at = np.where(at < 0, at + size, at)
    if at.size and (at.min() < 0 or at.max() >= size):
        raise b.fail("IPU0120", f"an index lies outside the {size} elements of dimension {dim}")
    return b.view(data, View.take(data.shape, dim, at))


@lowering("Gather")
def _gather(b: Builder, node: ir.Node) -> None:
    data = b.ref(node, 0)
    dim = node.attributes.get_int("axis", 0) % len(data.shape)
    index = b.constant(node, 1)
    if index is None:
        b.define(node, gather(b, data, b.ref(node, 1), dim))
        return
    b.define(node, b.reshape(_taken(b, data, dim, index), shape_of(node.outputs[0])))


@lowering("GatherElements")
def _gather_elements(b: Builder, node: ir.Node) -> None:
    data = b.ref(node, 0)
    dim = node.attributes.get_int("axis", 0) % len(data.shape)
    shape = shape_of(node.outputs[0])
    for d, n in enumerate(shape):
        if d != dim and n != data.shape[d]:
            data = b.view(data, View.take(data.shape, d, np.arange(n)))
    index = b.constant(node, 1)
    order = [*(d for d in range(len(shape)) if d != dim), dim]
    if index is None:
        moved = b.view(data, View.transpose(data.shape, order))
        where = b.view(b.ref(node, 1), View.transpose(shape, order))
        made = select(b, moved, where, len(shape) - 1)
        b.define(node, b.view(made, View.transpose(made.shape, [int(d) for d in np.argsort(order)])))
        return
    at = [np.arange(n).reshape([-1 if k == d else 1 for k in range(len(shape))]) for d, n in enumerate(shape)]
    at[dim] = np.where(index < 0, index + data.shape[dim], index)
    flat = b.reshape(data, (prod(data.shape),))
    b.define(node, b.reshape(_taken(b, flat, 0, _linear(at, data.shape)), shape))


@lowering("GatherND")
def _gather_nd(b: Builder, node: ir.Node) -> None:
    data = b.ref(node, 0)
    batch = node.attributes.get_int("batch_dims", 0)
    lead, shape = data.shape[:batch], shape_of(node.outputs[0])
    index = b.constant(node, 1)
    wanted = shape_of(node.inputs[1])  # type: ignore[arg-type]
    depth, count = wanted[-1], prod(wanted[batch:-1])
    sizes, rest = data.shape[batch : batch + depth], data.shape[batch + depth :]
    if index is None:
        where = b.reshape(position(b, b.ref(node, 1), sizes), (*lead, count))
        b.define(node, b.reshape(select(b, b.reshape(data, (*lead, prod(sizes), *rest)), where, batch), shape))
        return
    split = [np.where(index[..., k] < 0, index[..., k] + n, index[..., k]) for k, n in enumerate(sizes)]
    inner = [a.reshape(*lead, count) for a in split]
    outer = [np.arange(n).reshape([-1 if k == d else 1 for k in range(batch + 1)]) for d, n in enumerate(lead)]
    flat = b.reshape(data, (prod(lead) * prod(sizes), *rest))
    b.define(node, b.reshape(_taken(b, flat, 0, _linear([*outer, *inner], (*lead, *sizes))), shape))


def _linear(at: Sequence[Array], shape: Sequence[int]) -> Array:
    """Row-major positions of coordinates, which broadcast; -1 minus the size (never valid) where one lies outside."""
    linear: Array = np.zeros((), np.int64)
    outside: Array = np.zeros((), bool)
    for a, n in zip(at, shape, strict=True):
        linear = linear * n + a
        outside = outside | (a < 0) | (a >= n)
    return np.where(outside, -1 - prod(shape), linear)


def position(b: Builder, index: Ref, sizes: Sequence[int]) -> Ref:
    """The row-major position of every index vector [..., len(sizes)], computed on the tiles."""
    last = len(index.shape) - 1
    columns = [b.view(index, View.take(index.shape, last, [k])) for k in range(len(sizes))]
    if len(columns) == 1:
        return columns[0]
    expr = ""
    for k, n in enumerate(sizes):
        inside = f"Where(Less(a{k}, 0), Add(a{k}, {n}), a{k})"
        expr = f"Add(Mul({expr}, {n}), {inside})" if expr else inside
    return elementwise(b, expr, columns, columns[0].shape, index.dtype)
