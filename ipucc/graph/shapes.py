"""Shapes of results, from those of operands."""

from collections.abc import Sequence

Shape = tuple[int, ...]


def conv_shape(
    x: Shape, w: Shape, pads: Sequence[int], strides: Sequence[int], dilations: Sequence[int], group: int
) -> Shape:
    """Shape of the result of a convolution; pads are ONNX's (all begins, then all ends).

    Raises ValueError where operands and attributes contradict each other.
    """
    spatial = len(x) - 2
    if len(w) != len(x) or len(pads) != 2 * spatial or len(strides) != spatial or len(dilations) != spatial:
        raise ValueError(f"ranks of input {x}, weight {w}, pads, strides and dilations differ")
    if x[1] != w[1] * group or w[0] % group:
        raise ValueError(f"{x[1]} input channels, {group} groups and the weight {w} contradict each other")
    size = []
    for i in range(spatial):
        padded = x[2 + i] + pads[i] + pads[spatial + i]
        reach = (w[2 + i] - 1) * dilations[i] + 1
        if padded < reach:
            raise ValueError(f"the kernel reaches over {reach} of {padded} elements on spatial axis {i}")
        size.append((padded - reach) // strides[i] + 1)
    return (x[0], w[0], *size)


def matmul_shape(a: Shape, b: Shape) -> Shape:
    """Shape of numpy's matmul. Raises ValueError where the operands do not fit."""
    if not a or not b:
        raise ValueError("a scalar cannot be multiplied by MatMul")
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if left[-1] != right[-2]:
        raise ValueError(f"contracted dimensions of {a} and {b} differ")
    rows = left[-2:-1] if len(a) > 1 else ()
    cols = right[-1:] if len(b) > 1 else ()
    return (*broadcast(left[:-2], right[:-2]), *rows, *cols)


def broadcast(*shapes: Shape) -> Shape:
    """Numpy broadcasting of shapes. Raises ValueError where they do not broadcast."""
    rank = max((len(s) for s in shapes), default=0)
    out = []
    for axis in range(-rank, 0):
        sizes = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(sizes) > 1:
            raise ValueError(f"shapes {', '.join(map(str, shapes))} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)
