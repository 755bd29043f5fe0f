"""Softmax, LogSoftmax and Hardmax: on the tiles row by row, long rows in stages."""

import onnx_ir as ir

from ipucc.codelets.rows import Softmax
from ipucc.ops.builder import Builder, lowering
from ipucc.ops.elementwise import elementwise
from ipucc.ops.graph import Ref
from ipucc.ops.reduce import keep_dims, reduce, statistics_type
from ipucc.ops.rows import fits_a_row, narrow, wide
from ipucc.ops.spec import Along, Axis

__all__ = ["softmax"]

_KINDS = {"Softmax": "softmax", "LogSoftmax": "log", "Hardmax": "hard"}


def softmax(b: Builder, x: Ref, dim: int, kind: str) -> Ref:
    """`kind` (softmax, log, hard) over one dimension; the result has the type and shape of `x`."""
    if kind != "hard" and not fits_a_row(b, x, (dim,)):
        return _staged(b, x, dim, kind)
    names = tuple(f"d{i}" for i in range(len(x.shape)))
    axes = [
        Axis(a, n, "whole" if i == dim else "parallel") for i, (a, n) in enumerate(zip(names, x.shape, strict=True))
    ]
    operand = b.operand(x, [Along(a) for a in names], fill=-float("inf"))
    codelet = Softmax(kind, names, names[dim], x.dtype)
    return b.compute("Softmax", axes, [operand], names, x.dtype, codelet, operand.grain_dim)


def _staged(b: Builder, x: Ref, dim: int, kind: str) -> Ref:
    """The same with the row cut over tiles: maximum, powers, their sum, the quotient."""
    row = keep_dims(x.shape, (dim,))
    top = b.reshape(reduce(b, x, (dim,), "max"), row)
    powers = elementwise(b, "Exp(Sub(a0, a1))", [x, top], x.shape, x.dtype)
    form = "Log(x)" if kind == "log" else "Reciprocal(x)"
    total = b.reshape(reduce(b, powers, (dim,), "sum", expr=form, dtype=statistics_type(x.dtype)), row)
    if kind == "log":
        expr = narrow(f"Sub({wide('Sub(a0, a1)', x.dtype)}, a2)", x.dtype)
        return elementwise(b, expr, [x, top, total], x.shape, x.dtype)
    return elementwise(b, narrow(f"Mul({wide('a0', x.dtype)}, a1)", x.dtype), [powers, total], x.shape, x.dtype)


@lowering(*_KINDS)
def _softmax(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    dim = node.attributes.get_int("axis", -1) % len(x.shape)
    b.define(node, softmax(b, x, dim, _KINDS[node.op_type]))
