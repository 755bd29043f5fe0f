"""Ops over windows that are others in disguise: Col2Im, positions of MaxPool's maxima, MaxUnpool."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none

__all__ = ["col2im", "max_pool_positions", "max_unpool"]

_INT64 = ir.DataType.INT64


def col2im(node: ir.Node) -> bool | str:
    """A transposed convolution in which every tap of a channel goes to its own place of the window."""
    x = node.inputs[0]
    image, block = constant_of(operand(node, 1)), constant_of(operand(node, 2))
    shape = shape_or_none(x)
    if x is None or shape is None or x.dtype is None:
        return False
    if image is None or block is None:
        return "the shapes of image and blocks must be constants"
    if not x.dtype.is_floating_point():
        return f"blocks of {x.dtype.name.lower()} are not summed"
    sizes, kernel = ([int(v) for v in a.reshape(-1)] for a in (image, block))
    rank, taps = len(sizes), prod(kernel)
    strides = _ints(node, "strides", [1] * rank)
    dilations = _ints(node, "dilations", [1] * rank)
    pads = _ints(node, "pads", [0] * 2 * rank)
    channels = shape[1] // taps
    places, missing = [], []
    for d, size in enumerate(sizes):
        room = size + pads[d] + pads[rank + d] - dilations[d] * (kernel[d] - 1) - 1
        places.append(room // strides[d] + 1)
        missing.append(room % strides[d])
    weight = np.zeros((channels, taps, taps))
    weight[:, np.arange(taps), np.arange(taps)] = 1
    e = Emitter(node)
    blocks = e.op("Reshape", x, e.ints(shape[0], channels * taps, *places))
    kernels = e.constant(weight.reshape(channels * taps, 1, *kernel), x.dtype)
    e.finish(
        e.op("ConvTranspose", blocks, kernels, group=channels, strides=strides, dilations=dilations, pads=pads,
             output_padding=missing)
    )  # fmt: skip
    return True


def max_pool_positions(node: ir.Node) -> bool:
    """Where the maxima of a MaxPool come from, beside the op itself: the first of equal ones counts."""
    if len(node.outputs) < 2 or not (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return False
    x = node.inputs[0]
    shape, out = shape_or_none(x), shape_or_none(node.outputs[0])
    if x is None or x.dtype is None or shape is None or out is None:
        return False
    e = Emitter(node)
    attributes = {name: a.value for name, a in node.attributes.items() if name != "storage_order"}
    y = e.op("MaxPool", x, **attributes)
    sizes, counts = shape[2:], out[2:]
    rank = len(sizes)
    kernel = _ints(node, "kernel_shape", [])
    strides, dilations = _ints(node, "strides", [1] * rank), _ints(node, "dilations", [1] * rank)
    begins = _begins(node, sizes, kernel, strides, dilations)
    rows = [prod(sizes[d + 1 :]) for d in range(rank)]
    pitch = [prod(sizes[:d]) for d in range(rank)] if node.attributes.get_int("storage_order", 0) else rows
    # [windows, taps]: where a tap lies in the image, row by row, and whether it lies inside.
    index: np.ndarray = np.zeros((1, 1), np.int64)
    inside: np.ndarray = np.ones((1, 1), bool)
    first: np.ndarray = np.zeros(1, np.int64)
    for d in range(rank):
        begin = np.arange(counts[d]) * strides[d] - begins[d]
        at = begin[:, None] + (np.arange(kernel[d]) * dilations[d])[None, :]
        here = (at >= 0) & (at < sizes[d])
        index = _outer(index, np.where(here, at, 0) * rows[d], np.add)
        inside = _outer(inside, here, np.logical_and)
        first = (first[:, None] + begin[None, :] * pitch[d]).reshape(-1)
    images, taps = shape[0] * shape[1], prod(kernel)
    flat = e.op("Reshape", x, e.ints(images, prod(sizes)))
    taken = e.op("Reshape", e.op("Gather", flat, e.constant(index.reshape(-1)), axis=1), e.ints(images, -1, taps))
    least = -np.inf if x.dtype.is_floating_point() else np.iinfo(x.dtype.numpy()).min
    tap = e.op("ArgMax", e.op("Where", e.constant(inside), taken, e.constant(least, x.dtype)), axis=2, keepdims=0)
    # From the number of the tap, row by row, to its distance from the first.
    found = e.op("Add", e.constant(first[None, :]), e.constant(np.arange(images)[:, None] * prod(sizes)))
    for d in range(rank):
        inner = prod(kernel[d + 1 :])
        along = e.op("Mod", e.op("Div", tap, e.constant(np.int64(inner))), e.constant(np.int64(kernel[d])))
        found = e.op("Add", found, e.op("Mul", along, e.constant(np.int64(dilations[d] * pitch[d]))))
    e.finish(y, e.op("Reshape", found, e.ints(*out)))
    return True


def max_unpool(node: ir.Node) -> bool | str:
    """Maxima back at their places, zeros elsewhere. Places are those of MaxPool: each within its own channel."""
    x, places = node.inputs[0], node.inputs[1]
    shape = shape_or_none(x)
    if x is None or places is None or shape is None or x.dtype is None:
        return False
    wanted = constant_of(operand(node, 2))
    if operand(node, 2) is not None and wanted is None:
        return "the shape of its result must be a constant"
    rank = len(shape) - 2
    kernel = _ints(node, "kernel_shape", [])
    strides, pads = _ints(node, "strides", [1] * rank), _ints(node, "pads", [0] * 2 * rank)
    sizes = [(shape[2 + d] - 1) * strides[d] - pads[d] - pads[rank + d] + kernel[d] for d in range(rank)]
    images, count, size = shape[0] * shape[1], prod(shape[2:]), prod(sizes)
    e = Emitter(node)
    begin = e.constant(np.arange(images)[:, None] * size)
    local = e.op("Sub", e.op("Reshape", places, e.ints(images, count)), begin)
    zeros = e.op("Expand", e.constant(0, x.dtype), e.ints(images, size))
    made = e.op("ScatterElements", zeros, local, e.op("Reshape", x, e.ints(images, count)), axis=1)
    y = e.op("Reshape", made, e.ints(*shape[:2], *sizes))
    if wanted is not None:
        more = [int(w) - s for w, s in zip(wanted.reshape(-1), (*shape[:2], *sizes), strict=True)]
        y = e.op("Pad", y, e.ints(*[0] * len(shape), *more))
    e.finish(y)
    return True


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    return [int(v) for v in node.attributes.get_ints(name) or default]


def _outer(table: np.ndarray, along: np.ndarray, join: np.ufunc) -> np.ndarray:
    """[windows, taps] of the dimensions so far, and those of one more, which varies fastest."""
    joined = join(table[:, None, :, None], along[None, :, None, :])
    return np.asarray(joined).reshape(table.shape[0] * along.shape[0], -1)


def _begins(
    node: ir.Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """The padding in front of every dimension."""
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        return [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    return [0] * len(sizes) if auto == "VALID" else _ints(node, "pads", [0] * 2 * len(sizes))[: len(sizes)]
