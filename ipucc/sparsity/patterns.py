"""Masks that follow a rule and not the weights: banded, butterfly, block-diagonal."""

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from ipucc.sparsity.blocks import Mask
from ipucc.sparsity.masks import kept_count

__all__ = ["PATTERNS", "banded", "block_diagonal", "butterfly"]


def banded(rows: int, columns: int, density: float) -> Mask:
    """The blocks nearest to the diagonal of a grid [rows, columns], `density` of all; equal distances go by place.

    The distance is that of the middles of the blocks on a grid scaled to the unit square, so the band of a grid that is
    not square runs from corner to corner.
    """
    # Distances times 2 * rows * columns are whole numbers: no ties are broken by rounding.
    i = (2 * np.arange(rows) + 1)[:, None] * columns
    j = (2 * np.arange(columns) + 1)[None, :] * rows
    mask = np.zeros(rows * columns, bool)
    mask[np.argsort(np.abs(i - j), axis=None, kind="stable")[: kept_count(rows * columns, density)]] = True
    return mask.reshape(rows, columns)


def block_diagonal(rows: int, columns: int, density: float) -> Mask:
    """g equal rectangles along the diagonal of a grid, g the whole number nearest to 1 / density.

    No more rectangles than the shorter side has blocks; the density reached is 1 / g where g divides a side, and near
    it otherwise.
    """
    groups = max(1, min(rows, columns, math.floor(1 / density + 0.5)))
    i, j = np.arange(rows) * groups // rows, np.arange(columns) * groups // columns
    return np.asarray(i[:, None] == j[None, :])


def butterfly(rows: int, columns: int, density: float) -> Mask:
    """A flat block butterfly (Pixelfly, arXiv 2112.00029), the densest of at most `density`.

    On a grid of p x p cells, p a power of two, it is the sum of a block-diagonal matrix and the butterfly factors of
    strides 1, 2, 4, ... up to a largest one: cell (i, j) is kept where i = j or i xor j is a power of two up to the
    stride. The cells are stretched over the grid of blocks, which so need not be square. The diagonal of the finest
    cells is kept where even that exceeds the density.
    """
    limit = kept_count(rows * columns, density)
    best: Mask | None = None
    most = 0
    for level in range(min(rows, columns).bit_length() - 1, -1, -1):
        p = 1 << level
        i, j = np.arange(rows) * p // rows, np.arange(columns) * p // columns
        apart = i[:, None] ^ j[None, :]
        for strides in range(level + 1):
            # apart & (apart - 1) is zero for zero and for powers of two.
            mask = np.asarray(((apart & (apart - 1)) == 0) & (apart < 1 << strides))
            count = int(mask.sum())
            if best is None or most < count <= limit:
                best, most = mask, count
    assert best is not None  # level 0 always runs
    return best


PATTERNS: Final[Mapping[str, Callable[[int, int, float], Mask]]] = {
    "banded": banded,
    "butterfly": butterfly,
    "block-diagonal": block_diagonal,
}
"""Patterns by the name that options give them: from the grid of blocks [rows, columns] and a density to a mask."""
