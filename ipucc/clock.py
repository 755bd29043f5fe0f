"""Wall seconds per part of a compilation. They are shown, and decide nothing."""

import time
from collections.abc import Callable

__all__ = ["Clock", "OnPass", "OnStart"]

OnStart = Callable[[str], None]
OnPass = Callable[[str, float], None]


class Clock:
    """Wall seconds per part of a compilation, and who hears of them."""

    def __init__(self, seconds: dict[str, float], on_start: OnStart | None, on_pass: OnPass | None) -> None:
        self.seconds, self.on_start, self.on_pass = seconds, on_start, on_pass
        self._running: tuple[str, float] | None = None

    def begin(self, name: str) -> None:
        """A part begins; the one before it has ended."""
        self.end()
        if self.on_start is not None:
            self.on_start(name)
        self._running = name, time.perf_counter()

    def end(self) -> None:
        """The part that runs, if any, has ended."""
        if self._running is None:
            return
        name, begin = self._running
        self._running = None
        self.spent(name, time.perf_counter() - begin)

    def spent(self, name: str, seconds: float) -> None:
        """A part took so long."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if self.on_pass is not None:
            self.on_pass(name, seconds)
