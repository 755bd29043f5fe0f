"""Which buffers a step touches, and from where to where the bytes of a buffer matter."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ipucc.program.model import Call, Compute, Exchange, HostRead, HostWrite, Program, Repeat, Step

__all__ = ["liveness", "reach", "touched"]

Functions = Mapping[str, tuple[Step, ...]]


def touched(step: Step, functions: Functions) -> tuple[list[int], list[int]]:
    """(buffers read, buffers written) by a step, those of loop bodies and called functions included. A move that keeps
    a part of its destination reads it."""
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
    if isinstance(step, Repeat):
        inner = [touched(s, functions) for s in step.body]
        return [b for r, _ in inner for b in r], [b for _, w in inner for b in w]
    assert isinstance(step, Call)
    inner = [touched(s, functions) for s in functions[step.function]]
    copies = (*step.inputs, *step.outputs)
    return (
        [a for a, _ in copies] + [b for r, _ in inner for b in r],
        [b for _, b in copies] + [b for _, w in inner for b in w],
    )


def liveness(program: Program) -> NDArray[np.int64]:
    """[buffers, 2]: first and last moment in which the bytes of a buffer matter; -1 where nothing uses it.

    A moment is a step in the order of the text, bodies of loops in place. A buffer that lives within one iteration of a
    loop has moments of its own; one that a loop shares with the outside or with other iterations lives through all of
    the loop. Aliases extend their root and have no life of their own. Weights and patterns live through the whole
    program, other inputs from its start: the host writes before the first superstep, and a program may be run again.
    """
    live = np.full((len(program.buffers), 2), -1, np.int64)
    outside: dict[int, int] = {}
    now = 0
    resident = program.resident

    def root(b: int) -> int:
        return program.buffers[b].alias if program.buffers[b].alias >= 0 else b

    def use(b: int, first: int, to: int) -> None:
        r = root(b)
        live[r, 0] = first if live[r, 0] < 0 else min(live[r, 0], first)
        live[r, 1] = max(live[r, 1], to)

    for step in program.steps:
        for b in {root(x) for part in touched(step, program.functions) for x in part}:
            outside[b] = outside.get(b, 0) + 1
    forever: list[int] = []
    for step in program.steps:
        if isinstance(step, HostWrite):
            use(step.buffer, 0, now)
            if step.tensor in resident:
                forever.append(step.buffer)
        elif isinstance(step, Repeat):
            begin, written = now, set[int]()
            kept = {root(b) for b in step.strides}
            for inner in step.body:
                now += 1
                reads, writes = touched(inner, program.functions)
                # Read before it is written in the body: handed on from one iteration to the next.
                kept |= {root(b) for b in reads if root(b) not in written}
                written |= {root(b) for b in writes}
                for b in (*reads, *writes):
                    use(b, now, now)
            for b in {root(x) for part in touched(step, program.functions) for x in part}:
                if b in kept or outside[b] > 1:
                    use(b, begin, now)
        else:
            for part in touched(step, program.functions):
                for b in part:
                    use(b, now, now)
        now += 1
    for b in forever:
        use(b, 0, now)
    return live


def reach(program: Program) -> NDArray[np.int64]:
    """[buffers, 2]: the lowest address of a buffer and the end of its highest, over all iterations of all loops."""
    sizes = np.array([b.nbytes for b in program.buffers], np.int64)
    low = np.array([b.offset for b in program.buffers], np.int64)
    high = low.copy()

    def visit(steps: tuple[Step, ...], inside: Mapping[int, tuple[int, int]]) -> None:
        for step in steps:
            if isinstance(step, Repeat):
                moved = dict(inside)
                for b, stride in step.strides.items():
                    way = stride * max(0, step.count - 1)
                    down, up = moved.get(b, (0, 0))
                    moved[b] = (down + min(0, way), up + max(0, way))
                    low[b] = min(low[b], program.buffers[b].offset + moved[b][0])
                    high[b] = max(high[b], program.buffers[b].offset + moved[b][1])
                visit(step.body, moved)
            elif isinstance(step, Call):
                visit(program.functions[step.function], inside)

    visit(tuple(program.steps), {})
    return np.stack([low, high + sizes], axis=1)
