"""The inner loop of the transfer schedule."""

import numba
import numpy as np

from ipucc.tiles.intersect import Ints

__all__ = ["makespan"]


# One signature: numba would compile it again for every number that a caller writes out.
@numba.njit(  # type: ignore[misc, unused-ignore]
    "void(int64[::1], int64, int64, int64[::1], int64[::1])", cache=True, nogil=True
)
def _sink(heap: Ints, n: int, i: int, at: Ints, load: Ints) -> None:
    """Moves the entry at `i` down to its place in a heap of `n`."""
    s = heap[i]
    while 2 * i + 1 < n:
        child = 2 * i + 1
        a = heap[child]
        if child + 1 < n:
            b = heap[child + 1]
            if at[b] < at[a] or (at[b] == at[a] and (load[b] > load[a] or (load[b] == load[a] and b < a))):
                child, a = child + 1, b
        if at[s] < at[a] or (at[s] == at[a] and (load[s] > load[a] or (load[s] == load[a] and s < a))):
            break
        heap[i] = a
        i = child
    heap[i] = s


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def makespan(
    queue: Ints, begin: Ints, sender: Ints, cost: Ints, pieces: Ints, first: Ints, receivers: Ints, paired: Ints,
    look: int, limit: np.int64,
) -> np.int64:  # fmt: skip
    """Finish of the last transfer, in the unit of `cost`, which is that of one of the `pieces` of a transfer; a number
    above `limit` as soon as it is sure to be above it: what a lane or a receiver still has to do comes behind its last.

    `queue[begin[s] : begin[s + 1]]` are the transfers of sender s in its order of preference. The sender that is free
    first (the one with most left to send where several are) starts, among the first `look` of its queue, a piece of
    the transfer whose receivers are all free, and where there are several, of the one with the receiver that has most
    left to hear. Where there is none, it is asked again when the first of them can start.
    """
    tiles = begin.size - 1
    # One lane more: the partner of the last tile of an odd number.
    lane, ear = np.zeros(tiles + 1, np.int64), np.zeros(tiles, np.int64)
    to_send, to_hear = np.zeros(tiles + 1, np.int64), np.zeros(tiles, np.int64)
    left = pieces.copy()
    for x in range(cost.size):
        total = cost[x] * left[x]
        to_send[sender[x]] += total
        if paired[x]:
            to_send[sender[x] ^ 1] += total
        for j in range(first[x], first[x + 1]):
            to_hear[receivers[j]] += total
    queue, head = queue.copy(), begin[:-1].copy()
    # No transfer starts before its entry here; entries are as old as the last look at it.
    ready = np.zeros(cost.size, np.int64)
    # A heap of senders by (time, most left to send, number); both keys as they were when the sender was put there.
    at, load = np.zeros(tiles, np.int64), to_send.copy()
    heap, n = np.empty(tiles, np.int64), 0
    for s in range(tiles):
        if begin[s] < begin[s + 1]:
            heap[n] = s
            n += 1
    for i in range(n // 2 - 1, -1, -1):
        _sink(heap, n, i, at, load)
    never = np.int64(1) << 62
    last = np.int64(0)
    while n > 0:
        s = heap[0]
        now = at[s]
        soonest, most, best = never, np.int64(-1), -1
        if lane[s] > now:
            soonest = lane[s]
        else:
            for i in range(head[s], min(head[s] + look, begin[s + 1])):
                x = queue[i]
                start = ready[x]
                if start > now and start >= soonest:
                    continue
                if paired[x] and lane[s ^ 1] > start:
                    start = lane[s ^ 1]
                busiest = np.int64(0)
                for j in range(first[x], first[x + 1]):
                    r = receivers[j]
                    if ear[r] > start:
                        start = ear[r]
                        if start > now and start >= soonest:
                            break
                    busiest = max(busiest, to_hear[r])
                ready[x] = start
                if start > now:
                    soonest = min(soonest, start)
                elif soonest > now or busiest > most:
                    soonest, most, best = now, busiest, i
        if best < 0:
            if now + to_send[s] > limit:
                last = now + to_send[s]
                break
            at[s], load[s] = soonest, to_send[s]
            _sink(heap, n, 0, at, load)
            continue
        x = queue[best]
        end = now + cost[x]
        last = max(last, end)
        lane[s] = end
        to_send[s] -= cost[x]
        behind = to_send[s]
        if paired[x]:
            lane[s ^ 1] = end
            to_send[s ^ 1] -= cost[x]
            behind = max(behind, to_send[s ^ 1])
        for j in range(first[x], first[x + 1]):
            ear[receivers[j]] = end
            to_hear[receivers[j]] -= cost[x]
            behind = max(behind, to_hear[receivers[j]])
        if end + behind > limit:
            last = end + behind
            break
        left[x] -= 1
        if left[x] == 0:
            for i in range(best, head[s], -1):
                queue[i] = queue[i - 1]
            head[s] += 1
        if head[s] == begin[s + 1]:
            n -= 1
            heap[0] = heap[n]
        else:
            at[s], load[s] = end, to_send[s]
        if n > 0:
            _sink(heap, n, 0, at, load)
    return last
