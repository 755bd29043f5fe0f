"""The placement as one CP-SAT model: a boolean per op and plan, a conditional cost per pair, a memory row per step.

Deterministic by construction: fixed workers and seed, deterministic time, models built from ordered lists. Whatever
the search makes of its time, the caller keeps the choice it started from.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from ipucc.passes.plan.effort import Stop, never
from ipucc.passes.plan.numbers import FORBIDDEN, Choice, Numbers, Table, Vec

__all__ = ["Solution", "leanest", "solve"]

_POLL_SECONDS = 0.05

_STATUS = {
    cp_model.OPTIMAL: "optimal",
    cp_model.FEASIBLE: "feasible",
    cp_model.INFEASIBLE: "infeasible",
    cp_model.UNKNOWN: "unknown",
    cp_model.MODEL_INVALID: "invalid",
}

Picks = list[list[cp_model.IntVar]]
Heard = Callable[[int | None, int], None]


@dataclass(frozen=True)
class Solution:
    """A choice (None without one), the solver's status, and its objective and lower bound."""

    choice: Choice | None
    status: str
    objective: int
    bound: int


def solve(
    numbers: Numbers,
    cap: int,
    hint: Choice | None,
    limit: float,
    *,
    bound: int = 0,
    workers: int = 1,
    heard: Heard | None = None,
    stop: Stop = never,
) -> Solution:
    """Minimise cycles with at most `cap` bytes in every row. `limit` is deterministic time, not seconds.

    `hint` is a choice within the cap and `bound` a proven lower bound of the cycles; what lies outside of the two is
    not searched. More than one of the `workers` take turns, so that the answer is the same on any machine. `heard`
    hears of new objectives (None before the first) and bounds while the search goes on; `stop` ends it.
    """
    model = cp_model.CpModel()
    pick = _picks(model, numbers)
    variables: list[cp_model.IntVar] = []
    weights: list[int] = []
    for row, cycles in zip(pick, numbers.cycles, strict=True):
        variables += row
        weights += cycles.tolist()
    for e, p in enumerate(numbers.pairs):
        table, start, to = _exclude(model, pick, p.first, p.second, p.table), pick[p.first], pick[p.second]
        cost = model.new_int_var(0, int(table.max()), f"c{e}")
        for i, row in enumerate(table.tolist()):
            if any(row):
                model.add(cost >= cp_model.LinearExpr.weighted_sum(to, row)).only_enforce_if(start[i])
        for near, least in ((start, table.min(axis=1)), (to, table.min(axis=0))):
            if least.any():
                model.add(cost >= cp_model.LinearExpr.weighted_sum(near, least.tolist()))
        variables.append(cost)
        weights.append(1)
        if hint is not None:
            model.add_hint(cost, int(table[hint[p.first], hint[p.second]]))
    held = _memory(model, numbers, pick, [cap - b for b in numbers.base.tolist()], None)
    model.minimize(cp_model.LinearExpr.weighted_sum(variables, weights))
    most = numbers.cost(hint) if hint is not None else FORBIDDEN
    model.proto.objective.domain.extend([max(0, bound - numbers.constant), most - numbers.constant])
    if hint is not None:
        _hint(model, pick, hint)
        for var, values, v in held:
            model.add_hint(var, int(values[hint[v]]) if v >= 0 else _resident(numbers, hint))
    status, solver = _run(model, limit, workers, heard, numbers.constant, stop)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solution(None, _STATUS[status], 0, bound)
    choice = _chosen(solver, pick)
    # An edge's cost variable may stand above its table: the objective is that of the choice.
    proven = max(bound, round(solver.best_objective_bound) + numbers.constant)
    return Solution(choice, _STATUS[status], numbers.cost(choice), proven)


def leanest(numbers: Numbers, limit: float, stop: Stop = never) -> Solution:
    """The choice with the least bytes in its fullest row; objective and bound are bytes."""
    model = cp_model.CpModel()
    pick = _picks(model, numbers)
    for p in numbers.pairs:
        if (p.table >= FORBIDDEN).any():
            _exclude(model, pick, p.first, p.second, p.table)
    low, high = numbers.extremes()
    peak = model.new_int_var(int(low.max(initial=0)), int(high.max(initial=0)), "peak")
    _memory(model, numbers, pick, (-numbers.base).tolist(), peak)
    model.minimize(peak)
    least = [int((r + h + t).argmin()) for r, h, t in zip(numbers.resident, numbers.result, numbers.temp, strict=True)]
    _hint(model, pick, np.asarray(least, np.int64))
    status, solver = _run(model, limit, 1, None, 0, stop)
    bound = int(low.max(initial=0))
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solution(None, _STATUS[status], 0, bound)
    choice = _chosen(solver, pick)
    return Solution(choice, _STATUS[status], numbers.peak(choice), max(bound, round(solver.best_objective_bound)))


