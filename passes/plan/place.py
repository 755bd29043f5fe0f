"""The place step: chooses one plan per op for the whole graph."""

from dataclasses import dataclass, field
from typing import Literal

from ipucc.passes.plan.effort import BUDGETS, Effort, Listen, Progress, Stop, never
from ipucc.passes.plan.greedy import greedy
from ipucc.passes.plan.numbers import Numbers
from ipucc.passes.plan.problem import Candidate, Problem
from ipucc.passes.plan.room import More, not_found, too_large
from ipucc.passes.plan.search import Found, Status, search
from ipucc.tiles.layout import Layout

__all__ = ["Placement", "Solver", "place"]

Solver = Literal["cpsat", "greedy"]


@dataclass(frozen=True, eq=False)
class Placement:
    """The chosen candidate of every variable (`choice`) and op (`chosen`), and how good the choice is: status,
    objective and bound in cycles, gap. `cap` is what the plans may take of a tile. `fixed` is where the tensors rest
    that no op gives a home, as in the problem."""

    problem: Problem
    choice: tuple[int, ...]
    chosen: tuple[Candidate, ...]
    solver: str
    status: str
    objective: int
    bound: int
    peak_bytes: int
    cap: int
    fixed: dict[int, Layout] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """(objective - bound) / objective; 0 is a proof."""
        return (self.objective - self.bound) / self.objective if self.objective else 0.0


def place(
    problem: Problem,
    cap: int,
    solver: Solver,
    effort: Effort,
    priced: Problem | None = None,
    *,
    progress: Listen | None = None,
    stop: Stop = never,
    more: More | None = None,
) -> Placement:
    """Plans for all ops within `cap` bytes per tile. Raises IPU0402 (with the fullest step) where there are none,
    IPU0405 where none was found. `more` makes the problem with more plans, to say whether that would help.

    `priced` is the same problem with surcharges, for which the plans are chosen; they are reported at their own cost,
    and no bound is known then: the search ends where its gap is small enough. `progress` hears of every phase and of
    what it has found. Once `stop` says so, the best choice so far is returned with the status "interrupted";
    KeyboardInterrupt is raised where there is none yet.
    """
    numbers = Numbers.of(problem if priced is None else priced)

    def heard(phase: str, objective: int | None, bound: int) -> None:
        if progress is not None:
            progress(Progress(phase, objective, bound))

    if solver == "greedy":
        heard("greedy", None, 0)
        made = greedy(numbers, cap, stop)
        status: Status = "interrupted" if stop() else "feasible" if made is not None else "unknown"
        found = Found(status, made, None, 0)
    else:
        found = search(numbers, cap, BUDGETS[effort], heard, stop, priced is None)
    if found.choice is None:
        if found.status == "interrupted":
            raise KeyboardInterrupt
        if found.status == "infeasible":
            raise too_large(problem, cap, more)
        raise not_found(problem, cap)
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
        problem, choice, chosen, solver, status, score.cycles, min(bound, score.cycles), score.peak_bytes, cap,
        problem.fixed,
    )  # fmt: skip
