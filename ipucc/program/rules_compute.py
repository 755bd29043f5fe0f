"""Rules about compute sets and calls: vertices hold their cells, write each one once, and can be timed."""

from math import prod

import numpy as np
from numpy.typing import NDArray

from ipucc.diagnostics import CompileError
from ipucc.program.facts import Facts, Found, Problem, name_of
from ipucc.program.model import Binding, Call, Compute, If, While
from ipucc.program.timing import compute_cycles

__all__ = ["bindings", "calls", "codelets", "results"]


def bindings(facts: Facts) -> Found:
    """Every vertex runs on a tile that holds the cells it is bound to."""
    held: dict[tuple[int, int, int], Problem | None] = {}
    for step in facts.computes:
        if step.tiles.size and (int(step.tiles.min()) < 0 or int(step.tiles.max()) >= facts.target.tiles):
            yield Problem(f"{name_of(step)}: a vertex runs on a tile outside of the target", "IPU0507")
            continue
        for b in (*step.operands, *step.results):
            key = (id(facts.buffers[b.buffer].layout), id(b.cells), id(step.tiles))
            if key not in held:
                held[key] = _unheld(facts, step, b)
            problem = held[key]
            if problem is not None:
                yield problem


def _unheld(facts: Facts, step: Compute, b: Binding) -> Problem | None:
    layout = facts.buffers[b.buffer].layout
    cells = prod(layout.grid)
    if b.cells.shape != step.tiles.shape:
        return Problem(
            f"{name_of(step)}: {b.cells.size} cells of {facts.label(b.buffer)} for {step.tiles.size} vertices"
        )
    if b.cells.size and (int(b.cells.min()) < 0 or int(b.cells.max()) >= cells):
        return Problem(f"{name_of(step)}: a cell of {facts.label(b.buffer)} outside of 0..{cells - 1}", "IPU0507")
    holders = layout.tiles.reshape(cells, -1)[b.cells]
    wrong = np.flatnonzero(~(holders == step.tiles[:, None]).any(axis=1))
    if not wrong.size:
        return None
    at = int(wrong[0])
    return Problem(
        f"{name_of(step)}: vertex {at} on tile {step.tiles[at]} works on cell {b.cells[at]} of "
        f"{facts.label(b.buffer)}, which tile {holders[at, 0]} holds"
    )


def results(facts: Facts) -> Found:
    """No two vertices of a compute set write the same cell on one tile, and none writes bytes that are read, but for
    sums that a codelet adds to in place."""
    for step in facts.computes:
        yield from _beside(facts, step)
        seen: dict[int, list[NDArray[np.int64]]] = {}
        for b in step.results:
            seen.setdefault(b.buffer, []).append(_places(step, b))
        for written, places in seen.items():
            every = np.sort(np.concatenate(places))
            twice = np.flatnonzero(np.diff(every) == 0)
            if twice.size:
                tile, cell = divmod(int(every[twice[0]]), 1 << 32)
                yield Problem(
                    f"{name_of(step)}: two vertices write cell {cell} of {facts.label(written)} on tile {tile}"
                )
            read = step.operands[:-1] if _in_place(step) else step.operands
            for other in dict.fromkeys([*(b.buffer for b in read), *(r for r in seen if r != written)]):
                if facts.root(other) == facts.root(written) and not facts.apart(step, other, written):
                    yield Problem(f"{name_of(step)}: {facts.label(written)} shares bytes with {facts.label(other)}")


def _places(step: Compute, b: Binding) -> NDArray[np.int64]:
    """One number for the tile and the cell of every vertex."""
    return step.tiles.astype(np.int64) * (1 << 32) + b.cells


