"""Ops that pick or place rows of sequences: ReverseSequence, TensorScatter."""

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, operand, shape_or_none

__all__ = ["reverse_sequence", "tensor_scatter"]

_INT64 = ir.DataType.INT64


def reverse_sequence(node: ir.Node) -> bool:
    """The first elements of every sequence in reverse, the rest as they are."""
    e = Emitter(node)
    x, lengths = node.inputs[0], operand(node, 1)
    shape = shape_or_none(x)
    batch, time = node.attributes.get_int("batch_axis", 1), node.attributes.get_int("time_axis", 0)
    if x is None or shape is None or lengths is None or {batch, time} != {0, 1}:
        return False
    rows = x if batch == 0 else e.op("Transpose", x, perm=[1, 0, *range(2, len(shape))])
    count, steps = shape[batch], shape[time]
    at = e.constant(np.arange(steps)[None, :])
    long = e.op("Reshape", e.cast(lengths, _INT64), e.ints(count, 1))
    turned = e.op("Sub", e.op("Sub", long, e.ints(1)), at)
    index = e.op("Where", e.op("Less", at, long), turned, at)
    found = e.op("GatherND", rows, e.op("Unsqueeze", index, e.ints(2)), batch_dims=1)
    e.finish(found if batch == 0 else e.op("Transpose", found, perm=[1, 0, *range(2, len(shape))]))
    return True


def tensor_scatter(node: ir.Node) -> bool:
    """A cache with new rows from a position of each sequence on; with mode circular they go round at the end."""
    e = Emitter(node)
    cache, update, start = node.inputs[0], node.inputs[1], operand(node, 2)
    shape, new = shape_or_none(cache), shape_or_none(update)
    mode = node.attributes.get_string("mode", "linear")
    if shape is None or new is None or mode not in ("linear", "circular"):
        return False
    rank = len(shape)
    axis = node.attributes.get_int("axis", -2) % rank
    order = [0, axis, *(d for d in range(1, rank) if d != axis)]
    steps = e.constant(np.arange(new[axis])[None, :])
    at = steps if start is None else e.op("Add", e.op("Reshape", e.cast(start, _INT64), e.ints(shape[0], 1)), steps)
    if mode == "circular":
        at = e.op("Mod", at, e.ints(shape[axis]))
    at = e.op("Expand", at, e.ints(shape[0], new[axis]))
    sequence = e.constant(np.repeat(np.arange(shape[0])[:, None], new[axis], axis=1)[:, :, None])
    places = e.op("Concat", sequence, e.op("Unsqueeze", at, e.ints(2)), axis=2)
    rows, changed = (e.op("Transpose", v, perm=order) for v in (cache, update))
    made = e.op("ScatterND", rows, places, changed)
    e.finish(e.op("Transpose", made, perm=[int(d) for d in np.argsort(order)]))
    return True
