"""What codelets over rows share: softmax and its kin (`softmax`), and normalisations (`normalise`).

Each comes in four forms: for a whole row on one tile, and, for a row that is cut, the statistics of one part, those of
several parts joined into one, and the part's own results from the statistics of all parts. Statistics are kept in
float32.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from ipucc.codelets.base import Array, Counts, per_worker
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["STATISTIC", "dims_of", "join_cycles", "joined_cycles", "parts_axis", "row_cycles", "spread_rows"]

STATISTIC: Final = "statistic"
"""The axis that counts the statistics of a part of a row, the last dimension of their tensor."""


def parts_axis(axis: str) -> str:
    """The axis that counts the parts of a row axis, where the statistics of all of them are read."""
    return f"{axis}.parts"


def row_cycles(
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


def join_cycles(n: Mapping[str, Counts], axes: Sequence[str], over: Sequence[str], each: int, target: Target
                 ) -> Counts:  # fmt: skip
    """Worker cycles of joining the statistics of one row, `each` cycles a part. As in `Reduce`, workers that would be
    idle for want of rows take a share of the parts, and their results are joined at 2 cycles each."""
    parts = np.ones(1, np.int64)
    for axis in over:
        parts = parts * n[parts_axis(axis)]
    shared = np.maximum(1, target.workers // np.maximum(_rows(n, axes, over), 1))
    return np.asarray(each * -(-parts // shared) + np.where(shared > 1, 2 * shared, 0), np.int64)


def joined_cycles(
    n: Mapping[str, Counts], axes: Sequence[str], over: Sequence[str], each: int, target: Target
) -> Counts:  # fmt: skip
    """Launch + workers x (26 for the pass over the rows + per row 7 to enter it, 2 to store, and `each` a part)."""
    rows = per_worker(_rows(n, axes, over), target)
    return np.asarray(20 + target.workers * (26 + rows * (9 + join_cycles(n, axes, over, each, target))), np.int64)


def dims_of(axes: Sequence[str], over: Sequence[str]) -> tuple[int, ...]:
    """The dimensions of an operand [tiles, axes...] that the axes `over` are."""
    return tuple(1 + axes.index(a) for a in over)


def spread_rows(values: Array, axes: Sequence[str], over: Sequence[str]) -> Array:
    """[tiles, rows...] as an array that broadcasts to [tiles, axes...]."""
    return np.expand_dims(values, dims_of(axes, over))