def _picks(model: cp_model.CpModel, numbers: Numbers) -> Picks:
    pick = [[model.new_bool_var(f"x{v}_{p}") for p in range(c.size)] for v, c in enumerate(numbers.cycles)]
    for row in pick:
        model.add_exactly_one(row)
    return pick


def _exclude(model: cp_model.CpModel, pick: Picks, first: int, second: int, table: Table) -> Table:
    """Forbids what a table forbids; returns the table without it."""
    forbidden = table >= FORBIDDEN
    for i in np.flatnonzero(forbidden.any(axis=1)).tolist():
        allowed = [pick[second][j] for j in np.flatnonzero(~forbidden[i]).tolist()]
        model.add_bool_or([~pick[first][i], *allowed])
    return np.where(forbidden, 0, table)


def _memory(
    model: cp_model.CpModel, numbers: Numbers, pick: Picks, room: Sequence[int], peak: cp_model.IntVar | None
) -> list[tuple[cp_model.IntVar, Vec, int]]:
    """In every row, resident bytes, living results and what lives while the op runs stay within its room, plus `peak`.

    Returns the auxiliary variables, each with its value by the candidate of a variable; -1 is the sum of all resident.
    """
    if not numbers.base.size:
        return []
    made = []
    resident = [(x, n) for row, c in zip(pick, numbers.resident, strict=True)
                for x, n in zip(row, c.tolist(), strict=True) if n]  # fmt: skip
    most = sum(int(c.max()) for c in numbers.resident)
    total = model.new_int_var(0, most, "resident")
    model.add(total == cp_model.LinearExpr.weighted_sum([x for x, _ in resident], [n for _, n in resident]))
    made.append((total, np.zeros(0, np.int64), -1))
    terms: list[list[tuple[cp_model.IntVar, int]]] = [[(total, 1)] for _ in room]
    held: dict[int, cp_model.IntVar] = {}
    for v, r, n, runs in zip(
        numbers.use_variable.tolist(), numbers.use_row.tolist(), numbers.use_count.tolist(),
        numbers.use_runs.tolist(), strict=True,
    ):  # fmt: skip
        sizes = numbers.result[v]
        if n and v not in held:
            held[v] = model.new_int_var(int(sizes.min()), int(sizes.max()), f"held{v}")
            model.add(held[v] == cp_model.LinearExpr.weighted_sum(pick[v], sizes.tolist()))
            made.append((held[v], sizes, v))
        if n:
            terms[r].append((held[v], n))
        if runs:
            terms[r] += [(x, b) for x, b in zip(pick[v], numbers.temp[v].tolist(), strict=True) if b]
    for row, space in zip(terms, room, strict=True):
        row += [(peak, -1)] if peak is not None else []
        model.add(cp_model.LinearExpr.weighted_sum([x for x, _ in row], [n for _, n in row]) <= space)
    return made


def _resident(numbers: Numbers, choice: Choice) -> int:
    return sum(int(c[p]) for c, p in zip(numbers.resident, choice, strict=True))


def _hint(model: cp_model.CpModel, pick: Picks, choice: Choice) -> None:
    for row, p in zip(pick, choice.tolist(), strict=True):
        for i, x in enumerate(row):
            model.add_hint(x, int(i == p))


def _chosen(solver: cp_model.CpSolver, pick: Picks) -> Choice:
    return np.asarray([next(i for i, x in enumerate(row) if solver.boolean_value(x)) for row in pick], np.int64)


class _Watch(cp_model.CpSolverSolutionCallback):
    """Keeps the objective of the latest solution."""

    def __init__(self) -> None:
        super().__init__()
        self.objective: int | None = None

    def on_solution_callback(self) -> None:
        self.objective = round(self.objective_value)


def _run(
    model: cp_model.CpModel, limit: float, workers: int, heard: Heard | None, constant: int, stop: Stop
) -> tuple[cp_model.CpSolverStatus, cp_model.CpSolver]:
    """Solves in a thread, while this one reports and asks `stop`.

    What is seen on the way depends on the machine; the answer does not, unless it was stopped.
    """
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = workers
    solver.parameters.interleave_search = workers > 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = limit
    # Probing may spend the whole time before the first solution.
    solver.parameters.cp_model_probing_level = 0
    # A search in this thread would hold back the signal handler that makes `stop` true; CP-SAT's own would replace it.
    solver.parameters.catch_sigint_signal = False
    watch, bound = _Watch(), [0]

    def raised(value: float) -> None:
        bound[0] = max(0, round(value) + constant)

    solver.best_bound_callback = raised
    told: tuple[int | None, int] = None, 0
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(solver.solve, model, watch)
        try:
            while not search.done():
                wait([search], timeout=_POLL_SECONDS)
                objective = None if watch.objective is None else watch.objective + constant
                if heard is not None and (objective, bound[0]) != told:
                    told = objective, bound[0]
                    heard(*told)
                if stop():
                    solver.stop_search()
        except BaseException:
            # Nobody waits for the answer any more (KeyboardInterrupt), but the pool waits for the search.
            solver.stop_search()
            raise
        return search.result(), solver
