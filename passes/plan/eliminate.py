"""The least cost of a placement problem without memory, by eliminating one variable after another.

Bucket elimination: all tables that mention a variable are added up and the variable is minimised away, which leaves a
table over its neighbours. The order is the one that keeps the next table smallest. Graphs of networks have a small
treewidth, so the tables stay small. Where one would exceed the limit, the tables are added up in several groups
(mini-buckets): the value is then a lower bound, and the choice that belongs to it is a good one without a proof.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from ipucc.passes.plan.numbers import Choice, Numbers, Table, Vec

__all__ = ["LIMIT", "Elimination"]

LIMIT: Final = 1 << 22
"""Entries that one table may have."""

_CEILING: Final = 1 << 55
"""Costs are not told apart above this, so that sums of what is forbidden stay within 64 bits."""


@dataclass(frozen=True)
class _Group:
    """Tables that are added up, over `scope`, the variable that goes last: their numbers, and of each the order of its
    axes and its shape among the axes of the group. `message` is the number of what is left of them."""

    scope: tuple[int, ...]
    shape: tuple[int, ...]
    tables: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    shapes: tuple[tuple[int, ...], ...]
    message: int


@dataclass(frozen=True)
class _Bucket:
    variable: int
    groups: tuple[_Group, ...]


class Elimination:
    """An order of elimination for the pairs of a problem, to be used for many costs of single candidates.

    `exact` says whether values are optima, not bounds only; `work` is the number of table entries per solution.
    """

    def __init__(self, numbers: Numbers, limit: int = LIMIT, scale: int = 1) -> None:
        """`scale` multiplies the tables of the pairs; costs of candidates are given scaled."""
        self._sizes = [c.size for c in numbers.cycles]
        self._scopes: list[tuple[int, ...]] = [(v,) for v in range(numbers.size)]
        self._scopes += [(p.first, p.second) for p in numbers.pairs]
        self._pairs = [p.table * scale for p in numbers.pairs]
        self.exact = True
        self.work = 0
        self._buckets = self._order(limit)

    def _order(self, limit: int) -> list[_Bucket]:
        sizes = self._sizes
        holding: list[set[int]] = [set() for _ in sizes]
        for t, scope in enumerate(self._scopes):
            for v in scope:
                holding[v].add(t)

        def joined(v: int) -> set[int]:
            return {u for t in holding[v] for u in self._scopes[t]}

        def weight(v: int) -> int:
            return prod(sizes[u] for u in joined(v))

        queue = [(weight(v), v) for v in range(len(sizes))]
        heapq.heapify(queue)
        gone = [False] * len(sizes)
        buckets = []
        while queue:
            known, v = heapq.heappop(queue)
            if gone[v]:
                continue
            if known != (now := weight(v)):
                heapq.heappush(queue, (now, v))
                continue
            gone[v] = True
            near = joined(v) - {v}
            groups = tuple(self._group(v, part) for part in self._parts(v, sorted(holding[v]), limit))
            for t in tuple(holding[v]):
                for u in self._scopes[t]:
                    holding[u].discard(t)
            for g in groups:
                for u in self._scopes[g.message]:
                    holding[u].add(g.message)
            buckets.append(_Bucket(v, groups))
            for u in sorted(near):
                heapq.heappush(queue, (weight(u), u))
        return buckets

    def _parts(self, v: int, tables: Sequence[int], limit: int) -> list[list[int]]:
        """The tables that mention a variable, in groups whose sum has at most `limit` entries: one if possible."""
        parts: list[tuple[set[int], list[int]]] = []
        # The largest first; those over fewer variables find a place in their groups.
        for t in sorted(tables, key=lambda t: (-prod(self._sizes[u] for u in self._scopes[t]), t)):
            mine = set(self._scopes[t])
            for scope, part in parts:
                if mine <= scope or prod(self._sizes[u] for u in scope | mine) <= limit:
                    scope |= mine
                    part.append(t)
                    break
            else:
                parts.append((mine, [t]))
        self.exact &= len(parts) == 1
        return [part for _, part in parts]

    def _group(self, v: int, tables: Sequence[int]) -> _Group:
        order = (*sorted({u for t in tables for u in self._scopes[t]} - {v}), v)
        place = {u: i for i, u in enumerate(order)}
        axes, shapes = [], []
        for t in tables:
            scope = self._scopes[t]
            axes.append(tuple(sorted(range(len(scope)), key=lambda i: place[scope[i]])))
            shapes.append(tuple(self._sizes[u] if u in scope else 1 for u in order))
        shape = tuple(self._sizes[u] for u in order)
        self.work += prod(shape) * len(tables)
        self._scopes.append(order[:-1])
        return _Group(order, shape, tuple(tables), tuple(axes), tuple(shapes), len(self._scopes) - 1)

    def solve(self, cycles: Sequence[Vec]) -> tuple[int, Choice]:
        """The least cost of all choices (a lower bound of it unless `exact`) for these costs of single candidates,
        and the choice. Of equally good candidates the first is taken."""
        tables = self._messages(cycles)
        value = sum(int(t) for t in tables if not t.ndim)
        choice = np.zeros(len(self._sizes), np.int64)
        for bucket in reversed(self._buckets):
            v = bucket.variable
            cost = np.zeros(self._sizes[v], np.int64)
            for g in bucket.groups:
                for t in g.tables:
                    at = tuple(slice(None) if u == v else int(choice[u]) for u in self._scopes[t])
                    cost += np.minimum(tables[t][at], _CEILING >> 8)
            choice[v] = int(cost.argmin())
        return value, choice

    def excess(self, cycles: Sequence[Vec]) -> list[Vec]:
        """Per candidate, how much more than the least cost any choice with it costs. Only where `exact`."""
        if not self.exact:
            raise ValueError("bounds of single candidates need an exact elimination")
        tables = self._messages(cycles)
        # Per message, the least cost of everything that is not in it.
        rest: dict[int, Table] = {}
        made = {b.groups[0].message for b in self._buckets}
        found = [np.zeros(0, np.int64)] * len(self._sizes)
        for bucket in reversed(self._buckets):
            g = bucket.groups[0]
            total = _total(g, tables)
            if g.message in rest:
                total += rest[g.message][..., None]
                np.minimum(total, _CEILING, out=total)
            least = total.min(axis=tuple(range(total.ndim - 1)))
            found[bucket.variable] = least - least.min()
            for t, axes in zip(g.tables, g.axes, strict=True):
                if t in made:
                    left = total.min(axis=tuple(i for i, u in enumerate(g.scope) if u not in self._scopes[t]))
                    rest[t] = left.transpose(np.argsort(axes)) - tables[t]
        return found

    def _messages(self, cycles: Sequence[Vec]) -> list[Table]:
        """All tables, those that are left of eliminated variables behind those of the problem."""
        tables: list[Table] = [*cycles, *self._pairs]
        for bucket in self._buckets:
            for g in bucket.groups:
                tables.append(np.minimum(_total(g, tables).min(axis=-1), _CEILING))
        return tables


def _total(g: _Group, tables: Sequence[Table]) -> Table:
    total = np.zeros(g.shape, np.int64)
    for n, (t, axes, shape) in enumerate(zip(g.tables, g.axes, g.shapes, strict=True)):
        total += tables[t].transpose(axes).reshape(shape)
        if n % 16 == 15:
            np.minimum(total, _CEILING, out=total)
    return total
