"""Exact elimination of candidates: what no optimal placement needs, or none within the cap can have.

A candidate falls where another of the same op is never worse (Goldstein's dead-end elimination: cheaper whatever the
neighbours choose) and takes no more bytes in any memory row; where it exceeds the cap with everything else at its
least; where it excludes every candidate of a neighbour. Rows that no choice can exceed are dropped first, so that
without a shortage of memory only cycles count. At least one optimum is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ipucc.passes.plan.numbers import FORBIDDEN, Choice, Numbers, Pair, Table, Vec

__all__ = ["Reduced", "eliminate_dominated", "settled"]

_CHUNK = 1 << 24


@dataclass(frozen=True, eq=False)
class Reduced:
    """A problem with fewer candidates and rows, per variable the candidates that were kept, ascending, and for every
    candidate the kept one that replaces it (-1 for what no choice within the cap has)."""

    numbers: Numbers
    kept: tuple[Vec, ...]
    replacement: tuple[Vec, ...]

    def original(self, choice: Choice) -> Choice:
        """A choice of the reduced problem in the candidates of the whole one."""
        return np.asarray([k[p] for k, p in zip(self.kept, choice, strict=True)], np.int64)

    def reduced(self, choice: Choice) -> Choice:
        """A choice within the cap as one of the reduced problem, with no more cycles and bytes."""
        found = [int(r[p]) for r, p in zip(self.replacement, choice, strict=True)]
        if min(found, default=0) < 0:
            raise ValueError("a choice that exceeds the cap has no counterpart")
        return np.asarray([np.searchsorted(k, p) for k, p in zip(self.kept, found, strict=True)], np.int64)


def eliminate_dominated(numbers: Numbers, cap: int) -> Reduced | None:
    """The problem without needless candidates and rows; None is a proof that no choice fits within `cap` bytes."""
    kept = [np.arange(c.size) for c in numbers.cycles]
    replacement = [k.copy() for k in kept]
    dirty = set(range(numbers.size))
    while True:
        low, high = numbers.extremes()
        if (low > cap).any():
            return None
        if (high <= cap).any():
            # Fewer rows, fewer reasons to keep a candidate.
            dirty = set(range(numbers.size))
            numbers = numbers.only_rows(np.flatnonzero(high > cap))
            low = low[high > cap]
        alive = [np.flatnonzero(_fits(numbers, v, low, cap)) for v in range(numbers.size)]
        if not all(a.size for a in alive):
            return None
        changed = {v for v, a in enumerate(alive) if a.size < numbers.cycles[v].size}
        for v in changed:
            gone = np.setdiff1d(kept[v], kept[v][alive[v]])
            replacement[v][np.isin(replacement[v], gone)] = -1
        for v in sorted(dirty):
            better = _better(numbers, v, alive)
            if (better >= 0).any():
                for p, q in zip(alive[v][better >= 0].tolist(), alive[v][better[better >= 0]].tolist(), strict=True):
                    replacement[v][replacement[v] == kept[v][p]] = kept[v][q]
                alive[v] = alive[v][better < 0]
                changed.add(v)
        if not changed:
            return Reduced(numbers, tuple(kept), tuple(replacement))
        kept = [k[a] for k, a in zip(kept, alive, strict=True)]
        dirty = {u for v in changed for u, _ in numbers.touching[v]}
        numbers = numbers.keep(alive)


def settled(numbers: Numbers) -> Numbers:
    """The same problem with the least entry of every row and column of a pair's table counted with its candidate.

    Pairs that cost nothing afterwards are left out. Choices cost what they did.
    """
    cycles = list(numbers.cycles)
    pairs = []
    for p in numbers.pairs:
        rows = p.table.min(axis=1)
        table = _less(p.table, rows[:, None])
        columns = table.min(axis=0)
        table = _less(table, columns[None, :])
        cycles[p.first] = cycles[p.first] + rows
        cycles[p.second] = cycles[p.second] + columns
        if table.any():
            pairs.append(Pair(p.first, p.second, table))
    return replace(numbers, cycles=tuple(cycles), pairs=tuple(pairs))


def _less(table: Table, taken: Table) -> Table:
    return np.where(table >= FORBIDDEN, FORBIDDEN, table - taken)


def _fits(numbers: Numbers, v: int, low: Vec, cap: int) -> NDArray[np.bool_]:
    """Whether each candidate of a variable leaves room for all others, and excludes no variable as a whole."""
    possible = numbers.cycles[v] < FORBIDDEN
    for _, table in numbers.touching[v]:
        possible &= table.min(axis=1) < FORBIDDEN
    if not low.size:
        return possible
    resident = numbers.resident[v]
    rows, held = numbers.uses(v)
    elsewhere = np.delete(low, rows)
    if elsewhere.size:
        possible &= int(elsewhere.max()) + resident - int(resident.min()) <= cap
    if rows.size:
        held = held + resident[:, None]
        possible &= (low[rows] + held - held.min(axis=0) <= cap).all(axis=1)
    return possible


def _better(numbers: Numbers, v: int, alive: Sequence[Vec]) -> Vec:
    """For each living candidate of a variable another one that makes it needless, -1 where it stays."""
    own = alive[v]
    if own.size == 1:
        return np.full(1, -1)
    cost = numbers.cycles[v][own]
    saved = cost[:, None] - cost[None, :]
    # saved[p, q]: what q saves over p at least, whatever the neighbours choose.
    for u, table in numbers.touching[v]:
        saved = saved + _least_difference(table[np.ix_(own, alive[u])])
    needless: NDArray[np.bool_] = np.greater_equal(saved, 0)
    for use in _distinct_uses(numbers, v):
        needless &= use[own][:, None] >= use[own][None, :]
    np.fill_diagonal(needless, False)
    # Two that make each other needless: the first one stays.
    needless &= ~(needless.T & (own[None, :] > own[:, None]))
    stays = np.asarray(~needless.any(axis=1))
    return np.where(stays, -1, (needless & stays[None, :]).argmax(axis=1))


def _least_difference(table: Table) -> Table:
    """[p, q]: the least of table[p, r] - table[q, r] over r, leaving out what p excludes."""
    count, columns = table.shape
    out = np.full((count, count), FORBIDDEN, np.int64)
    step = max(1, _CHUNK // (count * count))
    for at in range(0, columns, step):
        part = table[:, at : at + step]
        difference = part[:, None, :] - part[None, :, :]
        difference[np.broadcast_to((part >= FORBIDDEN)[:, None, :], difference.shape)] = FORBIDDEN
        np.minimum(out, difference.min(axis=2), out=out)
    return out


def _distinct_uses(numbers: Numbers, v: int) -> list[Vec]:
    """Bytes per candidate, in every way in which the variable takes part in a row."""
    if not numbers.base.size:
        return []
    s = slice(int(numbers.use_start[v]), int(numbers.use_start[v + 1]))
    ways = sorted(set(zip(numbers.use_count[s].tolist(), numbers.use_runs[s].tolist(), strict=True)) | {(0, False)})
    return [numbers.resident[v] + n * numbers.result[v] + runs * numbers.temp[v] for n, runs in ways]
