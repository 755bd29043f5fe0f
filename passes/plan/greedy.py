"""The greedy placer: op by op in running order, the candidate that is cheapest next to what is placed already.

Where the result exceeds the cap, bytes get a price that grows until it fits: every candidate then costs its cycles
plus the price of the bytes it holds.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ipucc.passes.plan.problem import Edge, Problem

__all__ = ["greedy", "improve"]

Costs = NDArray[np.float64]


def greedy(problem: Problem, cap: int) -> list[int] | None:
    """A choice within `cap` bytes per tile, None where no price makes it fit."""
    for price in (0.0, *(2.0**k for k in range(-8, 12))):
        choice = improve(problem, _pass(problem, price), price)
        if problem.evaluate(choice).peak_bytes <= cap:
            return choice
    leanest = [
        min(range(len(c)), key=lambda i: (c[i].resident + c[i].result + c[i].temp, i)) for c in problem.candidates
    ]
    return leanest if problem.evaluate(leanest).peak_bytes <= cap else None


def _bytes(problem: Problem, op: int, price: float) -> Costs:
    # Resident bytes are held by every step; results and temporaries by a few.
    cands = problem.candidates[op]
    weight = problem.weight[op]
    return price * np.asarray([weight * c.resident + 0.25 * c.result + 0.05 * c.temp for c in cands])


def _pass(problem: Problem, price: float) -> list[int]:
    touching = _touching(problem)
    choice: list[int] = []
    for v in range(len(problem.candidates)):
        choice.append(int(np.argmin(_costs(problem, v, choice, touching[v], price))))
    return choice


def _touching(problem: Problem) -> list[list[Edge]]:
    touching: list[list[Edge]] = [[] for _ in problem.candidates]
    for edge in problem.edges:
        touching[edge.consumer].append(edge)
        if edge.producer >= 0 and edge.producer != edge.consumer:
            touching[edge.producer].append(edge)
    return touching


def _costs(problem: Problem, v: int, choice: Sequence[int], edges: Sequence[Edge], price: float) -> Costs:
    """Cycles plus priced bytes of every candidate of a variable, next to the choices made so far."""
    cost = np.asarray([c.cycles for c in problem.candidates[v]], np.float64) * problem.weight[v]
    cost += _bytes(problem, v, price)
    for e in edges:
        if e.producer == v and e.consumer == v:
            cost += e.count * np.diagonal(e.table)
        elif e.consumer == v:
            if e.producer < len(choice):
                cost += e.count * e.table[choice[e.producer] if e.producer >= 0 else 0]
        elif e.consumer < len(choice):
            cost += e.count * e.table[:, choice[e.consumer]]
    return cost


def improve(problem: Problem, start: Sequence[int], price: float = 0.0, rounds: int = 8) -> list[int]:
    """Changes one variable at a time as long as cycles plus priced bytes fall (iterated conditional modes)."""
    choice = list(start)
    touching = _touching(problem)
    for _ in range(rounds):
        changed = False
        for v in range(len(problem.candidates)):
            cost = _costs(problem, v, choice, touching[v], price)
            best = int(np.argmin(cost))
            if cost[best] < cost[choice[v]]:
                choice[v] = best
                changed = True
        if not changed:
            break
    return choice
