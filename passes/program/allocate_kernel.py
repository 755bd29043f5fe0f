"""The inner loop of address assignment.

Where two buffers meet is 0 (never: they may share bytes), 1 (they must not share bytes) or 2 (nor an element of
memory). `map` has the address where interleaved memory begins, the end of memory, and the size of an element below and
above the former, all in the units of the sizes.
"""

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["first_fit"]

Ints = NDArray[np.int64]
Meets = NDArray[np.int8]
Mask = NDArray[np.bool_]


@numba.njit("int64(int64, int64[::1])", cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _begin(at: int, map: Ints) -> int:
    """The start of the element of an address."""
    begin: int = at - at % map[2] if at < map[0] else at - (at - map[0]) % map[3]
    return begin


@numba.njit("int64(int64, int64[::1])", cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _end(at: int, map: Ints) -> int:
    """The end of the element of the byte before an address."""
    # No element reaches from plain into interleaved memory.
    end: int = min(_begin(at - 1, map) + map[2], map[0]) if at - 1 < map[0] else _begin(at - 1, map) + map[3]
    return end


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _lowest(
    low: int, size: int, i: int, placed: Ints, n: int, offsets: Ints, ends: Ints, meets: Meets, map: Ints
) -> int:
    """The lowest address from `low` on that nothing among the first `n` of `placed` takes from buffer i."""
    at = low
    moved = True
    while moved:
        moved = False
        for k in range(n):
            p = placed[k]
            if offsets[p] >= at + size + map[3]:
                break
            kind = meets[i, p]
            if kind == 1 and offsets[p] < at + size and ends[p] > at:
                at = ends[p]
                moved = True
            elif kind == 2 and _begin(offsets[p], map) < _end(at + size, map) and _end(ends[p], map) > _begin(at, map):
                at = _end(ends[p], map)
                moved = True
    return at


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def first_fit(order: Ints, size: Ints, meets: Meets, start: int, wide: Mask, map: Ints) -> Ints:
    """Offsets of all buffers, each in its turn at the lowest address from `start` on that no one before it takes. One
    that is `wide` lies in interleaved memory, unless it finds no room there."""
    offsets = np.zeros(size.size, np.int64)
    ends = np.zeros(size.size, np.int64)
    # The buffers that have their place, lowest first.
    placed = np.empty(size.size, np.int64)
    for n in range(order.size):
        i = order[n]
        low = max(start, map[0]) if wide[i] else start
        at = _lowest(low, size[i], i, placed, n, offsets, ends, meets, map)
        if wide[i] and at + size[i] > map[1]:
            at = _lowest(start, size[i], i, placed, n, offsets, ends, meets, map)
        offsets[i], ends[i] = at, at + size[i]
        k = n
        while k > 0 and offsets[placed[k - 1]] > at:
            placed[k] = placed[k - 1]
            k -= 1
        placed[k] = i
    return offsets
