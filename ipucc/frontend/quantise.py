"""Quantised ops in elementwise ops, and products and convolutions of integers."""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, operand, shape_or_none

__all__ = ["conv_integer", "dequantize_linear", "matmul_integer", "qlinear_conv", "qlinear_matmul", "quantize_linear"]

_FLOAT, _INT32 = ir.DataType.FLOAT, ir.DataType.INT32
# Products of 8-bit numbers summed in float32 are exact up to 2**24.
_EXACT_TERMS = (1 << 24) // (255 * 255)


def quantize_linear(node: ir.Node) -> bool:
    """y = saturate(round(x / scale) + zero point), ties to even; 8-bit floats are cast, not rounded to integers."""
    e = Emitter(node)
    x, scale, zero = node.inputs[0], node.inputs[1], operand(node, 2)
    given = node.attributes.get_int("output_dtype", 0)
    to = ir.DataType(given) if given else zero.dtype if zero is not None else ir.DataType.UINT8
    assert x is not None
    assert scale is not None
    assert to is not None
    quotient = e.op("Div", e.cast(x, _FLOAT), _along(e, x, e.cast(scale, _FLOAT)))
    if _is_float(to):
        e.finish(e.op("Cast", quotient, to=int(to), saturate=node.attributes.get_int("saturate", 1)))
        return True
    zeros = None if zero is None else _along(e, x, e.cast(zero, _FLOAT), 2)
    e.finish(_saturated(e, quotient, zeros, to))
    return True


def dequantize_linear(node: ir.Node) -> bool:
    """y = (x - zero point) * scale."""
    e = Emitter(node)
    x, scale, zero = node.inputs[0], node.inputs[1], operand(node, 2)
    assert x is not None
    assert scale is not None
    given = node.attributes.get_int("output_dtype", 0)
    to = ir.DataType(given) if given else e.like(scale)
    number = e.cast(x, _FLOAT)
    if zero is not None:
        number = e.op("Sub", number, _along(e, x, e.cast(zero, _FLOAT), 2))
    e.finish(e.cast(e.op("Mul", number, _along(e, x, e.cast(scale, _FLOAT))), to))
    return True


def matmul_integer(node: ir.Node) -> bool:
    """(a - its zero point) times (b - its own), in int32."""
    e = Emitter(node)
    left = _centred(e, node.inputs[0], operand(node, 2), rows=True)
    right = _centred(e, node.inputs[1], operand(node, 3), rows=False)
    e.finish(e.op("MatMul", left, right))
    return True


def qlinear_matmul(node: ir.Node) -> bool:
    """An integer product, scaled back and quantised again."""
    e = Emitter(node)
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
    if a is None or b is None or y_zero is None or y_zero.dtype is None or _is_float(y_zero.dtype):
        return False
    product = e.op("MatMul", _centred(e, a, a_zero, rows=True), _centred(e, b, b_zero, rows=False))
    scale = e.op("Mul", _by(e, a_scale, a, rows=True), _by(e, b_scale, b, rows=False))
    scaled = e.op("Div", e.op("Mul", e.cast(product, _FLOAT), scale), _by(e, y_scale, a, rows=True))
    e.finish(_saturated(e, scaled, e.cast(_by(e, y_zero, a, rows=True, cast=False), _FLOAT), y_zero.dtype))
    return True


def conv_integer(node: ir.Node) -> bool:
    """(x - its zero point) convolved with (w - its own). Sums are exact: longer ones are not taken."""
    e = Emitter(node)
    made = _convolved(e, node, node.inputs[0], node.inputs[1], operand(node, 2), operand(node, 3))
    if made is None:
        return False
    e.finish(e.cast(made, _INT32))
    return True


