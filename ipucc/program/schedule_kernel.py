"""The inner loop of the transfer schedule."""

import numba
import numpy as np

from ipucc.tiles.intersect import Ints

__all__ = ["makespan"]


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def makespan(rank: Ints, sender: Ints, cost: Ints, receivers: Ints, paired: Ints, tiles: int) -> int:
    """Finish of the last transfer when each, in the order of `rank`, starts once its lanes and receivers are free."""
    send_free = np.zeros(tiles + 1, np.int64)
    recv_free = np.zeros(tiles, np.int64)
    last = 0
    for k in range(rank.size):
        x = rank[k]
        s = sender[x]
        start = send_free[s]
        if paired[x] > 0:
            start = max(start, send_free[s ^ 1])
        for j in range(receivers.shape[1]):
            t = receivers[x, j]
            if t >= 0 and recv_free[t] > start:
                start = recv_free[t]
        end = start + cost[x]
        send_free[s] = end
        if paired[x] > 0:
            send_free[s ^ 1] = end
        for j in range(receivers.shape[1]):
            t = receivers[x, j]
            if t >= 0:
                recv_free[t] = end
        last = max(last, end)
    return last
