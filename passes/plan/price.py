"""What plans of one op cost by estimate: cycles and bytes of many combinations of part counts at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.base import Codelet
from ipucc.dtypes import itemsize
from ipucc.ops.spec import Along, Everything, Operand, Span, TileOp
from ipucc.passes.plan.grid import packing
from ipucc.passes.plan.joins import joined
from ipucc.target import Target

__all__ = ["Counts", "Hosted", "Priced", "Serial", "leaves_words", "price", "rounds_of", "worth_gathering"]

Counts = NDArray[np.int64]
Hosted = Literal["", "weight", "input", "received"]
"""Where an operand comes from that rests where this op wants it: the host, or another part of the program."""

_WORTH_GATHERING: Final = 256
_WORD_BYTES: Final = 4


@dataclass(frozen=True, eq=False)
class Serial:
    """Steps of an axis, one number for every row. `adds` is the reduce axis that they add up, the axis itself or, while
    sums rotate, the one along which they do."""

    axis: str
    steps: Counts
    adds: str | None = None

    @property
    def rotates(self) -> bool:
        """Whether sums are handed on."""
        return self.adds is not None and self.adds != self.axis


@dataclass(frozen=True, eq=False)
class Rounds:
    """The codelets of a form's rounds that add up; the last one finishes results or leaves partials."""

    first: Codelet
    next: Codelet
    last: Codelet
    last_partial: Codelet


def rounds_of(op: TileOp) -> Rounds | None:
    """None for a form whose rounds cannot add up."""
    if op.partial is None:
        return None
    found = (
        op.partial.in_round("first"), op.partial.in_round("next"), op.codelet.in_round("last"),
        op.partial.in_round("last"),
    )  # fmt: skip
    return None if None in found else Rounds(*(x for x in found if x is not None))


@dataclass(frozen=True, eq=False)
class Priced:
    """The best form of every row and the groups in which it joins partials first, with its cycles, bytes and resident
    bytes; these with gathered weights; and the bytes that gathering moves."""

    form: Counts
    groups: Counts
    score: Counts
    memory: Counts
    resident: Counts
    gather_score: Counts
    gather_memory: Counts
    gather_resident: Counts
    shared: Counts

    def of(self, rows: Counts) -> "Priced":
        """The prices of some rows."""
        return Priced(*(getattr(self, f.name)[rows] for f in fields(self)))

    def figures(self, gathered: bool) -> tuple[Counts, Counts, Counts]:
        """Cycles, bytes and resident bytes of every row, with resident or gathered weights."""
        if gathered:
            return self.gather_score, self.gather_memory, self.gather_resident
        return self.score, self.memory, self.resident

    def total(self, gathered: bool, alike: int) -> Counts:
        """Bytes of every row where `alike` ops hold what one holds all the time."""
        _, memory, resident = self.figures(gathered)
        return memory + (alike - 1) * resident


def worth_gathering(held: Counts, spread: int) -> NDArray[np.bool_]:
    """Whether a weight that takes `held` bytes of a tile where it is used had better rest spread, at `spread` bytes."""
    return (held > _WORTH_GATHERING) & (2 * held > 3 * spread)


def leaves_words(op: TileOp) -> bool:
    """Whether an op has partials, and an exchange can collect them: single elements must be whole machine words."""
    return op.partial is not None and (bool(op.result.axes) or itemsize(op.partial_dtype) >= _WORD_BYTES)


