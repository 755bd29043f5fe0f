"""The search for a placement on numbers alone: from exact reductions over bounds and hints to CP-SAT.

In this order: needless candidates fall (`dominance`); elimination gives the optimum without memory, which ends the
search if it fits; otherwise a greedy choice, prices of bytes for a bound and better choices (`lagrange`), candidates
that the bound excludes fall, windows on large problems, and CP-SAT on what is left, always, from the best choice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ipucc.passes.plan.dominance import Reduced, eliminate_dominated, settled
from ipucc.passes.plan.effort import Budget, Stop, never
from ipucc.passes.plan.eliminate import LIMIT, Elimination
from ipucc.passes.plan.greedy import greedy, repaired
from ipucc.passes.plan.lagrange import relax
from ipucc.passes.plan.numbers import FORBIDDEN, Choice, Numbers
from ipucc.passes.plan.windows import search_windows

__all__ = ["Found", "Heard", "Status", "search"]

Status = Literal["optimal", "feasible", "infeasible", "unknown", "interrupted"]
Heard = Callable[[str, int | None, int], None]

_LARGE = 300
"""Variables from which on windows are searched before the whole."""


@dataclass(frozen=True, eq=False)
class Found:
    """The best choice, None without one, with its cycles and a proven lower bound of them.

    "optimal": they are equal. "infeasible": proof that no choice fits. "unknown": none was found within the limits.
    """

    status: Status
    choice: Choice | None
    cycles: int | None
    bound: int


def search(
    numbers: Numbers, cap: int, budget: Budget, heard: Heard | None = None, stop: Stop = never, prove: bool = True
) -> Found:
    """The cheapest choice with at most `cap` bytes in every row, as far as the budget goes. Without `prove` CP-SAT is
    left out where the gap is small enough before it.

    `heard` gets phase, objective and bound as they change. Once `stop` says so, the best so far is returned as
    "interrupted".
    """
    return _Search(numbers, cap, budget, heard or (lambda phase, objective, bound: None), stop, prove).run()


class _Search:
    """The state of one search: the problem as far as it is reduced, the best choice in it, and the bound."""

    def __init__(
        self, numbers: Numbers, cap: int, budget: Budget, heard: Heard, stop: Stop, prove: bool
    ) -> None:  # fmt: skip
        self.whole, self.cap, self.budget, self.heard, self.stop = numbers, cap, budget, heard, stop
        self.prove = prove
        self.layers: list[Reduced] = []
        self.now = numbers
        self.best: Choice | None = None
        self.cycles: int | None = None
        self.bound = 0

    def run(self) -> Found:
        self._tell("dominance")
        if not self._reduce():
            return Found("infeasible", None, None, 0)
        self._eliminated()
        if self.bound >= FORBIDDEN:
            return Found("infeasible", None, None, 0)
        if not self._proved():
            self._tell("greedy")
            self._offer(greedy(self.now, self.cap, self.stop))
            if self.best is None and not self.stop():
                from ipucc.passes.plan.cpsat import leanest  # ortools: imported only where it runs

                self._tell("memory")
                lean = leanest(self.now, self.budget.first_time + self.budget.shared_time, self.stop)
                if lean.bound > self.cap:
                    return Found("infeasible", None, None, 0)
                if lean.choice is not None and lean.objective <= self.cap:
                    self._offer(repaired(self.now, lean.choice, np.zeros(self.now.base.size, np.int64), self.cap))
            if not self._proved() and not self.stop():
                self._relaxed()
            if self.now.size > _LARGE and self.best is not None and not self._enough() and not self.stop():
                self._windows()
        return self._solved() if self.prove or not self._enough() else self._found()

    def _reduce(self) -> bool:
        reduced = eliminate_dominated(self.now, self.cap)
        if reduced is None:
            return False
        if self.best is not None:
            self.best = reduced.reduced(self.best)
        self.layers.append(reduced)
        self.now = settled(reduced.numbers)
        self._offer(self.best)
        return True

    def _eliminated(self) -> None:
        """The optimum without memory: a bound, and the answer if it fits."""
        self._tell("eliminate")
        elimination = Elimination(self.now, LIMIT)
        value, choice = elimination.solve(self.now.cycles)
        self.bound = value + self.now.constant
        if self.now.peak(choice) <= self.cap:
            self._offer(choice)

    def _relaxed(self) -> None:
        self._tell("lagrange")

        def improved(objective: int | None, bound: int) -> None:
            self.heard("lagrange", objective, max(bound, self.bound))

        found = relax(self.now, self.cap, self.best, self.budget.rounds, improved, self.stop)
        self.bound = max(self.bound, found.bound)
        self._offer(found.choice)
        if self.best is None or self.cycles is None or self._proved():
            return
        kept = found.promising(self.now, self.cap, self.best, self.cycles)
        if kept is not None:
            self.layers.append(kept)
            self.best = kept.reduced(self.best)
            self.now = kept.numbers
            self._reduce()

    def _windows(self) -> None:
        assert self.best is not None
        self._tell("windows")
        self._offer(
            search_windows(
                self.now, self.cap, self.best, self.budget.passes, self.budget.window_time,
                lambda cycles: self.heard("windows", cycles, self.bound), self.stop,
            )
        )  # fmt: skip

    def _solved(self) -> Found:
        """CP-SAT on what is left."""
        from ipucc.passes.plan.cpsat import solve  # ortools: imported only where it runs

        if self.bound >= FORBIDDEN:
            return Found("infeasible", None, None, 0)
        for workers, limit in ((1, self.budget.first_time), (8, self.budget.shared_time)):
            if self.stop() or not limit:
                break
            self._tell("cpsat")
            found = solve(
                self.now, self.cap, self.best, limit, bound=self.bound, workers=workers, heard=self._searching,
                stop=self.stop,
            )  # fmt: skip
            if found.status == "infeasible":
                # Nothing lies between bound and hint, the hint included: only without one is that an answer.
                if self.best is None:
                    return Found("infeasible", None, None, 0)
                raise RuntimeError("the model of the placement excludes the choice that it was given")
            self.bound = max(self.bound, found.bound)
            self._offer(found.choice)
            # Whole large models are searched once, for a bound: eight strategies would spend the time on themselves.
            if self._proved() or self._enough() or self.now.size > _LARGE:
                break
        return self._found()

    def _searching(self, objective: int | None, bound: int) -> None:
        known = [x for x in (objective, self.cycles) if x is not None]
        self.heard("cpsat", min(known, default=None), max(bound, self.bound))

    def _found(self) -> Found:
        choice = self.best
        if choice is not None:
            for layer in reversed(self.layers):
                choice = layer.original(choice)
        status: Status = "optimal" if self._proved() else "feasible" if choice is not None else "unknown"
        if self.stop() and status != "optimal":
            status = "interrupted"
        self._tell("done")
        return Found(status, choice, self.cycles, self.bound)

    def _offer(self, choice: Choice | None) -> None:
        if choice is None:
            return
        cycles = self.now.cost(choice)
        if cycles < FORBIDDEN and (self.cycles is None or cycles < self.cycles or self.best is None):
            self.best, self.cycles = choice, cycles

    def _proved(self) -> bool:
        return self.cycles is not None and self.bound >= self.cycles

    def _enough(self) -> bool:
        return self.cycles is not None and self.cycles - self.bound <= self.budget.enough * self.cycles

    def _tell(self, phase: str) -> None:
        self.heard(phase, self.cycles, self.bound)
