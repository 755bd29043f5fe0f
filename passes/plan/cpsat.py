"""The placement as one CP-SAT model: a boolean per op and plan, a conditional cost per edge, a memory row per step.

Deterministic by construction: fixed workers and seed, deterministic time, models built from ordered lists. The answer
is priced again outside of the solver.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from ortools.sat.python import cp_model

from ipucc.passes.plan.effort import Stop, never
from ipucc.passes.plan.problem import Problem

__all__ = ["Solution", "solve"]

_POLL_SECONDS = 0.05

_STATUS = {
    cp_model.OPTIMAL: "optimal",
    cp_model.FEASIBLE: "feasible",
    cp_model.INFEASIBLE: "infeasible",
    cp_model.UNKNOWN: "unknown",
    cp_model.MODEL_INVALID: "invalid",
}


@dataclass(frozen=True)
class Solution:
    """A choice (None without one), the solver's status, and its objective and lower bound in cycles."""

    choice: list[int] | None
    status: str
    objective: int
    bound: int


def solve(
    problem: Problem,
    cap: int,
    hint: Sequence[int] | None,
    limit: float,
    improved: Callable[[int | None, int], None] | None = None,
    stop: Stop = never,
) -> Solution:
    """Minimise estimated cycles with at most `cap` bytes on any tile. `limit` is deterministic time, not seconds.

    `improved` hears of new objectives (None before the first) and bounds while the search goes on; `stop` ends it.
    """
    model = cp_model.CpModel()
    pick = [[model.new_bool_var(f"x{o}_{p}") for p in range(len(c))] for o, c in enumerate(problem.candidates)]
    for row in pick:
        model.add_exactly_one(row)
    constant = 0
    terms: list[tuple[cp_model.IntVar, int]] = []
    for o, cands in enumerate(problem.candidates):
        terms += [(pick[o][p], c.cycles * problem.weight[o]) for p, c in enumerate(cands)]
    hints: list[tuple[cp_model.IntVar, int]] = []
    for e, edge in enumerate(problem.edges):
        table, to = edge.table * edge.count, pick[edge.consumer]
        if edge.producer < 0 or table.shape[0] == 1:
            terms += [(to[q], int(table[0, q])) for q in range(table.shape[1])]
            continue
        if (table == table[:, :1]).all() or (table == table[:1, :]).all():
            by_row = bool((table == table[:, :1]).all())
            if by_row:
                terms += [(pick[edge.producer][p], int(table[p, 0])) for p in range(table.shape[0])]
            else:
                terms += [(to[q], int(table[0, q])) for q in range(table.shape[1])]
            continue
        low = int(table.min())
        constant += low
        rest = table - low
        cost = model.new_int_var(0, int(rest.max()), f"c{e}")
        start = pick[edge.producer]
        for p in range(rest.shape[0]):
            model.add(cost >= sum(int(rest[p, q]) * to[q] for q in range(rest.shape[1]))).only_enforce_if(start[p])
        model.add(cost >= sum(int(rest[p].min()) * start[p] for p in range(rest.shape[0])))
        model.add(cost >= sum(int(rest[:, q].min()) * to[q] for q in range(rest.shape[1])))
        terms.append((cost, 1))
        if hint is not None:
            hints.append((cost, int(rest[hint[edge.producer], hint[edge.consumer]])))
    _memory(model, problem, pick, cap)
    model.minimize(constant + sum(weight * var for var, weight in terms))
    if hint is not None:
        for o, row in enumerate(pick):
            for p, var in enumerate(row):
                model.add_hint(var, int(hint[o] == p))
        for var, value in hints:
            model.add_hint(var, value)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = limit
    # Probing may spend the whole effort before the first solution.
    solver.parameters.cp_model_probing_level = 0
    status = _run(solver, model, improved, stop)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solution(None, _STATUS[status], 0, 0)
    choice = [next(p for p, var in enumerate(row) if solver.boolean_value(var)) for row in pick]
    return Solution(choice, _STATUS[status], round(solver.objective_value), round(solver.best_objective_bound))


class _Watch(cp_model.CpSolverSolutionCallback):
    """Keeps the objective of the latest solution."""

    def __init__(self) -> None:
        super().__init__()
        self.objective: int | None = None

    def on_solution_callback(self) -> None:
        self.objective = round(self.objective_value)


def _run(
    solver: cp_model.CpSolver,
    model: cp_model.CpModel,
    improved: Callable[[int | None, int], None] | None,
    stop: Stop,
) -> cp_model.CpSolverStatus:
    """Solves in a thread, while this one reports and asks `stop`.

    What is seen on the way depends on the machine; the answer does not, unless it was stopped.
    """
    # A search in this thread would hold back the signal handler that makes `stop` true; CP-SAT's own would replace it.
    solver.parameters.catch_sigint_signal = False
    watch, bound = _Watch(), [0]

    def raised(value: float) -> None:
        bound[0] = max(0, round(value))

    solver.best_bound_callback = raised
    told: tuple[int | None, int] = None, 0
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(solver.solve, model, watch)
        while not search.done():
            wait([search], timeout=_POLL_SECONDS)
            if improved is not None and (watch.objective, bound[0]) != told:
                told = watch.objective, bound[0]
                improved(*told)
            if stop():
                solver.stop_search()
        return search.result()


def _memory(model: cp_model.CpModel, problem: Problem, pick: list[list[cp_model.IntVar]], cap: int) -> None:
    """Resident bytes plus, per step, live results and the op's own temporaries stay below the cap."""
    resident = problem.fixed_bytes + sum(
        problem.weight[v] * c.resident * pick[v][p]
        for v, cands in enumerate(problem.candidates)
        for p, c in enumerate(cands)
        if c.resident
    )
    total = model.new_int_var(0, cap, "resident")
    model.add(total >= resident)
    held = []
    for v, cands in enumerate(problem.candidates):
        sizes = [c.result for c in cands]
        var = model.new_int_var(min(sizes), max(sizes), f"held{v}")
        model.add(var >= sum(size * pick[v][p] for p, size in enumerate(sizes)))
        held.append(var)
    for row in problem.rows:
        temp = sum(c.temp * pick[row.variable][p] for p, c in enumerate(problem.candidates[row.variable]))
        model.add(total + sum(n * held[v] for v, n in row.live) + temp <= cap)
