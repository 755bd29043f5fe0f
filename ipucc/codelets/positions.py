"""Positions of extremes, and running sums and products along an axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.target import Target

__all__ = ["ArgExtreme", "Running"]


def _rows(n: Mapping[str, Counts], axes: Sequence[str], over: str) -> Counts:
    rows = np.ones(1, np.int64)
    for axis in axes:
        if axis != over:
            rows = rows * n[axis]
    return rows


@register
@dataclass(frozen=True)
class ArgExtreme(Codelet):
    """The position along `over` of the largest (`op` max) or smallest (min) element of every row.

    The first of equal ones, or with `last` the last; the first NaN counts as the extreme.
    """

    op: str
    axes: tuple[str, ...]
    over: str
    last: bool
    dtype: str

    name: ClassVar[str] = "arg_extreme"
    code_bytes: ClassVar[int] = 400

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """popops' ReduceMaxClassGather: 9 + workers x (30 + 3 (n - 1)) for a row of n, rows dealt to the workers."""
        rows = per_worker(_rows(n, self.axes, self.over), target)
        return np.asarray(9 + target.workers * rows * (30 + 3 * (n[self.over] - 1)), np.int64)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        at = 1 + self.axes.index(self.over)
        if self.last:
            x = np.flip(x, axis=at)
        found = x.argmax(axis=at) if self.op == "max" else x.argmin(axis=at)
        return [(x.shape[at] - 1 - found if self.last else found).astype(np.int32)]


@register
@dataclass(frozen=True)
class Running(Codelet):
    """Sums (`op` sum) or products (prod) of the elements up to each along `over`; from the end with `reverse`,
    without the element itself with `exclusive`."""

    op: str
    axes: tuple[str, ...]
    over: str
    exclusive: bool
    reverse: bool
    dtype: str

    name: ClassVar[str] = "running"
    code_bytes: ClassVar[int] = 300

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """Launch + workers x rows of a worker x (15 + 3 per element): a load, an operation and a store for each.
        Inferred: no vendor formula."""
        rows = per_worker(_rows(n, self.axes, self.over), target)
        return np.asarray(20 + target.workers * rows * (15 + 3 * n[self.over]), np.int64)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        at = 1 + self.axes.index(self.over)
        if self.reverse:
            x = np.flip(x, axis=at)
        run = np.cumsum if self.op == "sum" else np.cumprod
        total = np.asarray(run(x, axis=at, dtype=x.dtype))
        if self.exclusive:
            first = np.full_like(np.take(total, [0], axis=at), 0 if self.op == "sum" else 1)
            total = np.concatenate([first, np.delete(total, -1, axis=at)], axis=at)
        if self.reverse:
            total = np.flip(total, axis=at)
        return [total]
