"""Repetition in a sequence: the layers of a network, the steps of its program."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Repetition", "repetitions"]


@dataclass(frozen=True)
class Repetition:
    """`count` times the same `period` items, the first at `start`."""

    start: int
    period: int
    count: int

    @property
    def stop(self) -> int:
        """Behind the last item."""
        return self.start + self.period * self.count


def repetitions(keys: Sequence[Hashable], least: int = 1) -> list[Repetition]:
    """Disjoint repetitions in order, found by taking the one that covers most items first.

    A repetition saves period x (count - 1) items; those that save fewer than `least` are left out.
    """
    ids: dict[Hashable, int] = {}
    codes = np.asarray([ids.setdefault(k, len(ids)) for k in keys], np.int64)
    found: list[Repetition] = []
    pending = [(0, codes.size)]
    while pending:
        lo, hi = pending.pop()
        best = _best(codes[lo:hi])
        if best is None or best.period * (best.count - 1) < least:
            continue
        shifted = Repetition(best.start + lo, best.period, best.count)
        found.append(shifted)
        pending += [(lo, shifted.start), (shifted.stop, hi)]
    return sorted(found, key=lambda r: r.start)


def _best(codes: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Repetition | None:
    """The repetition that saves most; the shortest period, then the earliest start where several do."""
    best: Repetition | None = None
    saved = 0
    n = codes.size
    for period in range(1, n // 2 + 1):
        if n - period <= saved:
            break
        same = np.concatenate([[False], codes[:-period] == codes[period:], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        for start, stop in zip(edges[0::2].tolist(), edges[1::2].tolist(), strict=True):
            count = (stop - start) // period + 1
            if (count - 1) * period > saved:
                saved = (count - 1) * period
                best = Repetition(start, period, count)
    return best
