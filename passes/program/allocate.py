"""Addresses: one offset per buffer, the same on all its tiles.

Two buffers conflict when they share a tile and a step in which both are live. Offsets are found by first fit in several
good orders, the lowest peak wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipucc.program.model import Call, Compute, Exchange, HostRead, HostWrite, Program, Repeat, Step
from ipucc.tiles.layout import GRAIN_BYTES

__all__ = ["Allocation", "allocate", "liveness"]


@dataclass(frozen=True, eq=False)
class Allocation:
    """Offsets of all buffers, the end of the highest one, and per tile the bytes that buffers reach up to."""

    offsets: list[int]
    peak: int


def touched(step: Step) -> tuple[list[int], list[int]]:
    """(buffers read, buffers written) by a step."""
    if isinstance(step, HostWrite):
        return [], [step.buffer]
    if isinstance(step, HostRead):
        return [step.buffer], []
    if isinstance(step, Exchange):
        return [m.src for m in step.moves], [m.dst for m in step.moves] + [f.buffer for f in step.fills]
    if isinstance(step, Compute):
        return [b.buffer for b in step.operands], [b.buffer for b in step.results]
    if isinstance(step, Repeat):
        inner = [touched(s) for s in step.body]
        return [b for r, _ in inner for b in r], [b for _, w in inner for b in w]
    assert isinstance(step, Call)
    return [a for a, _ in step.inputs], [b for _, b in step.outputs]


def liveness(program: Program) -> NDArray[np.int64]:
    """[buffers, 2]: first and last step in which the bytes of a buffer matter; aliases extend their root.

    Weights live from the first step to the last: a program may be run again.
    """
    last_step = len(program.steps)
    live = np.full((len(program.buffers), 2), -1, np.int64)

    def use(b: int, at: int) -> None:
        root = program.buffers[b].alias if program.buffers[b].alias >= 0 else b
        for x in {b, root}:
            if live[x, 0] < 0:
                live[x, 0] = at
            live[x, 1] = at

    for at, step in enumerate(program.steps):
        read, written = touched(step)
        for b in (*read, *written):
            use(b, at)
        if isinstance(step, HostWrite) and step.tensor in program.weights:
            live[step.buffer] = (0, last_step)
    for at, step in enumerate(program.steps):
        if isinstance(step, HostWrite):
            # The host writes all its tensors before the first superstep.
            live[step.buffer, 0] = 0
            live[step.buffer, 1] = max(live[step.buffer, 1], at)
    for b, buffer in enumerate(program.buffers):
        if buffer.alias >= 0:
            live[b] = (-1, -1)
    return live


def allocate(program: Program, start: int) -> Allocation:
    """Offsets from `start` upwards; the caller compares the peak with the memory of a tile."""
    live = liveness(program)
    ids = np.flatnonzero(live[:, 0] >= 0)
    size = np.asarray([-(-program.buffers[b].nbytes // GRAIN_BYTES) * GRAIN_BYTES for b in ids], np.int64)
    held = np.zeros((ids.size, program.target.tiles), np.float32)
    for i, b in enumerate(ids):
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
    for i, b in enumerate(ids.tolist()):
        out[b] = start + int(best[1][i])
    for b, buffer in enumerate(program.buffers):
        if buffer.alias >= 0:
            out[b] = out[buffer.alias]
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
