"""A proven lower bound of a placement within memory, and choices near it, by pricing bytes (Lagrangian relaxation).

Every memory row gets a price per byte. What is left is a problem without memory, which bucket elimination solves; its
value minus the price of the cap is a lower bound of every choice within the cap, whatever the prices. They are moved
along the bytes that the solution has too much or too little (subgradient, Polyak's step towards the best choice
known). All of it in integers: bounds are exact, and the same everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ipucc.passes.plan.dominance import Reduced
from ipucc.passes.plan.effort import Stop, never
from ipucc.passes.plan.eliminate import LIMIT, Elimination
from ipucc.passes.plan.greedy import repaired
from ipucc.passes.plan.numbers import FORBIDDEN, SCALE, Choice, Numbers, Vec

__all__ = ["Relaxed", "relax"]

_ENTRIES: Final = 1 << 25
"""Table entries that one solution may take; the limit of a table is lowered until it does."""
_ONCE: Final = 1 << 28
"""Those of a solution that is needed only once."""
_PATIENCE: Final = 4
_LAST_PRICE: Final = SCALE << 10


@dataclass(frozen=True, eq=False)
class Relaxed:
    """The best bound in cycles, the best choice within the cap with its cycles, and the prices of the bound."""

    bound: int
    choice: Choice | None
    cycles: int | None
    prices: Vec

    def promising(self, numbers: Numbers, cap: int, choice: Choice, cycles: int) -> Reduced | None:
        """The problem with only those candidates that a choice of fewer than `cycles` may have, and those of `choice`.

        None where the tables are too large to tell.
        """
        elimination = Elimination(numbers, LIMIT, SCALE)
        if not elimination.exact or elimination.work > _ONCE:
            return None
        costs = numbers.priced(self.prices)
        value, _ = elimination.solve(costs)
        least = value + SCALE * numbers.constant - int((self.prices * (cap - numbers.base)).sum())
        kept, replacement = [], []
        for v, more in enumerate(elimination.excess(costs)):
            stays = least + more <= SCALE * (cycles - 1)
            stays[choice[v]] = True
            kept.append(np.flatnonzero(stays))
            replacement.append(np.where(stays, np.arange(stays.size), -1))
        return Reduced(numbers.keep(kept), tuple(kept), tuple(replacement))


def within(numbers: Numbers, limit: int = LIMIT, scale: int = 1) -> Elimination:
    """The elimination with the largest tables whose work stays bearable when it is done many times."""
    while True:
        found = Elimination(numbers, limit, scale)
        if found.work <= _ENTRIES or limit <= 1 << 8:
            return found
        limit >>= 2


def relax(
    numbers: Numbers,
    cap: int,
    start: Choice | None,
    rounds: int,
    improved: Callable[[int | None, int], None] | None = None,
    stop: Stop = never,
) -> Relaxed:
    """Bound and choice after at most `rounds` rounds for the bound and a quarter of that for the choice.

    `start` is a choice within the cap, if one is known. Ends early where bound and choice meet. `improved` hears of
    objective and bound. A bound of FORBIDDEN or more is a proof that nothing fits.
    """
    elimination = within(numbers, scale=SCALE)
    room = cap - numbers.base
    prices = np.zeros(numbers.base.size, np.int64)
    best, cycles = start, numbers.cost(start) if start is not None else None
    bound, kept, stale, factor = 0, prices, 0, 1.0
    direction = np.zeros(numbers.base.size)
    for at in range(rounds):
        if stop() or (cycles is not None and bound >= cycles):
            break
        value, choice = elimination.solve(numbers.priced(prices))
        now = value + SCALE * numbers.constant - int((prices * room).sum())
        if -(-now // SCALE) > bound:
            bound, kept, stale = -(-now // SCALE), prices, 0
        else:
            stale += 1
        usage = numbers.usage(choice)
        found = repaired(numbers, choice, prices, cap) if at % 4 == 0 or (usage <= cap).all() else None
        if found is not None and (cycles is None or numbers.cost(found) < cycles):
            best, cycles = found, numbers.cost(found)
        if improved is not None:
            improved(cycles, bound)
        if stale >= _PATIENCE:
            stale, factor, prices = 0, factor / 2, kept
            direction[:] = 0
            if factor < 1e-3:
                break
            continue
        over = usage - cap
        # What is slack and has no price stays so, and must not shorten the step.
        over[(over < 0) & (prices == 0)] = 0
        direction = over + 0.5 * direction
        length = float(sum(x * x for x in direction.tolist()))
        if not length:
            break
        target = cycles if cycles is not None else bound + max(bound // 16, 1)
        step = factor * max(SCALE * target - now, SCALE) / length
        prices = np.clip(prices + np.rint(step * direction).astype(np.int64), 0, _LAST_PRICE)
    # Near the best prices the solutions are cheap but mostly exceed the cap: raise them until they do not.
    prices = kept.copy()
    for _ in range(rounds // 4):
        if stop() or bound >= FORBIDDEN or (cycles is not None and bound >= cycles):
            break
        _, choice = elimination.solve(numbers.priced(prices))
        exceeds = numbers.usage(choice) > cap
        found = repaired(numbers, choice, prices, cap)
        if found is not None and (cycles is None or numbers.cost(found) < cycles):
            best, cycles = found, numbers.cost(found)
        if improved is not None:
            improved(cycles, bound)
        if not exceeds.any():
            break
        prices[exceeds] = np.clip(prices + prices // 16, SCALE >> 8, _LAST_PRICE)[exceeds]
    return Relaxed(min(bound, FORBIDDEN), best, cycles, kept)