def _extents(op: TileOp, parts: Counts, serial: Serial | None) -> dict[str, Counts]:
    """Extent of the largest cell of one round, per axis."""
    out = {}
    for i, axis in enumerate(op.axes):
        grains = -(-axis.size // axis.grain)
        cell = -(-grains // parts[:, i])
        if serial is not None and axis.name == serial.axis:
            cell = -(-cell // serial.steps)
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
    op: TileOp, n: Mapping[str, Counts], left: Counts, target: Target, serial: Serial | None
) -> tuple[Counts, Counts]:
    """Cycles of a form's codelets in all rounds but those that join partials, for every row, and the bytes they take
    beside operands and results. `left` are the partials of every result."""
    count = left.size

    def of(codelet: Codelet) -> Counts:
        return np.broadcast_to(codelet.cycles(n, target), count).astype(np.int64)

    def scratch(codelet: Codelet) -> Counts:
        return np.broadcast_to(codelet.temp_bytes(n, target), count).astype(np.int64)

    steps = np.ones(count, np.int64) if serial is None else serial.steps
    joins = _joins(op, left)
    if serial is not None and serial.adds is not None:
        rounds = rounds_of(op)
        assert rounds is not None
        early = of(rounds.first) + (steps - 2) * of(rounds.next)
        whole = early + of(rounds.last)
        temp = np.maximum(scratch(rounds.first), scratch(rounds.last))
        if not (rounds.last.in_place and op.partial_dtype == op.result.dtype) and not serial.rotates:
            held = np.full(count, itemsize(op.partial_dtype), np.int64)
            for name in op.result.axes:
                held = held * n[name]
            temp = temp + np.where(left > 1, 0, held)
        first = early + of(rounds.last_partial) if joins else whole
    else:
        whole, temp = steps * of(op.codelet), scratch(op.codelet)
        first = steps * of(op.partial) if joins and op.partial is not None else whole
    return np.where(left > 1, first, whole), temp


def _joins(op: TileOp, left: Counts) -> bool:
    """Whether any plan leaves partials."""
    return op.partial is not None and op.combine is not None and bool((left > 1).any())


def price(
    forms: Sequence[TileOp],
    family: Sequence[int],
    hosted: tuple[Hosted, ...],
    target: Target,
    parts: Counts,
    serial: Serial | None,
    exact: bool = False,
) -> Priced:
    """The prices of the plans `parts` [plans, axes] with `serial` steps, each in the best of the forms `family`.

    `exact`: what is left of partials is priced in whole grains, and joined in groups first where that is faster; else
    the reduction counts as even, and at once.
    """
    op = forms[family[0]]
    n = _extents(op, parts, serial)
    count = parts.shape[0]
    one = np.ones(count, np.int64)
    steps = one if serial is None else serial.steps
    axis = None if serial is None else serial.axis
    adds, rotates = serial is not None and serial.adds is not None, serial is not None and serial.rotates
    split = {a.name: parts[:, i] for i, a in enumerate(op.axes)}
    left = one
    for a in op.axes:
        if a.kind in ("reduce", "row"):
            left = left * split[a.name]
    if rotates:
        left = left // steps
    cell = one
    for name in op.result.axes:
        cell = cell * n[name]
    form = np.full(count, family[0], np.int64)
    compute, temp = _computed(op, n, left, target, serial)
    for other in family[1:]:
        cycles, scratch = _computed(forms[other], n, left, target, serial)
        better = cycles < compute
        form, compute, temp = (
            np.where(better, new, old) for new, old in ((other, form), (cycles, compute), (scratch, temp))
        )
    moved = np.zeros(count)
    # What pairs of neighbours receive alike comes at the pair rate; the axes of a plan are laid so for one operand.
    paired = np.zeros(count)
    result = cell * itemsize(op.result.dtype)
    late = np.zeros(count, np.int64)
    groups, kept = one, np.zeros(count, np.int64)
    if _joins(op, left):
        if serial is not None and serial.adds is not None and rotates:
            split = split | {serial.adds: left}
        join = joined(op, n, split, axis, target, exact)
        groups, rounds = join.groups, one if adds else steps
        compute = compute + np.where(left > 1, join.cycles * rounds, 0)
        moved = np.where(left > 1, join.received * rounds, 0.0)
        late, kept = (np.where(left > 1, x, 0) for x in (join.phases * rounds, join.held))
        if not op.rows:
            # A reduction deals its results out.
            result = -(-result // left)
    if rotates:
        sums = cell * itemsize(op.partial_dtype)
        moved, late = moved + sums * (steps - 1), late + steps - 1
        kept = np.maximum(kept, np.where(left > 1, 2 * sums, np.maximum(sums, 2 * sums - result)))
    temp = temp + kept
    if not adds:
        result = result * steps
    resident, shared = np.zeros(count, np.int64), np.zeros(count, np.int64)
    spread, gathers = np.zeros(count, np.int64), np.zeros(count, np.int64)
    gathered = np.zeros(count)
    fetches = one
    for operand, at_host in zip(op.operands, hosted, strict=True):
        elements = np.broadcast_to(_operand_elements(operand, n), count).astype(np.int64)
        size = elements * itemsize(operand.dtype)
        along = {d.axis for d in operand.dims if not isinstance(d, Everything)}
        # What is read with finished sums comes where they are.
        turns = steps if axis in along and not (adds and operand.epilogue) else one
        # Of what every round needs another part of, one exchange brings one; before sums rotate, all.
        times, bytes_once = (one, size * turns) if rotates else (turns, size)
        copies = one
        for a in op.axes:
            copies = copies * (1 if a.name in along else split[a.name])
        if not at_host:
            bytes_in = size * turns
            moved, paired = moved + bytes_in, np.maximum(paired, np.where(copies % 2 == 0, bytes_in, 0))
            temp = temp + bytes_once * (2 if operand.pack_dim is not None else 1)
            fetches = np.maximum(fetches, times)
            if operand.pack_dim is not None:
                codelet = packing(operand)
                held = dict(zip(codelet.axes, _operand_extents(operand, n), strict=True))
                compute = compute + turns * codelet.cycles(held, target)
            continue
        least = -(-prod(operand.shape) * itemsize(operand.dtype) // target.tiles)
        if at_host != "weight":
            # Written once: tiles that need the same part fetch it from where it rests, spread over the chip.
            alone = copies == 1
            bytes_in = np.where(alone, 0, size * turns)
            moved, paired = moved + bytes_in, np.maximum(paired, np.where(copies % 2 == 0, bytes_in, 0))
            temp = temp + np.where(alone, 0, bytes_once)
            fetches = np.maximum(fetches, np.where(alone, 1, times))
            resident = resident + np.where(alone, size * turns, least + 64)
            spread = spread + np.where(alone, size * turns, least + 64)
            continue
        resident = resident + size * turns
        worth = worth_gathering(size * turns, least)
        shared = shared + np.where(worth, bytes_once, 0)
        gathered = gathered + np.where(worth, size * turns, 0)
        gathers = np.maximum(gathers, np.where(worth, times, 0))
        spread = spread + np.where(worth, least + 64, size * turns)
    rate = target.exchange_bytes_per_cycle
    moved = moved - paired * (1 - rate / target.pair_bytes_per_cycle)
    fabric = (moved / rate * target.exchange_factor).astype(np.int64) + (fetches + late) * target.phase_cycles
    score = compute + fabric
    extra = (gathered / rate * target.exchange_factor).astype(np.int64)
    extra = extra + np.maximum(gathers - fetches, 0) * target.phase_cycles
    return Priced(
        form,
        groups,
        score,
        resident + result + temp,
        resident,
        score + extra,
        spread + shared + result + temp,
        spread,
        shared,
    )
