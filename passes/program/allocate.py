"""Addresses: one offset per buffer, the same on all its tiles.

Two buffers conflict when they share a tile and a step in which both are live. Offsets are found by first fit in several
good orders. Buffers that vertices read 128 bits at a time go to interleaved memory, and those that vertices reach in
one issue to different elements of memory, as long as the program fits: what does not get its place costs cycles
(`ipucc.program.regions`). Where the lowest peak exceeds the tile and the bytes that are alive at once do not, orders
near to the best one are tried as well, a fixed number of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.program.liveness import liveness
from ipucc.program.model import Compute, Program, walk
from ipucc.tiles.intersect import Ints
from ipucc.tiles.layout import GRAIN_BYTES

__all__ = ["Allocation", "allocate"]

_MOVES: Final = 3000


@dataclass(frozen=True, eq=False)
class Allocation:
    """Offsets of all buffers, and the end of the highest one."""

    offsets: list[int]
    peak: int


def allocate(program: Program, start: int) -> Allocation:
    """Offsets from `start` upwards; the caller compares the peak with the memory of a tile."""
    live = liveness(program)
    ids = np.flatnonzero(live[:, 0] >= 0)
    size = np.asarray([-(-program.buffers[b].nbytes // GRAIN_BYTES) * GRAIN_BYTES for b in ids.tolist()], np.int64)
    held = np.zeros((ids.size, program.target.tiles), np.float32)
    for i, b in enumerate(ids.tolist()):
        held[i, program.buffers[b].layout.used_tiles] = 1
    first, last = live[ids, 0], live[ids, 1]
    conflict = (held @ held.T) > 0
    conflict &= (first[:, None] <= last[None, :]) & (first[None, :] <= last[:, None])
    span = last - first
    orders = [
        np.lexsort((ids, -size, -span)),
        np.lexsort((ids, -size)),
        np.lexsort((ids, -(size * (span + 1)))),
        np.lexsort((ids, first)),
    ]
    from ipucc.passes.program.allocate_kernel import first_fit  # numba: imported only where it runs

    target = program.target
    wide, apart = _wanted(program, ids)
    memory = np.array(
        [target.interleaved_from, target.tile_bytes, target.element_bytes, 2 * target.element_bytes], np.int64
    )
    shared, nowhere = conflict.astype(np.int8), np.zeros_like(wide)
    wishes = [(np.where(conflict & apart, np.int8(2), shared), wide), (shared, wide), (shared, nowhere)]
    for meets, inside in wishes:
        found: list[tuple[bool, int, int, int, Ints, Ints]] = []
        for order in orders:
            offsets = first_fit(order, size, meets, start, inside, memory)
            peak = int((offsets + size).max(initial=start))
            misplaced = int(size[wide & (offsets < target.interleaved_from)].sum())
            found.append((peak > target.tile_bytes, misplaced, peak, len(found), offsets, order))
        over, _, peak, _, offsets, order = min(found, key=lambda f: f[:4])
        if not over:
            break
    if over and _most_alive(held, size, first, last) <= target.tile_bytes - start:

        def placed(order: Ints) -> Ints:
            return np.asarray(first_fit(order, size, shared, start, nowhere, memory), np.int64)

        offsets = _search(order, size, placed, target.tile_bytes)
        peak = int((offsets + size).max(initial=start))
    out = [0] * len(program.buffers)
    for i, root in enumerate(ids.tolist()):
        out[root] = int(offsets[i])
    for b, buffer in enumerate(program.buffers):
        if buffer.alias >= 0:
            out[b] = out[buffer.alias] + buffer.alias_offset
    return Allocation(out, peak)


def _search(order: Ints, size: Ints, placed: Callable[[Ints], Ints], enough: int) -> Ints:
    """Offsets as `placed` makes them of an order near to the given one: a buffer that ends at the peak, or any other
    one in turn, takes an earlier place, and stays there unless the peak rises. Ends after `_MOVES` or with a peak of
    `enough`."""
    best = placed(order)
    peak = (best + size).max()
    state = 1
    for move in range(_MOVES):
        if peak <= enough:
            break
        # Knuth's linear congruential generator: the same moves in every process.
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        draw = state >> 33
        if move % 2 == 0:
            high = int(np.flatnonzero((best + size)[order] == peak)[-1])
        else:
            high = draw // 1024 % order.size
        if high == 0:
            continue
        low = draw % high
        trial = order.copy()
        trial[low], trial[low + 1 : high + 1] = order[high], order[low:high]
        offsets = placed(trial)
        reached = (offsets + size).max()
        if reached <= peak:
            order, best, peak = trial, offsets, reached
    return best


def _wanted(program: Program, ids: Ints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of the buffers `ids`, which should lie in interleaved memory, and [buffers, buffers]: which two in different
    elements."""
    place = {int(b): i for i, b in enumerate(ids)}
    wide, apart = np.zeros(ids.size, bool), np.zeros((ids.size, ids.size), bool)

    def root(b: int) -> int:
        return place[program.buffers[b].alias if program.buffers[b].alias >= 0 else b]

    for step in walk(program.steps, program.functions):
        if isinstance(step, Compute):
            for i in step.codelet.wide:
                wide[root(step.operands[i].buffer)] = True
            operands, results = step.codelet.streams
            reached = [step.operands[i].buffer for i in operands] + [step.results[i].buffer for i in results]
            for a, b in combinations(map(root, reached), 2):
                apart[a, b] = apart[b, a] = a != b
    return wide, apart


def _most_alive(held: NDArray[np.float32], size: Ints, first: Ints, last: Ints
                ) -> int:  # fmt: skip
    """Bytes that are alive at one moment on one tile, at the worst: no offsets have a lower peak."""
    moments = int(last.max(initial=0)) + 2
    change = np.zeros((moments, held.shape[1]), np.float64)
    for i in range(size.size):
        change[first[i]] += held[i] * float(size[i])
        change[last[i] + 1] -= held[i] * float(size[i])
    return int(np.cumsum(change, axis=0, out=change).max(initial=0))
