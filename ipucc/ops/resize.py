"""Resize: nearest neighbours are a view, linear and cubic interpolation a table of weights per axis."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.codelets.resize import Interpolate
from ipucc.dtypes import is_float, itemsize
from ipucc.ops.builder import Builder, lowering, shape_of
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Axis, DimMap, Span
from ipucc.tiles.layout import GRAIN_BYTES
from ipucc.tiles.view import View

__all__: list[str] = []

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class _Form:
    """How a Resize node maps positions; see ONNX's Resize for the names."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


@dataclass(frozen=True)
class _Dim:
    """One dimension: its size before and after, the scale between them, and the part of it that is shown, 0 to 1."""

    inner: int
    outer: int
    scale: float
    start: float = 0.0
    end: float = 1.0

    @property
    def changes(self) -> bool:
        """Whether elements of the result are others than those of the source."""
        return (self.inner, self.scale, self.start, self.end) != (self.outer, 1.0, 0.0, 1.0)


@lowering("Resize")
def _resize(b: Builder, node: ir.Node) -> None:
    x, shape = b.ref(node, 0), shape_of(node.outputs[0])
    form = _form(b, node)
    scales = _scales(b, node, x.shape)
    shown = _shown(b, node, x.shape) if form.coordinates == _CROP else [(0.0, 1.0)] * len(shape)
    along = [_Dim(n, m, s, *part) for n, m, s, part in zip(x.shape, shape, scales, shown, strict=True)]
    changed = [d for d, a in enumerate(along) if a.changes]
    if form.mode == "nearest":
        if form.extrapolation != x.gap and not (len(x.sources) == 1 and x.sources[0].view.is_identity):
            x = b.copied(x, f"{b.name()}.x")  # What has no source so far keeps its value.
        for d in changed:
            x = b.view(x, View.take(x.shape, d, _neighbours(form, along[d])))
        b.define(node, _extrapolated(b, x, form, along))
        return
    if not is_float(x.dtype):
        raise b.fail("IPU0203", f"{form.mode} interpolation of {x.dtype} is not supported")
    names = tuple(f"d{d}" for d in range(len(shape)))
    dims: list[DimMap] = [Along(a) for a in names]
    tables = []
    for d in changed:
        first, weights = _table(_weights(form, along[d]))
        dims[d] = Span(names[d], first, first + weights.shape[1])
        rows = tuple(tuple(float(w) for w in row) for row in weights)
        tables.append((names[d], tuple(int(i) for i in first), rows))
    if not tables:
        b.define(node, x)
        return
    operand = b.operand(x, dims)
    grain = max(1, GRAIN_BYTES // itemsize(x.dtype))
    grains = tuple(grain if d == operand.grain_dim else 1 for d in changed)
    axes = [Axis(a, n) for a, n in zip(names, shape, strict=True)]
    codelet = Interpolate(names, tuple(tables), grains, x.dtype)
    made = b.compute("Resize", axes, [operand], names, x.dtype, codelet, operand.grain_dim)
    b.define(node, _extrapolated(b, made, form, along))


def _form(b: Builder, node: ir.Node) -> _Form:
    a = node.attributes
    form = _Form(
        a.get_string("mode", "nearest"),
        a.get_string("coordinate_transformation_mode", "half_pixel"),
        a.get_string("nearest_mode", "round_prefer_floor"),
        a.get_float("cubic_coeff_a", -0.75),
        bool(a.get_int("exclude_outside", 0)),
        bool(a.get_int("antialias", 0)),
        a.get_float("extrapolation_value", 0.0),
    )
    if form.mode not in ("nearest", "linear", "cubic"):
        raise b.fail("IPU0120", f"mode is {form.mode!r}")
    if form.coordinates not in _COORDINATES:
        raise b.fail("IPU0202", f"Resize with coordinate_transformation_mode {form.coordinates!r} is not supported")
    if form.mode == "nearest" and form.nearest not in _ROUND:
        raise b.fail("IPU0120", f"nearest_mode is {form.nearest!r}")
    return form


def _axes(node: ir.Node, rank: int) -> list[int]:
    """The dimensions that scales, sizes and regions are given for."""
    return [int(a) % rank for a in node.attributes.get_ints("axes") or range(rank)]


def _shown(b: Builder, node: ir.Node, inner: tuple[int, ...]) -> list[tuple[float, float]]:
    """Of every dimension the part that is shown."""
    value, axes = b.constant(node, 1), _axes(node, len(inner))
    if value is None:
        raise b.fail("IPU0204", "operand 'roi' must be a constant")
    if value.size != 2 * len(axes):
        raise b.fail("IPU0120", f"operand 'roi' has {value.size} values for {len(axes)} dimensions")
    found = [(0.0, 1.0)] * len(inner)
    for axis, start, end in zip(axes, value[: len(axes)], value[len(axes) :], strict=True):
        found[axis] = float(start), float(end)
    return found


def _extrapolated(b: Builder, y: Ref, form: _Form, along: list[_Dim]) -> Ref:
    """The result with the value for what lies outside of the source, where a part is shown."""
    for d, a in enumerate(along if form.coordinates == _CROP else []):
        at = _crop(np.arange(a.outer, dtype=np.float64), a)
        outside = (at < 0) | (at > a.inner - 1)
        if outside.any():
            y = replace(
                b.view(y, View.take(y.shape, d, np.where(outside, -1, np.arange(a.outer)))), gap=form.extrapolation
            )
    return y


def _scales(b: Builder, node: ir.Node, inner: tuple[int, ...]) -> list[float]:
    """The scale of every dimension, in single precision as onnxruntime has it."""
    axes = _axes(node, len(inner))
    scales = [1.0] * len(inner)
    for i, what in ((2, "scales"), (3, "sizes")):
        if not b.has(node, i):
            continue
        value = b.constant(node, i)
        if value is None:
            raise b.fail("IPU0204", f"operand {what!r} must be a constant")
        if value.size == 0:
            continue
        found = [float(np.float32(v)) for v in value.reshape(-1)]
        if what == "sizes":
            found = [v / inner[a] for v, a in zip(found, axes, strict=True)]
            policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
            if policy != "stretch":
                one = min(found) if policy == "not_larger" else max(found)
                found = [one] * len(found)
        for axis, scale in zip(axes, found, strict=True):
            scales[axis] = float(np.float32(scale))
        return scales
    raise b.fail("IPU0120", "neither 'scales' nor 'sizes' is given")


def _asymmetric(at: Floats, d: _Dim) -> Floats:
    return at / d.scale


def _half_pixel(at: Floats, d: _Dim) -> Floats:
    return (at + 0.5) / d.scale - 0.5


def _pytorch(at: Floats, d: _Dim) -> Floats:
    return _half_pixel(at, d) if d.outer > 1 else np.zeros_like(at)


def _symmetric(at: Floats, d: _Dim) -> Floats:
    # In this order, so that single precision rounds as in onnxruntime.
    return d.inner / 2 * (1 - d.outer / (d.scale * d.inner)) + (at + 0.5) / d.scale - 0.5


def _corners(at: Floats, d: _Dim) -> Floats:
    # The length that the scale gives, of which the result has the whole elements.
    length = d.scale * d.inner if abs(d.scale * d.inner - d.outer) > 1e-3 else d.outer
    return at * (d.inner - 1) / (length - 1) if length > 1 else np.zeros_like(at)


def _crop(at: Floats, d: _Dim) -> Floats:
    if d.outer == 1:
        return np.full_like(at, 0.5 * (d.start + d.end) * (d.inner - 1))
    return d.start * (d.inner - 1) + at * ((d.end - d.start) * (d.inner - 1) / (d.outer - 1))


_CROP: Final = "tf_crop_and_resize"
_COORDINATES = {
    "asymmetric": _asymmetric,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch,
    "align_corners": _corners,
    _CROP: _crop,
}

_ROUND: Final[dict[str, Callable[[Floats], Floats]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _neighbours(form: _Form, d: _Dim) -> NDArray[np.int64]:
    """The nearest source position of every result. Ties fall as in onnxruntime, which computes in single precision."""
    at = np.arange(d.outer, dtype=np.float32)
    found = _COORDINATES[form.coordinates](at, d).astype(np.float32)
    return np.asarray(np.clip(_ROUND[form.nearest](found), 0, d.inner - 1), np.int64)


def _weights(form: _Form, d: _Dim) -> Floats:
    """[outer, inner]: the weight of every source position in every result."""
    at = _COORDINATES[form.coordinates](np.arange(d.outer, dtype=np.float64), d)
    # An antialiasing filter is as wide as the result's pixels are in the source.
    shrink = min(d.scale, 1.0) if form.antialias else 1.0
    reach = (1 if form.mode == "linear" else 2) / shrink
    taps = np.arange(-int(np.ceil(reach)), int(np.ceil(reach)) + 2)
    source = np.floor(at)[:, None].astype(np.int64) + taps[None, :]
    distance = np.abs(source - at[:, None]) * shrink
    weights = _triangle(distance) if form.mode == "linear" else _cubic(distance, form.cubic)
    if form.exclude_outside:
        weights = np.where((source < 0) | (source >= d.inner), 0.0, weights)
    weights = weights / weights.sum(axis=1, keepdims=True)
    full = np.zeros((d.outer, d.inner))
    # Positions outside count for the nearest one inside.
    np.add.at(full, (np.arange(d.outer)[:, None], np.clip(source, 0, d.inner - 1)), weights)
    return full


def _triangle(distance: Floats) -> Floats:
    return np.maximum(1 - distance, 0.0)


def _cubic(x: Floats, a: float) -> Floats:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _table(weights: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The first position and the weights of every row's band, all as wide as the widest; positions do not decrease."""
    used = weights != 0
    first = used.argmax(axis=1)
    last = weights.shape[1] - used[:, ::-1].argmax(axis=1)
    # A row that falls on one element would begin behind the rows after it.
    first = np.minimum.accumulate(first[::-1])[::-1]
    width = int((last - first).max(initial=1))
    first = np.minimum(first, weights.shape[1] - width)
    rows = np.take_along_axis(weights, first[:, None] + np.arange(width)[None, :], axis=1)
    return first.astype(np.int64), rows
