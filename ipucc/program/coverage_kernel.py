"""The inner loops of the coverage check."""

import numba
import numpy as np
from numpy.typing import NDArray

from ipucc.tiles.intersect import Ints

__all__ = ["flag", "mark"]

Marks = NDArray[np.uint8]

_GIVEN = numba.types.Array(numba.int64, 1, "C", readonly=True)
"""What numba takes the arrays of a track for: those of a program that was read from a file cannot be written."""


@numba.njit(  # type: ignore[misc, unused-ignore]
    numba.void(numba.uint8[:, ::1], *[_GIVEN] * 7), cache=True, nogil=True
)
def mark(
    marks: Marks,
    o_cell: Ints, o_at: Ints,
    i_cell: Ints, i_at: Ints, i_count: Ints, i_step: Ints, i_run: Ints,
) -> None:  # fmt: skip
    """Counts, up to 2, how often every word [cell, word] is written by outer steps times inner sequences."""
    for o in range(o_cell.size):
        for i in range(i_cell.size):
            row = marks[o_cell[o] + i_cell[i]]
            at = o_at[o] + i_at[i]
            for _ in range(i_count[i]):
                for w in range(at, at + i_run[i]):
                    if row[w] < 2:
                        row[w] += 1
                at += i_step[i]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def flag(marks: Marks, o_cell: Ints, o_word: Ints, i_cell: Ints, i_word: Ints) -> None:
    """Sets every word whose cell and place are the sums of an outer and an inner one."""
    for o in range(o_cell.size):
        for i in range(i_cell.size):
            marks[o_cell[o] + i_cell[i], o_word[o] + i_word[i]] = 1
