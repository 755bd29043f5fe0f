"""How long placement may search, and how its caller follows and stops it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Final, Literal, TypeAlias

__all__ = ["BUDGETS", "Budget", "Effort", "Listen", "Progress", "Stop", "never", "plans_of_each"]

Effort = Literal["fast", "default", "max"]


@dataclass(frozen=True)
class Budget:
    """The limits of one effort. All of them are counts or CP-SAT's deterministic time, never seconds.

    `plans` are the candidates kept per op (see `plans_of_each`), `rounds` those of the Lagrangian bound, `passes` those
    of the window search with `window_time` per window; `first_time` is that of one worker on the whole problem,
    `shared_time` that of eight strategies in turn. What improves a choice ends where the gap is no more than `enough`.
    """

    enough: float
    plans: int
    rounds: int
    passes: int
    window_time: float
    first_time: float
    shared_time: float


BUDGETS: Final[dict[Effort, Budget]] = {
    "fast": Budget(enough=0.02, plans=8, rounds=20, passes=1, window_time=0.1, first_time=0.1, shared_time=0.0),
    "default": Budget(enough=0.015, plans=16, rounds=60, passes=1, window_time=0.1, first_time=0.5, shared_time=0.5),
    "max": Budget(enough=0.0, plans=32, rounds=200, passes=6, window_time=1.0, first_time=5.0, shared_time=5.0),
}


_CROWD: Final = 256


def plans_of_each(plans: int, distinct: int) -> int:
    """How many plans are kept of an op where so many ops differ.

    The costs of an edge are those of all pairs of plans. Beyond 256 distinct ops each has fewer, so that there are no
    more pairs than with that many: what there is to choose from grows with the square root of the ops.
    """
    return plans if distinct <= _CROWD else max(1, isqrt(plans * plans * _CROWD // distinct))


@dataclass(frozen=True)
class Progress:
    """Where placement stands: the phase that runs, the best objective so far (None without one) and the bound, both
    in estimated cycles."""

    phase: str
    objective: int | None
    bound: int

    @property
    def gap(self) -> float | None:
        """(objective - bound) / objective, None without an objective."""
        if self.objective is None:
            return None
        return (self.objective - self.bound) / self.objective if self.objective else 0.0


Listen: TypeAlias = Callable[[Progress], None]
"""Hears of progress, in the thread that called placement."""

Stop: TypeAlias = Callable[[], bool]
"""Whether placement shall end with the best choice so far. It is asked often, in the thread that called placement."""


def never() -> bool:
    """The `Stop` of those who wait for the end."""
    return False