def qlinear_conv(node: ir.Node) -> bool:
    """An integer convolution, scaled back and quantised again."""
    e = Emitter(node)
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
    bias = operand(node, 8)
    if y_zero is None or y_zero.dtype is None or w is None or x_scale is None or w_scale is None or y_scale is None:
        return False
    made = _convolved(e, node, x, w, x_zero, w_zero)
    if made is None:
        return False
    rank = len(shape_or_none(w) or ())
    per_channel = e.ints(*([-1] + [1] * (rank - 2)))
    if bias is not None:
        made = e.op("Add", made, e.op("Reshape", e.cast(bias, _FLOAT), per_channel))
    scale = e.op("Div", e.op("Mul", e.cast(x_scale, _FLOAT), e.cast(w_scale, _FLOAT)), e.cast(y_scale, _FLOAT))
    scaled = e.op("Mul", made, e.op("Reshape", scale, per_channel))
    e.finish(_saturated(e, scaled, e.cast(y_zero, _FLOAT), y_zero.dtype))
    return True


def _convolved(
    e: Emitter, node: ir.Node, x: ir.Value | None, w: ir.Value | None, x_zero: ir.Value | None, w_zero: ir.Value | None
) -> ir.Value | None:
    kernel = shape_or_none(w)
    if x is None or w is None or kernel is None or int(np.prod(kernel[1:])) > _EXACT_TERMS:
        return None
    left, right = e.cast(x, _FLOAT), e.cast(w, _FLOAT)
    if x_zero is not None:
        left = e.op("Sub", left, e.cast(x_zero, _FLOAT))
    if w_zero is not None:
        form = e.ints(*([-1] + [1] * (len(kernel) - 1)))
        right = e.op("Sub", right, e.op("Reshape", e.cast(w_zero, _FLOAT), form))
    attributes = {name: a.value for name, a in node.attributes.items() if a.value is not None}
    return e.op("Conv", left, right, **attributes)


def _is_float(dtype: ir.DataType) -> bool:
    return "FLOAT" in dtype.name


def _saturated(e: Emitter, quotient: ir.Value, zero: ir.Value | None, to: ir.DataType) -> ir.Value:
    rounded = e.op("Round", quotient)
    if zero is not None:
        rounded = e.op("Add", rounded, zero)
    limits = ml_dtypes.iinfo(to.numpy())  # type: ignore[no-untyped-call]
    low, high = (e.constant(float(v), _FLOAT) for v in (limits.min, limits.max))
    return e.cast(e.op("Clip", rounded, low, high), to)


def _along(e: Emitter, x: ir.Value, value: ir.Value, source: int = 1) -> ir.Value:
    """A scale or zero point in the form in which it broadcasts: one of the tensor, of an axis, or of blocks of it."""
    node = e.node
    given = shape_or_none(node.inputs[source]) or ()
    full = shape_or_none(x) or ()
    if int(np.prod(given)) == 1:
        return e.op("Reshape", value, e.ints())
    axis = node.attributes.get_int("axis", 1) % len(full)
    block = node.attributes.get_int("block_size", 0)
    if block:
        return e.op("Gather", value, e.constant(np.arange(full[axis]) // block), axis=axis)
    return e.op("Reshape", value, e.ints(*(n if d == axis else 1 for d, n in enumerate(full))))


def _centred(e: Emitter, x: ir.Value | None, zero: ir.Value | None, *, rows: bool) -> ir.Value:
    assert x is not None
    wide = e.cast(x, _INT32)
    return wide if zero is None else e.op("Sub", wide, e.cast(_by(e, zero, x, rows=rows, cast=False), _INT32))


def _by(e: Emitter, value: ir.Value | None, x: ir.Value, *, rows: bool, cast: bool = True) -> ir.Value:
    """What belongs to a matrix, to its rows (or columns) where it is a vector."""
    assert value is not None
    shape = shape_or_none(value) or ()
    value = e.cast(value, _FLOAT) if cast else value
    if int(np.prod(shape)) == 1:
        return e.op("Reshape", value, e.ints())
    return e.op("Reshape", value, e.ints(-1, 1)) if rows and len(shape) == 1 else value
