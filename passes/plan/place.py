"""The place step: chooses one plan per op for the whole graph."""

from dataclasses import dataclass
from typing import Literal

from ipucc.diagnostics import CompileError, error
from ipucc.ops.graph import TileGraph
from ipucc.passes.plan.effort import BUDGETS, Effort, Listen, Progress, Stop, never
from ipucc.passes.plan.greedy import greedy
from ipucc.passes.plan.numbers import Numbers
from ipucc.passes.plan.problem import Candidate, Problem
from ipucc.passes.plan.search import Found, search

__all__ = ["Placement", "Solver", "place"]

Solver = Literal["cpsat", "greedy"]


@dataclass(frozen=True, eq=False)
class Placement:
    """The chosen candidate of every variable (`choice`) and op (`chosen`), and how good the choice is: status,
    objective and bound in cycles, gap. `cap` is what the plans may take of a tile."""

    problem: Problem
    choice: tuple[int, ...]
    chosen: tuple[Candidate, ...]
    solver: str
    status: str
    objective: int
    bound: int
    peak_bytes: int
    cap: int

    @property
    def gap(self) -> float:
        """(objective - bound) / objective; 0 is a proof."""
        return (self.objective - self.bound) / self.objective if self.objective else 0.0


def place(
    graph: TileGraph,
    problem: Problem,
    cap: int,
    solver: Solver,
    effort: Effort,
    priced: Problem | None = None,
    *,
    progress: Listen | None = None,
    stop: Stop = never,
) -> Placement:
    """Plans for all ops within `cap` bytes per tile. Raises IPU0402 (with the fullest step) where there are none.

    `priced` is the same problem with surcharges, for which the plans are chosen; they are reported at their own cost,
    and no bound is known then. `progress` hears of every phase and of what it has found. Once `stop` says so, the best
    choice so far is returned with the status "interrupted"; KeyboardInterrupt is raised where there is none yet.
    """
    numbers = Numbers.of(problem if priced is None else priced)

    def heard(phase: str, objective: int | None, bound: int) -> None:
        if progress is not None:
            progress(Progress(phase, objective, bound))

    if solver == "greedy":
        heard("greedy", None, 0)
        made = greedy(numbers, cap)
        found = Found("feasible" if made is not None else "infeasible", made, None, 0)
    else:
        found = search(numbers, cap, BUDGETS[effort], heard, stop)
    if found.choice is None:
        if found.status == "interrupted":
            raise KeyboardInterrupt
        raise _too_large(graph, problem, cap)
    choice = tuple(found.choice.tolist())
    # The plain cost function has the last word.
    score = problem.evaluate(choice)
    if score.peak_bytes > cap or (priced is None and found.cycles not in (None, score.cycles)):
        raise RuntimeError(f"a placement of {found.cycles} cycles costs {score}")
    status, bound = found.status, found.bound
    if priced is not None:
        status, bound = "interrupted" if status == "interrupted" else "feasible", 0
    chosen = tuple(problem.candidates[v][choice[v]] for v in problem.variable)
    return Placement(
        problem, choice, chosen, solver, status, score.cycles, min(bound, score.cycles), score.peak_bytes, cap
    )


def _too_large(graph: TileGraph, problem: Problem, cap: int) -> CompileError:
    """What does not fit, where, by how much, and what would help."""
    least = [min(range(len(c)), key=lambda i: (c[i].resident + c[i].result + c[i].temp, i)) for c in problem.candidates]
    score = problem.evaluate(least)
    op = graph.ops[score.peak_op]
    here = problem.candidates[problem.variable[score.peak_op]][least[problem.variable[score.peak_op]]]
    resident = problem.resident(least)
    row = next(r for r in problem.rows if r.op == score.peak_op)
    names = {v: graph.ops[problem.variable.index(v)].name for v, _ in row.live}
    alive = [(n * problem.candidates[v][least[v]].result, names[v]) for v, n in row.live]
    alive.sort(reverse=True)
    tensors = ", ".join(f"{name} {size:,} B" for size, name in alive[:4])
    return error(
        "IPU0402",
        f"tile 0 needs {score.peak_bytes:,} bytes in step {score.peak_op} and has {cap:,} for data",
        node=op.origin[0] if op.origin else op.name,
        op=op.kind,
        notes=[
            f"weights and inputs {resident:,} B, live tensors {sum(s for s, _ in alive):,} B, "
            f"temporaries {here.temp:,} B",
            f"largest live tensors: {tensors}",
        ],
        help=[
            "--precision fp16 halves weights and activations of a float32 model",
            "--block 16 --density 0.25 keeps a quarter of the weights of linear layers",
            "a smaller batch or sequence (--input-shape, --dim)",
        ],
        data={"tile": 0, "step": score.peak_op, "needed": score.peak_bytes, "limit": cap},
    )
