"""The inner loops of address assignment."""

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["first_fit", "search"]

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def first_fit(order: Ints, size: Ints, conflict: Mask) -> Ints:
    """Offsets of all buffers, each in its turn at the lowest address that no conflicting one before it takes."""
    offsets = np.zeros(size.size, np.int64)
    # The buffers that have their place, lowest first.
    placed = np.empty(size.size, np.int64)
    for n in range(order.size):
        i = order[n]
        at = np.int64(0)
        for k in range(n):
            p = placed[k]
            if conflict[i, p]:
                if offsets[p] - at >= size[i]:
                    break
                at = max(at, offsets[p] + size[p])
        offsets[i] = at
        k = n
        while k > 0 and offsets[placed[k - 1]] > at:
            placed[k] = placed[k - 1]
            k -= 1
        placed[k] = i
    return offsets


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def search(order: Ints, size: Ints, conflict: Mask, enough: int, moves: int) -> Ints:
    """Offsets by first fit in an order near to the given one: a buffer that ends at the peak, or any other one in turn,
    takes an earlier place, and stays there unless the peak rises. Ends after `moves` or with a peak of `enough`."""
    order = order.copy()
    best = first_fit(order, size, conflict)
    peak = (best + size).max()
    state = np.uint64(1)
    for move in range(moves):
        if peak <= enough:
            break
        # Knuth's linear congruential generator: the same moves in every process.
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        draw = np.int64(state >> np.uint64(33))
        high = 0
        if move % 2 == 0:
            for n in range(order.size):
                if best[order[n]] + size[order[n]] == peak:
                    high = n
        else:
            high = int(draw // 1024 % order.size)
        if high == 0:
            continue
        low = draw % high
        trial = order.copy()
        trial[low + 1 : high + 1] = order[low:high]
        trial[low] = order[high]
        offsets = first_fit(trial, size, conflict)
        reached = (offsets + size).max()
        if reached <= peak:
            order, best, peak = trial, offsets, reached
    return best
