"""Codelets that see whole rows: softmax and its kin, and normalisations. Statistics are kept in float32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["Normalise", "Softmax"]


def _row_cycles(
    n: Mapping[str, Counts],
    axes: Sequence[str],
    over: Sequence[str],
    passes: int,
    per_row: int,
    each: int,
    dtype: str,
    target: Target,
) -> Counts:
    """Launch + workers x (26 per pass over the cell + cycles per row + cycles per vector), workers sharing the work.

    Every pass is a loop of popops' vectorised elementwise or reduction kernels, 26 cycles to enter it.
    """
    rows, length = np.ones(1, np.int64), np.ones(1, np.int64)
    for axis in axes:
        if axis in over:
            length = length * n[axis]
        else:
            rows = rows * n[axis]
    vectors = rows * -(-length // target.vector_width(itemsize(dtype)))
    work = 26 * passes + per_row * per_worker(rows, target) + each * per_worker(vectors, target)
    return np.asarray(20 + target.workers * work, np.int64)


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
        """popnn's sequence (NonLinearity.cpp): maximum (2 a vector), subtract and exp (3 + 4 for fp16, 3 + 6 for fp32),
        sum in float32 (2), an inverse a row (15, or a logarithm), multiply (3)."""
        exp = 4 if itemsize(self.dtype) <= 2 else 6
        each = {"softmax": 10 + exp, "log": 10 + exp, "hard": 7}[self.kind]
        passes = 3 if self.kind == "hard" else 4
        return _row_cycles(n, self.axes, (self.over,), passes, 40, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        at = 1 + self.axes.index(self.over)
        if self.kind == "hard":
            first = x.argmax(axis=at)
            marks = np.arange(x.shape[at]).reshape([-1 if d == at else 1 for d in range(x.ndim)])
            return [(marks == np.expand_dims(first, at)).astype(x.dtype)]
        shifted = x - x.max(axis=at, keepdims=True)
        powers = np.exp(shifted)
        total = powers.sum(axis=at, keepdims=True, dtype=np.float32)
        return [shifted - np.log(total)] if self.kind == "log" else [powers / total]


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
        """popnn's sequence: sum (2 a vector) and subtraction of the mean (3), sum of squares (2), InverseStdDev
        (14 a row), whitening, scale and bias (3 each)."""
        passes = 2 + 2 * self.centred + self.scaled + self.biased
        each = 2 + 3 + 5 * self.centred + 3 * self.scaled + 3 * self.biased
        return _row_cycles(n, self.axes, self.over, passes, 60, each, self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        x, *params = operands
        where = tuple(1 + self.axes.index(a) for a in self.over)
        if self.centred:
            x = x - x.mean(axis=where, keepdims=True, dtype=np.float32)
        power = (x * x).mean(axis=where, keepdims=True, dtype=np.float32)
        y = x * (1 / np.sqrt(power + np.float32(self.eps)))
        if self.scaled:
            y = y * params[0]
        if self.biased:
            y = y + params[-1]
        return [y]
