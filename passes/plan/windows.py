"""Window search for large placements: a stretch of ops is chosen anew with all others as they are, stretch by stretch.

Every window is a small placement problem of its own, with what is left of the memory rows: reduced, then solved by
elimination where memory does not bind there, else by CP-SAT from the choice at hand. Windows overlap by half.
"""

from collections.abc import Callable
from typing import Final

from ipucc.passes.plan.dominance import eliminate_dominated, settled
from ipucc.passes.plan.effort import Stop, never
from ipucc.passes.plan.eliminate import LIMIT, Elimination
from ipucc.passes.plan.numbers import Choice, Numbers

__all__ = ["search_windows"]

SIZE: Final = 120
STEP: Final = 60


def search_windows(
    numbers: Numbers,
    cap: int,
    choice: Choice,
    passes: int,
    limit: float,
    heard: Callable[[int], None] | None = None,
    stop: Stop = never,
) -> Choice:
    """A choice within the cap with at most the cycles of `choice`, after at most `passes` over all windows.

    `limit` is the deterministic time of one window; `heard` hears of the cycles after each.
    """
    for _ in range(passes):
        before = numbers.cost(choice)
        for start in range(0, max(1, numbers.size - SIZE + STEP), STEP):
            if stop():
                return choice
            choice = _window(numbers, cap, choice, range(start, min(start + SIZE, numbers.size)), limit, stop)
            if heard is not None:
                heard(numbers.cost(choice))
        if numbers.cost(choice) == before:
            break
    return choice


def _window(numbers: Numbers, cap: int, choice: Choice, free: range, limit: float, stop: Stop) -> Choice:
    reduced = eliminate_dominated(numbers.fix(choice, free), cap)
    if reduced is None:
        raise ValueError("the choice to start from exceeds the cap")
    small = settled(reduced.numbers)
    found: Choice | None = None
    if not small.base.size:
        elimination = Elimination(small)
        if elimination.work <= LIMIT:
            _, found = elimination.solve(small.cycles)
    if found is None:
        from ipucc.passes.plan.cpsat import solve  # ortools: imported only where it runs

        found = solve(small, cap, reduced.reduced(choice[free.start : free.stop]), limit, stop=stop).choice
    if found is None:
        return choice
    then = choice.copy()
    then[free.start : free.stop] = reduced.original(found)
    return then if numbers.cost(then) < numbers.cost(choice) else choice
