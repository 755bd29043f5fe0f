"""What the place of a compute set's buffers costs it: loads that are not wide, accesses that meet in one element.

A tile's memory is plain below `Target.interleaved_from` and interleaved above. A vertex reads 128 bits at a time from
interleaved memory alone, and reaches several places in one issue only where they lie in different elements of memory.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.base import Counts
from ipucc.program.liveness import reach
from ipucc.program.model import Compute, Program
from ipucc.target import Target

__all__ = ["Regions"]

Ints = NDArray[np.int64]


def _in_elements(first: Ints, end: Ints, target: Target) -> tuple[Ints, Ints]:
    """Addresses from `first` up to `end`, widened to whole elements of memory."""
    return _element(first, target)[0], _element(end - 1, target)[1]


def _element(at: Ints, target: Target) -> tuple[Ints, Ints]:
    """Where the elements of some addresses begin and end."""
    plain = at < target.interleaved_from
    start, size = np.where(plain, 0, target.interleaved_from), np.where(plain, 1, 2) * target.element_bytes
    begin = start + (at - start) // size * size
    # No element reaches from plain into interleaved memory.
    return begin, np.where(plain, np.minimum(begin + size, target.interleaved_from), begin + size)


class Regions:
    """Where the buffers of a program lie: addresses over all iterations of its loops, and the elements they are in.

    Before addresses are given, nothing is slower for them.
    """

    def __init__(self, program: Program) -> None:
        self.target = program.target
        self._reach = reach(program)
        first, end = self._reach.T
        self._elements = np.stack(_in_elements(first, end, program.target), axis=1)
        self._placed = np.array([b.offset >= 0 for b in program.buffers], bool)

    def narrow(self, part: Compute) -> bool:
        """Whether an operand that the codelet reads 128 bits at a time does not lie in interleaved memory."""
        buffers = [part.operands[i].buffer for i in part.codelet.wide]
        return any(self._placed[b] and self._reach[b, 0] < self.target.interleaved_from for b in buffers)

    def accesses(self, part: Compute) -> int:
        """Issues that what the codelet reaches in one issue takes: 1, or as many as it reaches where two of them
        share an element."""
        operands, results = part.codelet.streams
        buffers = {part.operands[i].buffer for i in operands} | {part.results[i].buffer for i in results}
        for a, b in combinations(sorted(buffers), 2):
            (low, high), (first, end) = self._elements[a], self._elements[b]
            if self._placed[a] and self._placed[b] and low < end and first < high:
                return len(buffers)
        return 1

    def cycles(self, part: Compute) -> Counts:
        """Cycles of every vertex as its codelet counts them, for the memory that its operands and results lie in."""
        target = self.target.plain if self.narrow(part) else self.target
        return np.asarray(part.codelet.cycles(part.cells.n, target), np.int64) * self.accesses(part)
