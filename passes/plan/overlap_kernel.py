"""Inner loops of the edge costs: one pass over the cells of a layout per group of a view."""

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["share_intervals", "share_table", "take", "tally"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Small = NDArray[np.int32]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def take(elements: Floats, runs: Floats, coord: Small, per_cell: Ints, runs_per_cell: Ints) -> None:
    """Multiplies a group's share into the elements and runs of every cell."""
    for i in range(elements.size):
        c = coord[i]
        elements[i] *= per_cell[c]
        runs[i] *= runs_per_cell[c]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def share_intervals(
    elements: Floats, runs: Floats, mine: Small, dst: Small, src: Small, dlo: Ints, dhi: Ints, slo: Ints, shi: Ints,
    chunk: int,
) -> None:  # fmt: skip
    """Multiplies in what destination cell i and the source cell `mine[i]` (-1: none) on its tile have in common.

    `chunk` is the number of neighbouring indices that lie together; 0 where any number does.
    """
    for i in range(mine.size):
        if mine[i] < 0:
            elements[i] = 0.0
            runs[i] = 0.0
            continue
        d, s = dst[i], src[mine[i]]
        n = min(dhi[d], shi[s]) - max(dlo[d], slo[s])
        if n <= 0:
            elements[i] = 0.0
            runs[i] = 0.0
        else:
            elements[i] *= n
            runs[i] *= 1 if chunk == 0 else -(-n // chunk)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def share_table(
    elements: Floats, runs: Floats, mine: Small, dst: Small, src: Small, table: Small, breaks: Small
) -> None:
    """The same from tables [destination cells, source cells] of elements and runs."""
    for i in range(mine.size):
        if mine[i] < 0:
            elements[i] = 0.0
            runs[i] = 0.0
            continue
        d, s = dst[i], src[mine[i]]
        elements[i] *= table[d, s]
        runs[i] *= breaks[d, s]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def tally(
    to: Small, want: Floats, want_runs: Floats, held: Floats, held_runs: Floats, given: Floats, given_runs: Floats,
    at: Small, tiles: int,
) -> tuple[float, float, float, float, float, float]:  # fmt: skip
    """Per tile sums of elements and runs; returns the largest received, the sum received, the largest local, the
    largest sent, the most runs received and the most runs received and sent together."""
    received = np.zeros(tiles)
    local = np.zeros(tiles)
    runs = np.zeros(tiles)
    sent = np.zeros(tiles)
    code = np.zeros(tiles)
    for i in range(to.size):
        t = to[i]
        if want[i] > held[i]:
            received[t] += want[i] - held[i]
            runs[t] += max(want_runs[i] - held_runs[i], 1.0)
        local[t] += held[i]
    for i in range(at.size):
        sent[at[i]] += given[i]
        code[at[i]] += given_runs[i]
    most = 0.0
    total = 0.0
    near = 0.0
    out = 0.0
    into = 0.0
    both = 0.0
    for t in range(tiles):
        most = max(most, received[t])
        total += received[t]
        near = max(near, local[t])
        out = max(out, sent[t])
        into = max(into, runs[t])
        both = max(both, runs[t] + code[t])
    return most, total, near, out, into, both
