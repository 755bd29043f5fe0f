"""All plans of one op, priced at once, and the few worth offering to placement.

Every combination of useful part counts of the op's axes (and of serial steps, where the operands would not fit) is
priced by the codelet's own cycle formula on arrays; a diverse set is kept: the fastest, the leanest, and the fastest of
differing shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.rows import parts_axis
from ipucc.dtypes import itemsize
from ipucc.ops.spec import Along, Everything, Operand, Span, TileOp
from ipucc.passes.plan.grid import Plan, packing
from ipucc.target import Target
from ipucc.tiles.cuts import useful_parts

__all__ = ["Enumerated", "Hosted", "enumerate_plans", "worth_gathering"]

Counts = NDArray[np.int64]
Hosted = Literal["", "weight", "input"]

_MAX_COMBINATIONS: Final = 60_000
_WORD_BYTES: Final = 4
_SERIAL: Final = (1, 2, 4, 8, 16, 32)
_WORTH_GATHERING: Final = 256
_PRICES: Final = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Cycles per byte at which plans are compared."""
_CROWDED: Final = 4
"""Serial steps are offered where the fastest plan takes more than this part of the memory."""


@dataclass(frozen=True, eq=False)
class Enumerated:
    """Plans worth offering to placement, as (position of the form, plan), out of so many `combinations` of part counts,
    serial steps and forms that were priced."""

    plans: list[tuple[int, Plan]]
    combinations: int


