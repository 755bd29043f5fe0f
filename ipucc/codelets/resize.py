"""Interpolation along axes by tables of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.codelets.windows import picked
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["Interpolate"]

Table = tuple[str, tuple[int, ...], tuple[tuple[float, ...], ...]]


@register
@dataclass(frozen=True)
class Interpolate(Codelet):
    """Every table (axis, first, weights) replaces its axis: y[o] = sum over k of weights[o][k] x[first[o] + k].

    `axes` are the axes of the result; `first` does not decrease. `grains` is, per table, the multiple of elements at
    which cells of X begin.
    """

    axes: tuple[str, ...]
    tables: tuple[Table, ...]
    grains: tuple[int, ...]
    dtype: str

    name: ClassVar[str] = "interpolate"
    code_bytes: ClassVar[int] = 700

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """Launch + workers x (26 + vectors x (2 + 3 per tap)) per table: a load, a weight and a multiply-accumulate
        per tap (popops' scaled add without its store), axis by axis. Inferred: no vendor formula."""
        elements = np.ones(1, np.int64)
        for axis in self.axes:
            elements = elements * n[axis]
        vectors = -(-per_worker(elements, target) // target.vector_width(itemsize(self.dtype)))
        work = np.zeros_like(vectors)
        for _, _, weights in self.tables:
            work = work + 26 + vectors * (2 + 3 * len(weights[0]))
        return 20 + target.workers * work

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        for (axis, first, weights), grain in zip(self.tables, self.grains, strict=True):
            dim, size = 1 + self.axes.index(axis), len(first)
            lows, table = np.asarray(first), np.asarray(weights, np.float32)
            lo = cells.lo[axis]
            at = np.minimum(lo[:, None] + np.arange(cells.padded(axis))[None, :], size - 1)
            start = lows[np.minimum(lo, size - 1)] // grain * grain
            near = lows[at] - start[:, None]
            form = [at.shape[0]] + [1] * (x.ndim - 1)
            form[dim] = at.shape[1]
            total: Array | None = None
            for k in range(table.shape[1]):
                index = np.clip(near + k, 0, x.shape[dim] - 1)
                part = picked(x, dim, index) * table[at, k].reshape(form)
                total = part if total is None else total + part
            assert total is not None
            x = total
        return [x]
