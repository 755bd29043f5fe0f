"""Normalisations over whole rows and over parts of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, register
from ipucc.codelets.rows import dims_of, join_cycles, joined_cycles, row_cycles, spread_rows
from ipucc.target import Target

__all__ = ["JoinMoments", "Moments", "Normalise", "NormaliseParts"]

_MOMENT_CYCLES: Final = {True: 8, False: 2}
"""Of joining a part of a row, with a mean and without: two loads, six of arithmetic; a load, an addition."""


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
        return row_cycles(n, self.axes, self.over, passes, 15 + 7 * passes, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        x, *params = operands
        where = dims_of(self.axes, self.over)
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
        return row_cycles(n, self.axes, self.over, passes, 40, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        where = dims_of(self.axes, self.over)
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
        join = join_cycles(n, self.axes, self.over, _MOMENT_CYCLES[self.centred], target)
        passes = 1 + self.centred + self.scaled + self.biased
        return row_cycles(n, self.axes, self.over, passes, 15 + 7 * passes + join, 3 * passes, self.dtype, target)

    def joining(self, dtype: str) -> "JoinMoments":
        return JoinMoments(self.axes, self.over, self.centred)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        parts, x, *params = operands
        total, *mean, power = _joined_moments(parts, len(self.over), self.centred)
        if self.centred:
            x = x - spread_rows(mean[0], self.axes, self.over)
        variance = power / total
        inverse = 1 / np.sqrt(variance + np.float32(self.eps))
        return [_scaled(x * spread_rows(inverse, self.axes, self.over), params, self.scaled, self.biased)]


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
        """`joined_cycles`, per part as in `NormaliseParts`."""
        return joined_cycles(n, self.axes, self.over, _MOMENT_CYCLES[self.centred], target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (parts,) = operands
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
