"""The greedy placer: op by op in running order, the candidate that is cheapest next to what is placed already.

Where the result exceeds the cap, bytes get a price that grows until it fits: every candidate then costs its cycles
plus the price of the bytes it holds.
"""

from collections.abc import Sequence

import numpy as np

from ipucc.passes.plan.problem import Problem

__all__ = ["greedy", "improve"]


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


def _bytes(problem: Problem, op: int, price: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    # Resident bytes are held by every step; results and temporaries by a few.
    cands = problem.candidates[op]
    return price * np.asarray([c.resident + 0.25 * c.result + 0.05 * c.temp for c in cands])


def _pass(problem: Problem, price: float) -> list[int]:
    incoming: list[list[int]] = [[] for _ in problem.candidates]
    for e, edge in enumerate(problem.edges):
        incoming[edge.consumer].append(e)
    choice: list[int] = []
    for o, cands in enumerate(problem.candidates):
        cost = np.asarray([c.cycles for c in cands], np.float64) + _bytes(problem, o, price)
        for e in incoming[o]:
            edge = problem.edges[e]
            cost += edge.table[choice[edge.producer] if edge.producer >= 0 else 0]
        choice.append(int(np.argmin(cost)))
    return choice


def improve(problem: Problem, start: Sequence[int], price: float = 0.0, rounds: int = 8) -> list[int]:
    """Changes one op at a time as long as cycles plus priced bytes fall (iterated conditional modes)."""
    choice = list(start)
    touching: list[list[int]] = [[] for _ in problem.candidates]
    for e, edge in enumerate(problem.edges):
        touching[edge.consumer].append(e)
        if edge.producer >= 0 and edge.producer != edge.consumer:
            touching[edge.producer].append(e)
    for _ in range(rounds):
        changed = False
        for o, cands in enumerate(problem.candidates):
            cost = np.asarray([c.cycles for c in cands], np.float64) + _bytes(problem, o, price)
            for e in touching[o]:
                edge = problem.edges[e]
                if edge.consumer == o:
                    cost += edge.table[choice[edge.producer] if edge.producer >= 0 else 0]
                else:
                    cost += edge.table[:, choice[edge.consumer]]
            best = int(np.argmin(cost))
            if cost[best] < cost[choice[o]]:
                choice[o] = best
                changed = True
        if not changed:
            break
    return choice
