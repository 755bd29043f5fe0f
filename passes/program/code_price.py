"""The price of exchange code: the least at which a placement's code is estimated to fit.

Code falls as its price rises. Prices are levels of one geometric row; a level between one that is too low and one that
is high enough is chosen by the code that both came to.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ipucc.passes.plan.place import Placement

__all__ = ["HIGHEST", "blended", "cheapest_that_fits", "first_level", "price_of"]

_LEAST: Final = 0.02
_RATIO: Final = 1.25
HIGHEST: Final = 38
"""The highest level, some 100 cycles per byte. Level 0 is 0.02."""
_STRIDE: Final = 5
"""Levels by which a price is raised or lowered while it is known of one side only what it comes to."""
_CLOSE: Final = 0.001
"""Part of a placement's cycles that a lower price could save at most, below which none is looked for."""


def price_of(level: int) -> float:
    """Cycles per byte of exchange code."""
    return _LEAST * _RATIO**level


def first_level(cycles: int, room: float) -> int:
    """The level to begin with: where all code that there is room for costs a tenth of `cycles`."""
    return next((x for x in range(HIGHEST) if price_of(x) * room >= cycles / 10), HIGHEST)


def cheapest_that_fits(placing: Callable[[int], Placement], room: float, begin: int) -> tuple[Placement, int]:
    """The fastest placement found with at most `room` bytes of exchange code, as estimated, and the level of its price.
    At the highest level, with more code, where there is none. `placing` places at a level; they are tried from `begin`
    on, until a lower one would not fit, or could not save much. What lies between two levels is `blended`."""
    low, high = -1, HIGHEST + 1
    too_much, enough = 0, 0
    best: tuple[Placement, int] | None = None
    over: Placement | None = None
    at = begin
    while True:
        found = placing(at)
        code = found.problem.code_bytes(found.choice)
        if code <= room:
            high, enough = at, code
            if best is None or found.objective < best[0].objective:
                best = found, at
            # What a choice at this price may cost more than the best one with code up to the room.
            if price_of(at) * (room - code) <= _CLOSE * found.objective:
                break
        else:
            low, too_much, over = at, code, found
        if high - low <= 1:
            break
        if best is None:
            at = min(low + _STRIDE, HIGHEST)
        elif low < 0:
            at = max(high - _STRIDE, 0)
        else:
            share = (too_much - room) / max(too_much - enough, 1)
            at = min(max(low + round(share * (high - low)), low + 1), high - 1)
    if best is None:
        return found, HIGHEST
    return best if over is None else (blended(best[0], over, room), best[1])


def blended(lean: Placement, fast: Placement, room: float) -> Placement:
    """The fastest of two placements of a problem, and of those that take the plans of one up to some op and of the
    other behind it, with at most `room` bytes of exchange code, as estimated. `lean` is one that has no more.

    A price of code is one for the whole graph: between two levels of it many ops change their plans at once, and more
    code may be left than any of them would need.
    """
    problem, best = lean.problem, (lean.objective, lean.choice)
    ends = lean.choice, fast.choice
    places = [v for v in range(len(lean.choice)) if lean.choice[v] != fast.choice[v]]
    for head, tail in (ends, ends[::-1]):
        for at in places:
            choice = head[:at] + tail[at:]
            if problem.code_bytes(choice) > room:
                continue
            score = problem.evaluate(choice)
            if score.peak_bytes <= lean.cap:
                best = min(best, (score.cycles, choice))
    cycles, choice = best
    chosen = tuple(problem.candidates[v][choice[v]] for v in problem.variable)
    peak = problem.evaluate(choice).peak_bytes
    return replace(lean, choice=choice, chosen=chosen, objective=cycles, bound=min(lean.bound, cycles), peak_bytes=peak)
