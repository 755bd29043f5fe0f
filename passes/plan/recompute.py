"""Recomputation: an op runs a second time before a late reader, so that its result need not stay alive until then."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

import numpy as np

from ipucc.ops.graph import TileGraph, live_results, tensor_bytes
from ipucc.ops.spec import TileOp
from ipucc.target import Target

__all__ = ["Again", "Recomputed", "recompute"]

_DEPTH: Final = 4
"""How far behind each other the ops of one recomputation may lie."""
_TRIED: Final = 16
"""Recomputations, the best ones first, that are tried for one step."""


@dataclass(frozen=True)
class Again:
    """One tensor made twice: the copies of its op and of those before it, and the op that now reads the second one.

    `freed` bytes are less alive in `steps` steps.
    """

    tensor: str
    copies: tuple[str, ...]
    reader: str
    freed: int
    steps: int


@dataclass(frozen=True, eq=False)
class Recomputed:
    """A graph with ops that run again, what they are for, and how many bytes less are alive in the step in question."""

    graph: TileGraph
    again: tuple[Again, ...]
    freed: int


def recompute(graph: TileGraph, target: Target, at: int, needed: int) -> Recomputed | None:
    """The graph with at least `needed` bytes less alive in step `at`, or as many as recomputation frees there.

    Steps that are equally full and run an op of the same shape (those of repeated layers) are relieved like it. Of
    all recomputations the one with most bytes x steps per cycle comes first; none makes another step as full as the
    one that it relieves. Values are those of the graph; a copy may get another plan than the first op, and then round
    otherwise. None where nothing can be freed.
    """
    held = _held(graph)
    form = _shape(graph.ops[at])
    alike = [i for i, op in enumerate(graph.ops) if i != at and held[i] >= held[at] and _shape(op) == form]
    goals = {graph.ops[i].result.tensor: held[i] - needed for i in (at, *alike)}
    tensor_at = graph.ops[at].result.tensor
    found: list[Again] = []
    for tensor, goal in goals.items():
        while True:
            step = next((i for i, op in enumerate(graph.ops) if op.result.tensor == tensor), -1)
            better = _relieved(graph, target, step) if step >= 0 and _held(graph)[step] > goal else None
            if better is None:
                break
            graph = better.graph
            found += better.again
        if not found:
            return None
    after = dict(zip((op.result.tensor for op in graph.ops), _held(graph), strict=True))
    return Recomputed(graph, tuple(found), held[at] - after.get(tensor_at, 0))


def _shape(op: TileOp) -> tuple[object, ...]:
    return op.kind, op.axes, op.result.dtype


def _held(graph: TileGraph) -> list[int]:
    return [sum(tensor_bytes(graph.tensors[t]) for t in live) for live in live_results(graph)]


@dataclass(frozen=True)
class _Choice:
    """Making `tensor` again by `ops` before op `reader`: bytes freed in the step in question, steps, cycles."""

    tensor: int
    ops: tuple[int, ...]
    reader: int
    freed: int
    steps: int
    cycles: int


def _relieved(graph: TileGraph, target: Target, step: int) -> Recomputed | None:
    """The graph with the best single recomputation for one step; None where there is none."""
    held = _held(graph)
    choices = sorted(_choices(graph, target, step), key=lambda c: (-c.freed * c.steps / c.cycles, c.tensor, c.ops))
    place = {op.result.tensor: i for i, op in enumerate(graph.ops)}
    for choice in choices[:_TRIED]:
        better = _applied(graph, choice)
        after = {op.result.tensor: n for op, n in zip(better.graph.ops, _held(better.graph), strict=True)}
        if after[graph.ops[step].result.tensor] < held[step] and all(
            n < held[step] or (t in place and n <= held[place[t]]) for t, n in after.items()
        ):
            return better
    return None


def _choices(graph: TileGraph, target: Target, step: int) -> list[_Choice]:
    """What can be made again behind a step: results that live through it, and chains of ops that end in them."""
    made = {op.result.tensor: i for i, op in enumerate(graph.ops)}
    readers: dict[int, list[int]] = {t: [] for t in made}
    for i, op in enumerate(graph.ops):
        for t in _results(op, made):
            readers[t].append(i)
    final = {out.source.tensor for out in graph.outputs}
    last = {t: len(graph.ops) if t in final else max([made[t], *readers[t]]) for t in made}
    size = {t: tensor_bytes(graph.tensors[t]) for t in made}
    found = []
    for t, i in made.items():
        if not i < step < last[t] or t in final or step in readers[t]:
            continue
        reader = min(r for r in readers[t] if r > step)
        steps = reader - max([i, *(r for r in readers[t] if r < step)]) - 1
        ops: set[int] = set()
        wanted = {i}
        for _ in range(_DEPTH):
            if any(graph.ops[o].chained for o in wanted):
                break  # Which tensor such an op hands on is not known before placement.
            ops |= wanted
            sources = {s for o in ops for s in _results(graph.ops[o], made) if made[s] not in ops and last[s] < reader}
            # What the copies read must live until then, and through this step if it did not.
            freed = size[t] - sum(size[s] for s in sources if last[s] < step)
            if freed > 0:
                cycles = sum(_cycles(graph, graph.ops[o], target) for o in ops)
                found.append(_Choice(t, tuple(sorted(ops)), reader, freed, steps, cycles))
            wanted = {made[s] for s in sources}
            if not wanted:
                break
    return found


def _results(op: TileOp, made: Mapping[int, int]) -> list[int]:
    return list(dict.fromkeys(s.tensor for o in op.operands for s in o.sources if s.tensor in made))


def _cycles(graph: TileGraph, op: TileOp, target: Target) -> int:
    """About what an op takes, before it has a plan: its codelet and its operands spread evenly, and one phase."""
    n = {a.name: np.full(1, a.size, np.int64) for a in op.axes}
    work = int(op.codelet.cycles(n, target)[0]) / target.tiles
    moved = sum(tensor_bytes(graph.tensors[s.tensor]) for o in op.operands for s in o.sources) / target.tiles
    return ceil(work + moved / target.exchange_bytes_per_cycle) + target.phase_cycles


def _applied(graph: TileGraph, choice: _Choice) -> Recomputed:
    """The graph with copies of the ops before the reader; it and all readers behind it read what they make."""
    tensors = list(graph.tensors)
    names = {op.name for op in graph.ops}
    to: dict[int, int] = {}
    copies = []
    for i in choice.ops:
        old = graph.ops[i]
        name = _free_name(old.name, names)
        names.add(name)
        index = len(tensors)
        tensors.append(replace(tensors[old.result.tensor], index=index, name=name))
        copies.append(_rewired(replace(old, name=name), to, index))
        to[old.result.tensor] = index
    late = {choice.tensor: to[choice.tensor]}
    behind = [_rewired(op, late) for op in graph.ops[choice.reader :]]
    again = Again(
        graph.tensors[choice.tensor].name, tuple(op.name for op in copies), graph.ops[choice.reader].name,
        choice.freed, choice.steps,
    )  # fmt: skip
    ops = [*graph.ops[: choice.reader], *copies, *behind]
    for i in reversed(choice.ops):
        # Where all readers were late ones the first op is not needed any more.
        if not any(s.tensor == graph.ops[i].result.tensor for op in ops for o in op.operands for s in o.sources):
            ops.remove(graph.ops[i])
    return Recomputed(replace(graph, tensors=tensors, ops=ops), (again,), choice.freed)


def _rewired(op: TileOp, to: Mapping[int, int], result: int | None = None) -> TileOp:
    """The op with other sources; with a `result` it is a copy, which adds nothing to the work that the model asks."""
    operands = tuple(
        replace(o, sources=tuple(replace(s, tensor=to.get(s.tensor, s.tensor)) for s in o.sources))
        if any(s.tensor in to for s in o.sources) else o
        for o in op.operands
    )  # fmt: skip
    forms = tuple(_rewired(f, to, result) for f in op.forms)
    if result is None:
        unchanged = all(a is b for a, b in zip(operands, op.operands, strict=True))
        return op if unchanged else replace(op, operands=operands, forms=forms)
    return replace(
        op, operands=operands, forms=forms, result=replace(op.result, tensor=result), macs=0,
        sparse_macs=None if op.sparse_macs is None else 0,
    )  # fmt: skip


def _free_name(name: str, taken: set[str]) -> str:
    """`name.again`, or `name.again2` and so on."""
    stem = f"{name}.again"
    return next(n for n in (stem, *(f"{stem}{i}" for i in range(2, len(taken) + 3))) if n not in taken)
