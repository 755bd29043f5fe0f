"""Which buffers a step touches, and from where to where the bytes of a buffer matter."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ipucc.program.model import Call, Compute, Exchange, HostRead, HostWrite, If, Program, Repeat, Step, While, bodies

__all__ = ["liveness", "moments", "reach", "touched"]

Functions = Mapping[str, tuple[Step, ...]]


def touched(step: Step, functions: Functions) -> tuple[list[int], list[int]]:
    """(buffers read, buffers written) by a step, those of loop bodies, branches and called functions included. A move
    that keeps a part of its destination reads it."""
    if isinstance(step, HostWrite):
        return [], [step.buffer]
    if isinstance(step, HostRead):
        return [step.buffer], []
    if isinstance(step, Exchange):
        kept = [m.dst for m in step.moves if m.keeps]
        return [m.src for m in step.moves] + kept, [m.dst for m in step.moves] + [f.buffer for f in step.fills]
    if isinstance(step, Compute):
        parts = step.parts
        return [b.buffer for p in parts for b in p.operands], [b.buffer for p in parts for b in p.results]
    copies: tuple[tuple[int, int], ...] = ()
    inside = bodies(step)
    if isinstance(step, Call):
        copies, inside = (*step.inputs, *step.outputs), (functions[step.function],)
    inner = [touched(s, functions) for body in inside for s in body]
    tested = [step.condition] if isinstance(step, While | If) else []
    return (
        tested + [a for a, _ in copies] + [b for r, _ in inner for b in r],
        [b for _, b in copies] + [b for _, w in inner for b in w],
    )


def moments(steps: Sequence[Step]) -> list[Step]:
    """The steps of the text, one per moment of `liveness`: a loop or an If at its beginning, then its bodies."""
    return [s for step in steps for s in (step, *(x for body in bodies(step) for x in moments(body)))]


def liveness(program: Program) -> NDArray[np.int64]:
    """[buffers, 2]: first and last moment in which the bytes of a buffer matter; -1 where nothing uses it.

    A moment is a step in the order of `moments`. A buffer that lives within one iteration of a
    loop has moments of its own; one that a loop shares with the outside or with other iterations lives through all of
    the loop. Aliases extend their root and have no life of their own. Weights and patterns live through the whole
    program, other inputs from its start: the host writes before the first superstep, and a program may be run again.
    """
    return _Lives(program).run()


class _Lives:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.live = np.full((len(program.buffers), 2), -1, np.int64)
        self.now = 0
        self.forever: list[int] = []
        self.uses = self._counted(program.steps)

    def run(self) -> NDArray[np.int64]:
        self._steps(self.program.steps)
        for b in self.forever:
            self._use(b, 0, self.now)
        return self.live

    def _root(self, b: int) -> int:
        alias = self.program.buffers[b].alias
        return alias if alias >= 0 else b

    def _use(self, b: int, first: int, to: int) -> None:
        r = self._root(b)
        self.live[r, 0] = first if self.live[r, 0] < 0 else min(self.live[r, 0], first)
        self.live[r, 1] = max(self.live[r, 1], to)

    def _steps(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, HostWrite):
                self._use(step.buffer, 0, self.now)
                if step.tensor in self.program.resident:
                    self.forever.append(step.buffer)
            elif isinstance(step, Repeat | While | If):
                self._control(step)
            else:
                for b in (b for part in touched(step, self.program.functions) for b in part):
                    self._use(b, self.now, self.now)
            self.now += 1

    def _control(self, step: Repeat | While | If) -> None:
        begin = self.now
        for body in bodies(step):
            self.now += 1
            self._steps(body)
            self.now -= 1
        if isinstance(step, While | If):
            self._use(step.condition, begin, self.now if isinstance(step, While) else begin)
        if isinstance(step, If):
            return
        inside = self._counted(step.body)
        # Read before it is written in the body: handed on from one iteration to the next.
        kept = self._handed_on(step.body)[0] | {self._root(b) for b in step.strides}
        for b, uses in inside.items():
            if b in kept or uses < self.uses[b]:
                self._use(b, begin, self.now)

    def _counted(self, steps: Sequence[Step]) -> Counter[int]:
        """How many steps of the text use each root buffer."""
        found: Counter[int] = Counter()
        for step in moments(steps):
            used: tuple[int, ...] = (step.condition,) if isinstance(step, While | If) else ()
            if not bodies(step):
                used = tuple(b for part in touched(step, self.program.functions) for b in part)
            found.update({self._root(b) for b in used})
        return found

    def _handed_on(self, steps: Sequence[Step]) -> tuple[set[int], set[int]]:
        """(root buffers that are read with what they hold before the steps, buffers that are written in any case)."""
        read: set[int] = set()
        written: set[int] = set()
        for step in steps:
            if isinstance(step, If):
                (r1, w1), (r2, w2) = self._handed_on(step.then), self._handed_on(step.otherwise)
                now, done = r1 | r2 | {self._root(step.condition)}, w1 & w2
            elif isinstance(step, Repeat | While):
                now, done = self._handed_on(step.body)
                if isinstance(step, While):
                    now, done = now | {self._root(step.condition)}, set()
            else:
                reads, writes = touched(step, self.program.functions)
                now, done = {self._root(b) for b in reads}, {self._root(b) for b in writes}
            read |= now - written
            written |= done
        return read, written


def reach(program: Program) -> NDArray[np.int64]:
    """[buffers, 2]: the lowest address of a buffer and the end of its highest, over all iterations of all loops."""
    sizes = np.array([b.nbytes for b in program.buffers], np.int64)
    low = np.array([b.offset for b in program.buffers], np.int64)
    high = low.copy()

    def visit(steps: tuple[Step, ...], inside: Mapping[int, tuple[int, int]]) -> None:
        for step in steps:
            if isinstance(step, Repeat | While):
                moved = dict(inside)
                count = step.count if isinstance(step, Repeat) else step.bound or 1
                for b, stride in step.strides.items():
                    way = stride * max(0, count - 1)
                    down, up = moved.get(b, (0, 0))
                    moved[b] = (down + min(0, way), up + max(0, way))
                    low[b] = min(low[b], program.buffers[b].offset + moved[b][0])
                    high[b] = max(high[b], program.buffers[b].offset + moved[b][1])
                visit(step.body, moved)
            elif isinstance(step, If):
                visit((*step.then, *step.otherwise), inside)
            elif isinstance(step, Call):
                visit(program.functions[step.function], inside)

    visit(tuple(program.steps), {})
    return np.stack([low, high + sizes], axis=1)
