"""Which form each layer takes under one budget of cycles: a multiple-choice knapsack, solved exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Allocation", "Form", "allocate"]

_RESOLUTION: Final = 10**9
"""Steps in which the losses of all layers together are counted."""


@dataclass(frozen=True)
class Form:
    """A form that a layer may take: what is lost by it, and the cycles that it takes."""

    loss: float
    cycles: int


@dataclass(frozen=True)
class Allocation:
    """One form per layer, by its index. `bound` is a loss that no other choice within the budget can be below."""

    chosen: tuple[int, ...]
    loss: float
    cycles: int
    bound: float

    @property
    def gap(self) -> float:
        """(loss - bound) / loss; 0 where nothing is lost."""
        return max(0.0, self.loss - self.bound) / self.loss if self.loss else 0.0


def allocate(layers: Sequence[Sequence[Form]], budget: int, limit: float = 20.0) -> Allocation | None:
    """The forms of least loss whose cycles sum to at most `budget`; None where there are none.

    Solved by CP-SAT within `limit` of deterministic time: the same answer on any machine. The optimum as a rule (the
    bound then differs from the loss by rounding alone); where time runs out, the best found and its bound.
    """
    offered = [_useful(forms) for forms in layers]
    if any(not forms for forms in offered):
        return None
    if sum(layers[i][forms[-1]].cycles for i, forms in enumerate(offered)) > budget:
        return None
    most = sum(layers[i][forms[-1]].loss for i, forms in enumerate(offered))
    from ortools.sat.python import cp_model  # imported only where it runs

    model = cp_model.CpModel()
    picks = [[model.new_bool_var(f"{i}.{f}") for f in forms] for i, forms in enumerate(offered)]
    flat = [(picks[i][j], layers[i][f]) for i, forms in enumerate(offered) for j, f in enumerate(forms)]
    # Losses are counted in steps of the largest sum that there is.
    steps = [round(form.loss / most * _RESOLUTION) if most > 0 else 0 for _, form in flat]
    for row in picks:
        model.add_exactly_one(row)
    variables = [pick for pick, _ in flat]
    model.add(cp_model.LinearExpr.weighted_sum(variables, [form.cycles for _, form in flat]) <= budget)
    model.minimize(cp_model.LinearExpr.weighted_sum(variables, steps))
    # Forms stand by falling cycles. The leanest fit: where time runs out before anything is found, they are the answer.
    for row in picks:
        for j, pick in enumerate(row):
            model.add_hint(pick, j == len(row) - 1)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.max_deterministic_time = limit
    status = solver.solve(model)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        at = [next(j for j, pick in enumerate(row) if solver.boolean_value(pick)) for row in picks]
    else:
        at = [len(row) - 1 for row in picks]
    chosen = tuple(forms[j] for forms, j in zip(offered, at, strict=True))
    taken = [layers[i][f] for i, f in enumerate(chosen)]
    loss = sum(form.loss for form in taken)
    # Every layer's loss was rounded by at most half a step.
    bound = max(0.0, (solver.best_objective_bound - 0.5 * len(layers)) / _RESOLUTION * most)
    return Allocation(chosen, loss, sum(form.cycles for form in taken), min(loss, bound))


def _useful(forms: Sequence[Form]) -> list[int]:
    """The forms that no other beats in both loss and cycles, by falling cycles; of equal ones the first."""
    found: list[int] = []
    for f in sorted(range(len(forms)), key=lambda f: (forms[f].loss, forms[f].cycles, f)):
        if not found or forms[f].cycles < forms[found[-1]].cycles:
            found.append(f)
    return found
