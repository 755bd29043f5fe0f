"""All plans of one op, priced at once, and the few worth offering to placement.

Every combination of useful part counts of the op's axes is priced by the codelet's own cycle formula on arrays. Where
operands crowd a tile, so is every combination in serial steps: of a parallel axis, of a reduce axis, or of a parallel
axis while sums rotate. A diverse set is kept: the fastest, the leanest, and the fastest of differing shapes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from ipucc.dtypes import itemsize
from ipucc.ops.spec import Everything, TileOp
from ipucc.passes.plan.bargains import bargains, best_of, fastest_of, undominated
from ipucc.passes.plan.grid import Plan
from ipucc.passes.plan.price import Counts, Hosted, Priced, Serial, leaves_words, price, rounds_of
from ipucc.passes.plan.steps import serial_steps
from ipucc.target import Target
from ipucc.tiles.cuts import useful_parts

__all__ = ["Enumerated", "enumerate_plans", "plans_with_cuts"]

_MAX_COMBINATIONS: Final = 30_000
_FEW: Final = 8
"""Partials of a result that are joined at once in any case."""
_EXACT: Final = 4
"""Plans that are found when reductions are priced exactly are offered beside the others: this part of their number."""
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
    exact: list[_Row] = []
    combinations = 0
    for family in _families(forms):
        op = forms[family[0]]
        parts = _combinations(op, target)
        base = price(forms, family, hosted, target, parts, None)
        found += _select(family[0], parts, base, None, budget, keep, alike)
        exact += _exactly(forms, family, hosted, target, parts, base, budget, keep, alike)
        combinations += len(family) * len(parts)
        fastest = int(base.score.argmin())
        if base.memory[fastest] + (alike - 1) * base.resident[fastest] > budget // _CROWDED:
            adding = [f for f in family if rounds_of(forms[f]) is not None]
            pricing = partial(_in_steps, forms, family, adding, hosted, target, parts)
            for rows, serial, priced in serial_steps(op, parts, base, budget, alike, bool(adding), pricing):
                found += _select(family[0], parts[rows], priced, serial, budget, keep, alike)
                combinations += len(family if serial.adds is None else adding) * rows.size
    # The same steps may come up for several reasons.
    found = list({f.key: f for f in found}.values())
    pool = [f for f in found if f.memory <= budget] or sorted(found, key=lambda f: f.memory)[:1]
    pool.sort(key=lambda f: (f.score, f.memory))
    offered = _diverse(pool, keep, budget, alike)
    known = {f.key for f in offered}
    exact = sorted((f for f in exact if f.key not in known), key=lambda f: (f.score, f.memory))
    offered += exact[: -(-keep // _EXACT)]
    return _enumerated(forms, hosted, offered, combinations)


def plans_with_cuts(
    forms: Sequence[TileOp], hosted: tuple[Hosted, ...], target: Target, budget: int, keep: int, alike: int,
    cuts: Sequence[Mapping[str, int]],
) -> Enumerated:  # fmt: skip
    """At most `keep` plans in which some axes have given parts: for each of the `cuts` the fastest that fits as often
    as it is needed, and the fastest with gathered weights. Arguments as in `enumerate_plans`."""
    found: dict[tuple[object, ...], _Row] = {}
    combinations = 0
    for family in _families(forms):
        for cut in cuts:
            rows = _combinations(forms[family[0]], target, cut)
            if len(rows):
                priced = price(forms, family, hosted, target, rows, None)
                found |= {f.key: f for f in _fastest(family[0], rows, priced, budget, alike)}
                combinations += len(family) * len(rows)
    return _enumerated(forms, hosted, sorted(found.values(), key=lambda f: (f.score, f.memory))[:keep], combinations)


def _enumerated(
    forms: Sequence[TileOp], hosted: tuple[Hosted, ...], rows: Sequence["_Row"], combinations: int
) -> Enumerated:
    plans = [
        (
            f.form,
            Plan(_ordered(forms[f.family], f.parts, hosted), f.serial, f.gathered, rotates=f.rotates, groups=f.groups),
        )
        for f in rows
    ]
    return Enumerated(plans, combinations)


def _in_steps(
    forms: Sequence[TileOp], family: Sequence[int], adding: Sequence[int], hosted: tuple[Hosted, ...], target: Target,
    parts: Counts, rows: Counts, serial: Serial,
) -> Priced:  # fmt: skip
    """The prices of some rows with steps, in forms that can take them."""
    return price(forms, family if serial.adds is None else adding, hosted, target, parts[rows], serial)


def _families(forms: Sequence[TileOp]) -> list[list[int]]:
    """Positions of forms that differ in codelets only: cut alike, they move and hold the same, and the best one of
    each cut is enough."""
    found: dict[tuple[object, ...], list[int]] = {}
    for i, form in enumerate(forms):
        key = (form.axes, tuple(id(o) for o in form.operands), form.partial is None, form.partial_dtype, form.combine)
        found.setdefault(key, []).append(i)
    return list(found.values())


@dataclass(frozen=True, eq=False)
class _Row:
    """A plan with its estimated cycles, bytes while its op runs, and bytes that it holds all the time. `family` is the
    first form that is cut like `form`."""

    family: int
    form: int
    parts: Counts
    serial: tuple[str, int] | None
    rotates: bool
    groups: int
    gathered: bool
    score: int
    memory: int
    resident: int

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal plans."""
        return self.form, *self.parts.tolist(), self.serial, self.rotates, self.groups, self.gathered


