"""The order of a region of ops that keeps the fewest bytes alive: exact where the search ends, else greedy.

A set of ops that contains all their producers (a *prefix*) decides what is alive behind it, in whatever order it ran.
So the search is over prefixes, not over orders: a chain of n ops has n + 1 of them, two branches of m ops (m + 1)^2.
"""

import heapq
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

__all__ = ["Region", "cheapest_order", "footprints", "part"]

_MOVES: Final = 100_000
"""Steps from prefix to prefix that each of the exact searches may take."""
_LONGEST: Final = 16
"""Ops of a run of the greedy orders."""
_CHOICES: Final = 48
"""Runs that a greedy order compares before it takes one."""
_WINDOW: Final = 10
"""Ops of a window that is ordered exactly: no more than 2^10 prefixes."""


@dataclass(frozen=True)
class Region:
    """Ops in a given order, and the tensors between them, without names.

    Op i makes tensor i of `sizes[i]` bytes; tensors behind those come from outside and are alive from the start.
    `reads[i]` are the tensors that op i reads, `kept` those that stay alive behind the region. Equal regions have equal
    best orders.
    """

    sizes: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    kept: frozenset[int]

    @property
    def count(self) -> int:
        """Number of ops."""
        return len(self.reads)


def footprints(region: Region, order: Sequence[int]) -> list[int]:
    """Bytes alive in every step of an order: what the op reads, what it makes, and what others need later."""
    walk = _Walk(region)
    done, live, found = 0, walk.begin, []
    for op in order:
        found.append(live + region.sizes[op])
        live = walk.behind(done, live, op)
        done |= 1 << op
    return found


def cheapest_order(region: Region) -> tuple[int, ...]:
    """The order of lowest peak, and of those the one of lowest sum over steps; never worse than the given one.

    Both are exact where the search ends within its limits: in narrow regions of any length, in wide ones of some 15
    ops. Beyond that the peak is that of two greedy orders, improved by ordering short windows exactly. The given order
    is kept where no better one is found.
    """
    given = tuple(range(region.count))
    if all(i - 1 in region.reads[i] for i in given[1:]):
        return given
    walk = _Walk(region)
    exact = _lowest_peak(walk)
    wide = [_greedy(walk, fronts_first=f) for f in (True, False)] if exact is None else [exact]
    order = min([given, *wide], key=lambda o: _score(region, o))
    shortest = _lowest_sum(walk, max(footprints(region, order)))
    if shortest is not None:
        order = min([order, shortest], key=lambda o: _score(region, o))
    return _windows(region, order) if exact is None else order


def _score(region: Region, order: Sequence[int]) -> tuple[int, int]:
    found = footprints(region, order)
    return max(found), sum(found)


def part(region: Region, ops: Sequence[int], behind: Collection[int]) -> Region:
    """Some ops of a region, in an order of their own, where `behind` are the tensors that others read after them.

    What is alive through all of the part is left out of it.
    """
    number = {t: i for i, t in enumerate(ops)}
    sizes = [region.sizes[t] for t in ops]
    found = []
    for op in ops:
        for t in region.reads[op]:
            if t not in number and t not in region.kept and t not in behind:
                number[t] = len(sizes)
                sizes.append(region.sizes[t])
        found.append(tuple(number[t] for t in region.reads[op] if t in number))
    kept = frozenset(i for i, t in enumerate(ops) if t in region.kept or t in behind)
    return Region(tuple(sizes), tuple(found), kept)


@dataclass(eq=False)
class _Walk:
    """What a step from one prefix to the next does. Sets of ops are the bits of an integer."""

    region: Region
    needs: list[int] = field(default_factory=list)
    after: list[list[int]] = field(default_factory=list)
    readers: dict[int, int] = field(default_factory=dict)
    begin: int = 0
    ready: int = 0

    def __post_init__(self) -> None:
        r = self.region
        self.needs = [0] * r.count
        self.after = [[] for _ in range(r.count)]
        for op, reads in enumerate(r.reads):
            for t in reads:
                self.readers[t] = self.readers.get(t, 0) | 1 << op
                if t < r.count:
                    self.needs[op] |= 1 << t
                    self.after[t].append(op)
        self.begin = sum(r.sizes[r.count :])
        self.ready = sum(1 << op for op, needs in enumerate(self.needs) if not needs)

    def behind(self, done: int, live: int, op: int) -> int:
        """Bytes alive behind `op` where `live` were alive before it."""
        r, now = self.region, done | 1 << op
        for t in r.reads[op]:
            if t not in r.kept and not self.readers[t] & ~now:
                live -= r.sizes[t]
        return live + r.sizes[op] if op in r.kept or op in self.readers else live

    def opened(self, done: int, ready: int, op: int) -> int:
        """The ops that can run behind `op`."""
        now = done | 1 << op
        ready &= ~(1 << op)
        for s in self.after[op]:
            if not self.needs[s] & ~now:
                ready |= 1 << s
        return ready

    def least(self) -> int:
        """What no order can stay below: the largest op with what it reads, beside what outlives the region."""
        r = self.region
        held = {t for t in range(r.count, len(r.sizes)) if t in r.kept}
        outside = sum(r.sizes[t] for t in held)
        return max(
            outside + r.sizes[op] + sum(r.sizes[t] for t in set(reads) - held) for op, reads in enumerate(r.reads)
        )


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _lowest_peak(walk: _Walk) -> tuple[int, ...] | None:
    """An order of lowest peak by a best-first search; None where it would have to visit too many prefixes.

    An op that leaves no more bytes alive than there were, and whose own step stays below a peak that is reached
    anyway, runs at once: moved to the front of any order it raises nothing, since what an op adds only shrinks when
    others have run before.
    """
    sizes, all_done, least = walk.region.sizes, (1 << walk.region.count) - 1, walk.least()

    moves = 0

    def settled(done: int, live: int, ready: int, peak: int, ran: list[int]) -> tuple[int, int, int]:
        nonlocal moves
        moved = True
        while moved:
            moved = False
            moves += ready.bit_count()
            for op in _bits(ready):
                if live + sizes[op] <= peak and (then := walk.behind(done, live, op)) <= live:
                    ready = walk.opened(done, ready, op)
                    done, live, moved = done | 1 << op, then, True
                    ran.append(op)
        return done, live, ready

    ran: list[int] = []
    done, live, ready = settled(0, walk.begin, walk.ready, least, ran)
    peaks = {done: least}
    came: dict[int, tuple[int, list[int]]] = {done: (-1, ran)}
    heap = [(least, -len(ran), done, live, ready)]
    while heap:
        peak, depth, done, live, ready = heapq.heappop(heap)
        if done == all_done:
            order: list[list[int]] = []
            while done >= 0:
                done, ran = came[done]
                order.append(ran)
            return tuple(op for ran in reversed(order) for op in ran)
        if peaks[done] < peak:
            continue
        for op in _bits(ready):
            if moves > _MOVES:
                return None
            ran = [op]
            higher = max(peak, live + sizes[op])
            to, left, then = settled(
                done | 1 << op, walk.behind(done, live, op), walk.opened(done, ready, op), higher, ran
            )
            if peaks.get(to, higher + 1) > higher:
                peaks[to] = higher
                came[to] = done, ran
                heapq.heappush(heap, (higher, depth - len(ran), to, left, then))
    return None


