"""Reductions. The reduced dimensions become one axis, which may be cut over tiles."""

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.codelets.reduce import Reduce, identity
from ipucc.dtypes import is_float, itemsize, storage_type
from ipucc.ops.builder import Builder, lowering, shape_of
from ipucc.ops.elementwise import broadcast_dims, elementwise
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Axis
from ipucc.tiles.view import View

__all__ = ["keep_dims", "reduce", "statistics_type"]

# What the partials of a reduction are joined with.
_JOIN = {"sumsq": "sum", "abssum": "sum"}


def statistics_type(dtype: str) -> str:
    """The type in which sums over elements of a type are kept: float32 for the 16-bit floats."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def keep_dims(shape: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    """The shape of a reduction over `dims` that leaves dimensions of size 1."""
    return tuple(1 if d in dims else n for d, n in enumerate(shape))


def reduce(
    b: Builder,
    ref: Ref,
    dims: Sequence[int],
    op: str,
    *,
    scale: float = 1.0,
    expr: str = "",
    extras: Sequence[Ref] = (),
    dtype: str | None = None,
    kind: str = "Reduce",
) -> Ref:
    """`op` (see `ipucc.codelets.reduce`) over `dims`, times `scale`, then `expr` over x and `extras`.

    The result keeps the other dimensions, in order; `extras` broadcast to it; `dtype` is its type (that of `ref`).
    """
    kept = [d for d in range(len(ref.shape)) if d not in dims]
    # The order in which elements are reduced is free: a dimension that arrives in grains comes last.
    grain = b.arrival(ref)
    order = sorted(dims, key=lambda d: (d == grain, d))
    size = prod(ref.shape[d] for d in dims)
    if size == 0:
        rest = tuple(ref.shape[d] for d in kept)
        # What the op leaves alone: a reduction of one of those instead of none.
        none = np.full((1, *rest), identity(op, ref.dtype)).astype(storage_type(ref.dtype))
        ref, order, kept, size = b.literal(f"{b.name()}.none", none, ref.dtype), [0], list(range(1, len(rest) + 1)), 1
    rest = tuple(ref.shape[d] for d in kept)
    moved = b.reshape(b.view(ref, View.transpose(ref.shape, [*order, *kept])), (size, *rest))
    names = tuple(f"d{i}" for i in range(len(rest)))
    axes = (*(Axis(a, n) for a, n in zip(names, rest, strict=True)), Axis("r", size, "reduce"))
    x = b.operand(moved, [Along("r"), *map(Along, names)], fill=identity(op, ref.dtype))
    operands = [x]
    for extra in extras:
        full = b.reshape(extra, (1,) * (len(rest) - len(extra.shape)) + extra.shape)
        operands.append(b.operand(full, broadcast_dims(full.shape, names, rest), epilogue=True))
    types = tuple(e.dtype for e in extras)
    sums = op in ("sum", "sumsq", "abssum", "prod")
    partials = statistics_type(ref.dtype) if sums else ref.dtype
    if not names and itemsize(partials) < 4:
        # A single element is exchanged as a word.
        partials = "float32" if is_float(partials) else "int32"
    join = Reduce(_JOIN.get(op, op), ("r",), names, ref.dtype, scale, expr, types)
    return b.compute(
        kind,
        axes,
        operands,
        names,
        dtype or ref.dtype,
        Reduce(op, ("r",), names, ref.dtype, scale, expr, types),
        x.grain_dim - 1 if x.grain_dim > 0 else max(0, len(names) - 1),
        partial=Reduce(op, ("r",), names, ref.dtype),
        partial_dtype=partials,
        combine=join,
    )


# ONNX op -> (reduction, epilogue)
_OPS = {
    "ReduceSum": ("sum", ""),
    "ReduceMean": ("sum", ""),
    "ReduceMax": ("max", ""),
    "ReduceMin": ("min", ""),
    "ReduceProd": ("prod", ""),
    "ReduceL1": ("abssum", ""),
    "ReduceL2": ("sumsq", "Sqrt(x)"),
    "ReduceSumSquare": ("sumsq", ""),
    "ReduceLogSum": ("sum", "Log(x)"),
}


_ELEMENTWISE: Final = {
    "ReduceL1": "Abs(a0)",
    "ReduceL2": "Abs(a0)",
    "ReduceSumSquare": "Mul(a0, a0)",
    "ReduceLogSum": "Log(a0)",
}
"""What a reduction over no axes does."""


@lowering(*_OPS)
def _reduce(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    dims = _dims(b, node, x)
    if dims is None:
        # Nothing is reduced (noop_with_empty_axes), but what the op does to every element it still does.
        text = _ELEMENTWISE.get(node.op_type)
        b.define(node, elementwise(b, text, [x], x.shape, x.dtype) if text is not None else x)
        return
    op, expr = _OPS[node.op_type]
    scale = 1.0
    if x.dtype == "bool" and op == "max":
        op = "or"
    if node.op_type in ("ReduceL2", "ReduceLogSum") and not is_float(x.dtype):
        raise b.fail("IPU0203", f"{node.op_type} of {x.dtype} is not supported")
    if node.op_type == "ReduceMean":
        count = prod(x.shape[d] for d in dims)
        if is_float(x.dtype):
            scale = 1.0 / max(count, 1)
        else:
            expr = f"Div(x, {count})"
    b.define(node, b.reshape(reduce(b, x, dims, op, scale=scale, expr=expr, kind=node.op_type), _result(node)))


@lowering("ReduceLogSumExp")
def _log_sum_exp(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    dims = _dims(b, node, x)
    if dims is None:
        b.define(node, x)
        return
    if not is_float(x.dtype):
        raise b.fail("IPU0203", f"{node.op_type} of {x.dtype} is not supported")
    # Infinite maxima are not subtracted, for inf - inf is NaN.
    top = reduce(b, x, dims, "max", expr="Where(IsInf(x), 0.0, x)")
    shifted = b.reshape(top, keep_dims(x.shape, dims))
    powers = elementwise(b, "Exp(Sub(a0, a1))", [x, shifted], x.shape, x.dtype)
    made = reduce(b, powers, dims, "sum", expr="Add(Log(x), a0)", extras=[top], kind=node.op_type)
    b.define(node, b.reshape(made, _result(node)))


def _result(node: ir.Node) -> tuple[int, ...]:
    return shape_of(node.outputs[0])


def _dims(b: Builder, node: ir.Node, x: Ref) -> tuple[int, ...] | None:
    """The reduced dimensions, ascending; None where the node reduces nothing."""
    if not b.has(node, 1):
        axes = np.zeros(0, np.int64)
    else:
        value = b.constant(node, 1)
        if value is None:
            raise b.fail("IPU0204", "operand 'axes' must be a constant")
        axes = np.atleast_1d(value)
    if axes.size:
        return tuple(sorted({int(a) % len(x.shape) for a in axes}))
    return None if node.attributes.get_int("noop_with_empty_axes", 0) else tuple(range(len(x.shape)))


@lowering("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    dims = range(2, len(x.shape))
    mean = node.op_type == "GlobalAveragePool"
    scale = 1.0 / max(prod(x.shape[2:]), 1) if mean else 1.0
    made = reduce(b, x, dims, "sum" if mean else "max", scale=scale, kind=node.op_type)
    b.define(node, b.reshape(made, _result(node)))


@lowering("GlobalLpPool")
def _global_norm(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    p = float(node.attributes.get_int("p", 2))
    power = elementwise(b, f"Pow(Abs(a0), {p!r})", [x], x.shape, x.dtype)
    made = reduce(b, power, range(2, len(x.shape)), "sum", expr=f"Pow(x, {1 / p!r})", kind=node.op_type)
    b.define(node, b.reshape(made, _result(node)))
