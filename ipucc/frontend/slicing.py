"""Slices whose begin or end is computed, and ranges that are as long wherever they begin.

Where `end - begin` is a number and the slice lies inside, its rows are gathered: the extent is static. What is left has
a bound: so many rows are taken, of which those count that the slice has (`ipucc.frontend.extents`).
"""

import numpy as np
import onnx_ir as ir

from ipucc.frontend.affine import Affine, affine, bounds
from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none
from ipucc.graph.bounded_schemas import TRIMMED

__all__ = ["range_by_data", "slice_by_data"]


def range_by_data(node: ir.Node) -> bool:
    """A Range whose extent is a number though its begin is none."""
    start, limit, delta = (affine(v) for v in node.inputs)
    if start is None or limit is None or delta is None:
        return False
    step, length = delta[0].known(), limit[0].plus(start[0], -1).known()
    if not step or length is None or start[0].known() is not None:
        return False
    e = Emitter(node)
    places = np.arange(0, length, step)
    begin = node.inputs[0]
    assert begin is not None
    e.finish(e.op("Add", e.op("Reshape", begin, e.ints()), e.constant(places, e.like(begin))))
    return True


def slice_by_data(node: ir.Node) -> bool | str:
    """A Slice along axes that are constant, with steps that are; each axis by itself."""
    x = node.inputs[0]
    shape = shape_or_none(x)
    starts, ends = affine(operand(node, 1)), affine(operand(node, 2))
    if x is None or shape is None or starts is None or ends is None or len(starts) != len(ends):
        return False
    pairs = list(zip(starts, ends, strict=True))
    if all(s.known() is not None and e.known() is not None for s, e in pairs):
        return False
    given, by = constant_of(operand(node, 3)), constant_of(operand(node, 4))
    if (operand(node, 3) is not None and given is None) or (operand(node, 4) is not None and by is None):
        return "axes and steps of a slice must be constants"
    axes = list(range(len(pairs))) if given is None else [int(a) % len(shape) for a in given.reshape(-1)]
    steps = [1] * len(pairs) if by is None else [int(n) for n in by.reshape(-1)]
    for (start, end), step, axis in zip(pairs, steps, axes, strict=True):
        if step != 1 and start.terms | end.terms and _inside(start, end, shape[axis]) is None:
            return "a slice of computed begin or end has a step of 1"
    e = Emitter(node)
    for i, ((start, end), step, axis) in enumerate(zip(pairs, steps, axes, strict=True)):
        if not start.terms | end.terms:
            x = e.op("Slice", x, *(e.ints(n) for n in (start.constant, end.constant, axis, step)))
            continue
        begin, stop = (_element(e, node.inputs[k], i) for k in (1, 2))
        length = _inside(start, end, shape[axis])
        if length is not None:
            at = e.op("Add", begin, e.constant(np.arange(0, length, step)))
            x = e.op("Gather", x, at, axis=axis)
        else:
            x = _trimmed(e, x, axis, shape[axis], (start, end), (begin, stop))
    e.finish(x)
    return True


def _inside(start: Affine, end: Affine, size: int) -> int | None:
    """The extent of a slice that lies inside of `size` elements whatever its begin."""
    length = end.plus(start, -1).known()
    low, high = bounds(start)
    return length if length is not None and length > 0 and low >= 0 and high + length <= size else None


def _trimmed(
    e: Emitter, x: ir.Value, axis: int, size: int, ends: tuple[Affine, Affine], values: tuple[ir.Value, ir.Value]
) -> ir.Value:
    """As many rows as the slice can have, trimmed to those that it has."""
    start, end = ends
    length = end.plus(start, -1).known()
    begin, stop = (_clamped(e, value, number, size) for value, number in zip(values, ends, strict=True))
    count = e.op("Max", e.op("Sub", stop, begin), e.constant(np.int64(0)))
    bound = size
    first = start.known()
    if first is not None and 0 <= first < size:
        most = bounds(end)
        bound = size - first if most[0] < 0 else int(max(1, min(most[1], size) - first))
        rows = e.op("Slice", x, e.ints(first), e.ints(first + bound), e.ints(axis))
    else:
        if length is not None and length > 0 and bounds(start)[0] >= 0:
            bound = min(size, length)
        at = e.op("Add", begin, e.constant(np.arange(bound)))
        rows = e.op("Gather", x, e.op("Min", at, e.constant(np.int64(size - 1))), axis=axis)
    return e.own(TRIMMED, rows, count, axis=axis)


def _clamped(e: Emitter, value: ir.Value, number: Affine, size: int) -> ir.Value:
    """The place that a begin or end means: counted from the end where it is negative, no further than the ends."""
    low, high = bounds(number)
    if low < 0:
        behind = e.op("Add", value, e.constant(np.int64(size)))
        value = e.op("Where", e.op("Less", value, e.constant(np.int64(0))), behind, value)
        value = e.op("Max", value, e.constant(np.int64(0)))
    return value if high <= size else e.op("Min", value, e.constant(np.int64(size)))


def _element(e: Emitter, value: ir.Value | None, i: int) -> ir.Value:
    """Element i of a vector, as a scalar of int64."""
    assert value is not None
    if (shape_or_none(value) or (1,)) != (1,):
        value = e.op("Gather", value, e.ints(i), axis=0)
    return e.cast(e.op("Reshape", value, e.ints()), ir.DataType.INT64)
