"""Quantised ops in elementwise ops, and products and convolutions of integers."""

from math import prod

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none

__all__ = [
    "centred", "conv_integer", "dequantised", "dequantize_linear", "matmul_integer", "qlinear_conv", "qlinear_matmul",
    "quantised", "quantize_linear", "scaled_back",
]  # fmt: skip

_FLOAT, _INT32 = ir.DataType.FLOAT, ir.DataType.INT32
_EXACT = 1 << 24
"""Integers up to it are float32 numbers, and so are all partial sums of products whose magnitudes add up to no more."""
_LARGEST = 255
"""The largest magnitude of an 8-bit number less its zero point."""


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
    left = centred(e, node.inputs[0], operand(node, 2), rows=True)
    right = centred(e, node.inputs[1], operand(node, 3), rows=False)
    e.finish(e.op("MatMul", left, right))
    return True


def qlinear_matmul(node: ir.Node) -> bool:
    """An integer product, scaled back and quantised again."""
    e = Emitter(node)
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
    if a is None or b is None or y_zero is None or y_zero.dtype is None or _is_float(y_zero.dtype):
        return False
    product = e.op("MatMul", centred(e, a, a_zero, rows=True), centred(e, b, b_zero, rows=False))
    scale = e.op("Mul", _by(e, a_scale, a, rows=True), _by(e, b_scale, b, rows=False))
    scaled = e.op("Div", e.op("Mul", e.cast(product, _FLOAT), scale), _by(e, y_scale, a, rows=True))
    e.finish(_saturated(e, scaled, e.cast(_by(e, y_zero, a, rows=True, cast=False), _FLOAT), y_zero.dtype))
    return True


def conv_integer(node: ir.Node) -> bool | str:
    """(x - its zero point) convolved with (w - its own)."""
    e = Emitter(node)
    made = _convolved(e, node, node.inputs[0], node.inputs[1], operand(node, 2), operand(node, 3), None)
    if isinstance(made, str):
        return made
    e.finish(e.cast(made, _INT32))
    return True


def qlinear_conv(node: ir.Node) -> bool | str:
    """An integer convolution, scaled back and quantised again."""
    e = Emitter(node)
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = node.inputs[:8]
    if y_zero is None or y_zero.dtype is None or w is None or x_scale is None or w_scale is None or y_scale is None:
        return False
    made = _convolved(e, node, x, w, x_zero, w_zero, operand(node, 8))
    if isinstance(made, str):
        return made
    rank = len(shape_or_none(w) or ())
    per_channel = e.ints(*([-1] + [1] * (rank - 2)))
    scale = e.op("Div", e.op("Mul", e.cast(x_scale, _FLOAT), e.cast(w_scale, _FLOAT)), e.cast(y_scale, _FLOAT))
    e.finish(scaled_back(e, e.cast(made, _FLOAT), e.op("Reshape", scale, per_channel), y_zero, y_zero.dtype))
    return True


def dequantised(e: Emitter, x: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None) -> ir.Value:
    """(x - zero point) * scale of a whole tensor, in float32; no zero point is 0."""
    assert x is not None
    assert scale is not None
    number = e.cast(x, _FLOAT)
    if zero is not None:
        number = e.op("Sub", number, e.op("Reshape", e.cast(zero, _FLOAT), e.ints()))
    return e.op("Mul", number, e.op("Reshape", e.cast(scale, _FLOAT), e.ints()))


def quantised(e: Emitter, x: ir.Value, scale: ir.Value | None, zero: ir.Value | None, dtype: ir.DataType) -> ir.Value:
    """saturate(round(x / scale) + zero point) of a whole tensor, in the type of the zero point, `dtype` without one."""
    assert scale is not None
    number = e.op("Div", x, e.op("Reshape", e.cast(scale, _FLOAT), e.ints()))
    zeros = None if zero is None else e.op("Reshape", e.cast(zero, _FLOAT), e.ints())
    return _saturated(e, number, zeros, dtype if zero is None or zero.dtype is None else zero.dtype)


