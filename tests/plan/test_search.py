"""The parts of the placement search against all choices of small problems."""

import os
import subprocess
import sys
import threading
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from ipucc.passes.plan.cpsat import leanest, solve
from ipucc.passes.plan.dominance import eliminate_dominated, settled
from ipucc.passes.plan.effort import BUDGETS
from ipucc.passes.plan.eliminate import Elimination
from ipucc.passes.plan.greedy import descended, greedy, improved
from ipucc.passes.plan.lagrange import relax
from ipucc.passes.plan.numbers import FORBIDDEN, SCALE, Numbers, Pair
from ipucc.passes.plan.search import search
from ipucc.passes.plan.windows import search_windows


def random_numbers(seed: int, variables: int = 5, most: int = 4, fill: float = 0.5, ties: bool = False) -> Numbers:
    """A random problem: costs from a small range where `ties`, some pairs of candidates that exclude each other."""
    rng = np.random.default_rng(seed)
    high = 4 if ties else 1000
    sizes = rng.integers(1, most + 1, variables)
    pairs = []
    for u in range(variables):
        for v in range(u + 1, variables):
            if rng.random() < fill:
                table = rng.integers(0, high, (sizes[u], sizes[v]))
                table[rng.random(table.shape) < 0.1] = FORBIDDEN
                pairs.append(Pair(u, v, table))
    uses = []
    for v in range(variables):
        for r in range(v, min(variables, v + 1 + int(rng.integers(0, 3)))):
            uses.append((v, r, int(rng.integers(0, 3)), r == v))
    table = np.asarray(uses, np.int64)
    draw = [tuple(rng.integers(0, high, k) for k in sizes) for _ in range(4)]
    return Numbers(
        draw[0], draw[1], draw[2], draw[3], tuple(pairs), 7, np.full(variables + 1, 5), table[:, 0].copy(),
        table[:, 1].copy(), table[:, 2].copy(), table[:, 3] > 0,
    )  # fmt: skip


def choices(n: Numbers) -> list[np.ndarray]:
    return [np.asarray(c) for c in product(*(range(c.size) for c in n.cycles))]


