"""Softmax, its logarithm and Hardmax, over whole rows and over parts of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, register
from ipucc.codelets.rows import dims_of, join_cycles, joined_cycles, parts_axis, row_cycles
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["JoinPeaks", "Peaks", "Softmax", "SoftmaxParts"]

_PEAK_CYCLES: Final = {"softmax": 12, "log": 12, "hard": 4}
"""Of joining a part of a row: two loads, maximum, subtract, exp (6), multiply-add; of two loads and a comparison."""


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
        return row_cycles(n, self.axes, (self.over,), passes, 40, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        (at,) = dims_of(self.axes, (self.over,))
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
        return row_cycles(n, self.axes, (self.over,), passes, 25, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        (at,) = dims_of(self.axes, (self.over,))
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
        join = join_cycles(n, self.axes, (self.over,), _PEAK_CYCLES[self.kind], target)
        each = 5 if self.kind == "hard" else 6 + _exp(self.dtype)
        passes = 1 if self.kind == "hard" else 3
        return row_cycles(n, self.axes, (self.over,), passes, 22 + join, each, self.dtype, target)

    def joining(self, dtype: str) -> "JoinPeaks":
        return JoinPeaks(self.kind, self.axes, self.over)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        parts, x = operands
        (at,) = dims_of(self.axes, (self.over,))
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
        """`joined_cycles`, per part as in `SoftmaxParts`."""
        return joined_cycles(n, self.axes, (self.over,), _PEAK_CYCLES[self.kind], target)

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