def scaled_back(e: Emitter, sums: ir.Value, scale: ir.Value, zero: ir.Value | None, dtype: ir.DataType) -> ir.Value:
    """saturate(round(sums * scale) + zero point), in the type of the zero point, `dtype` without one."""
    zeros = None if zero is None else e.op("Reshape", e.cast(zero, _FLOAT), e.ints())
    held = dtype if zero is None or zero.dtype is None else zero.dtype
    return _saturated(e, e.op("Mul", sums, scale), zeros, held)


def _convolved(
    e: Emitter, node: ir.Node, x: ir.Value | None, w: ir.Value | None, x_zero: ir.Value | None,
    w_zero: ir.Value | None, bias: ir.Value | None,
) -> ir.Value | str:  # fmt: skip
    """The convolution of integers and a bias in int32: integers in float32 if no sum can exceed those that it has, else
    in int32, out of convolutions in float32 over so many input channels at once that they are exact. A reason where one
    channel alone can exceed that."""
    kernel = shape_or_none(w)
    if x is None or w is None or kernel is None:
        return "its operands have no static shapes"
    left, right = e.cast(x, _FLOAT), e.cast(w, _FLOAT)
    if x_zero is not None:
        left = e.op("Sub", left, e.cast(x_zero, _FLOAT))
    if w_zero is not None:
        form = e.ints(*([-1] + [1] * (len(kernel) - 1)))
        right = e.op("Sub", right, e.op("Reshape", e.cast(w_zero, _FLOAT), form))
    attributes = {name: a.value for name, a in node.attributes.items() if a.value is not None}
    added = None if bias is None else e.op("Reshape", bias, e.ints(-1, *([1] * (len(kernel) - 2))))
    sizes = _magnitudes(w, w_zero, kernel)
    ends = _exact_runs(sizes)
    if ends is None:
        return f"sums over a kernel of {'x'.join(map(str, kernel[2:]))} may exceed 2**24, and would be rounded"
    if len(ends) == 1:
        made = e.op("Conv", left, right, **attributes)
        known = np.zeros(1) if bias is None else constant_of(bias)
        if known is not None and (sizes.sum(axis=1) + np.abs(known.astype(np.int64))).max() <= _EXACT:
            return made if added is None else e.op("Add", made, e.cast(added, _FLOAT))
        made = e.cast(made, _INT32)
        return made if added is None else e.op("Add", made, added)
    groups = node.attributes.get_int("group", 1)
    for begin, end in zip([0, *ends], ends, strict=False):
        # Of every group, the same channels.
        taken = (np.arange(groups)[:, None] * kernel[1] + np.arange(begin, end)).reshape(-1)
        part = e.op(
            "Conv", e.op("Gather", left, e.constant(taken), axis=1),
            e.op("Slice", right, e.ints(begin), e.ints(end), e.ints(1)), **attributes,
        )  # fmt: skip
        wide = e.cast(part, _INT32)
        added = wide if added is None else e.op("Add", added, wide)
    assert added is not None
    return added


def _magnitudes(w: ir.Value, zero: ir.Value | None, kernel: tuple[int, ...]) -> NDArray[np.int64]:
    """Per output (one stands for all if they are not known) and input channel, what it adds to a sum at most."""
    known, zeros = constant_of(w), np.zeros(1) if zero is None else constant_of(zero)
    if known is None or zeros is None:
        return np.full((1, kernel[1]), _LARGEST * _LARGEST * prod(kernel[2:]), np.int64)
    centre = zeros.astype(np.int64).reshape([-1] + [1] * (len(kernel) - 1))
    size = np.abs(known.astype(np.int64) - centre)
    return _LARGEST * np.asarray(size.reshape(*kernel[:2], -1).sum(axis=2), np.int64)


def _exact_runs(magnitudes: NDArray[np.int64]) -> list[int] | None:
    """Where runs of channels end of which no output's sum exceeds what is exact; None where one channel does."""
    if magnitudes.max(initial=0) > _EXACT:
        return None
    ends, begin = [], 0
    channels = magnitudes.shape[1]
    for c in range(channels):
        if magnitudes[:, begin : c + 1].sum(axis=1).max(initial=0) > _EXACT:
            ends.append(c)
            begin = c
    return [*ends, channels]


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


def centred(e: Emitter, x: ir.Value | None, zero: ir.Value | None, *, rows: bool) -> ir.Value:
    """x - zero point, in int32; a vector of zero points belongs to rows or columns."""
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