def _lowest_sum(walk: _Walk, cap: int) -> tuple[int, ...] | None:
    """The order of lowest sum whose steps stay within `cap`; None where it was lost.

    Level by level over the prefixes of equal length. Where a level has too many, those of lowest sum are kept.
    """
    r, left = walk.region, _MOVES
    level = {0: (0, walk.begin, walk.ready)}
    levels: list[dict[int, tuple[int, int]]] = []
    for at in range(r.count):
        found: dict[int, tuple[int, int, int]] = {}
        came: dict[int, tuple[int, int]] = {}
        for done, (total, live, ready) in level.items():
            left -= ready.bit_count()
            if left < 0:
                return None
            for op in _bits(ready):
                here = live + r.sizes[op]
                if here > cap:
                    continue
                to, added = done | 1 << op, total + here
                old = found.get(to)
                if old is None:
                    found[to] = added, walk.behind(done, live, op), walk.opened(done, ready, op)
                elif added < old[0]:
                    found[to] = added, old[1], old[2]
                else:
                    continue
                came[to] = done, op
        if not found:
            return None
        # What is left of the moves, spread over the levels to come.
        branches = max(1, max(state[2].bit_count() for state in found.values()))
        width = max(4, left // (branches * (r.count - at)))
        if len(found) > width:
            best = heapq.nsmallest(width, found, key=lambda s: (found[s][0] + found[s][1], s))
            found = {s: found[s] for s in best}
        level = found
        levels.append(came)
    (done,) = level
    order: list[int] = []
    for came in reversed(levels):
        done, op = came[done]
        order.append(op)
    return tuple(reversed(order))


def _greedy(walk: _Walk, *, fronts_first: bool) -> tuple[int, ...]:
    """An order made of runs: each follows one chain to where fewest bytes are alive.

    With `fronts_first` the rule is the one that is optimal for chains without common ends (Liu 1987): first runs that
    free bytes, the one of lowest hill before the others; then those that come down furthest from their hill. Without
    it, the run that raises the peak least.
    """
    sizes = walk.region.sizes
    done, live, ready, peak = 0, walk.begin, walk.ready, 0
    order: list[int] = []
    while ready:
        best: tuple[tuple[int, ...], list[int]] | None = None
        for op in islice(_bits(ready), _CHOICES):
            run, hill, valley = _run(walk, done, live, ready, op)
            if not fronts_first:
                key = max(peak, hill), valley, op
            elif valley <= live:
                key = 0, hill, op
            else:
                key = 1, valley - hill, op
            if best is None or key < best[0]:
                best = key, run
        assert best is not None
        for op in best[1]:
            peak = max(peak, live + sizes[op])
            live, ready = walk.behind(done, live, op), walk.opened(done, ready, op)
            done |= 1 << op
            order.append(op)
    return tuple(order)


def _run(walk: _Walk, done: int, live: int, ready: int, op: int) -> tuple[list[int], int, int]:
    """(ops, highest step, bytes alive behind it) of a run that begins with `op` and goes on with what that opens."""
    sizes = walk.region.sizes
    run: list[int] = []
    hill, best = 0, (0, 0, 0)
    while len(run) < _LONGEST:
        hill = max(hill, live + sizes[op])
        live, then = walk.behind(done, live, op), walk.opened(done, ready, op)
        done |= 1 << op
        run.append(op)
        if len(run) == 1 or live <= best[2]:
            best = len(run), hill, live
        opened = then & ~ready
        ready = then
        if not opened:
            break
        op = min(_bits(opened), key=lambda v: (walk.behind(done, live, v), v))
    return run[: best[0]], best[1], best[2]


def _windows(region: Region, order: tuple[int, ...]) -> tuple[int, ...]:
    """The order with every window of it in its best order; windows overlap by a half, and are gone through twice."""
    for _ in range(2):
        for at in range(0, max(1, region.count - _WINDOW // 2), _WINDOW // 2):
            ops = order[at : at + _WINDOW]
            behind = {t for op in order[at + _WINDOW :] for t in region.reads[op]}
            best = cheapest_order(part(region, ops, behind))
            order = (*order[:at], *(ops[i] for i in best), *order[at + _WINDOW :])
    return order
