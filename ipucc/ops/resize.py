"""Resize: nearest neighbours are a view, linear and cubic interpolation a table of weights per axis."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.codelets.resize import Interpolate
from ipucc.dtypes import is_float, itemsize
from ipucc.ops.builder import Builder, lowering, shape_of
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


@lowering("Resize")
def _resize(b: Builder, node: ir.Node) -> None:
    x, shape = b.ref(node, 0), shape_of(node.outputs[0])
    form = _form(b, node)
    scales = _scales(b, node, x.shape, shape)
    changed = [d for d, n in enumerate(x.shape) if n != shape[d] or scales[d] != 1.0]
    if form.mode == "nearest":
        for d in changed:
            x = b.view(x, View.take(x.shape, d, _neighbours(form, x.shape[d], shape[d], scales[d])))
        b.define(node, x)
        return
    if not is_float(x.dtype):
        raise b.fail("IPU0203", f"{form.mode} interpolation of {x.dtype} is not supported")
    names = tuple(f"d{d}" for d in range(len(shape)))
    dims: list[DimMap] = [Along(a) for a in names]
    tables = []
    for d in changed:
        first, weights = _table(_weights(form, x.shape[d], shape[d], scales[d]))
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
    b.define(node, b.compute("Resize", axes, [operand], names, x.dtype, codelet, operand.grain_dim))


def _form(b: Builder, node: ir.Node) -> _Form:
    a = node.attributes
    form = _Form(
        a.get_string("mode", "nearest"),
        a.get_string("coordinate_transformation_mode", "half_pixel"),
        a.get_string("nearest_mode", "round_prefer_floor"),
        a.get_float("cubic_coeff_a", -0.75),
        bool(a.get_int("exclude_outside", 0)),
        bool(a.get_int("antialias", 0)),
    )
    if form.mode not in ("nearest", "linear", "cubic"):
        raise b.fail("IPU0120", f"mode is {form.mode!r}")
    if form.coordinates not in _COORDINATES:
        raise b.fail("IPU0202", f"Resize with coordinate_transformation_mode {form.coordinates!r} is not supported")
    if form.mode == "nearest" and form.nearest not in _ROUND:
        raise b.fail("IPU0120", f"nearest_mode is {form.nearest!r}")
    return form


def _scales(b: Builder, node: ir.Node, inner: tuple[int, ...], outer: tuple[int, ...]) -> list[float]:
    """The scale of every dimension, in single precision as onnxruntime has it."""
    axes = [int(a) % len(inner) for a in node.attributes.get_ints("axes") or range(len(inner))]
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


def _asymmetric(at: Floats, scale: float, inner: int, outer: int) -> Floats:
    return at / scale


def _half_pixel(at: Floats, scale: float, inner: int, outer: int) -> Floats:
    return (at + 0.5) / scale - 0.5


def _pytorch(at: Floats, scale: float, inner: int, outer: int) -> Floats:
    return _half_pixel(at, scale, inner, outer) if outer > 1 else np.zeros_like(at)


def _symmetric(at: Floats, scale: float, inner: int, outer: int) -> Floats:
    # In this order, so that single precision rounds as in onnxruntime.
    return inner / 2 * (1 - outer / (scale * inner)) + (at + 0.5) / scale - 0.5


def _corners(at: Floats, scale: float, inner: int, outer: int) -> Floats:
    # The length that the scale gives, of which the result has the whole elements.
    length = scale * inner if abs(scale * inner - outer) > 1e-3 else outer
    return at * (inner - 1) / (length - 1) if length > 1 else np.zeros_like(at)


_COORDINATES = {
    "asymmetric": _asymmetric,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch,
    "align_corners": _corners,
}

_ROUND: Final[dict[str, Callable[[Floats], Floats]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _neighbours(form: _Form, inner: int, outer: int, scale: float) -> NDArray[np.int64]:
    """The nearest source position of every result. Ties fall as in onnxruntime, which computes in single precision."""
    at = np.arange(outer, dtype=np.float32)
    found = _COORDINATES[form.coordinates](at, scale, inner, outer).astype(np.float32)
    return np.asarray(np.clip(_ROUND[form.nearest](found), 0, inner - 1), np.int64)


def _weights(form: _Form, inner: int, outer: int, scale: float) -> Floats:
    """[outer, inner]: the weight of every source position in every result."""
    at = _COORDINATES[form.coordinates](np.arange(outer, dtype=np.float64), scale, inner, outer)
    # An antialiasing filter is as wide as the result's pixels are in the source.
    shrink = min(scale, 1.0) if form.antialias else 1.0
    reach = (1 if form.mode == "linear" else 2) / shrink
    taps = np.arange(-int(np.ceil(reach)), int(np.ceil(reach)) + 2)
    source = np.floor(at)[:, None].astype(np.int64) + taps[None, :]
    distance = np.abs(source - at[:, None]) * shrink
    weights = _triangle(distance) if form.mode == "linear" else _cubic(distance, form.cubic)
    if form.exclude_outside:
        weights = np.where((source < 0) | (source >= inner), 0.0, weights)
    weights = weights / weights.sum(axis=1, keepdims=True)
    full = np.zeros((outer, inner))
    # Positions outside count for the nearest one inside.
    np.add.at(full, (np.arange(outer)[:, None], np.clip(source, 0, inner - 1)), weights)
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
