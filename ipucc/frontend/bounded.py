"""Ops whose results have an extent that depends on data: NonZero, Compress, Unique, NonMaxSuppression.

What they compute has a bound: the results are computed at that, with what counts in front, beside how much counts. A
`Trimmed` (`ipucc.graph.bounded_schemas`) brings the two together.
"""

from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none

__all__ = ["compress", "non_max_suppression", "non_zero", "unique"]

_BOOL, _FLOAT, _INT64 = ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.INT64
_MAX_COLUMNS: Final = 256
"""Rows of more elements are not sorted: each column is a sort of its own."""


def non_zero(node: ir.Node) -> bool:
    """The positions of elements other than zero, row by row, [rank, n]."""
    x = node.inputs[0]
    shape = shape_or_none(x)
    if x is None or not shape:
        return False
    e = Emitter(node)
    size = int(np.prod(shape))
    flags = e.op("Reshape", e.cast(x, _BOOL), e.ints(-1))
    at, count = _compacted(e, flags, e.constant(np.arange(size)[:, None]), _INT64, size, 1)
    columns, inner = [], size
    for n in shape:
        inner //= n
        along = e.op("Mod", e.op("Div", at, e.constant(np.int64(inner))), e.constant(np.int64(n)))
        columns.append(e.op("Reshape", along, e.ints(1, size)))
    e.finish(_trimmed(e, e.op("Concat", *columns, axis=0), count, 1))
    return True


def compress(node: ir.Node) -> bool | str:
    """The rows along an axis (the elements without one) whose flag is set; rows behind the last flag go."""
    x, flags = node.inputs
    shape, given = shape_or_none(x), shape_or_none(flags)
    if x is None or x.dtype is None or flags is None or not shape or given is None:
        return False
    e = Emitter(node)
    axis = 0
    if "axis" in node.attributes:
        axis = node.attributes.get_int("axis") % len(shape)
        rows = e.op("Transpose", x, perm=[axis, *(d for d in range(len(shape)) if d != axis)])
        rest = [n for d, n in enumerate(shape) if d != axis]
        size = shape[axis]
    else:
        rows, rest, size = x, [], int(np.prod(shape))
    width = int(np.prod(rest, dtype=np.int64))
    if given[0] > size:
        return f"{given[0]} flags for {size} rows"
    rows = e.op("Reshape", rows, e.ints(size, width))
    if given[0] < size:
        flags = e.op("Concat", flags, e.constant(np.zeros(size - given[0], bool)), axis=0)
    kept, count = _compacted(e, flags, rows, x.dtype, size, width)
    kept = e.op("Reshape", kept, e.ints(size, *rest))
    if axis:
        kept = e.op("Transpose", kept, perm=[*range(1, axis + 1), 0, *range(axis + 1, len(shape))])
    e.finish(_trimmed(e, kept, count, axis))
    return True


def unique(node: ir.Node) -> bool | str:
    """Each row along an axis (each element without one) once; where it was first, where each went, how often it was."""
    x = node.inputs[0]
    shape = shape_or_none(x)
    if x is None or x.dtype is None or shape is None or 0 in shape:
        return False
    e = Emitter(node)
    axis, rest = 0, []
    rows = x
    if "axis" in node.attributes:
        axis = node.attributes.get_int("axis") % len(shape)
        rest = [n for d, n in enumerate(shape) if d != axis]
        rows = e.op("Transpose", x, perm=[axis, *(d for d in range(len(shape)) if d != axis)])
    size = shape[axis] if "axis" in node.attributes else int(np.prod(shape))
    width = int(np.prod(rest, dtype=np.int64))
    if width > _MAX_COLUMNS:
        return f"rows of {width} elements are not sorted, {_MAX_COLUMNS} are the most"
    rows = e.op("Reshape", rows, e.ints(size, width))
    places = _sorted(e, rows, x.dtype, size, width)
    new = _new(e, e.op("Gather", rows, places, axis=0), x.dtype, size)
    # Of the rows in order: the number of the group that each belongs to, and where the first of every group was.
    group = e.op("Sub", e.op("CumSum", e.cast(new, _INT64), e.constant(np.int64(0))), e.ints(1))
    column = e.op("Reshape", places, e.ints(size, 1))
    ones, none = e.constant(np.ones(size, np.int64)), e.constant(np.zeros(size, np.int64))
    inverse = e.op("ScatterElements", none, places, group, axis=0)
    if node.attributes.get_int("sorted", 1):
        found, count = _compacted(e, new, column, _INT64, size, 1)
        found = e.op("Reshape", found, e.ints(size))
    else:
        # Groups by where their first one was: ranks of those places.
        first = e.op("ScatterElements", none, places, e.cast(new, _INT64), axis=0)
        firsts, _ = _compacted(e, new, column, _INT64, size, 1)
        rank = e.op("Sub", e.op("CumSum", first, e.constant(np.int64(0))), e.ints(1))
        begin = e.op("Gather", e.op("Reshape", firsts, e.ints(size)), inverse, axis=0)
        inverse = e.op("Gather", rank, begin, axis=0)
        found, count = _compacted(e, e.cast(first, _BOOL), e.constant(np.arange(size)[:, None]), _INT64, size, 1)
        found = e.op("Reshape", found, e.ints(size))
    values = e.op("Reshape", e.op("Gather", rows, found, axis=0), e.ints(size, *rest))
    if axis:
        values = e.op("Transpose", values, perm=[*range(1, axis + 1), 0, *range(axis + 1, len(shape))])
    times = e.op("ScatterElements", none, inverse, ones, axis=0, reduction="add")
    e.finish(
        _trimmed(e, values, count, axis), _trimmed(e, found, count, 0), inverse, _trimmed(e, times, count, 0)
    )  # fmt: skip
    return True


