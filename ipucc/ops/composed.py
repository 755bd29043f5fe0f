"""Ops that are made of other families: Gemm, CastLike, CumSum, CumProd, LRN."""

from math import prod

import onnx_ir as ir

from ipucc.codelets.pool import Pool
from ipucc.codelets.positions import Running
from ipucc.dtypes import is_float
from ipucc.ops.builder import Builder, dtype_of, lowering, shape_of
from ipucc.ops.elementwise import elementwise
from ipucc.ops.matmul import matmul
from ipucc.ops.spec import Along, Axis
from ipucc.ops.window import Window
from ipucc.tiles.view import View

__all__: list[str] = []


@lowering("Gemm")
def _gemm(b: Builder, node: ir.Node) -> None:
    left, right = b.ref(node, 0), b.ref(node, 1)
    if node.attributes.get_int("transA", 0):
        left = b.view(left, View.transpose(left.shape, (1, 0)))
    if node.attributes.get_int("transB", 0):
        right = b.view(right, View.transpose(right.shape, (1, 0)))
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    expr, extras = "x", []
    if not is_float(left.dtype) and (alpha != 1.0 or beta != 1.0):
        raise b.fail("IPU0202", f"Gemm of {left.dtype} with alpha={alpha} and beta={beta} is not supported")
    if alpha != 1.0:
        expr = f"Mul(x, {alpha!r})"
    if b.has(node, 2) and beta != 0.0:
        extras.append(b.ref(node, 2))
        expr = f"Add({expr}, a0)" if beta == 1.0 else f"Add({expr}, Mul(a0, {beta!r}))"
    b.define(node, matmul(b, left, right, extras, "" if expr == "x" else expr, shape_of(node.outputs[0])))


@lowering("CastLike")
def _cast_like(b: Builder, node: ir.Node) -> None:
    x, to = b.ref(node, 0), dtype_of(node.outputs[0])
    attributes = [f'to="{to}"']
    if "saturate" in node.attributes:
        attributes.append(f"saturate={node.attributes.get_int('saturate')}")
    if "round_mode" in node.attributes:
        attributes.append(f'round_mode="{node.attributes.get_string("round_mode")}"')
    b.define(node, x if x.dtype == to else elementwise(b, f"Cast(a0, {', '.join(attributes)})", [x], x.shape, to))


@lowering("CumSum", "CumProd")
def _running(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    axis = b.constant(node, 1)
    if axis is None:
        raise b.fail("IPU0204", "operand 'axis' must be a constant")
    dim = int(axis.reshape(-1)[0]) % len(x.shape)
    names = tuple(f"d{i}" for i in range(len(x.shape)))
    axes = [Axis(a, n, "whole" if a == names[dim] else "parallel") for a, n in zip(names, x.shape, strict=True)]
    operand = b.operand(x, [Along(a) for a in names])
    exclusive, reverse = (bool(node.attributes.get_int(name, 0)) for name in ("exclusive", "reverse"))
    op = "sum" if node.op_type == "CumSum" else "prod"
    codelet = Running(op, names, names[dim], exclusive, reverse, x.dtype)
    b.define(node, b.compute(node.op_type, axes, [operand], names, x.dtype, codelet, operand.grain_dim))


@lowering("LRN")
def _lrn(b: Builder, node: ir.Node) -> None:
    """x / (bias + alpha x mean of squares over neighbouring channels) ^ beta; the mean is a pooling over channels."""
    x = b.ref(node, 0)
    size = node.attributes.get_int("size")
    alpha = node.attributes.get_float("alpha", 1e-4)
    beta, bias = node.attributes.get_float("beta", 0.75), node.attributes.get_float("bias", 1.0)
    batch, channels, places = x.shape[0], x.shape[1], prod(x.shape[2:])
    begin = (size - 1) // 2
    window = Window((size,), (1,), (1,), (begin,), (size - 1 - begin,))
    # Squares of halves leave the range of halves.
    wide = "float32" if x.dtype == "float16" else x.dtype
    squares = elementwise(b, "Mul(a0, a0)", [x], x.shape, wide)
    moved = b.view(squares, View.transpose(x.shape, [0, *range(2, len(x.shape)), 1]))
    flat = b.reshape(moved, (batch, places, channels))
    operand = b.operand(flat, [Along("n"), Along("c"), window.span(0, channels)])
    spans = ((-begin, channels + size - 1 - begin),)
    codelet = Pool("mean", (size,), (1,), (1,), (begin,), Window.grains(operand, 2), spans, wide)
    axes = (Axis("n", batch), Axis("c", places), Axis("o0", channels))
    mean = b.compute("LRN", axes, [operand], ("n", "c", "o0"), wide, codelet, operand.grain_dim)
    back = b.reshape(mean, moved.shape)
    back = b.view(back, View.transpose(back.shape, [0, len(x.shape) - 1, *range(1, len(x.shape) - 1)]))
    scale = f"Pow(Add({bias!r}, Mul({alpha!r}, a1)), {beta!r})"
    expr = f"Div(a0, {scale})" if wide == x.dtype else f'Div(a0, Cast({scale}, to="{x.dtype}"))'
    b.define(node, elementwise(b, expr, [x, back], x.shape, x.dtype))
