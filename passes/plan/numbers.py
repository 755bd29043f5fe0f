"""The placement problem as arrays, for solvers: costs per candidate and per pair of candidates, bytes per memory row.

Everything an op has several of is folded together: ops that share a variable, edges between the same two variables,
edges from tensors with a fixed layout. A solver may drop candidates (`keep`) or fix variables (`fix`) and gets a
smaller problem of the same form.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ipucc.passes.plan.problem import Problem

__all__ = ["FORBIDDEN", "SCALE", "Choice", "Numbers", "Pair", "Table", "Vec"]

Vec: TypeAlias = NDArray[np.int64]
Table: TypeAlias = NDArray[np.int64]
Choice: TypeAlias = Vec
"""A candidate per variable."""

FORBIDDEN: Final = 1 << 40
"""Cycles from which on an entry of an edge's table means that its two candidates exclude each other."""


SCALE: Final = 1 << 12
"""Prices of bytes are integers, in cycles per byte over this: sums of them are the same on every machine."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Cycles of two variables, `first` < `second`, by their candidates [first, second]; FORBIDDEN at most."""

    first: int
    second: int
    table: Table


@dataclass(frozen=True, eq=False)
class Numbers:
    """Variables, pairs and memory rows.

    Per variable [candidates]: `cycles` and `resident` bytes, both of all its ops; `result` and `temp` bytes of one.
    Use j says that the result of `use_variable[j]` is alive `use_count[j]` times in row `use_row[j]`, and that its op
    runs then if `use_runs[j]`. Uses are sorted by variable and row, each is there once. `base` [rows] holds the bytes
    that are fixed; resident bytes count in every row.
    """

    cycles: tuple[Vec, ...]
    resident: tuple[Vec, ...]
    result: tuple[Vec, ...]
    temp: tuple[Vec, ...]
    pairs: tuple[Pair, ...]
    constant: int
    base: Vec
    use_variable: Vec
    use_row: Vec
    use_count: Vec
    use_runs: NDArray[np.bool_]

    @staticmethod
    def of(problem: Problem) -> "Numbers":
        """The numbers of a placement problem. `cost` and `peak` of a choice are those of `Problem.evaluate`."""
        cycles = [
            np.asarray([w * c.cycles for c in cands], np.int64)
            for cands, w in zip(problem.candidates, problem.weight, strict=True)
        ]
        tables: dict[tuple[int, int], Table] = {}
        for e in problem.edges:
            u, v = e.producer, e.consumer
            table = e.count * np.minimum(e.table, FORBIDDEN)
            if u < 0 or u == v:
                cycles[v] = cycles[v] + (table[0] if u < 0 else np.diagonal(table))
                continue
            key, table = ((u, v), table) if u < v else ((v, u), table.T)
            tables[key] = tables[key] + table if key in tables else table
        uses: list[tuple[int, int, int, bool]] = []
        for r, row in enumerate(problem.rows):
            live = dict(row.live)
            uses += [(v, r, n, v == row.variable) for v, n in row.live]
            if row.variable not in live:
                uses.append((row.variable, r, 0, True))
        uses.sort()
        columns = np.asarray(uses, np.int64).reshape(-1, 4)
        return Numbers(
            tuple(cycles),
            tuple(
                np.asarray([w * c.resident for c in cands], np.int64)
                for cands, w in zip(problem.candidates, problem.weight, strict=True)
            ),
            tuple(np.asarray([c.result for c in cands], np.int64) for cands in problem.candidates),
            tuple(np.asarray([c.temp for c in cands], np.int64) for cands in problem.candidates),
            tuple(Pair(u, v, np.minimum(t, FORBIDDEN)) for (u, v), t in sorted(tables.items(), key=lambda x: x[0])),
            0,
            # One row more than there are steps: what rests there takes its bytes even if nothing runs.
            np.full(len(problem.rows) + 1, problem.fixed_bytes, np.int64),
            columns[:, 0].copy(),
            columns[:, 1].copy(),
            columns[:, 2].copy(),
            columns[:, 3] > 0,
        )

    @staticmethod
    def without_memory(cycles: Sequence[Vec], pairs: Sequence[Pair]) -> "Numbers":
        """A problem of costs alone."""
        none = np.zeros(0, np.int64)
        zeros = tuple(np.zeros_like(c) for c in cycles)
        return Numbers(
            tuple(cycles), zeros, zeros, zeros, tuple(pairs), 0, none, none, none, none, none.astype(bool)
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Number of variables."""
        return len(self.cycles)

    @cached_property
    def use_start(self) -> Vec:
        """Where the uses of each variable begin, and the end behind the last [variables + 1]."""
        return np.searchsorted(self.use_variable, np.arange(self.size + 1)).astype(np.int64)

    @cached_property
    def touching(self) -> tuple[tuple[tuple[int, Table], ...], ...]:
        """Per variable its neighbours, each with the table [own candidates, the neighbour's]."""
        found: list[list[tuple[int, Table]]] = [[] for _ in self.cycles]
        for p in self.pairs:
            found[p.first].append((p.second, p.table))
            found[p.second].append((p.first, np.ascontiguousarray(p.table.T)))
        return tuple(tuple(f) for f in found)

    @cached_property
    def _uses(self) -> tuple[tuple[Vec, Table], ...]:
        found = []
        for v in range(self.size):
            s = slice(int(self.use_start[v]), int(self.use_start[v + 1]))
            held = np.outer(self.result[v], self.use_count[s]) + np.outer(self.temp[v], self.use_runs[s])
            found.append((self.use_row[s], held))
        return tuple(found)

    def uses(self, v: int) -> tuple[Vec, Table]:
        """The rows that a variable has a share in besides its resident bytes [rows], and its candidates' bytes there
        [candidates, rows], resident bytes left out."""
        return self._uses[v]

    def cost(self, choice: Choice) -> int:
        """Cycles of a choice; FORBIDDEN or more if two of its candidates exclude each other."""
        total = self.constant + sum(int(c[p]) for c, p in zip(self.cycles, choice, strict=True))
        return total + sum(int(p.table[choice[p.first], choice[p.second]]) for p in self.pairs)

    def usage(self, choice: Choice) -> Vec:
        """Bytes that a choice needs in every row."""
        resident = sum(int(c[p]) for c, p in zip(self.resident, choice, strict=True))
        result = np.fromiter((c[p] for c, p in zip(self.result, choice, strict=True)), np.int64, self.size)
        temp = np.fromiter((c[p] for c, p in zip(self.temp, choice, strict=True)), np.int64, self.size)
        held = result[self.use_variable] * self.use_count + temp[self.use_variable] * self.use_runs
        return self.base + resident + _sums(self.use_row, held, self.base.size)

    def peak(self, choice: Choice) -> int:
        """Bytes of the fullest row."""
        return int(self.usage(choice).max(initial=0))

    def extremes(self) -> tuple[Vec, Vec]:
        """Per row a lower and an upper bound of the bytes that any choice needs: every variable at its least (most)."""
        low, high = self.base.copy(), self.base.copy()
        for v in range(self.size):
            rows, held = self.uses(v)
            held = held + self.resident[v][:, None]
            for bound, pick in ((low, np.min), (high, np.max)):
                rest = int(pick(self.resident[v]))
                bound += rest
                bound[rows] += pick(held, axis=0) - rest
        return low, high

    def priced(self, prices: Vec) -> list[Vec]:
        """Per candidate SCALE times its cycles, plus the prices [rows] of the bytes that it holds."""
        live, runs = np.zeros((2, self.size), np.int64)
        np.add.at(live, self.use_variable, prices[self.use_row] * self.use_count)
        np.add.at(runs, self.use_variable, prices[self.use_row] * self.use_runs)
        always = int(prices.sum())
        return [
            SCALE * self.cycles[v] + always * self.resident[v] + live[v] * self.result[v] + runs[v] * self.temp[v]
            for v in range(self.size)
        ]

    def keep(self, kept: Sequence[Vec]) -> "Numbers":
        """The problem with only these candidates of every variable."""
        pick = [
            tuple(x[k] for x, k in zip(xs, kept, strict=True))
            for xs in (self.cycles, self.resident, self.result, self.temp)
        ]
        pairs = tuple(replace(p, table=p.table[np.ix_(kept[p.first], kept[p.second])]) for p in self.pairs)
        return replace(self, cycles=pick[0], resident=pick[1], result=pick[2], temp=pick[3], pairs=pairs)

    def only_rows(self, rows: Vec) -> "Numbers":
        """The problem with only these rows (ascending). Without rows memory does not matter at all."""
        number = np.full(self.base.size, -1, np.int64)
        number[rows] = np.arange(rows.size)
        held = number[self.use_row] >= 0
        return replace(
            self, base=self.base[rows], use_variable=self.use_variable[held], use_row=number[self.use_row[held]],
            use_count=self.use_count[held], use_runs=self.use_runs[held],
        )  # fmt: skip

    def fix(self, choice: Choice, free: Iterable[int]) -> "Numbers":
        """The problem of the variables `free` (ascending), the others chosen already."""
        order = list(free)
        number = {v: i for i, v in enumerate(order)}
        cycles = [self.cycles[v] for v in order]
        pairs = []
        constant = self.constant + sum(int(self.cycles[v][choice[v]]) for v in range(self.size) if v not in number)
        for p in self.pairs:
            at, to = number.get(p.first), number.get(p.second)
            if at is not None and to is not None:
                pairs.append(Pair(at, to, p.table))
            elif at is not None:
                cycles[at] = cycles[at] + p.table[:, choice[p.second]]
            elif to is not None:
                cycles[to] = cycles[to] + p.table[choice[p.first]]
            else:
                constant += int(p.table[choice[p.first], choice[p.second]])
        base = self.usage(choice)
        for v in order:
            rows, held = self.uses(v)
            base -= int(self.resident[v][choice[v]])
            base[rows] -= held[choice[v]]
        renumber = np.full(self.size, -1, np.int64)
        renumber[order] = np.arange(len(order))
        mine = renumber[self.use_variable] >= 0
        return Numbers(
            tuple(cycles), tuple(self.resident[v] for v in order), tuple(self.result[v] for v in order),
            tuple(self.temp[v] for v in order), tuple(pairs), constant, base, renumber[self.use_variable[mine]],
            self.use_row[mine], self.use_count[mine], self.use_runs[mine],
        )  # fmt: skip


def _sums(groups: Vec, values: Vec, size: int) -> Vec:
    total = np.zeros(size, np.int64)
    np.add.at(total, groups, values)
    return total