def non_max_suppression(node: ir.Node) -> bool | str:
    """The selected boxes of all classes, [n, 3]: image, class, box."""
    boxes, scores = node.inputs[0], node.inputs[1]
    shape = shape_or_none(scores)
    if boxes is None or scores is None or shape is None:
        return False
    most = constant_of(operand(node, 2))
    if operand(node, 2) is not None and most is None:
        return "how many boxes it selects at most must be a constant"
    batch, classes, size = shape
    count = 0 if most is None or not most.size else min(int(most.reshape(-1)[0]), size)
    e = Emitter(node)
    if count <= 0:
        e.finish(e.constant(np.zeros((0, 3), np.int64)))
        return True
    lowest = float(np.finfo(np.float32).min)
    thresholds = []
    for i, default in ((3, 0.0), (4, lowest)):
        given = operand(node, i)
        thresholds.append(e.constant(default, _FLOAT) if given is None else e.op("Reshape", given, e.ints()))
    center = node.attributes.get_int("center_point_box", 0)
    taken = e.own("SelectBoxes", boxes, scores, *thresholds, count=count, center=center)
    total = batch * classes * count
    line = e.op("Reshape", taken, e.ints(total, 1))
    image, group = np.divmod(np.arange(total) // count, classes)
    rows = e.op("Concat", e.constant(np.stack([image, group], axis=1)), line, axis=1)
    flags = e.op("Reshape", e.op("GreaterOrEqual", line, e.ints(0)), e.ints(total))
    kept, found = _compacted(e, flags, rows, _INT64, total, 3)
    e.finish(_trimmed(e, kept, found, 0))
    return True


def _compacted(
    e: Emitter, flags: ir.Value, rows: ir.Value, dtype: ir.DataType, size: int, width: int
) -> tuple[ir.Value, ir.Value]:
    """The rows [size, width] whose flag is set in front, in their order, zeros behind; and how many they are."""
    ones = e.cast(flags, _INT64)
    place = e.op("Sub", e.op("CumSum", ones, e.constant(np.int64(0))), e.ints(1))
    # A row more than there are takes all others.
    place = e.op("Where", flags, place, e.ints(size))
    zeros = e.op("Expand", e.constant(0, dtype), e.ints(size + 1, width))
    table = e.op("ScatterND", zeros, e.op("Unsqueeze", place, e.ints(1)), rows)
    return e.op("Slice", table, e.ints(0), e.ints(size), e.ints(0)), e.op("ReduceSum", ones, e.ints(0), keepdims=0)


def _trimmed(e: Emitter, x: ir.Value, count: ir.Value, axis: int) -> ir.Value:
    return e.own("Trimmed", x, count, axis=axis)


def _sorted(e: Emitter, rows: ir.Value, dtype: ir.DataType, size: int, width: int) -> ir.Value:
    """The order in which rows ascend, equal ones as they come: sorted by the last column first."""
    # Not every type has an order in ONNX.
    kind = _INT64 if dtype == _BOOL else _FLOAT if dtype.is_floating_point() else dtype
    keys = e.cast(rows, kind) if kind != dtype else rows
    order: ir.Value | None = None
    for column in reversed(range(width)):
        key = e.op("Gather", keys, e.constant(np.int64(column)), axis=1)
        if order is not None:
            key = e.op("Gather", key, order, axis=0)
        step = e.ops("TopK", key, e.ints(size), outputs=2, axis=0, largest=0)[1]
        order = step if order is None else e.op("Gather", order, step, axis=0)
    return order if order is not None else e.constant(np.arange(size))


def _new(e: Emitter, rows: ir.Value, dtype: ir.DataType, size: int) -> ir.Value:
    """Which of rows in order differ from the row before; NaNs are alike."""
    first = e.constant(np.ones(1, bool))
    if size == 1:
        return first
    before = e.op("Slice", rows, e.ints(0), e.ints(size - 1), e.ints(0))
    after = e.op("Slice", rows, e.ints(1), e.ints(size), e.ints(0))
    same = e.op("Equal", before, after)
    if dtype.is_floating_point():
        same = e.op("Or", same, e.op("And", e.op("IsNaN", before), e.op("IsNaN", after)))
    other = e.op("ReduceMax", e.cast(e.op("Not", same), _INT64), e.ints(1), keepdims=0)
    return e.op("Concat", first, e.cast(other, _BOOL), axis=0)