def enumerate_plans(
    forms: Sequence[TileOp], hosted: tuple[Hosted, ...], target: Target, budget: int, keep: int, alike: int = 1
) -> Enumerated:
    """At most `keep` plans for an op in any of its forms. `hosted[i]` says that operand i is written by the host: a
    weight wherever it is needed, an input in one copy.

    `budget` is the memory of a tile in bytes that one op may take; plans above it are dropped unless none is left,
    then the leanest is returned. `alike` ops of the graph are such ops: what they all hold all the time counts where
    fast plans are weighed against lean ones.
    """
    found: list[_Row] = []
    combinations = 0
    for family in _families(forms):
        op = forms[family[0]]
        parts = _combinations(op, target)
        base = _price(forms, family, hosted, target, parts, None)
        found += _select(family[0], parts, base, None, budget, keep, alike)
        combinations += len(family) * len(parts)
        fastest = int(base.score.argmin())
        if base.memory[fastest] + (alike - 1) * base.resident[fastest] > budget // _CROWDED:
            for axis in op.axes if op.result.axes else ():
                for steps in _SERIAL[1:]:
                    if axis.kind == "parallel" and steps <= -(-axis.size // axis.grain):
                        serial = axis.name, steps
                        priced = _price(forms, family, hosted, target, parts, serial)
                        found += _select(family[0], parts, priced, serial, budget, keep, alike)
                        combinations += len(family) * len(parts)
    pool = [f for f in found if f.memory <= budget] or sorted(found, key=lambda f: f.memory)[:1]
    pool.sort(key=lambda f: (f.score, f.memory))
    kept = [
        (f.form, Plan(_ordered(forms[f.family], f.parts, hosted), f.serial, f.gathered))
        for f in _diverse(pool, keep, budget, alike)
    ]
    return Enumerated(kept, combinations)


def _families(forms: Sequence[TileOp]) -> list[list[int]]:
    """Positions of forms that differ in codelets only: cut alike, they move and hold the same, and the best one of
    each cut is enough."""
    found: dict[tuple[object, ...], list[int]] = {}
    for i, form in enumerate(forms):
        key = (form.axes, tuple(id(o) for o in form.operands), form.partial is None, form.partial_dtype)
        found.setdefault(key, []).append(i)
    return list(found.values())


def worth_gathering(held: Counts, spread: int) -> NDArray[np.bool_]:
    """Whether a weight that takes `held` bytes of a tile where it is used had better rest spread, at `spread` bytes."""
    return (held > _WORTH_GATHERING) & (2 * held > 3 * spread)


@dataclass(frozen=True, eq=False)
class _Row:
    """A plan with its estimated cycles, bytes while its op runs, and bytes that it holds all the time. `family` is the
    first form that is cut like `form`."""

    family: int
    form: int
    parts: Counts
    serial: tuple[str, int] | None
    gathered: bool
    score: int
    memory: int
    resident: int


@dataclass(frozen=True, eq=False)
class _Priced:
    """The best form of every row, with its cycles, bytes and resident bytes; these with gathered weights; and the
    bytes that gathering moves."""

    form: Counts
    score: Counts
    memory: Counts
    resident: Counts
    gather_score: Counts
    gather_memory: Counts
    gather_resident: Counts
    shared: Counts


def _combinations(op: TileOp, target: Target) -> Counts:
    """[combinations, axes]: useful part counts with a product of at most the number of tiles."""
    table = np.zeros((1, 0), np.int64)
    product = np.ones(1, np.int64)
    for axis in op.axes:
        cuttable = axis.kind == "parallel" or (axis.kind in ("reduce", "row") and _leaves_words(op))
        options = useful_parts(-(-axis.size // axis.grain), target.tiles) if cuttable else np.ones(1, np.int64)
        if axis.pinned:
            options = np.asarray([axis.size])
        while options.size > 4 and table.shape[0] * options.size > _MAX_COMBINATIONS:
            options = np.unique(np.append(options[::2], options[-1]))
        grown = product[:, None] * options[None, :]
        row, col = np.nonzero(grown <= target.tiles)
        table = np.concatenate([table[row], options[col][:, None]], axis=1)
        product = grown[row, col]
    return table


def _leaves_words(op: TileOp) -> bool:
    """Whether an op has partials, and an exchange can collect them: single elements must be whole machine words."""
    return op.partial is not None and (bool(op.result.axes) or itemsize(op.partial_dtype) >= _WORD_BYTES)


def _extents(op: TileOp, parts: Counts, serial: str | None, steps: int) -> dict[str, Counts]:
    """Extent of the largest cell of one round, per axis."""
    out = {}
    for i, axis in enumerate(op.axes):
        grains = -(-axis.size // axis.grain)
        cell = -(-grains // parts[:, i])
        if axis.name == serial:
            cell = -(-cell // steps)
        out[axis.name] = np.minimum(cell * axis.grain, axis.size)
    return out


def _operand_elements(operand: Operand, n: Mapping[str, Counts]) -> Counts:
    """Elements of an operand that the largest cell needs, grains rounded up."""
    total = np.ones(1, np.int64)
    for size in _operand_extents(operand, n):
        total = total * size
    return total


def _operand_extents(operand: Operand, n: Mapping[str, Counts]) -> list[Counts]:
    """Extents of the part of an operand that the largest cell needs, grains rounded up."""
    extents = []
    grain = max(1, 16 // itemsize(operand.dtype))
    for d, kind in enumerate(operand.dims):
        if isinstance(kind, Everything):
            size: Counts = np.full(1, kind.size, np.int64)
        elif isinstance(kind, Along):
            size = n[kind.axis]
        else:
            size = _span_extent(kind, n[kind.axis])
        if d == operand.grain_dim:
            size = -(-size // grain) * grain
        extents.append(size)
    return extents


def _span_extent(span: Span, n: Counts) -> Counts:
    """The widest hull of any n consecutive indices of a span."""
    out = np.zeros_like(n)
    for length in np.unique(n).tolist():
        k = min(int(length), span.lo.size)
        starts = np.arange(span.lo.size - k + 1)
        out[n == length] = int((span.hi[starts + k - 1] - span.lo[starts]).max(initial=1))
    return np.maximum(out, 1)


def _computed(
    op: TileOp, n: Mapping[str, Counts], split: Mapping[str, Counts], reduce: Counts, target: Target
) -> tuple[Counts, Counts]:
    """Cycles of a form's codelets for every row, and the scratch bytes they take."""
    count = reduce.size
    whole = np.broadcast_to(op.codelet.cycles(n, target), count).astype(np.int64)
    temp = np.broadcast_to(op.codelet.temp_bytes(n, target), count).astype(np.int64)
    if op.partial is None or op.combine is None or not (reduce > 1).any():
        return whole, temp
    first = np.broadcast_to(op.partial.cycles(n, target), count)
    dealt = dict(n)
    for a in op.axes:
        if a.kind == "reduce":
            dealt[a.name] = split[a.name]
        elif a.kind == "row":
            dealt[parts_axis(a.name)] = split[a.name]
    if op.result.axes and not op.rows:
        # The reduction deals a cell out to the tiles of its group, along its largest axis.
        main = max(op.result.axes, key=lambda a: op.axis(a).size)
        dealt[main] = np.maximum(1, -(-n[main] // reduce))
    second = np.broadcast_to(op.combine.cycles(dealt, target), count)
    return np.where(reduce > 1, first + second, whole), temp


def _price(
    forms: Sequence[TileOp],
    family: Sequence[int],
    hosted: tuple[Hosted, ...],
    target: Target,
    parts: Counts,
    serial: tuple[str, int] | None,
) -> _Priced:
    op = forms[family[0]]
    axis, steps = serial or (None, 1)
    n = _extents(op, parts, axis, steps)
    count = parts.shape[0]
    split = {a.name: parts[:, i] for i, a in enumerate(op.axes)}
    reduce = np.ones(count, np.int64)
    for a in op.axes:
        if a.kind in ("reduce", "row"):
            reduce = reduce * split[a.name]
    cell = np.ones(count, np.int64)
    for name in op.result.axes:
        cell = cell * n[name]
    form = np.full(count, family[0], np.int64)
    compute, temp = _computed(op, n, split, reduce, target)
    for other in family[1:]:
        cycles, scratch = _computed(forms[other], n, split, reduce, target)
        better = cycles < compute
        form, compute, temp = (
            np.where(better, new, old) for new, old in ((other, form), (cycles, compute), (scratch, temp))
        )
    moved, phases = np.zeros(count), np.ones(count, np.int64)
    # What pairs of neighbours receive alike comes at the pair rate; the axes of a plan are laid so for one operand.
    paired = np.zeros(count)
    if op.partial is not None and op.combine is not None:
        partial_bytes = itemsize(op.partial_dtype)
        if op.rows:
            # Every tile receives the statistics of all other parts.
            left = np.full(count, partial_bytes, np.int64)
            for name in op.statistics:
                left = left * n[name]
            received, kept = left * (reduce - 1.0), left * (reduce + 1)
        else:
            left = cell * partial_bytes
            received, kept = left * (reduce - 1) / reduce, left * 2
        has = reduce > 1
        moved = np.where(has, received, 0.0)
        phases = np.where(has, 2, 1)
        temp = temp + np.where(has, kept, 0)
    result = cell * itemsize(op.result.dtype) * steps
    resident, shared = np.zeros(count, np.int64), np.zeros(count, np.int64)
    spread = np.zeros(count, np.int64)
    for operand, at_host in zip(op.operands, hosted, strict=True):
        elements = np.broadcast_to(_operand_elements(operand, n), count).astype(np.int64)
        size = elements * itemsize(operand.dtype)
        along = {d.axis for d in operand.dims if not isinstance(d, Everything)}
        again = steps if axis is None or axis in along else 1
        copies = np.ones(count, np.int64)
        for a in op.axes:
            copies = copies * (1 if a.name in along else split[a.name])
        if not at_host:
            bytes_in = size * (steps if axis in along else 1)
            moved, paired = moved + bytes_in, np.maximum(paired, np.where(copies % 2 == 0, bytes_in, 0))
            temp = temp + size * (2 if operand.pack_dim is not None else 1)
            if operand.pack_dim is not None:
                codelet = packing(operand)
                held = dict(zip(codelet.axes, _operand_extents(operand, n), strict=True))
                compute = compute + codelet.cycles(held, target)
            continue
        least = -(-prod(operand.shape) * itemsize(operand.dtype) // target.tiles)
        if at_host == "input":
            # Written once: tiles that need the same part fetch it from where it rests, spread over the chip.
            alone = copies == 1
            bytes_in = np.where(alone, 0, size * (steps if axis in along else 1))
            moved, paired = moved + bytes_in, np.maximum(paired, np.where(copies % 2 == 0, bytes_in, 0))
            temp = temp + np.where(alone, 0, size)
            resident = resident + np.where(alone, size * again, least + 64)
            spread = spread + np.where(alone, size * again, least + 64)
            continue
        resident = resident + size * again
        worth = worth_gathering(size * again, least)
        shared = shared + np.where(worth, size, 0)
        spread = spread + np.where(worth, least + 64, size * again)
    rate = target.exchange_bytes_per_cycle
    moved = moved - paired * (1 - rate / target.pair_bytes_per_cycle)
    fabric = (moved / rate * target.exchange_factor).astype(np.int64) + phases * target.phase_cycles
    score = compute * steps + fabric
    extra = (shared / rate * target.exchange_factor).astype(np.int64) * steps + target.phase_cycles
    return _Priced(
        form, score, resident + result + temp, resident, score + extra, spread + shared + result + temp, spread, shared
    )


def _select(
    family: int, parts: Counts, priced: _Priced, serial: tuple[str, int] | None, budget: int, keep: int, alike: int
) -> list[_Row]:
    """The best rows by time, by memory and along the front between them, resident and gathered."""
    out: list[_Row] = []
    for gathered in (False, True):
        score = priced.gather_score if gathered else priced.score
        memory = priced.gather_memory if gathered else priced.memory
        resident = priced.gather_resident if gathered else priced.resident
        rows = np.flatnonzero(priced.shared > 0) if gathered else np.arange(score.size)
        if not rows.size:
            continue
        order = rows[np.lexsort((memory[rows], score[rows]))]
        total = memory + (alike - 1) * resident
        fits = order[total[order] <= budget]
        chosen = list(fits[: 4 * keep].tolist())
        chosen += [
            int(i) for i in order[_bargains(score[order], memory[order] - resident[order], resident[order], alike)]
        ]
        for bytes_ in (memory, resident, total):
            chosen.append(int(order[bytes_[order].argmin()]))
        out += [
            _Row(
                family, int(priced.form[i]), parts[i], serial, gathered, int(score[i]), int(memory[i]), int(resident[i])
            )
            for i in dict.fromkeys(chosen)
        ]
    return out


def _ordered(op: TileOp, row: Counts, hosted: tuple[Hosted, ...]) -> tuple[tuple[str, int], ...]:
    """Axes outermost first: reduce axes, then by how much a moved operand is shared along them, most shared last.

    Neighbouring tiles then receive the same data of the largest operand, which the exchange moves at the pair rate.
    """
    n = {a.name: -(-a.size // int(p)) for a, p in zip(op.axes, row, strict=True)}

    def shared(axis: str) -> int:
        total = 0
        for operand, at_host in zip(op.operands, hosted, strict=True):
            along = {d.axis for d in operand.dims if not isinstance(d, Everything)}
            if at_host != "weight" and axis not in along:
                size = 1
                for a in along:
                    size *= n[a]
                total += size * itemsize(operand.dtype)
        return total

    names = [(a.kind != "reduce", shared(a.name), i, a.name, int(p))
             for i, (a, p) in enumerate(zip(op.axes, row, strict=True))]  # fmt: skip
    return tuple((name, p) for *_, name, p in sorted(names))


def _diverse(pool: list[_Row], keep: int, budget: int, alike: int) -> list[_Row]:
    """A third the fastest that fit as often as they are needed, about a third those that are best at some price of
    bytes and the leanest, the rest new shapes."""
    if len(pool) <= keep:
        return pool
    score, memory, resident = (
        np.asarray(x, np.int64) for x in ([r.score for r in pool], [r.memory for r in pool], [r.resident for r in pool])
    )
    total = memory + (alike - 1) * resident
    fits = np.flatnonzero(total <= budget).tolist()
    chosen = dict.fromkeys(fits[: -(-keep // 3)] or range(-(-keep // 3)))
    chosen |= dict.fromkeys(int(x.argmin()) for x in (total, memory, resident))
    bargains = _bargains(score, memory - resident, resident, alike)
    step = max(1, -(-len(bargains) // max(1, keep // 2)))
    chosen |= dict.fromkeys(bargains[::step])
    shapes = {_shape(pool[i]) for i in chosen}
    for i, row in enumerate(pool):
        if len(chosen) >= keep:
            break
        if _shape(row) not in shapes:
            shapes.add(_shape(row))
            chosen.setdefault(i)
    for i in range(len(pool)):
        if len(chosen) >= keep:
            break
        chosen.setdefault(i)
    return [pool[i] for i in sorted(chosen)]


def _bargains(score: Counts, temp: Counts, resident: Counts, alike: int) -> list[int]:
    """The best rows at prices of temporary and resident bytes, from free to dear, without those that come up again.

    A placement that memory binds is the cheapest at some price of bytes, so these are the plans that it is made of.
    """
    found: dict[int, None] = {}
    for held in _PRICES:
        for used in _PRICES:
            found.setdefault(int((score + used * temp + held * alike * resident).argmin()))
    return list(found)


def _shape(row: _Row) -> tuple[object, ...]:
    """What makes two plans alike for their neighbours: the cut of the axes, to a factor of two."""
    return row.family, *(int(p).bit_length() for p in row.parts), row.serial is None, row.gathered
