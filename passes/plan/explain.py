"""Why an op has the plan that it has: every candidate next to what the other ops have chosen.

A candidate is judged alone, all other choices fixed: its own cycles, the edges to the chosen plans of its neighbours,
and the bytes of the fullest step. Ops that share a variable (equal ops of repeated layers) change together, so their
cycles are added up.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ipucc.diagnostics import CompileError, JsonValue, error
from ipucc.ops.graph import TileGraph
from ipucc.ops.printing import plan_text
from ipucc.passes.plan.dominance import eliminate_dominated
from ipucc.passes.plan.numbers import FORBIDDEN, Numbers
from ipucc.passes.plan.place import Placement

__all__ = ["Considered", "Explanation", "Neighbour", "Tightest", "explain", "select_in_parts", "select_ops"]

Verdict: TypeAlias = Literal["chosen", "equal", "slower", "faster", "too large", "excluded"]
Role: TypeAlias = Literal["from", "to"]
Cycles: TypeAlias = NDArray[np.int64]

_LARGEST: Final = 5


@dataclass(frozen=True)
class Neighbour:
    """An op whose plan an op's edges depend on, `from` which it reads or `to` which it gives. `cycles` are those of
    the edges between the two in the placement. A neighbour without a plan is a tensor with a fixed layout."""

    name: str
    role: Role
    plan: str
    cycles: int


@dataclass(frozen=True)
class Considered:
    """One candidate in the place of the chosen one. `cycles` are the op's own, `edges` those to and from every
    neighbour, in the order of `Explanation.neighbours`; `total` is their sum, and `difference` what it is more than
    that of the chosen candidate. The other figures are bytes: what one op takes of the fullest tile, and what all ops
    take in the fullest step (`peak_step`), of which placement may use `Explanation.cap`.

    `eliminated` says why no search needs the candidate, whatever the other ops choose; empty for one that it needs.
    """

    plan: str
    verdict: Verdict
    reason: str
    cycles: int
    edges: tuple[int, ...]
    total: int
    difference: int
    resident_bytes: int
    result_bytes: int
    temporary_bytes: int
    peak_bytes: int
    peak_step: str
    eliminated: str


@dataclass(frozen=True)
class Tightest:
    """The step in which the op's plan meets least free memory: all weights and inputs, the results that are alive (the
    largest by name), and the temporaries of the op that runs."""

    step: str
    bytes: int
    resident_bytes: int
    live_bytes: int
    temporary_bytes: int
    largest: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Explanation:
    """The candidates of one op, the chosen one first, then by their cycles in context, those that do not fit last.

    `alike` ops share the plan, and cycles are those of all of them. `combinations` were priced, of which the
    candidates were kept.
    """

    op: str
    kind: str
    nodes: tuple[str, ...]
    alike: int
    combinations: int
    cap: int
    neighbours: tuple[Neighbour, ...]
    tightest: Tightest
    candidates: tuple[Considered, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """The explanation as plain JSON values."""
        t = self.tightest
        return {
            "op": self.op,
            "kind": self.kind,
            "nodes": list(self.nodes),
            "alike": self.alike,
            "combinations": self.combinations,
            "kept": len(self.candidates),
            "cap_bytes": self.cap,
            "neighbours": [
                {"name": n.name, "role": n.role, "plan": n.plan, "cycles": n.cycles} for n in self.neighbours
            ],
            "tightest": {
                "step": t.step, "bytes": t.bytes, "resident_bytes": t.resident_bytes, "live_bytes": t.live_bytes,
                "temporary_bytes": t.temporary_bytes, "largest": [{"name": n, "bytes": b} for n, b in t.largest],
            },
            "candidates": [
                {
                    "plan": c.plan, "verdict": c.verdict, "reason": c.reason, "cycles": c.cycles,
                    "edges": list(c.edges), "total": c.total, "difference": c.difference,
                    "resident_bytes": c.resident_bytes, "result_bytes": c.result_bytes,
                    "temporary_bytes": c.temporary_bytes, "peak_bytes": c.peak_bytes, "peak_step": c.peak_step,
                    "eliminated": c.eliminated,
                }
                for c in self.candidates
            ],
        }  # fmt: skip


def select_ops(graph: TileGraph, wanted: Sequence[str], nodes: Iterable[str] = ()) -> list[int]:
    """Positions of the ops that names or patterns (`*`, `?`, `[...]`) stand for, in running order, each once.

    A name is that of an op or of an ONNX node that it comes from. Raises IPU0615 with all names that stand for
    nothing; `nodes` are the nodes of the graph level, of which some need no op.
    """
    return select_in_parts([graph], wanted, nodes)[0]


def select_in_parts(graphs: Sequence[TileGraph], wanted: Sequence[str], nodes: Iterable[str] = ()) -> list[list[int]]:
    """`select_ops` in each of the parts of a model: a name stands for an op of one of them at least."""
    hits = {text: [[i for i, op in enumerate(graph.ops) if any(_stands_for(text, n) for n in (op.name, *op.origin))]
                   for graph in graphs] for text in wanted}  # fmt: skip
    unknown = [text for text in wanted if not any(hits[text])]
    if unknown:
        known = dict.fromkeys(name for graph in graphs for op in graph.ops for name in (op.name, *op.origin))
        others = set(nodes)
        raise CompileError([_unknown(text, list(known), others).diagnostics[0] for text in unknown])
    return [sorted({i for text in wanted for i in hits[text][p]}) for p in range(len(graphs))]


def _stands_for(pattern: str, name: str) -> bool:
    # Names may have brackets themselves.
    return pattern == name or fnmatchcase(name, pattern)


def _unknown(text: str, known: list[str], nodes: set[str]) -> CompileError:
    if text in nodes:
        return error(
            "IPU0615", f"the node {text!r} has no plan: it computes nothing of its own, or nothing that is used",
            help=["views (reshape, transpose, slice, ...) are part of how the next op reads its operand"],
        )  # fmt: skip
    close = difflib.get_close_matches(text, known, n=3)
    help = [f"did you mean {' or '.join(map(repr, close))}?"] if close else []
    return error(
        "IPU0615", f"no op and no node is called {text!r}, or matches it",
        help=[*help, "--emit placement lists the ops; nodes may have been fused into others, or folded"],
    )  # fmt: skip


def explain(placement: Placement, ops: Sequence[int]) -> tuple[Explanation, ...]:
    """The candidates of some ops (positions in the graph)."""
    context = _Context(placement)
    return tuple(context.op(o) for o in ops)


class _Context:
    """The chosen placement in numbers."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.problem = placement.problem
        self.graph = placement.problem.graph
        self.choice = np.asarray(placement.choice, np.int64)
        self.numbers = Numbers.of(self.problem)
        self.usage = self.numbers.usage(self.choice)
        reduced = eliminate_dominated(self.numbers, placement.cap)
        assert reduced is not None  # the placement fits
        self.replacement = reduced.replacement
        self.ops: list[list[int]] = [[] for _ in self.problem.candidates]
        for o, v in enumerate(self.problem.variable):
            self.ops[v].append(o)

    def op(self, o: int) -> Explanation:
        """The candidates of an op."""
        v = self.problem.variable[o]
        op = self.graph.ops[o]
        sides = self._sides(o)
        own = self.problem.weight[v] * np.asarray([c.cycles for c in self.problem.candidates[v]], np.int64)
        here = int(self.choice[v])
        considered = [self._candidate(v, q, own, sides) for q in range(own.size)]
        order = sorted(range(own.size), key=lambda q: (
            q != here, considered[q].verdict in ("too large", "excluded"), considered[q].total, q
        ))  # fmt: skip
        neighbours = tuple(Neighbour(s.name, s.role, s.plan, int(s.cycles[here])) for s in sides)
        return Explanation(
            op.name, op.kind, op.origin, self.problem.weight[v], self.problem.combinations[v], self.placement.cap,
            neighbours, self._tightest(v), tuple(considered[q] for q in order),
        )  # fmt: skip

    def _sides(self, o: int) -> "list[_Side]":
        """The neighbours of an op's variable, those that it reads from first."""
        v = self.problem.variable[o]
        found: dict[tuple[int, Role], Cycles] = {}
        for e in self.problem.edges:
            role: Role = "from" if e.consumer == v else "to"
            if e.consumer == v and e.producer == v:
                # The same op of the next layer: both ends change together.
                other, cycles = v, np.diagonal(e.table)
            elif e.consumer == v:
                other, cycles = e.producer, e.table[self.choice[e.producer] if e.producer >= 0 else 0]
            elif e.producer == v:
                other, cycles = e.consumer, e.table[:, self.choice[e.consumer]]
            else:
                continue
            more = e.count * np.minimum(cycles, FORBIDDEN)
            found[other, role] = found[other, role] + more if (other, role) in found else more
        sides = [self._side(o, other, role, cycles) for (other, role), cycles in found.items()]
        return sorted(sides, key=lambda side: side.role != "from")

    def _side(self, o: int, other: int, role: Role, cycles: Cycles) -> "_Side":
        if other < 0:
            return _Side("tensors with a fixed layout", role, "", cycles)
        # Of the ops that share a variable, the nearest on the right side in running order stands for all.
        op = self.graph.ops[min(self.ops[other], key=lambda x: ((x < o) != (role == "from"), abs(x - o)))]
        return _Side(op.name, role, plan_text(op, self.problem.candidates[other][int(self.choice[other])]), cycles)

    def _candidate(self, v: int, q: int, own: Cycles, sides: "list[_Side]") -> Considered:
        here = int(self.choice[v])
        candidate = self.problem.candidates[v][q]
        op = self.graph.ops[self.ops[v][0]]
        edges = tuple(int(s.cycles[q]) for s in sides)
        total = int(own[q]) + sum(edges)
        difference = total - int(own[here]) - sum(int(s.cycles[here]) for s in sides)
        peak, step = self._peak(v, q)
        parts = [("of its own", int(own[q] - own[here]))]
        parts += [(f"exchange {s.role} {s.name}", int(s.cycles[q] - s.cycles[here])) for s in sides]
        over = peak - self.placement.cap
        excluding = next((s for s in sides if s.cycles[q] >= FORBIDDEN), None)
        verdict, reason = _verdict(q == here, difference, parts, over, step, excluding)
        return Considered(
            plan_text(op, candidate), verdict, reason, int(own[q]), edges, total, difference, int(candidate.resident),
            int(candidate.result), int(candidate.temp), peak, step, self._eliminated(v, q),
        )  # fmt: skip

    def _eliminated(self, v: int, q: int) -> str:
        by = int(self.replacement[v][q])
        if by == q:
            return ""
        if by < 0:
            return "never fits"
        return f"needless beside {plan_text(self.graph.ops[self.ops[v][0]], self.problem.candidates[v][by])}"

    def _peak(self, v: int, q: int) -> tuple[int, str]:
        """Bytes of the fullest step with candidate `q` in the place of the chosen one, and the step."""
        here = int(self.choice[v])
        used = self.usage + (self.numbers.resident[v][q] - self.numbers.resident[v][here])
        rows, held = self.numbers.uses(v)
        used[rows] += held[q] - held[here]
        at = int(used.argmax())
        return int(used[at]), self._step(at)

    def _step(self, row: int) -> str:
        rows = self.problem.rows
        return self.graph.ops[rows[row].op].name if row < len(rows) else "any"

    def _tightest(self, v: int) -> Tightest:
        """The fullest of the steps that the variable has a share in beyond its resident bytes."""
        rows, _ = self.numbers.uses(v)
        at = int(rows[self.usage[rows].argmax()])
        row = self.problem.rows[at]
        chosen = [c[int(p)] for c, p in zip(self.problem.candidates, self.choice, strict=True)]
        live = [(self.graph.ops[self.ops[u][0]].name, n * int(chosen[u].result)) for u, n in row.live]
        live.sort(key=lambda item: -item[1])
        return Tightest(
            self._step(at), int(self.usage[at]), self.problem.resident(self.placement.choice),
            sum(size for _, size in live), int(chosen[row.variable].temp), tuple(live[:_LARGEST]),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Side:
    """A neighbour and the cycles of the edges to it, by candidate."""

    name: str
    role: Role
    plan: str
    cycles: Cycles


def _verdict(
    chosen: bool, difference: int, parts: Sequence[tuple[str, int]], over: int, step: str, excluding: "_Side | None"
) -> tuple[Verdict, str]:
    if chosen:
        return "chosen", "the chosen one"
    if excluding is not None:
        return "excluded", f"cannot stand beside {excluding.plan} of {excluding.name}"
    if over > 0:
        saved = f"{difference:+,} cycles, but it " if difference < 0 else ""
        return "too large", f"{saved}does not fit: step {step} exceeds by {over:,} B"
    if difference > 0:
        worst, more = max(parts, key=lambda part: part[1])
        return "slower", f"{difference:+,} cycles: {more:+,} {worst}"
    if difference < 0:
        return "faster", f"{difference:+,} cycles by the estimate: the search ended before, or its code did not fit"
    return "equal", "as good as the chosen one"
