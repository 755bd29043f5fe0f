"""Addresses: one offset per buffer, the same on all its tiles.

Two buffers conflict when they share a tile and a step in which both are live. Offsets are found by first fit in several
good orders, the lowest peak wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipucc.program.liveness import liveness
from ipucc.program.model import Program
from ipucc.tiles.layout import GRAIN_BYTES

__all__ = ["Allocation", "allocate"]


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
    best: tuple[int, NDArray[np.int64]] | None = None
    for order in orders:
        offsets = _first_fit(order, size, conflict)
        peak = int((offsets + size).max(initial=0))
        if best is None or peak < best[0]:
            best = peak, offsets
    assert best is not None
    out = [0] * len(program.buffers)
    for i, root in enumerate(ids.tolist()):
        out[root] = start + int(best[1][i])
    for b, buffer in enumerate(program.buffers):
        if buffer.alias >= 0:
            out[b] = out[buffer.alias] + buffer.alias_offset
    return Allocation(out, start + best[0])


def _first_fit(order: Sequence[int] | NDArray[np.int64], size: NDArray[np.int64], conflict: NDArray[np.bool_]
               ) -> NDArray[np.int64]:  # fmt: skip
    offsets = np.zeros(size.size, np.int64)
    placed = np.zeros(size.size, bool)
    for i in order:
        others = np.flatnonzero(conflict[i] & placed)
        at = 0
        if others.size:
            begin = offsets[others]
            sort = np.argsort(begin, kind="stable")
            begin, end = begin[sort], np.maximum.accumulate((offsets[others] + size[others])[sort])
            # Gaps before the first, between neighbours, and behind the last.
            lows = np.concatenate([[0], end])
            highs = np.concatenate([begin, [1 << 62]])
            at = int(lows[np.flatnonzero(highs - lows >= size[i])[0]])
        offsets[i] = at
        placed[i] = True
    return offsets
