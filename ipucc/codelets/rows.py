"""Codelets over rows: softmax and its kin, and normalisations. Statistics are kept in float32.

Each comes in three forms: for a whole row on one tile, and, for a row that is cut, the statistics of one part and the
part's own results from the statistics of all parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = [
    "STATISTIC", "JoinMoments", "JoinPeaks", "Moments", "Normalise", "NormaliseParts", "Peaks", "Softmax",
    "SoftmaxParts", "parts_axis",
]  # fmt: skip

STATISTIC: Final = "statistic"
"""The axis that counts the statistics of a part of a row, the last dimension of their tensor."""


_PEAK_CYCLES: Final = {"softmax": 12, "log": 12, "hard": 4}
"""Of joining a part of a row: two loads, maximum, subtract, exp (6), multiply-add; of two loads and a comparison."""
_MOMENT_CYCLES: Final = {True: 8, False: 2}
"""Of joining a part of a row, with a mean and without: two loads, six of arithmetic; a load, an addition."""


def parts_axis(axis: str) -> str:
    """The axis that counts the parts of a row axis, where the statistics of all of them are read."""
    return f"{axis}.parts"


def _row_cycles(
    n: Mapping[str, Counts],
    axes: Sequence[str],
    over: Sequence[str],
    passes: int,
    per_row: int | Counts,
    each: int,
    dtype: str,
    target: Target,
) -> Counts:
    """Launch + workers x (26 per pass over the cell + cycles per row + cycles per vector), workers sharing the work.

    Every pass is a loop of popops' vectorised elementwise or reduction kernels, 26 cycles to enter it.
    """
    rows, length = _rows(n, axes, over), np.ones(1, np.int64)
    for axis in over:
        length = length * n[axis]
    vectors = rows * -(-length // target.vector_width(itemsize(dtype)))
    work = 26 * passes + per_row * per_worker(rows, target) + each * per_worker(vectors, target)
    return np.asarray(20 + target.workers * work, np.int64)


def _rows(n: Mapping[str, Counts], axes: Sequence[str], over: Sequence[str]) -> Counts:
    rows = np.ones(1, np.int64)
    for axis in axes:
        if axis not in over:
            rows = rows * n[axis]
    return rows


def _join_cycles(n: Mapping[str, Counts], axes: Sequence[str], over: Sequence[str], each: int, target: Target
                 ) -> Counts:  # fmt: skip
    """Worker cycles of joining the statistics of one row, `each` cycles a part. As in `Reduce`, workers that would be
    idle for want of rows take a share of the parts, and their results are joined at 2 cycles each."""
    parts = np.ones(1, np.int64)
    for axis in over:
        parts = parts * n[parts_axis(axis)]
    shared = np.maximum(1, target.workers // np.maximum(_rows(n, axes, over), 1))
    return np.asarray(each * -(-parts // shared) + np.where(shared > 1, 2 * shared, 0), np.int64)


def _joined_cycles(
    n: Mapping[str, Counts], axes: Sequence[str], over: Sequence[str], each: int, target: Target
) -> Counts:  # fmt: skip
    """Cycles of joining statistics alone, `each` a part."""
    rows = per_worker(_rows(n, axes, over), target)
    return np.asarray(20 + target.workers * (26 + rows * (9 + _join_cycles(n, axes, over, each, target))), np.int64)


def _along(axes: Sequence[str], over: Sequence[str]) -> tuple[int, ...]:
    """The dimensions of an operand [tiles, axes...] that the axes `over` are."""
    return tuple(1 + axes.index(a) for a in over)


def _per_row(values: Array, axes: Sequence[str], over: Sequence[str]) -> Array:
    """[tiles, rows...] as an array that broadcasts to [tiles, axes...]."""
    return np.expand_dims(values, _along(axes, over))


@register
@dataclass(frozen=True)
class Softmax(Codelet):
    """`kind` is softmax, log or hard, over the axis `over` of a cell of the axes `axes`; X must be -inf outside.

    A row in which every element is -inf gives NaN; hard marks the first of several maxima.
    """

    kind: str
    axes: tuple[str, ...]
    over: str
    dtype: str

    name: ClassVar[str] = "softmax"
    code_bytes: ClassVar[int] = 900

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """popnn's sequence (NonLinearity.cpp), each a pass of its own: maximum (2 a vector), subtract (3), exp (4 for
        fp16, 6 for fp32), sum in float32 (2), multiply (3); an inverse a row (15, or a logarithm)."""
        each = {"softmax": 10, "log": 10, "hard": 7}[self.kind] + (0 if self.kind == "hard" else _exp(self.dtype))
        passes = 3 if self.kind == "hard" else 5
        return _row_cycles(n, self.axes, (self.over,), passes, 40, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        (at,) = _along(self.axes, (self.over,))
        if self.kind == "hard":
            return [_marked(x, at, x.argmax(axis=at))]
        shifted = x - x.max(axis=at, keepdims=True)
        powers = np.exp(shifted)
        total = powers.sum(axis=at, keepdims=True, dtype=np.float32)
        return [shifted - np.log(total)] if self.kind == "log" else [powers / total]


@register
@dataclass(frozen=True)
class Peaks(Codelet):
    """Of every part of a row: its maximum, and the sum of exp(x - maximum), 0 where all is -inf.

    For `hard` the second is the index, in the whole row, of the first maximum.
    """

    kind: str
    axes: tuple[str, ...]
    over: str
    dtype: str

    name: ClassVar[str] = "softmax_peaks"
    code_bytes: ClassVar[int] = 700

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """As `Softmax` up to the sum, without storing the powers: maximum (2 a vector), subtract and exp (2 + 4 for
        fp16, 2 + 6 for fp32), sum (2)."""
        each = 4 if self.kind == "hard" else 6 + _exp(self.dtype)
        passes = 2 if self.kind == "hard" else 3
        return _row_cycles(n, self.axes, (self.over,), passes, 25, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        (at,) = _along(self.axes, (self.over,))
        top = x.max(axis=at)
        if self.kind == "hard":
            lo = cells.lo[self.over].reshape(-1, *[1] * (top.ndim - 1))
            return [np.stack([top, (x.argmax(axis=at) + lo).astype(np.float32)], axis=-1)]
        shift = np.where(np.isneginf(top), np.float32(0), top)
        total = np.exp(x - np.expand_dims(shift, at)).sum(axis=at, dtype=np.float32)
        return [np.stack([top, total], axis=-1)]


@register
@dataclass(frozen=True)
class SoftmaxParts(Codelet):
    """The results of one part of a row from the statistics of all its parts (`Peaks`) and X."""

    kind: str
    axes: tuple[str, ...]
    over: str
    dtype: str

    name: ClassVar[str] = "softmax_parts"
    code_bytes: ClassVar[int] = 800

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """Per part of a row: two loads, maximum, subtract, exp (6), multiply-add; per row an inverse (15) and 7 to
        enter it; per vector, each in a pass of its own: subtract and exp as in `Softmax`, multiply (3)."""
        join = _join_cycles(n, self.axes, (self.over,), _PEAK_CYCLES[self.kind], target)
        each = 5 if self.kind == "hard" else 6 + _exp(self.dtype)
        passes = 1 if self.kind == "hard" else 3
        return _row_cycles(n, self.axes, (self.over,), passes, 22 + join, each, self.dtype, target)

    def joining(self, dtype: str) -> "JoinPeaks":
        return JoinPeaks(self.kind, self.axes, self.over)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        parts, x = operands
        (at,) = _along(self.axes, (self.over,))
        tops, seconds = parts[..., 0], parts[..., 1]
        if self.kind == "hard":
            first = np.take_along_axis(seconds, tops.argmax(axis=1)[:, None], axis=1)[:, 0]
            lo = cells.lo[self.over].reshape(-1, *[1] * (first.ndim - 1))
            return [_marked(x, at, first - lo)]
        top = tops.max(axis=1)
        # A part of nothing but -inf adds nothing, unless the whole row is like that: then all is NaN.
        total = (seconds * np.exp(tops - top[:, None])).sum(axis=1, dtype=np.float32)
        shifted = x - np.expand_dims(top, at)
        total = np.expand_dims(total, at)
        return [shifted - np.log(total)] if self.kind == "log" else [np.exp(shifted) / total]


@register
@dataclass(frozen=True)
class JoinPeaks(Codelet):
    """The statistics (`Peaks`) of several parts of every row as those of one part."""

    kind: str
    axes: tuple[str, ...]
    over: str

    name: ClassVar[str] = "join_peaks"
    code_bytes: ClassVar[int] = 400

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """A pass over the rows; per part as in `SoftmaxParts`, per row 7 to enter it and 2 to store."""
        return _joined_cycles(n, self.axes, (self.over,), _PEAK_CYCLES[self.kind], target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (parts,) = operands
        there = cells.mask(parts_axis(self.over), parts.shape[1]).reshape(*parts.shape[:2], *[1] * (parts.ndim - 3))
        tops, seconds = np.where(there, parts[..., 0], -np.inf), parts[..., 1]
        top = tops.max(axis=1)
        if self.kind == "hard":
            return [np.stack([top, np.take_along_axis(seconds, tops.argmax(axis=1)[:, None], axis=1)[:, 0]], axis=-1)]
        shift = np.where(np.isneginf(top), np.float32(0), top)
        powers = np.where(there, seconds, np.float32(0)) * np.exp(tops - shift[:, None])
        return [np.stack([top, powers.sum(axis=1, dtype=np.float32)], axis=-1)]


def _exp(dtype: str) -> int:
    return 4 if itemsize(dtype) <= 2 else 6


def _marked(x: Array, at: int, first: Array) -> Array:
    """1 at index `first` of dimension `at`, else 0."""
    marks = np.arange(x.shape[at]).reshape([-1 if d == at else 1 for d in range(x.ndim)])
    return np.asarray(marks == np.expand_dims(first, at), x.dtype)


@register
@dataclass(frozen=True)
class Normalise(Codelet):
    """(x - mean) / sqrt(variance + eps) over the axes `over`, then times a scale and plus a bias if they are given.

    Without `centred` there is no mean: x / sqrt(mean of squares + eps). The operands are X, scale and bias, the latter
    two possibly broadcast.
    """

    axes: tuple[str, ...]
    over: tuple[str, ...]
    eps: float
    centred: bool
    scaled: bool
    biased: bool
    dtype: str

    name: ClassVar[str] = "normalise"
    code_bytes: ClassVar[int] = 1100

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """popnn's sequence, each a pass of its own: sum (2 a vector) and subtraction of the mean (3), sum of squares
        (2), whitening, scale and bias (3 each); InverseStdDev (15 a row) and 7 a row to enter each of the passes.

        8 % below the kernel that osmarks/ipu-stack measured for a row of 1,152 elements, its call apart.
        """
        each = 2 + 3 + 5 * self.centred + 3 * self.scaled + 3 * self.biased
        passes = 2 + 2 * self.centred + self.scaled + self.biased
        return _row_cycles(n, self.axes, self.over, passes, 15 + 7 * passes, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        x, *params = operands
        where = _along(self.axes, self.over)
        if self.centred:
            x = x - x.mean(axis=where, keepdims=True, dtype=np.float32)
        power = (x * x).mean(axis=where, keepdims=True, dtype=np.float32)
        return [_scaled(x * (1 / np.sqrt(power + np.float32(self.eps))), params, self.scaled, self.biased)]


@register
@dataclass(frozen=True)
class Moments(Codelet):
    """Of every part of a row: how many elements it has, their mean, and the sum of their squares less the mean.

    Without `centred`: how many elements, and the sum of their squares.
    """

    axes: tuple[str, ...]
    over: tuple[str, ...]
    centred: bool
    dtype: str

    name: ClassVar[str] = "moments"
    code_bytes: ClassVar[int] = 600

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """As `Normalise` up to the sum of squares, which is taken without storing what is squared: sum (2 a vector),
        subtraction of the mean and square (3); without a mean, square (2)."""
        passes, each = (2, 5) if self.centred else (1, 2)
        return _row_cycles(n, self.axes, self.over, passes, 40, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        where = _along(self.axes, self.over)
        count, inside = np.ones(x.shape[0], np.int64), np.ones((x.shape[0], *[1] * (x.ndim - 1)), bool)
        for axis, at in zip(self.over, where, strict=True):
            count = count * cells.n[axis]
            held = cells.mask(axis, x.shape[at])
            inside = inside & held.reshape([n if d in (0, at) else 1 for d, n in enumerate(x.shape)])
        many = count.astype(np.float32).reshape(-1, *[1] * (x.ndim - 1))
        if self.centred:
            mean = x.sum(axis=where, keepdims=True, dtype=np.float32) / np.maximum(many, 1)
            x = np.where(inside, x - mean, np.float32(0))
        power = (x * x).sum(axis=where, dtype=np.float32)
        counts = np.broadcast_to(many.reshape(-1, *[1] * (power.ndim - 1)), power.shape)
        return [np.stack([counts, mean.squeeze(where), power] if self.centred else [counts, power], axis=-1)]


@register
@dataclass(frozen=True)
class NormaliseParts(Codelet):
    """The results of one part of a row from the statistics of all its parts (`Moments`), X, scale and bias.

    How statistics are joined: `_joined_moments`.
    """

    axes: tuple[str, ...]
    over: tuple[str, ...]
    eps: float
    centred: bool
    scaled: bool
    biased: bool
    dtype: str

    name: ClassVar[str] = "normalise_parts"
    code_bytes: ClassVar[int] = 900

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """Per part of a row 8 cycles (two loads, six of arithmetic), without a mean 2; per row InverseStdDev (15) and 7
        to enter each pass; per vector, each in a pass of its own as in `Normalise`, subtraction of the mean, whitening,
        scale and bias (3 each)."""
        join = _join_cycles(n, self.axes, self.over, _MOMENT_CYCLES[self.centred], target)
        passes = 1 + self.centred + self.scaled + self.biased
        return _row_cycles(n, self.axes, self.over, passes, 15 + 7 * passes + join, 3 * passes, self.dtype, target)

    def joining(self, dtype: str) -> "JoinMoments":
        return JoinMoments(self.axes, self.over, self.centred)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        parts, x, *params = operands
        total, *mean, power = _joined_moments(parts, len(self.over), self.centred)
        if self.centred:
            x = x - _per_row(mean[0], self.axes, self.over)
        variance = power / total
        inverse = 1 / np.sqrt(variance + np.float32(self.eps))
        return [_scaled(x * _per_row(inverse, self.axes, self.over), params, self.scaled, self.biased)]


@register
@dataclass(frozen=True)
class JoinMoments(Codelet):
    """The statistics (`Moments`) of several parts of every row as those of one part."""

    axes: tuple[str, ...]
    over: tuple[str, ...]
    centred: bool

    name: ClassVar[str] = "join_moments"
    code_bytes: ClassVar[int] = 400

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """A pass over the rows; per part as in `NormaliseParts`, per row 7 to enter it and 2 to store."""
        return _joined_cycles(n, self.axes, self.over, _MOMENT_CYCLES[self.centred], target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (parts,) = operands
        for at, axis in enumerate(self.over, 1):
            there = cells.mask(parts_axis(axis), parts.shape[at])
            shape = [size if d in (0, at) else 1 for d, size in enumerate(parts.shape)]
            parts = np.where(there.reshape(shape), parts, np.float32(0))
        return [np.stack(_joined_moments(parts, len(self.over), self.centred), axis=-1)]


def _joined_moments(parts: Array, dims: int, centred: bool) -> list[Array]:
    """Of the statistics of all parts, [tiles, parts..., rows..., statistic] with so many dimensions of parts, those of
    whole rows: count, mean if they have one, sum of squares (less the mean).

    Chan, Golub and LeVeque's formula, means as distances from the first.
    """
    across = tuple(range(1, 1 + dims))
    count, power = parts[..., 0], parts[..., -1]
    total = count.sum(axis=across, dtype=np.float32)
    if not centred:
        return [total, power.sum(axis=across, dtype=np.float32)]
    means = parts[..., 1]
    first = means[(slice(None), *[slice(0, 1)] * dims)]
    moved = (count * (means - first)).sum(axis=across, keepdims=True, dtype=np.float32)
    mean = first + moved / np.maximum(np.expand_dims(total, across), 1)
    power = power + count * np.square(means - mean)
    return [total, mean.squeeze(across), power.sum(axis=across, dtype=np.float32)]


def _scaled(y: Array, params: Sequence[Array], scaled: bool, biased: bool) -> Array:
    if scaled:
        y = y * params[0]
    return y + params[-1] if biased else y