def _beside(facts: Facts, step: Compute) -> Found:
    """The vertices of one codelet neither read nor write what those of another write in the same compute set."""
    if any(part.beside for part in step.beside):
        yield Problem(f"{name_of(step)}: vertices beside it have vertices beside them")
        return
    for part in step.parts if step.beside else ():
        for other in (p for p in step.parts if p is not part):
            for r in part.results:
                for b in (*other.operands, *other.results):
                    if facts.root(b.buffer) != facts.root(r.buffer) or facts.apart(step, b.buffer, r.buffer):
                        continue
                    if b.buffer != r.buffer or np.isin(_places(part, r), _places(other, b)).any():
                        yield Problem(
                            f"{name_of(step)}: vertices of {part.codelet.name!r} write {facts.label(r.buffer)} where "
                            f"those of {other.codelet.name!r} work"
                        )
                        return


def _in_place(step: Compute) -> bool:
    """Whether every vertex writes its first result where it reads its last operand, and the codelet allows for it."""
    if not (step.codelet.in_place and step.operands and step.results):
        return False
    old, new = step.operands[-1], step.results[0]
    return old.buffer == new.buffer and np.array_equal(old.cells, new.cells)


def codelets(facts: Facts) -> Found:
    """Codelets know the axes and types that they are given: their cycles can be counted, and their scratch holds what
    they need."""
    for step in facts.computes:
        try:
            scratch = int(step.codelet.temp_bytes(step.cells.n, facts.target).max(initial=0))
            held = facts.buffers[step.results[-1].buffer].layout.slot_bytes if step.results else 0
            if step.codelet.has_scratch and held < scratch:
                yield Problem(
                    f"{name_of(step)}: codelet {step.codelet.name!r} has {held} bytes of scratch and needs {scratch}"
                )
                continue
            cycles = compute_cycles(step, facts.regions)
        except CompileError as problem:
            # The text of a fused expression, for one, is read when it is used.
            yield Problem(f"{name_of(step)}: codelet {step.codelet.name!r}: {problem.diagnostics[0].message}")
            continue
        except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as problem:
            yield Problem(f"{name_of(step)}: codelet {step.codelet.name!r} cannot count its cycles: {problem!r}")
            continue
        wrong = _misplaced(step, facts)
        if wrong:
            yield Problem(f"{name_of(step)}: {wrong}")
        if cycles.shape != step.tiles.shape or (cycles.size and int(cycles.min()) < 0):
            yield Problem(f"{name_of(step)}: codelet {step.codelet.name!r} counts cycles that make no sense")


def _misplaced(step: Compute, facts: Facts) -> str:
    """What is wrong with the workers that vertices are given to; nothing for vertices without."""
    if step.workers is None:
        return ""
    if step.codelet.context != "worker":
        return f"codelet {step.codelet.name!r} runs on the whole tile, and its vertices name workers"
    if step.workers.shape != step.tiles.shape:
        return f"{step.workers.size} workers for {step.tiles.size} vertices"
    if step.workers.size and not 0 <= int(step.workers.min()) <= int(step.workers.max()) < facts.target.workers:
        return f"a vertex runs on a worker outside of 0..{facts.target.workers - 1}"
    return ""


def conditions(facts: Facts) -> Found:
    """A condition is one bool, and every tile has a copy of it: all of them go the same way."""
    for step in facts.steps:
        if isinstance(step, While | If):
            b = facts.buffers[step.condition]
            every = b.layout.used_tiles.size == facts.target.tiles
            if b.dtype != "bool" or prod(b.layout.shape) != 1 or not every:
                yield Problem(f"{name_of(step)}: {facts.label(step.condition)} is not one bool on every tile")


def calls(facts: Facts) -> Found:
    """Arguments are copied within tiles: both buffers of a pair have one layout and one type."""
    for step in facts.steps:
        if isinstance(step, Call):
            for a, b in (*step.inputs, *step.outputs):
                one, two = facts.buffers[a], facts.buffers[b]
                if one.dtype != two.dtype or not one.layout.same_as(two.layout):
                    yield Problem(f"{name_of(step)}: {facts.label(a)} and {facts.label(b)} have different layouts")