def _combinations(op: TileOp, target: Target, given: Mapping[str, int] | None = None) -> Counts:
    """[combinations, axes]: useful part counts with a product of at most the number of tiles. Some may be given."""
    table = np.zeros((1, 0), np.int64)
    product = np.ones(1, np.int64)
    for axis in op.axes:
        cuttable = axis.kind == "parallel" or (axis.kind in ("reduce", "row") and leaves_words(op))
        options = useful_parts(-(-axis.size // axis.grain), target.tiles) if cuttable else np.ones(1, np.int64)
        if given is not None and axis.name in given:
            options = options[options == given[axis.name]]
        if axis.pinned:
            options = np.asarray([axis.size])
        room = target.tiles // product
        while options.size > 4 and int(np.searchsorted(options, room, side="right").sum()) > _MAX_COMBINATIONS:
            options = np.unique(np.append(options[::2], options[-1]))
        grown = product[:, None] * options[None, :]
        row, col = np.nonzero(grown <= target.tiles)
        table = np.concatenate([table[row], options[col][:, None]], axis=1)
        product = grown[row, col]
    return table


def _select(
    family: int, parts: Counts, priced: Priced, serial: Serial | None, budget: int, keep: int, alike: int
) -> list[_Row]:
    """The best rows by time, by memory and along the front between them, resident and gathered."""
    out: list[_Row] = []
    for gathered in (False, True):
        score, memory, resident = priced.figures(gathered)
        rows = np.flatnonzero(priced.shared > 0) if gathered else np.arange(score.size)
        if not rows.size:
            continue
        total = priced.total(gathered, alike)
        chosen = fastest_of(rows[total[rows] <= budget], score, memory, 4 * keep).tolist()
        front = undominated(rows, score, memory, resident, alike)
        front = front[bargains(score[front], memory[front] - resident[front], resident[front], alike)]
        chosen += front.tolist()
        chosen += [best_of(rows, x, score, memory) for x in (memory, resident, total)]
        rotates = serial is not None and serial.rotates
        at = np.asarray(list(dict.fromkeys(chosen)))
        columns = (x[at].tolist() for x in (priced.form, priced.groups, score, memory, resident))
        steps = [None] * at.size if serial is None else [(serial.axis, n) for n in serial.steps[at].tolist()]
        for i, turns, form, groups, *figures in zip(at.tolist(), steps, *columns, strict=True):
            out.append(_Row(family, form, parts[i], turns, rotates, groups, gathered, *figures))
    return out


def _exactly(
    forms: Sequence[TileOp], family: Sequence[int], hosted: tuple[Hosted, ...], target: Target, parts: Counts,
    base: Priced, budget: int, keep: int, alike: int,
) -> list[_Row]:  # fmt: skip
    """The plans of many partials that are faster than the fastest by `base`, once the reduction is priced exactly, with
    partials that are joined in groups first where that pays.

    `base` has the reduction for less than it takes, but for plans of few partials for about that.
    """
    op = forms[family[0]]
    if op.combine is None:
        return []
    partials = parts[:, [a.kind in ("reduce", "row") for a in op.axes]].prod(axis=1)
    fits = base.total(False, alike) <= budget
    fastest = int(base.score[fits & (partials <= _FEW)].min(initial=np.iinfo(np.int64).max))
    rows = np.flatnonzero(fits & (partials > _FEW) & (base.score < fastest))
    if not rows.size:
        return []
    priced = price(forms, family, hosted, target, parts[rows], None, exact=True)
    chosen = np.argsort(base.score[rows], kind="stable")[: -(-keep // 3)]
    known = chosen[priced.groups[chosen] == 1]
    faster = np.flatnonzero(priced.score < priced.score[known].min(initial=fastest))
    return _select(family[0], parts[rows[faster]], priced.of(faster), None, budget, 1, alike) if faster.size else []


def _fastest(family: int, parts: Counts, priced: Priced, budget: int, alike: int) -> Iterator[_Row]:
    """The fastest row that fits as often as it is needed, weights resident, and the same with gathered ones."""
    for gathered in (False, True):
        if gathered and not priced.shared.any():
            continue
        score, memory, resident = priced.figures(gathered)
        fits = np.flatnonzero(priced.total(gathered, alike) <= budget)
        if fits.size:
            i = int(fits[np.lexsort((memory[fits], score[fits]))[0]])
            figures = int(score[i]), int(memory[i]), int(resident[i])
            form, groups = int(priced.form[i]), int(priced.groups[i])
            yield _Row(family, form, parts[i], None, False, groups, gathered, *figures)


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
    priced = bargains(score, memory - resident, resident, alike)
    step = max(1, -(-len(priced) // max(1, keep // 2)))
    chosen |= dict.fromkeys(priced[::step])
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


def _shape(row: _Row) -> tuple[object, ...]:
    """What makes two plans alike for their neighbours: the cut of the axes, to a factor of two."""
    steps = (row.serial and row.serial[0]), row.rotates
    return row.family, *(int(p).bit_length() for p in row.parts), *steps, row.gathered
