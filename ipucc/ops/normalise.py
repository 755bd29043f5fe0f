"""Normalisations over rows, which may be cut over tiles, and those by given statistics."""

from collections.abc import Sequence

import onnx_ir as ir

from ipucc.codelets.normalise import Moments, Normalise, NormaliseParts
from ipucc.codelets.rows import STATISTIC
from ipucc.dtypes import is_float
from ipucc.ops.builder import Builder, lowering
from ipucc.ops.elementwise import broadcast_dims, elementwise
from ipucc.ops.graph import Ref
from ipucc.ops.reduce import keep_dims, reduce, statistics_type
from ipucc.ops.spec import Along, Axis

__all__ = ["normalise"]


def normalise(
    b: Builder, x: Ref, dims: Sequence[int], eps: float, *, centred: bool = True, scale: Ref | None = None,
    bias: Ref | None = None,
) -> Ref:  # fmt: skip
    """(x - mean) / sqrt(variance + eps) * scale + bias over `dims`; not `centred`, the mean counts as 0.

    Scale and bias broadcast to `x`. The result has the type and shape of `x`. IPU0203 for types other than floats.
    """
    if not is_float(x.dtype):
        raise b.fail("IPU0203", f"a normalisation of {x.dtype} is not supported")
    params = [_cast(b, p, x.dtype) for p in (scale, bias) if p is not None]
    names = tuple(f"d{i}" for i in range(len(x.shape)))
    over = tuple(names[d] for d in dims)
    axes = [Axis(a, n, "row" if a in over else "parallel") for a, n in zip(names, x.shape, strict=True)]
    axes.append(Axis(STATISTIC, 3 if centred else 2, "whole"))
    operands = [b.operand(x, [Along(a) for a in names])]
    for ref in params:
        full = b.reshape(ref, (1,) * (len(x.shape) - len(ref.shape)) + ref.shape)
        operands.append(b.operand(full, broadcast_dims(full.shape, names, x.shape), epilogue=True))
    form = (names, over, eps, centred, scale is not None, bias is not None, x.dtype)
    return b.compute(
        "Normalise", axes, operands, names, x.dtype, Normalise(*form), operands[0].grain_dim,
        partial=Moments(names, over, centred, x.dtype), combine=NormaliseParts(*form),
        statistics=(*(a for a in names if a not in over), STATISTIC),
    )  # fmt: skip


def _cast(b: Builder, ref: Ref, dtype: str) -> Ref:
    if ref.dtype == dtype:
        return ref
    return elementwise(b, f'Cast(a0, to="{dtype}")', [ref], ref.shape, dtype)


def _wide(expr: str, dtype: str) -> str:
    """The text of an expression of type `dtype`, in the type that statistics are kept in."""
    return expr if statistics_type(dtype) == dtype else f'Cast({expr}, to="{statistics_type(dtype)}")'


def _narrow(expr: str, dtype: str) -> str:
    """The text of an expression in the type of statistics, in `dtype`."""
    return expr if statistics_type(dtype) == dtype else f'Cast({expr}, to="{dtype}")'


@lowering("LayerNormalization", "RMSNormalization")
def _layer(b: Builder, node: ir.Node) -> None:
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        raise b.fail("IPU0202", "the mean and deviation (further results) are not supported")
    x = b.ref(node, 0)
    first = node.attributes.get_int("axis", -1) % len(x.shape)
    eps = node.attributes.get_float("epsilon", 1e-5)
    bias = b.ref(node, 2) if b.has(node, 2) else None
    centred = node.op_type == "LayerNormalization"
    dims = range(first, len(x.shape))
    b.define(node, normalise(b, x, dims, eps, centred=centred, scale=b.ref(node, 1), bias=bias))


@lowering("InstanceNormalization")
def _instance(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    channels = (x.shape[1], *(1 for _ in x.shape[2:]))
    scale, bias = (b.reshape(b.ref(node, i), channels) for i in (1, 2))
    eps = node.attributes.get_float("epsilon", 1e-5)
    b.define(node, normalise(b, x, range(2, len(x.shape)), eps, scale=scale, bias=bias))


@lowering("GroupNormalization")
def _group(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    groups = node.attributes.get_int("num_groups")
    shape = x.shape
    if shape[1] % groups:
        raise b.fail("IPU0120", f"{shape[1]} channels cannot be put in {groups} groups")
    x = b.reshape(x, (shape[0], groups, shape[1] // groups, *shape[2:]))
    channels = (groups, shape[1] // groups, *(1 for _ in shape[2:]))
    scale, bias = (b.reshape(b.ref(node, i), channels) for i in (1, 2))
    eps = node.attributes.get_float("epsilon", 1e-5)
    b.define(node, b.reshape(normalise(b, x, range(2, len(x.shape)), eps, scale=scale, bias=bias), shape))


@lowering("BatchNormalization")
def _batch(b: Builder, node: ir.Node) -> None:
    """Inference: the four parameters become a factor and a summand per channel first."""
    if node.attributes.get_int("training_mode", 0):
        raise b.fail("IPU0202", "BatchNormalization with training_mode=1 is not supported")
    x = b.ref(node, 0)
    scale, bias, mean, variance = (b.ref(node, i) for i in range(1, 5))
    eps = node.attributes.get_float("epsilon", 1e-5)
    kept = statistics_type(x.dtype)
    channels = scale.shape
    params = [_cast(b, p, kept) for p in (scale, bias, mean, variance)]
    factor = elementwise(b, f"Div(a0, Sqrt(Add(a1, {eps!r})))", [params[0], params[3]], channels, kept)
    summand = elementwise(b, "Sub(a0, Mul(a1, a2))", [params[1], params[2], factor], channels, kept)
    form = (*channels, *(1 for _ in x.shape[2:]))
    expr = _narrow(f"Add(Mul({_wide('a0', x.dtype)}, a1), a2)", x.dtype)
    b.define(node, elementwise(b, expr, [x, b.reshape(factor, form), b.reshape(summand, form)], x.shape, x.dtype))


@lowering("LpNormalization")
def _lp(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    dim = node.attributes.get_int("axis", -1) % len(x.shape)
    p = node.attributes.get_int("p", 2)
    op, expr = ("sumsq", "Sqrt(x)") if p == 2 else ("abssum", "")
    norm = b.reshape(reduce(b, x, (dim,), op, expr=expr), keep_dims(x.shape, (dim,)))
    # A row of zeros stays one.
    b.define(node, elementwise(b, "Where(Equal(a1, 0.0), a1, Div(a0, a1))", [x, norm], x.shape, x.dtype))


@lowering("MeanVarianceNormalization")
def _mean_variance(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    given = node.attributes.get_ints("axes") or (0, 2, 3)
    dims = sorted({int(a) % len(x.shape) for a in given})
    # ONNX adds 1e-9 to the deviation, which for a deviation of 0 is this on the variance.
    b.define(node, normalise(b, x, dims, 1e-18))