def caps(n: Numbers) -> list[int]:
    """A cap that everything keeps to, some that few do, and one that nothing does."""
    peaks = sorted(n.peak(c) for c in choices(n))
    return [peaks[-1], peaks[len(peaks) // 2], peaks[len(peaks) // 10], peaks[0], peaks[0] - 1]


def optimum(n: Numbers, cap: int) -> int | None:
    costs = [n.cost(c) for c in choices(n) if n.peak(c) <= cap]
    best = min(costs, default=FORBIDDEN)
    return best if best < FORBIDDEN else None


seeds = st.integers(0, 10**6)
few = settings(max_examples=60, deadline=None)


@few
@given(seeds, st.booleans())
def test_an_optimum_survives_elimination_of_candidates(seed: int, ties: bool) -> None:
    n = random_numbers(seed, ties=ties)
    for cap in caps(n):
        best = optimum(n, cap)
        reduced = eliminate_dominated(n, cap)
        if reduced is None:
            assert best is None
            continue
        small = settled(reduced.numbers)
        assert optimum(small, cap) == best
        for c in choices(n):
            if n.peak(c) <= cap and n.cost(c) < FORBIDDEN:
                # Every choice has a counterpart that is no worse.
                other = reduced.original(reduced.reduced(c))
                assert n.cost(other) <= n.cost(c)
                assert n.peak(other) <= cap
        for c in choices(small)[:50]:
            whole = reduced.original(c)
            assert small.cost(c) == n.cost(whole) or n.cost(whole) >= FORBIDDEN
            assert (small.peak(c) <= cap) == (n.peak(whole) <= cap)


@few
@given(seeds, st.floats(0.2, 1.0))
def test_elimination_finds_the_least_cost(seed: int, fill: float) -> None:
    n = random_numbers(seed, fill=fill)
    costs = [n.cost(c) for c in choices(n)]
    value, choice = Elimination(n).solve(n.cycles)
    if min(costs) >= FORBIDDEN:
        assert value >= FORBIDDEN
        return
    assert value + n.constant == min(costs) == n.cost(choice)
    for v, more in enumerate(Elimination(n).excess(n.cycles)):
        for p, found in enumerate(more.tolist()):
            least = min(cost for c, cost in zip(choices(n), costs, strict=True) if c[v] == p)
            assert found == least - min(costs) or min(found, least) >= FORBIDDEN
    # Small tables give a bound, and a choice that belongs to the problem.
    loose = Elimination(n, limit=8)
    bound, other = loose.solve(n.cycles)
    assert bound <= value
    assert n.cost(other) >= min(costs)


@few
@given(seeds)
def test_prices_bound_every_choice_within_the_cap(seed: int) -> None:
    n = random_numbers(seed)
    for cap in caps(n)[:4]:
        best = optimum(n, cap)
        found = relax(n, cap, None, 30)
        if best is None:
            assert found.choice is None
            continue
        assert found.bound <= best
        if found.choice is not None:
            assert n.peak(found.choice) <= cap
            assert n.cost(found.choice) == found.cycles >= best
            kept = found.promising(n, cap, found.choice, found.cycles)
            assert kept is not None
            assert optimum(kept.numbers, cap) == best


@few
@given(seeds)
def test_the_cheap_searches_stay_within_the_cap(seed: int) -> None:
    n = random_numbers(seed)
    for cap in caps(n):
        start = greedy(n, cap)
        if start is None:
            continue
        assert n.peak(start) <= cap
        assert n.cost(descended(n, start, cap)) <= n.cost(start)
        assert n.cost(improved(n, start, n.cycles)) <= n.cost(start)
        if n.cost(start) < FORBIDDEN:
            better = search_windows(n, cap, start, 1, 0.1)
            assert n.peak(better) <= cap
            assert n.cost(better) == optimum(n, cap)


@settings(max_examples=25, deadline=None)
@given(seeds, st.booleans())
def test_the_solver_agrees_with_all_choices(seed: int, ties: bool) -> None:
    n = random_numbers(seed, ties=ties)
    for cap in caps(n):
        best = optimum(n, cap)
        plain = solve(n, cap, None, 5.0)
        found = search(n, cap, BUDGETS["max"])
        if best is None:
            assert plain.status == found.status == "infeasible"
            continue
        assert (plain.status, plain.objective, plain.bound) == ("optimal", best, best)
        assert (found.status, found.cycles, found.bound) == ("optimal", best, best)
        assert found.choice is not None
        assert n.cost(found.choice) == best
        assert n.peak(found.choice) <= cap
    allowed = [n.peak(c) for c in choices(n) if n.cost(c) < FORBIDDEN]
    lean = leanest(n, 5.0)
    assert (lean.status, lean.bound) == (("optimal", min(allowed)) if allowed else ("infeasible", lean.bound))


@pytest.mark.parametrize("free", [(0,), (1, 3), (0, 1, 2, 3, 4)])
def test_fixed_variables_leave_the_same_problem(free: tuple[int, ...]) -> None:
    n = random_numbers(3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice = np.asarray([rng.integers(c.size) for c in n.cycles])
        part = n.fix(choice, free)
        other = choice.copy()
        other[list(free)] = [rng.integers(n.cycles[v].size) for v in free]
        assert part.cost(other[list(free)]) == n.cost(other) or n.cost(other) >= FORBIDDEN
        assert (part.usage(other[list(free)]) == n.usage(other)).all()


def test_prices_are_those_of_the_bytes() -> None:
    n = random_numbers(4)
    prices = np.arange(n.base.size) * 100
    for c in choices(n)[:30]:
        paid = sum(int(x[p]) for x, p in zip(n.priced(prices), c, strict=True))
        cycles = sum(int(x[p]) for x, p in zip(n.cycles, c, strict=True))
        assert paid == SCALE * cycles + int((prices * (n.usage(c) - n.base)).sum())


_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_search import random_numbers
from dataclasses import replace
from ipucc.passes.plan.effort import BUDGETS
from ipucc.passes.plan.search import search
n = random_numbers(11, variables=24, most=8, fill=0.15)
low, high = n.extremes()
# Too little time for one strategy: those that take turns search as well.
budget = replace(BUDGETS["default"], first_time=0.05, shared_time=0.05)
found = search(n, int(low.max() + (high.max() - low.max()) // 4), budget)
print(found.status, found.cycles, found.bound, found.choice.tolist())
"""


def test_processes_find_the_same_choice() -> None:
    folder = os.path.dirname(__file__)
    said = {
        subprocess.run(
            [sys.executable, "-c", _SCRIPT, folder], check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "77")
    }  # fmt: skip
    assert len(said) == 1
    assert said.pop().split()[0] in ("optimal", "feasible")


def test_a_search_that_nobody_waits_for_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt comes through at once; the search goes on until it is stopped, here until the test fails."""
    stopped = threading.Event()

    class Endless(cp_model.CpSolver):
        def solve(self, *_: object) -> cp_model.CpSolverStatus:
            assert stopped.wait(60)
            return cp_model.UNKNOWN

        def stop_search(self) -> None:
            stopped.set()

    def ctrl_c() -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(cp_model, "CpSolver", Endless)
    numbers = random_numbers(0)
    with pytest.raises(KeyboardInterrupt):
        solve(numbers, caps(numbers)[0], None, 1.0, stop=ctrl_c)
    assert stopped.is_set()
