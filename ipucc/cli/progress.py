"""What a compilation shows on a terminal while it goes on, and what Ctrl-C does to it."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from ipucc.passes.plan.effort import Progress

__all__ = ["Watch", "watched"]

_PLACE: Final = "place"
_REFRESHES_PER_SECOND: Final = 8


class Watch:
    """Hears what a compilation is doing, and stops placement where the user asks for it.

    While placement runs, the first Ctrl-C makes `stop` true: placement then ends with its best choice so far. Any
    other Ctrl-C raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.phase = ""
        self.placement: Progress | None = None
        self.stopping = False
        self.live: Live | None = None
        self._told = False

    def started(self, phase: str) -> None:
        """A pass or a part of the compiler begins."""
        self.phase, self.placement = phase, None

    def placing(self, progress: "Progress") -> None:
        """Where placement stands."""
        self.placement = progress

    def stop(self) -> bool:
        """Whether placement shall end. Says so, once, on standard error."""
        if self.stopping and not self._told:
            self._told = True
            self.say("interrupted: going on with the best placement so far; Ctrl-C again gives up")
        return self.stopping

    def say(self, text: str) -> None:
        """Text for standard error, above the line that is shown."""
        if self.live is None:
            click.echo(text, err=True)
        else:
            self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def interrupted(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGINT."""
        if self.phase != _PLACE or self.stopping:
            raise KeyboardInterrupt
        self.stopping = True

    def line(self) -> str:
        """What is going on, in one line."""
        text = f"{time.perf_counter() - self.begin:8.1f} s  {self.phase}"
        if self.placement is None:
            return text
        text += f" ({self.placement.phase})"
        if self.placement.objective is not None:
            text += f"  {self.placement.objective:,} cycles"
        if self.placement.bound:
            text += f", bound {self.placement.bound:,}"
            if self.placement.gap is not None:
                text += f", gap {self.placement.gap:.1%}"
        return text

    def __rich__(self) -> "Text":
        from rich.text import Text

        return Text(self.line(), no_wrap=True, overflow="ellipsis")


@contextmanager
def watched() -> Iterator[Watch]:
    """A `Watch` for the time of a compilation, shown in a line of its own where standard error is a terminal."""
    watch = Watch()
    # Signals belong to the main thread; elsewhere whoever started the thread deals with them.
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, watch.interrupted) if main else None
    try:
        if sys.stderr.isatty():
            with _line(watch) as watch.live:
                yield watch
        else:
            yield watch
    finally:
        watch.live = None
        if main:
            signal.signal(signal.SIGINT, before)


def _line(watch: Watch) -> "Live":
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    return Live(watch, console=console, transient=True, redirect_stdout=False, redirect_stderr=False,
                refresh_per_second=_REFRESHES_PER_SECOND)  # fmt: skip
