"""The greedy placer: op by op in running order, the candidate that is cheapest next to what is placed already.

Where the result exceeds the cap, the bytes of the memory rows that are over get a price that grows until it fits:
every candidate then costs its cycles plus the price of the bytes it holds there.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ipucc.passes.plan.effort import Stop, never
from ipucc.passes.plan.numbers import FORBIDDEN, SCALE, Choice, Numbers, Table, Vec

__all__ = ["descended", "greedy", "improved", "repaired"]

_FIRST_PRICE: Final = SCALE >> 8
_LAST_PRICE: Final = SCALE << 10
_ROUNDS: Final = 24


def greedy(numbers: Numbers, cap: int, stop: Stop = never) -> Choice | None:
    """A choice within `cap` bytes per tile, None where no price makes it fit. Once `stop` says so, nothing is improved
    any more: the first choice that fits is taken."""
    choice = np.zeros(numbers.size, np.int64)
    for v in range(numbers.size):
        earlier = [(u, table) for u, table in numbers.touching[v] if u < v]
        choice[v] = int(_next_to(numbers.cycles[v], earlier, choice).argmin())
    choice = improved(numbers, choice, numbers.cycles, stop=stop)
    return repaired(numbers, choice, np.zeros(numbers.base.size, np.int64), cap, stop)


def repaired(numbers: Numbers, choice: Choice, prices: Vec, cap: int, stop: Stop = never) -> Choice | None:
    """A choice within `cap` bytes, reached from any choice by raising the prices of the rows that are over.

    `prices` [rows] are those to begin with, in cycles per byte over SCALE. Where it fits, cycles are then lowered as
    far as single changes within the cap can, until `stop` says so.
    """
    prices = prices.copy()
    for _ in range(_ROUNDS):
        usage = numbers.usage(choice)
        over = usage > cap
        if not over.any():
            break
        prices[over] = np.clip(2 * prices[over], _FIRST_PRICE, _LAST_PRICE)
        choice = improved(numbers, choice, [c // SCALE for c in numbers.priced(prices)], rounds=3)
    else:
        choice = np.asarray([_bytes(numbers, v).argmin() for v in range(numbers.size)], np.int64)
        if numbers.peak(choice) > cap:
            return None
    choice = descended(numbers, choice, cap, stop=stop)
    return choice if numbers.cost(choice) < FORBIDDEN else None


def improved(numbers: Numbers, choice: Choice, costs: Sequence[Vec], rounds: int = 8, stop: Stop = never) -> Choice:
    """Changes one variable at a time as long as the costs fall (iterated conditional modes) and `stop` does not say
    otherwise: `costs` of the single candidates, and cycles of the pairs."""
    choice = choice.copy()
    dirty = np.ones(numbers.size, np.bool_)
    for _ in range(rounds):
        if stop():
            break
        for v in np.flatnonzero(dirty).tolist():
            dirty[v] = False
            cost = _next_to(costs[v], numbers.touching[v], choice)
            best = int(cost.argmin())
            if cost[best] < cost[choice[v]]:
                choice[v] = best
                dirty[[u for u, _ in numbers.touching[v]]] = True
        if not dirty.any():
            break
    return choice


def descended(numbers: Numbers, choice: Choice, cap: int, rounds: int = 8, stop: Stop = never) -> Choice:
    """Changes one variable of a choice within the cap at a time, staying within, as long as cycles fall and `stop`
    does not say otherwise."""
    choice = choice.copy()
    usage = numbers.usage(choice)
    # Where nothing is better, nothing is until a neighbour changes.
    dirty = np.ones(numbers.size, np.bool_)
    for _ in range(rounds):
        if stop():
            break
        changed = False
        for v in range(numbers.size):
            if not dirty[v]:
                continue
            now = int(choice[v])
            cost = _next_to(numbers.cycles[v], numbers.touching[v], choice)
            better = np.flatnonzero(cost < cost[now])
            if not better.size:
                dirty[v] = False
                continue
            rows, held = numbers.uses(v)
            for p in better[np.argsort(cost[better], kind="stable")].tolist():
                then = usage + (numbers.resident[v][p] - numbers.resident[v][now])
                then[rows] += held[p] - held[now]
                if (then <= cap).all():
                    choice[v], usage, changed = p, then, True
                    dirty[[u for u, _ in numbers.touching[v]]] = True
                    break
        if not changed:
            break
    return choice


def _next_to(cost: Vec, neighbours: Sequence[tuple[int, Table]], choice: Choice) -> Vec:
    """Costs of a variable's candidates next to the choices of its neighbours."""
    for u, table in neighbours:
        cost = cost + table[:, choice[u]]
    return cost


def _bytes(numbers: Numbers, v: int) -> Vec:
    return numbers.resident[v] + numbers.result[v] + numbers.temp[v]
