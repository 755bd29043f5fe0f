"""What the rules of the verifier read: the program's steps in order, and problems as they are found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ipucc.program.liveness import liveness, reach
from ipucc.program.model import (
    Call,
    Compute,
    Exchange,
    HostRead,
    HostWrite,
    If,
    Program,
    Repeat,
    Step,
    While,
    bodies,
    walk,
)
from ipucc.program.regions import Regions
from ipucc.tiles.layout import Layout

__all__ = ["Facts", "Found", "Mask", "Problem", "filled_cells", "name_of"]


@dataclass(frozen=True)
class Problem:
    """A broken rule: what is wrong, and the id of the diagnostic (IPU0509 unless addresses are at fault)."""

    message: str
    id: str = "IPU0509"


Found = Iterator[Problem]
Mask = NDArray[np.bool_]


class Facts:
    """A program with what several rules need of it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.buffers = program.buffers
        self.target = program.target

    @cached_property
    def steps(self) -> list[Step]:
        """Every step of the text once, each function at its first call."""
        return list(walk(self.program.steps, self.program.functions))

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """See `ipucc.program.liveness.liveness`."""
        return liveness(self.program)

    @cached_property
    def reach(self) -> NDArray[np.int64]:
        """See `ipucc.program.liveness.reach`."""
        return reach(self.program)

    @cached_property
    def regions(self) -> Regions:
        """See `ipucc.program.regions`."""
        return Regions(self.program)

    @cached_property
    def exchanges(self) -> list[Exchange]:
        """All exchanges of the text."""
        return [s for s in self.steps if isinstance(s, Exchange)]

    @cached_property
    def computes(self) -> list[Compute]:
        """All compute sets of the text, the vertices of every codelet by themselves."""
        return [s for s in self.steps if isinstance(s, Compute)]

    @cached_property
    def writers(self) -> dict[int, list[Step]]:
        """The steps of the text that write each buffer, in order; a function's at its first call."""
        found: dict[int, list[Step]] = {}
        for step in self.steps:
            for b in dict.fromkeys(_written(step)):
                found.setdefault(b, []).append(step)
        return found

    @cached_property
    def loops(self) -> dict[int, tuple[Repeat | While, ...]]:
        """The loops around every step, outermost first, by the step's id."""
        found: dict[int, tuple[Repeat | While, ...]] = {}

        def visit(steps: Sequence[Step], around: tuple[Repeat | While, ...]) -> None:
            for step in steps:
                found.setdefault(id(step), around)
                for body in bodies(step):
                    visit(body, (*around, step) if isinstance(step, Repeat | While) else around)
                if isinstance(step, Compute):
                    visit(step.beside, around)
                elif isinstance(step, Call):
                    visit(self.program.functions[step.function], around)

        visit(self.program.steps, ())
        return found

    def apart(self, step: Step, a: int, b: int) -> bool:
        """Whether two buffers never share an address while a step runs."""
        around = self.loops[id(step)]
        if all(loop.strides.get(a, 0) == loop.strides.get(b, 0) for loop in around):
            # They move together: what holds in the first iteration holds in all.
            one, two = self.buffers[a], self.buffers[b]
            return one.offset + one.nbytes <= two.offset or two.offset + two.nbytes <= one.offset
        return bool(self.reach[a, 1] <= self.reach[b, 0] or self.reach[b, 1] <= self.reach[a, 0])

    def root(self, buffer: int) -> int:
        """The buffer whose bytes a buffer reads."""
        alias = self.buffers[buffer].alias
        return alias if alias >= 0 else buffer

    def label(self, buffer: int) -> str:
        """A buffer in a message."""
        return f"buffer %{buffer} {self.buffers[buffer].name!r}"


def _written(step: Step) -> list[int]:
    if isinstance(step, HostWrite):
        return [step.buffer]
    if isinstance(step, Exchange):
        return [*(m.dst for m in step.moves), *(x.buffer for x in step.fills)]
    if isinstance(step, Compute):
        return [b.buffer for b in step.results]
    if isinstance(step, Call):
        return [b for _, b in (*step.inputs, *step.outputs)]
    return []


def name_of(step: Step) -> str:
    """A step in a message."""
    if isinstance(step, Exchange):
        return f"exchange {step.name!r}"
    if isinstance(step, Compute):
        return f"compute set {step.name!r}"
    if isinstance(step, HostWrite):
        return f"host write {step.tensor!r}"
    if isinstance(step, HostRead):
        return f"host read {step.tensor!r}"
    if isinstance(step, Call):
        return f"call of {step.function!r}"
    if isinstance(step, While | If):
        return f"{'loop' if isinstance(step, While) else 'branch'} {step.name!r}"
    return f"repeat of {step.count}"


def filled_cells(layout: Layout) -> Mask:
    """Which cells (flat index) of a layout have elements."""
    full = np.ones(layout.grid, bool)
    for d, (lo, hi) in enumerate(layout.cuts):
        full &= (hi > lo).reshape([-1 if i == d else 1 for i in range(len(layout.grid))])
    return full.reshape(-1)
