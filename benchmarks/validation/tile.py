"""Programs of one compute set on some tiles, made by hand: what a benchmark of a kernel runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import ipucc
from ipucc.codelets.base import Array, Cells, Codelet, Counts
from ipucc.program.model import Compute, Program, Step
from ipucc.target import Target

__all__ = ["TimedKernel", "compute_set", "cycles_of", "kernel_cycles"]


class TimedKernel(Codelet):
    """A codelet of which the cycles matter alone: programs with it run for timing only."""

    code_bytes: ClassVar[int] = 1024

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        raise TypeError(f"{self.name} is timed only")


@dataclass(frozen=True)
class _Alone(TimedKernel):
    """The cycles of a codelet, wherever its operands lie."""

    codelet: Codelet

    name: ClassVar[str] = "validation.alone"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return self.codelet.cycles(n, target)


def compute_set(codelet: Codelet, extents: Mapping[str, int], tiles: int, name: str = "kernel") -> Compute:
    """The same cell on so many tiles."""
    n = {axis: np.full(tiles, size, np.int64) for axis, size in extents.items()}
    cells = Cells({axis: np.zeros(tiles, np.int64) for axis in n}, n)
    kernel = codelet if isinstance(codelet, TimedKernel) else _Alone(codelet)
    return Compute(name, kernel, np.arange(tiles, dtype=np.int32), cells, (), ())


def cycles_of(steps: list[Step], target: Target) -> int:
    """Cycles of a run for timing of these steps."""
    program = Program(target, [], steps, [], [], {})
    return ipucc.Executable(program).run(timing_only=True).cycles.total


def kernel_cycles(codelet: Codelet, extents: Mapping[str, int], target: Target, tiles: int = 1) -> int:
    """Cycles of one compute set in a run for timing."""
    return cycles_of([compute_set(codelet, extents, tiles)], target)
