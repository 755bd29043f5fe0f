"""Which of many plans are worth keeping: the best at some price of bytes, found without sorting all of them."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["bargains", "best_of", "fastest_of", "undominated"]

Counts = NDArray[np.int64]

_PRICES: Final = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Cycles per byte at which plans are compared."""


def bargains(score: Counts, temp: Counts, resident: Counts, alike: int) -> list[int]:
    """The best rows at prices of temporary and resident bytes, from free to dear, without those that come up again; of
    equally good ones the first. Rows are in the order of cycles and bytes.

    A placement that memory binds is the cheapest at some price of bytes, so these are the plans that it is made of.
    """
    used = np.asarray(_PRICES)[:, None]
    best = [(score + used * temp + held * alike * resident).argmin(axis=1).tolist() for held in _PRICES]
    return list(dict.fromkeys(i for row in best for i in row))


def undominated(rows: Counts, score: Counts, memory: Counts, resident: Counts, alike: int) -> Counts:
    """The `rows` of the arrays that may be bargains, in the order of cycles and bytes; those that take no less of
    anything than a good row, and more of something, are none at any price."""
    for price in (*_PRICES[::2], np.inf):
        s, m, r = score[rows], memory[rows], resident[rows]
        t = m - r
        cost = t + alike * r if price == np.inf else s + price * (t + alike * r)
        best = int(cost.argmin())
        worse = (s >= s[best]) & (t >= t[best]) & (r >= r[best])
        worse &= (s > s[best]) | (m > m[best])
        rows = rows[~worse]
    return fastest_of(rows, score, memory, rows.size)


def fastest_of(rows: Counts, score: Counts, memory: Counts, most: int) -> Counts:
    """The first `most` of the `rows` in the order of cycles, then bytes, then numbers, which they come in."""
    if most < rows.size:
        rows = rows[score[rows] <= np.partition(score[rows], most - 1)[most - 1]]
    return np.asarray(rows[np.lexsort((memory[rows], score[rows]))][:most], np.int64)


def best_of(rows: Counts, figure: Counts, score: Counts, memory: Counts) -> int:
    """Of the `rows` with the least of a figure the first in the order of cycles and bytes."""
    least = figure[rows]
    return int(fastest_of(rows[least == least.min()], score, memory, 1)[0])
