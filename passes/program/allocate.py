"""Addresses: one offset per buffer, the same on all its tiles.

Two buffers conflict when they share a tile and a step in which both are live. Offsets are found by first fit in several
good orders, the lowest peak wins. Where it exceeds the tile and the bytes that are alive at once do not, orders near to
the best one are tried as well, a fixed number of them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.program.liveness import liveness
from ipucc.program.model import Program
from ipucc.tiles.layout import GRAIN_BYTES

__all__ = ["Allocation", "allocate"]

_MOVES: Final = 3000


@dataclass(frozen=True, eq=False)
class Allocation:
    """Offsets of all buffers, the end of the highest one, and per tile the bytes that buffers reach up to."""

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
    from ipucc.passes.program.allocate_kernel import first_fit, search  # numba: imported only where it runs

    offsets, peak, order = np.zeros(ids.size, np.int64), -1, orders[0]
    for candidate in orders:
        tried = first_fit(candidate, size, conflict)
        reached = int((tried + size).max(initial=0))
        if peak < 0 or reached < peak:
            offsets, peak, order = tried, reached, candidate
    room = program.target.tile_bytes - start
    if peak > room >= _most_alive(held, size, first, last):
        offsets = search(order, size, conflict, room, _MOVES)
        peak = int((offsets + size).max(initial=0))
    out = [0] * len(program.buffers)
    for i, root in enumerate(ids.tolist()):
        out[root] = start + int(offsets[i])
    for b, buffer in enumerate(program.buffers):
        if buffer.alias >= 0:
            out[b] = out[buffer.alias] + buffer.alias_offset
    return Allocation(out, start + peak)


def _most_alive(held: NDArray[np.float32], size: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
                ) -> int:  # fmt: skip
    """Bytes that are alive at one moment on one tile, at the worst: no offsets have a lower peak."""
    moments = int(last.max(initial=0)) + 2
    change = np.zeros((moments, held.shape[1]), np.float64)
    for i in range(size.size):
        change[first[i]] += held[i] * float(size[i])
        change[last[i] + 1] -= held[i] * float(size[i])
    return int(np.cumsum(change, axis=0, out=change).max(initial=0))
