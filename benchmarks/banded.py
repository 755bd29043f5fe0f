"""The fullest run of banded distributions of a pattern, many distributions of one pattern at little cost each.

The same figures as `ipucc.ops.distribution.figures_of` of `banded_runs`: blocks are sorted by band and column once per
number of bands, and one pass over them finds what each run touches.
"""

from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

from ipucc.ops.distribution import Figures, Pattern, Scheme, banded_runs

__all__ = ["BandedFigures"]

Ints = NDArray[np.int64]


@dataclass(eq=False)
class BandedFigures:
    """Figures of banded schemes of one pattern; nothing is known of other kinds."""

    pattern: Pattern
    _sorted: dict[int, tuple[Ints, Ints, Ints]] = field(default_factory=dict)

    def __call__(self, scheme: Scheme) -> Figures:
        """What the fullest run of a banded scheme has."""
        if scheme.kind != "banded":
            raise ValueError(f"{scheme} is not banded")
        p = self.pattern
        if scheme.bands not in self._sorted:
            band = banded_runs(p, scheme.bands, 1)
            order = p.by_column[np.argsort(band[p.by_column], kind="stable")]
            sizes = np.bincount(band, minlength=scheme.bands)
            self._sorted[scheme.bands] = p.rows[order] // p.together, p.cols[order], sizes
        rows, cols, sizes = self._sorted[scheme.bands]
        blocks, touched, made, holders = _fullest(rows, cols, sizes, scheme.across, p.units, p.shape[1])
        return Figures(blocks, touched * p.together, made, holders)


@numba.njit(cache=True)  # type: ignore[misc, unused-ignore]
def _fullest(
    rows: Ints, cols: Ints, sizes: Ints, across: int, units: int, wide: int
) -> tuple[int, int, int, int]:  # fmt: skip
    """Most blocks, rows, and columns of a run, and most runs of a column. Blocks lie band by band, of `sizes`, those of
    a band column by column; the j-th of s blocks of a band is in its run j x across // s."""
    row_seen, col_seen, held = np.full(units, -1), np.full(wide, -1), np.zeros(wide, np.int64)
    most, most_rows, most_cols, run, at = 0, 0, 0, -1, 0
    blocks, touched, made = 0, 0, 0
    for band in range(sizes.size):
        for j in range(sizes[band]):
            mine = band * across + j * across // sizes[band]
            if mine != run:
                run, blocks, touched, made = mine, 0, 0, 0
            blocks += 1
            if row_seen[rows[at]] != run:
                row_seen[rows[at]] = run
                touched += 1
            if col_seen[cols[at]] != run:
                col_seen[cols[at]] = run
                held[cols[at]] += 1
                made += 1
            most, most_rows, most_cols = max(most, blocks), max(most_rows, touched), max(most_cols, made)
            at += 1
    return most, most_rows, most_cols, held.max()
