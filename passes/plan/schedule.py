"""The schedule step: the order of the ops of a tile graph, chosen for the bytes that are alive.

Plans are not known yet, so a tensor counts with all its bytes, wherever it will lie. Weights and inputs do not count:
they rest on the tiles whatever the order. Views are free.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ipucc.ops.graph import TileGraph, tensor_bytes
from ipucc.passes.plan.order import Region, cheapest_order, footprints, part

__all__ = ["graph_region", "schedule"]

_PROLOGUE: Final = 64
"""What is computed from inputs and weights alone, and is no larger than this part of the peak, runs first."""
_WIDE: Final = 64
"""Regions of more ops are also cut where the given order allows it."""


def schedule(graph: TileGraph) -> TileGraph:
    """The graph with its ops in the order of lowest peak of live bytes, and of lowest sum over steps beside that.

    Every producer stays before its readers. The peak is the lowest that there is, within these bounds: masks and
    positions (`_PROLOGUE`) run first, so that the layers that read them stay alike; an op whose result only the host
    reads stays where it is between the ops around it; regions that are too wide for the exact search are ordered by a
    beam (`order.py`). Never worse than the given order, and equal regions are ordered equally, so that repeated layers
    stay repeated.
    """
    first = _prologue(graph)
    rest = [i for i in range(len(graph.ops)) if i not in first]
    whole = graph_region(graph, rest)
    known: dict[Region, tuple[int, ...]] = {}
    order = [*sorted(first)]
    order += [rest[i] for i in _joined(whole, _fixed(whole, both=True), known, _ordered)]
    every = graph_region(graph, range(len(graph.ops)))
    old, new = footprints(every, range(every.count)), footprints(every, order)
    if not old or (max(new), sum(new)) >= (max(old), sum(old)):
        return graph
    return replace(graph, ops=[graph.ops[i] for i in order])


def graph_region(graph: TileGraph, ops: Sequence[int]) -> Region:
    """Some ops of a graph in rising order: what the others make is there from the start, and as long as these read it.

    What an op outside of them reads is not known to the region.
    """
    number = {graph.ops[o].result.tensor: i for i, o in enumerate(ops)}
    sizes = [tensor_bytes(graph.tensors[graph.ops[o].result.tensor]) for o in ops]
    reads = []
    for o in ops:
        tensors = [s.tensor for operand in graph.ops[o].operands for s in operand.sources]
        made = [t for t in dict.fromkeys(tensors) if graph.tensors[t].kind == "result"]
        for t in made:
            if t not in number:
                number[t] = len(sizes)
                sizes.append(tensor_bytes(graph.tensors[t]))
        reads.append(tuple(number[t] for t in made))
    kept = frozenset(number[out.source.tensor] for out in graph.outputs if out.source.tensor in number)
    return Region(tuple(sizes), tuple(reads), kept)


def _prologue(graph: TileGraph) -> set[int]:
    """The ops whose results are small and come from inputs and weights through small results alone."""
    region = graph_region(graph, range(len(graph.ops)))
    room = max(footprints(region, range(region.count)), default=0) // _PROLOGUE
    found: set[int] = set()
    for i, reads in enumerate(region.reads):
        if region.sizes[i] <= room and found.issuperset(reads):
            found.add(i)
            room -= region.sizes[i]
    return found


def _ordered(region: Region, known: dict[Region, tuple[int, ...]]) -> tuple[int, ...]:
    """The best known order of a region.

    A large region is first cut where all that was begun before runs into one op, or all that follows comes from one:
    such an op could stand elsewhere, but parts between them repeat, and the whole may be too wide for an exact search.
    """
    if region not in known:
        order = tuple(range(region.count))
        if region.count > _WIDE:
            joined = _joined(region, _fixed(region, both=False), known, _narrow)
            best = cheapest_order(region)
            order = best if max(footprints(region, best)) < max(footprints(region, joined)) else joined
        else:
            order = cheapest_order(region)
        known[region] = order
    return known[region]


def _narrow(region: Region, known: dict[Region, tuple[int, ...]]) -> tuple[int, ...]:
    if region not in known:
        known[region] = cheapest_order(region)
    return known[region]


def _joined(
    region: Region, cuts: Sequence[int], known: dict[Region, tuple[int, ...]],
    solve: Callable[[Region, dict[Region, tuple[int, ...]]], tuple[int, ...]],
) -> tuple[int, ...]:  # fmt: skip
    """The orders of the parts between some ops, one behind the other, each found by `solve`; those ops stay."""
    last = {t: op for op, reads in enumerate(region.reads) for t in reads}
    order: list[int] = []
    for cut in [*cuts, region.count]:
        at = len(order)
        if cut > at:
            ops = range(at, cut)
            behind = {t for t in {*ops, *(t for op in ops for t in region.reads[op])} if last.get(t, -1) >= cut}
            order += [at + i for i in solve(part(region, ops, behind), known)]
        order += range(cut, min(cut + 1, region.count))
    return tuple(order)


def _fixed(region: Region, *, both: bool) -> list[int]:
    """The ops that all ops before them run into, and from which all ops behind come; or only one of it.

    With both, such an op has the same place in every order. Ops whose result no op reads do not count.
    """
    n = region.count
    read_first, made_last = [n] * n, [-1] * n
    has_reader = [False] * n
    for t in {t for reads in region.reads for t in reads if t < n}:
        has_reader[t] = True
    for op, reads in enumerate(region.reads):
        made_last[op] = max((t for t in reads if t < n), default=-1)
        for t in reads:
            if t < n and (has_reader[op] or op == n - 1):
                read_first[t] = min(read_first[t], op)
    into, latest = [], -1
    for op in range(n):
        into.append(latest <= op)
        if has_reader[op]:
            latest = max(latest, read_first[op])
    comes, earliest = [True] * n, n
    for op in reversed(range(n)):
        comes[op] = earliest >= op
        if has_reader[op]:
            earliest = min(earliest, made_last[op])
    return [
        op for op in range(n)
        if has_reader[op] and ((into[op] and comes[op]) if both else (into[op] or comes[op]))
    ]  # fmt: skip
