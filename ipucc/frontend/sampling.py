"""Ops that pick or place elements at computed places: GridSample, ReverseSequence, TensorScatter."""

from itertools import product
from math import prod

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, operand, shape_or_none

__all__ = ["grid_sample", "reverse_sequence", "tensor_scatter"]

_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64
_CUBIC = -0.75


def grid_sample(node: ir.Node) -> bool:
    """Weighted neighbours of every place of the grid, in as many dimensions as the image has."""
    mode = node.attributes.get_string("mode", "linear")
    return _Sampler(node, {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)).write()


class _Sampler:
    def __init__(self, node: ir.Node, mode: str) -> None:
        self.node, self.e, self.mode = node, Emitter(node), mode
        self.padding = node.attributes.get_string("padding_mode", "zeros")
        self.corners = bool(node.attributes.get_int("align_corners", 0))

    def write(self) -> bool:
        e, node = self.e, self.node
        x, grid = node.inputs
        shape, places = shape_or_none(x), shape_or_none(grid)
        if x is None or grid is None or shape is None or places is None:
            return False
        if self.mode not in ("nearest", "linear", "cubic"):
            return False
        sizes = shape[2:]
        count = prod(places[1:-1])
        flat = e.op("Reshape", e.cast(grid, _FLOAT), e.ints(shape[0], count, len(sizes)))
        axes = [self.neighbours(self.place(flat, len(sizes) - 1 - d, n), n) for d, n in enumerate(sizes)]
        # [batch, places, channels]: a row of channels is gathered at once.
        image = e.op("Reshape", x, e.ints(shape[0], shape[1], prod(sizes)))
        rows = e.op("Transpose", image, perm=[0, 2, 1])
        total: ir.Value | None = None
        for corner in product(*axes):
            index, weight = self.combined(corner, sizes)
            taken = e.op("GatherND", rows, e.op("Unsqueeze", index, e.ints(2)), batch_dims=1)
            if weight is not None:
                taken = e.op("Mul", taken, e.op("Unsqueeze", e.cast(weight, e.like(x)), e.ints(2)))
            total = taken if total is None else e.op("Add", total, taken)
        back = e.op("Transpose", total, perm=[0, 2, 1])
        e.finish(e.op("Reshape", back, e.ints(shape[0], shape[1], *places[1:-1])))
        return True

    def number(self, value: float) -> ir.Value:
        return self.e.constant(value, _FLOAT)

    def place(self, grid: ir.Value, at: int, size: int) -> ir.Value:
        """The coordinates along one dimension of the image, [batch, places], brought inside it."""
        e = self.e
        g = e.op("Gather", grid, e.constant(np.int64(at)), axis=2)
        up = e.op("Add", g, self.number(1.0))
        if self.corners:
            found = e.op("Mul", up, self.number((size - 1) / 2))
        else:
            found = e.op("Sub", e.op("Mul", up, self.number(size / 2)), self.number(0.5))
        if self.padding == "border":
            return e.op("Clip", found, self.number(0.0), self.number(size - 1.0))
        return self.reflected(found, size) if self.padding == "reflection" else found

    def reflected(self, x: ir.Value, size: int) -> ir.Value:
        """Mirrored at the borders, which lie half an element outside where corners are not aligned."""
        e = self.e
        low = 0.0 if self.corners else -0.5
        reach = float(size - 1 if self.corners else size)
        if reach == 0.0:
            return e.op("Mul", x, self.number(0.0))
        away = e.op("Mod", e.op("Abs", e.op("Sub", x, self.number(low))), self.number(2 * reach), fmod=1)
        nearer = e.op("Min", away, e.op("Sub", self.number(2 * reach), away))
        return e.op("Add", nearer, self.number(low))

    def neighbours(self, x: ir.Value, size: int) -> list[tuple[ir.Value, ir.Value | None]]:
        """Index (inside the image) and weight of every neighbour along a dimension."""
        e = self.e
        if self.mode == "nearest":
            return [self.inside(e.op("Round", x), None, size)]
        first = e.op("Floor", x)
        part = e.op("Sub", x, first)
        if self.mode == "linear":
            weights = {0: e.op("Sub", self.number(1.0), part), 1: part}
        else:
            weights = {tap: self.cubic(part, tap) for tap in (-1, 0, 1, 2)}
        return [self.inside(e.op("Add", first, self.number(float(tap))), w, size) for tap, w in weights.items()]

    def cubic(self, part: ir.Value, tap: int) -> ir.Value:
        """The cubic kernel at |part - tap|, by Horner."""
        e, a = self.e, _CUBIC
        x = e.op("Abs", e.op("Sub", part, self.number(float(tap))))
        near = (a + 2, -(a + 3), 0.0, 1.0)
        far = (a, -5 * a, 8 * a, -4 * a)
        total = self.number((near if tap in (0, 1) else far)[0])
        for factor in (near if tap in (0, 1) else far)[1:]:
            total = e.op("Add", e.op("Mul", total, x), self.number(factor))
        return total

    def inside(self, index: ir.Value, weight: ir.Value | None, size: int) -> tuple[ir.Value, ir.Value | None]:
        e = self.e
        if self.padding == "reflection":
            index = self.reflected(index, size)
        held = e.op("Clip", index, self.number(0.0), self.number(size - 1.0))
        if self.padding == "zeros":
            here = e.cast(e.op("Equal", held, index), _FLOAT)
            weight = here if weight is None else e.op("Mul", weight, here)
        return e.cast(e.op("Round", held), _INT64), weight

    def combined(
        self, corner: tuple[tuple[ir.Value, ir.Value | None], ...], sizes: tuple[int, ...]
    ) -> tuple[ir.Value, ir.Value | None]:
        """The row-major position of a neighbour, and the product of its weights."""
        e = self.e
        index, weight = corner[0]
        for (i, w), n in zip(corner[1:], sizes[1:], strict=True):
            index = e.op("Add", e.op("Mul", index, e.constant(np.int64(n))), i)
            weight = w if weight is None else weight if w is None else e.op("Mul", weight, w)
        return index, weight


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
