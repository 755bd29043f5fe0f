"""Ops that sample images at computed places: GridSample, AffineGrid, DeformConv, RoiAlign."""

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none

__all__ = ["affine_grid", "deform_conv", "grid_sample", "roi_align"]

_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64
_CUBIC = -0.75


def grid_sample(node: ir.Node) -> bool:
    """Weighted neighbours of every place of the grid, in as many dimensions as the image has."""
    mode = node.attributes.get_string("mode", "linear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    x, grid = node.inputs
    shape, places = shape_or_none(x), shape_or_none(grid)
    if x is None or grid is None or shape is None or places is None or mode not in ("nearest", "linear", "cubic"):
        return False
    e = Emitter(node)
    padding = node.attributes.get_string("padding_mode", "zeros")
    sampler = Sampler(e, mode, padding, bool(node.attributes.get_int("align_corners", 0)))
    sizes = shape[2:]
    count = prod(places[1:-1])
    flat = e.op("Reshape", e.cast(grid, _FLOAT), e.ints(shape[0], count, len(sizes)))
    at = [sampler.place(flat, len(sizes) - 1 - d, n) for d, n in enumerate(sizes)]
    image = e.op("Reshape", x, e.ints(shape[0], shape[1], prod(sizes)))
    back = e.op("Transpose", sampler.sample(image, at, sizes), perm=[0, 2, 1])
    e.finish(e.op("Reshape", back, e.ints(shape[0], shape[1], *places[1:-1])))
    return True


def deform_conv(node: ir.Node) -> bool:
    """The image sampled where offsets move the taps of the kernel to, times the mask, times the weights."""
    x, w, offset = node.inputs[:3]
    bias, mask = operand(node, 3), operand(node, 4)
    shape, kernels, moved = shape_or_none(x), shape_or_none(w), shape_or_none(offset)
    if x is None or x.dtype is None or shape is None or kernels is None or moved is None:
        return False
    e, a = Emitter(node), node.attributes
    sizes, kernel, out = shape[2:], kernels[2:], moved[2:]
    rank, taps, places = len(sizes), prod(kernel), prod(out)
    groups, parts = a.get_int("group", 1), a.get_int("offset_group", 1)
    strides, dilations = a.get_ints("strides") or [1] * rank, a.get_ints("dilations") or [1] * rank
    pads = a.get_ints("pads") or [0] * 2 * rank
    assert offset is not None
    batch = shape[0] * parts
    offsets = e.op("Reshape", e.cast(offset, _FLOAT), e.ints(batch, taps, rank, places))
    at = []
    for d in range(rank):
        along = np.arange(kernel[d]) * dilations[d] - pads[d]
        tap = along.reshape([-1 if k == d else 1 for k in range(rank)] + [1] * rank)
        start = (np.arange(out[d]) * strides[d]).reshape([1] * rank + [-1 if k == d else 1 for k in range(rank)])
        still = np.broadcast_to(tap + start, (*kernel, *out)).reshape(taps, places)
        change = e.op("Gather", offsets, e.constant(np.int64(d)), axis=2)
        at.append(e.op("Reshape", e.op("Add", change, e.constant(still, _FLOAT)), e.ints(batch, taps * places)))
    image = e.op("Reshape", x, e.ints(batch, shape[1] // parts, prod(sizes)))
    # [batch and offset group, taps and places, channels of a group]
    taken = Sampler(e, "linear", "zeros", True).sample(image, at, sizes)
    if mask is not None:
        taken = e.op("Mul", taken, e.op("Reshape", mask, e.ints(batch, taps * places, 1)))
    taken = e.op("Reshape", taken, e.ints(shape[0], parts, taps, places, shape[1] // parts))
    columns = e.op("Transpose", taken, perm=[0, 1, 4, 2, 3])
    columns = e.op("Reshape", columns, e.ints(shape[0], groups, shape[1] // groups * taps, places))
    weights = e.op("Reshape", w, e.ints(1, groups, kernels[0] // groups, -1))
    y = e.op("Reshape", e.op("MatMul", weights, columns), e.ints(shape[0], kernels[0], *out))
    e.finish(y if bias is None else e.op("Add", y, e.op("Reshape", bias, e.ints(-1, *[1] * rank))))
    return True


def roi_align(node: ir.Node) -> bool | str:
    """Means or maxima of samples in every bin of every region."""
    x, rois, batches = node.inputs
    shape, regions = shape_or_none(x), shape_or_none(rois)
    if x is None or x.dtype is None or rois is None or batches is None or shape is None or regions is None:
        return False
    e, a = Emitter(node), node.attributes
    count, ratio = regions[0], a.get_int("sampling_ratio", 0)
    if ratio <= 0:
        return "with sampling_ratio 0 the number of samples depends on data"
    half = a.get_string("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    sampler = Sampler(e, "linear", "region", True)
    scale, shift = e.constant(a.get_float("spatial_scale", 1.0), _FLOAT), sampler.number(0.5 if half else 0.0)
    scaled = e.op("Sub", e.op("Mul", e.cast(rois, _FLOAT), scale), shift)
    bins = (a.get_int("output_height", 1), a.get_int("output_width", 1))
    at: list[ir.Value] = []
    for d in (0, 1):
        first, last = (e.op("Gather", scaled, e.ints(k), axis=1) for k in (1 - d, 3 - d))
        length = e.op("Sub", last, first)
        if not half:
            length = e.op("Max", length, sampler.number(1.0))
        # A region is as many parts as there are samples in all of its bins; a sample lies amid its part.
        parts = bins[d] * ratio
        middle = e.constant((np.arange(parts) + 0.5)[None, :] / parts, _FLOAT)
        found = e.op("Add", first, e.op("Mul", length, middle))
        grid = e.op("Reshape", found, e.ints(count, *((parts, 1) if d == 0 else (1, parts))))
        whole = e.op("Expand", grid, e.ints(count, bins[0] * ratio, bins[1] * ratio))
        at.append(e.op("Reshape", whole, e.ints(count, -1)))
    image = e.op("Gather", e.op("Reshape", x, e.ints(*shape[:2], -1)), e.cast(batches, _INT64), axis=0)
    largest = a.get_string("mode", "avg") == "max"
    taken = sampler.sample(image, at, shape[2:], "Max" if largest else "Add")
    cells = e.op("Reshape", taken, e.ints(count, bins[0], ratio, bins[1], ratio, shape[1]))
    y = e.op("ReduceMax" if largest else "ReduceMean", cells, e.ints(2, 4), keepdims=0)
    e.finish(e.op("Transpose", y, perm=[0, 3, 1, 2]))
    return True


def affine_grid(node: ir.Node) -> bool | str:
    """The places of a regular grid, times a matrix per image."""
    theta, size = node.inputs[0], constant_of(operand(node, 1))
    if theta is None or theta.dtype is None:
        return False
    if size is None:
        return "the size of its grid must be a constant"
    e = Emitter(node)
    batch, _, *sizes = (int(n) for n in size.reshape(-1))
    corners = bool(node.attributes.get_int("align_corners", 0))
    along = []
    for n in sizes:
        step = 2.0 / max(n - 1, 1) if corners else 2.0 / n
        along.append(-1.0 + (0.0 if corners else step / 2) + step * np.arange(n))
    places = np.stack([*np.meshgrid(*along, indexing="ij")[::-1], np.ones(sizes)], axis=-1)
    base = e.constant(places.reshape(-1, len(sizes) + 1), theta.dtype)
    grid = e.op("MatMul", base, e.op("Transpose", theta, perm=[0, 2, 1]))
    e.finish(e.op("Reshape", grid, e.ints(batch, *sizes, len(sizes))))
    return True


class Sampler:
    """Neighbours of computed places in images, and their weights. `padding` says what counts outside of an image:
    zeros, its border, its reflection, or (region) its border up to one element away and zeros behind. `corners` says
    that coordinates -1 and 1 stand for the outermost elements, not for their outer borders."""

    def __init__(self, e: Emitter, mode: str, padding: str, corners: bool) -> None:
        self.e, self.mode, self.padding, self.corners = e, mode, padding, corners

    def sample(self, image: ir.Value, at: Sequence[ir.Value], sizes: Sequence[int], join: str = "Add") -> ir.Value:
        """Of images [batch, channels, elements] the values at places [batch, places] along every dimension, weighted
        and joined: [batch, places, channels]."""
        e = self.e
        axes = [self.neighbours(x, n) for x, n in zip(at, sizes, strict=True)]
        # [batch, elements, channels]: a row of channels is gathered at once.
        rows = e.op("Transpose", image, perm=[0, 2, 1])
        total: ir.Value | None = None
        for corner in product(*axes):
            index, weight = self.combined(corner, sizes)
            taken = e.op("GatherND", rows, e.op("Unsqueeze", index, e.ints(2)), batch_dims=1)
            if weight is not None:
                taken = e.op("Mul", taken, e.op("Unsqueeze", e.op("CastLike", weight, image), e.ints(2)))
            total = taken if total is None else e.op(join, total, taken)
        assert total is not None
        return total

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
            held = e.op("Clip", found, self.number(0.0), self.number(size - 1.0))
            if self.mode != "cubic" or self.corners:
                return held
            # The border lies half an element outside, and what lies before it is interpolated.
            beyond = e.op(
                "Greater", e.op("Abs", e.op("Sub", found, self.number((size - 1) / 2))), self.number(size / 2)
            )
            return e.op("Where", beyond, held, found)
        if self.padding != "reflection":
            return found
        # The nearest element is that of the place outside: half a step from it, the mirror image lies by another.
        return self.reflected(e.op("Round", found) if self.mode == "nearest" else found, size)

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
        outer: ir.Value | None = None
        if self.padding == "region":
            held = e.op("Clip", x, self.number(-1.0), self.number(float(size)))
            outer = e.cast(e.op("Equal", held, x), _FLOAT)
            x = e.op("Clip", x, self.number(0.0), self.number(size - 1.0))
        first = e.op("Floor", x)
        part = e.op("Sub", x, first)
        if self.mode == "linear":
            weights = {0: e.op("Sub", self.number(1.0), part), 1: part}
            if outer is not None:
                weights = {tap: e.op("Mul", w, outer) for tap, w in weights.items()}
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
        self, corner: tuple[tuple[ir.Value, ir.Value | None], ...], sizes: Sequence[int]
    ) -> tuple[ir.Value, ir.Value | None]:
        """The row-major position of a neighbour, and the product of its weights."""
        e = self.e
        index, weight = corner[0]
        for (i, w), n in zip(corner[1:], sizes[1:], strict=True):
            index = e.op("Add", e.op("Mul", index, e.constant(np.int64(n))), i)
            weight = w if weight is None else weight if w is None else e.op("Mul", weight, w)
        return index, weight
