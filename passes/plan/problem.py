"""The placement problem: candidates per op, costs per edge, memory per step, all as numbers.

Solvers see only this. A choice is one candidate index per variable; `Problem.evaluate` is the plain cost function that
prices any choice, whoever made it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ipucc.ops.graph import TileGraph
from ipucc.passes.plan.grid import Plan
from ipucc.passes.plan.stages import Stage
from ipucc.target import Target
from ipucc.tiles.layout import Layout

__all__ = ["Candidate", "Edge", "Problem", "Row", "Score", "Table"]

Table = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One plan of an op in form number `form`, with what it costs alone: cycles, and bytes on the fullest tile.

    Equal ops share their candidates, so that a candidate knows stages and no tensors. All operands of a stage arrive
    in one phase; `fetching` is the operand whose edge is charged with it, -1 where the host writes all: the first that
    is moved, of those that the plan does not take over where they lie. `code` is the exchange code of what the op moves
    by itself: partials, gathered weights, inputs.
    `resident` are weights and inputs that the host writes for this op, `result` its result, `temp` everything that
    lives only while the op runs.
    """

    form: int
    plan: Plan
    stages: tuple[Stage, ...]
    cycles: int
    resident: int
    result: int
    temp: int
    fetching: int = -1
    code: int = 0

    @property
    def layout(self) -> Layout:
        """Where the result rests."""
        return self.stages[-1].layout


@dataclass(frozen=True, eq=False)
class Edge:
    """Cycles of bringing one source of an operand from `producer` to `consumer` (variables), by their candidates.

    A producer of -1 is a tensor with a fixed layout: the table then has one row. `count` equal edges count together.
    `code` has the bytes of exchange code for the same pairs.
    """

    producer: int
    consumer: int
    table: Table
    count: int
    code: Table


@dataclass(frozen=True)
class Row:
    """Memory of one step: results live in it, as (variable, how many), and the variable whose op runs."""

    op: int
    variable: int
    live: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Score:
    """What a choice costs: estimated cycles, and the fullest step's bytes with its op."""

    cycles: int
    peak_bytes: int
    peak_op: int


@dataclass(eq=False)
class Problem:
    """One variable per op, or per position of a repeated layer: equal ops at equal positions share their plan.

    `variable[o]` is the variable of op o, `weight[v]` the number of ops that share variable v; its candidates were kept
    out of `combinations[v]` that were priced.
    """

    graph: TileGraph
    target: Target
    variable: list[int]
    weight: list[int]
    candidates: list[list[Candidate]]
    edges: list[Edge]
    rows: list[Row]
    fixed_bytes: int
    home: dict[int, tuple[int, int]]
    fixed: dict[int, Layout]
    combinations: list[int] = field(default_factory=list)

    def evaluate(self, choice: Sequence[int]) -> Score:
        """Cycles and memory of a choice (a candidate per variable), from the tables."""
        cycles = sum(w * self.candidates[v][choice[v]].cycles for v, w in enumerate(self.weight))
        for e in self.edges:
            cycles += e.count * int(e.table[choice[e.producer] if e.producer >= 0 else 0, choice[e.consumer]])
        resident = self.resident(choice)
        peak, at = resident, 0
        for row in self.rows:
            held = resident + self.candidates[row.variable][choice[row.variable]].temp
            held += sum(n * self.candidates[v][choice[v]].result for v, n in row.live)
            if held > peak:
                peak, at = held, row.op
        return Score(cycles, peak, at)

    def code_bytes(self, choice: Sequence[int]) -> int:
        """Exchange code of a choice in bytes, as estimated: the fullest tiles of all exchanges together. What repeated
        layers share is there once."""
        total = sum(c[i].code for c, i in zip(self.candidates, choice, strict=True))
        for e in self.edges:
            total += int(e.code[choice[e.producer] if e.producer >= 0 else 0, choice[e.consumer]])
        return total

    def at_code_price(self, price: float) -> "Problem":
        """The problem with every byte of exchange code as dear as `price` cycles."""
        candidates = [
            [replace(c, cycles=c.cycles + ceil(price * c.code / w)) for c in row]
            for row, w in zip(self.candidates, self.weight, strict=True)
        ]
        edges = [replace(e, table=e.table + np.ceil(price * e.code / e.count).astype(np.int64)) for e in self.edges]
        return replace(self, candidates=candidates, edges=edges)

    def resident(self, choice: Sequence[int]) -> int:
        """Bytes that are held from the first step to the last."""
        return self.fixed_bytes + sum(w * self.candidates[v][choice[v]].resident for v, w in enumerate(self.weight))
