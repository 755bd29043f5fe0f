"""How long placement may search, and how its caller follows and stops it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = ["BUDGETS", "Budget", "Effort", "Listen", "Progress", "Stop", "never"]

Effort = Literal["fast", "default", "max"]


@dataclass(frozen=True)
class Budget:
    """The limits of one effort. All of them are counts or CP-SAT's deterministic time, never seconds.

    `plans` are the candidates kept per op. `first_time` is the time of the first CP-SAT search, by one worker.
    """

    plans: int
    first_time: float


BUDGETS: Final[dict[Effort, Budget]] = {
    "fast": Budget(plans=8, first_time=0.2),
    "default": Budget(plans=16, first_time=2.0),
    "max": Budget(plans=32, first_time=10.0),
}


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
