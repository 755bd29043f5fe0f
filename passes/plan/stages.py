"""An op under its plan: the stages that run one after the other.

An op without a cut reduce axis is one stage. Cutting a reduce axis makes two: partials on every tile, then a
reduction that deals the result cell of every group of tiles back to the tiles of the group. Cutting a row makes two on
the same cells: statistics on every tile, then its own part of the result, of the statistics of all parts. Between the
two there may be a third, which joins partials or statistics within groups of tiles (`Plan.groups`).

Serial steps of the reduce axis, and steps in which sums rotate among the tiles along it, are rounds of one stage that
add up: the last of them finishes the results, or the partials of what is still cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ipucc.codelets.base import Codelet
from ipucc.codelets.rows import parts_axis
from ipucc.ops.spec import Along, Operand, TileOp
from ipucc.passes.plan.grid import Grid, Plan, grid_of, operand_layout, result_layout
from ipucc.passes.plan.joins import joining_grid
from ipucc.passes.plan.overlap import EdgeCost
from ipucc.tiles.cuts import whole
from ipucc.tiles.layout import Layout

__all__ = ["Brought", "Stage", "Sums", "in_slot", "partial_operand", "stages_of"]


class Brought(NamedTuple):
    """A layout that exchanges fill `times` times, and how many of the largest of them all are together."""

    layout: Layout
    times: int
    weight: float

    def cycles(self, cost: EdgeCost, phase: bool) -> int:
        """Cycles of all times, `cost` being that of the largest; with the phases or without."""
        return round(self.weight * (cost.exchange + cost.copy)) + (self.times * cost.sync if phase else 0)


@dataclass(frozen=True, eq=False)
class Sums:
    """What the rounds of a stage add up. `layouts[i]` is where the sums lie in round i, one and the same object where
    they stay; `landed` has the cells of the finished ones. `in_place`: the last round writes its result over them, so
    that its buffer is the stage's own.
    """

    first: Codelet
    next: Codelet
    dtype: str
    layouts: tuple[Layout, ...]
    landed: Grid
    in_place: bool

    @property
    def rotate(self) -> bool:
        """Whether the sums are handed on from round to round."""
        return self.layouts[0] is not self.layouts[1]


@dataclass(frozen=True, eq=False)
class Stage:
    """One compute set per serial round, and where its result lies.

    `operands` are positions in the op's operands; `takes_partials` says that the result of the stage before comes
    first. `suffix` tells the stages of one op apart. Ops that differ in names only share their stages. An operand that
    two stages read is brought once: both have the same cells on the same tiles, and a round of the one is followed by
    that of the other. `by_rows` are the operands whose cells lie by rows; partials lie like the stage that makes them.
    Where rounds add up (`sums`), `codelet` is that of the last one, which alone reads what belongs to the epilogue.
    """

    suffix: str
    codelet: Codelet
    grid: Grid
    operands: tuple[int, ...]
    takes_partials: bool
    layout: Layout
    result_axes: tuple[str, ...]
    dtype: str
    macs: int
    by_rows: frozenset[int] = frozenset()
    sums: Sums | None = None

    def operand_layout(self, op: TileOp, k: int, turn: int | None = None) -> Layout:
        """What the cells of the stage (or of one round of it) need of operand k, as it arrives."""
        grid = self.grid_for(op.operands[k])
        cells = grid if turn is None else grid.round(turn)
        return operand_layout(op.operands[k], cells).in_order(k in self.by_rows)

    def codelet_of(self, turn: int) -> Codelet:
        """The codelet of a round."""
        if self.sums is None or turn == self.grid.rounds - 1:
            return self.codelet
        return self.sums.next if turn else self.sums.first

    def read_in(self, turn: int, op: TileOp) -> tuple[int, ...]:
        """The operands that a round reads."""
        late = self.sums is not None and turn < self.grid.rounds - 1
        return tuple(k for k in self.operands if not (late and op.operands[k].epilogue))

    def grid_for(self, operand: Operand) -> Grid:
        """The grid whose cells an operand follows: what is read with finished sums lies where they are."""
        return self.sums.landed if self.sums is not None and operand.epilogue else self.grid

    def brought(self, op: TileOp, k: int) -> Brought:
        """What is brought of operand k: another part of it for every round that needs one, the largest part standing
        for all; what all rounds need, and all that they need before sums rotate, at once."""
        grid, full = self.grid_for(op.operands[k]), self.operand_layout(op, k)
        if full.slots is None or grid.ring is not None:
            return Brought(full, 1, 1.0)
        return Brought(self.operand_layout(op, k, grid.largest()), grid.rounds, grid.weight())

    def in_orders(self, result: bool, by_rows: frozenset[int]) -> "Stage":
        """The stage with its result, and the sums that become it, by rows or by grains, and some operands by rows."""
        made = {id(x): x.in_order(result) for x in (self.layout, *(self.sums.layouts if self.sums else ()))}
        layout, sums = made[id(self.layout)], self.sums
        if sums is not None:
            sums = replace(sums, layouts=tuple(made[id(x)] for x in sums.layouts))
        return replace(self, layout=layout, by_rows=by_rows & frozenset(self.operands), sums=sums)


def stages_of(op: TileOp, plan: Plan) -> tuple[Stage, ...]:
    """The stages of an op under a plan; the last one's layout is where the op's result rests."""
    grid = grid_of(op, plan)
    shape = tuple(op.axis(a).size for a in op.result.axes)
    added = grid.ring or (grid.serial if grid.serial and op.axis(grid.serial).kind == "reduce" else None)
    done = grid if added is None else grid.summed(added, grid.rounds - 1)
    cut = [a.name for a in op.axes if a.kind in ("reduce", "row") and done.cells[a.name][0].size > 1]
    if not cut:
        layout = result_layout(op.result.axes, shape, op.result.dtype, op.result.grain_dim, done)
        every = tuple(range(len(op.operands)))
        only = Stage("", op.codelet, grid, every, False, layout, op.result.axes, op.result.dtype, op.macs)
        return (only if added is None else _in_rounds(op, only, added, done, cut),)
    if op.partial is None or op.combine is None:
        raise ValueError(f"op {op.name!r} has no partials, but its plan cuts {cut}")
    if op.rows:
        return _along_rows(op, plan.groups, grid, op.partial, op.combine)
    held = (*cut, *op.result.axes)
    partials = _partial_layout(op, done, cut, held, shape)
    first = tuple(i for i, o in enumerate(op.operands) if not o.epilogue)
    make = Stage(".partials", op.partial, grid, first, False, partials, held, op.partial_dtype, op.macs)
    if added is not None:
        make = _in_rounds(op, make, added, done, cut)
    groups = _in_groups(op, done, cut, plan.groups)
    joined = joining_grid(op, groups[-1].grid if groups else done, cut, 1)
    layout = result_layout(op.result.axes, shape, op.result.dtype, op.result.grain_dim, joined)
    late = tuple(i for i, o in enumerate(op.operands) if o.epilogue)
    join = Stage(".reduce", op.combine, joined, late, True, layout, op.result.axes, op.result.dtype, 0)
    return make, *groups, join


def _in_groups(op: TileOp, grid: Grid, cut: Sequence[str], count: int) -> tuple[Stage, ...]:
    """The stage that joins the partials which lie on `grid` within groups, so many along the first of the `cut` axes;
    none for one group."""
    if count == 1:
        return ()
    between = op.combine and op.combine.joining(op.partial_dtype)
    if between is None:
        raise ValueError(f"op {op.name!r} cannot join its partials in groups")
    joined = joining_grid(op, grid, cut, count)
    counted = joined.axes[-len(cut) :]
    names = op.statistics or op.result.axes
    held = (*counted, *names)
    layout = _partial_layout(op, joined, counted, held, tuple(op.axis(a).size for a in names))
    return (Stage(".groups", between, joined, (), True, layout, held, op.partial_dtype, 0),)


def _in_rounds(op: TileOp, stage: Stage, added: str, done: Grid, cut: Sequence[str]) -> Stage:
    """The stage with rounds that add up the axis `added`, which leave the cells of `done`; `cut` axes of these are
    partials. ValueError for an op whose codelets cannot."""
    make = op.partial
    first, more = (make and make.in_round("first")), (make and make.in_round("next"))
    last = stage.codelet.in_round("last")
    if first is None or more is None or last is None:
        raise ValueError(f"op {op.name!r} cannot add up {added} in rounds")
    in_place = last.in_place and stage.dtype == op.partial_dtype
    rounds = stage.grid.rounds
    layouts: list[Layout] = []
    for turn in range(rounds):
        if layouts and stage.grid.ring is None:
            layouts.append(layouts[0])
        elif in_place and (turn == rounds - 1 or stage.grid.ring is None):
            layouts.append(stage.layout)
        else:
            grid = stage.grid.summed(added, turn)
            layouts.append(_partial_layout(op, grid, cut, stage.result_axes, stage.layout.shape[len(cut) :]))
    sums = Sums(first, more, op.partial_dtype, tuple(layouts), done, in_place)
    return replace(stage, codelet=last, sums=sums)


def _along_rows(op: TileOp, count: int, grid: Grid, partial: Codelet, combine: Codelet) -> tuple[Stage, ...]:
    """Statistics and results on the same cells; the axes that count parts have one cell, of all parts, or of the
    groups in which their statistics are joined before."""
    # Groups run along an axis that is cut.
    rows = sorted(op.rows, key=lambda a: grid.cells[a][0].size == 1)
    groups = _in_groups(op, grid, rows, count)
    sizes = {parts_axis(a): grid.cells[a][0].size for a in op.rows}
    if groups:
        sizes = dict(zip(groups[0].result_axes, groups[0].layout.shape, strict=True))
    counted = {parts_axis(a): whole(sizes[parts_axis(a)]) for a in op.rows}
    tiles = grid.tiles.reshape(*grid.tiles.shape, *([1] * len(counted)))
    cells = Grid((*grid.axes, *counted), {**grid.cells, **counted}, tiles, grid.serial, grid.rounds)
    held = (*op.rows, *op.statistics)
    statistics = _partial_layout(op, cells, op.rows, held, tuple(op.axis(a).size for a in op.statistics))
    first = tuple(i for i, o in enumerate(op.operands) if not o.epilogue)
    shape = tuple(op.axis(a).size for a in op.result.axes)
    layout = result_layout(op.result.axes, shape, op.result.dtype, op.result.grain_dim, cells)
    every = tuple(range(len(op.operands)))
    return (
        Stage(".statistics", partial, cells, first, False, statistics, held, op.partial_dtype, op.macs),
        *groups,
        Stage("", combine, cells, every, True, layout, op.result.axes, op.result.dtype, 0),
    )


def _partial_layout(
    op: TileOp, grid: Grid, cut: Sequence[str], held: Sequence[str], shape: tuple[int, ...]
) -> Layout:  # fmt: skip
    """Partials of a tensor of a shape: with a leading dimension of one index per cell of each cut axis."""
    sizes = tuple(grid.cells[a][0].size for a in cut)
    ones = {a: (np.arange(n, dtype=np.int32), np.arange(1, n + 1, dtype=np.int32))
            for a, n in zip(cut, sizes, strict=True)}  # fmt: skip
    index = Grid(grid.axes, {**grid.cells, **ones}, grid.tiles, grid.serial, grid.rounds)
    return result_layout(held, (*sizes, *shape), op.partial_dtype, _grain_dim(op, len(cut)), index)


def partial_operand(op: TileOp, stage: Stage) -> Operand:
    """The partials as the next stage reads them: of the cut axes all or those of a group, of the others its cell."""
    lead = len(stage.result_axes) - len(op.statistics or op.result.axes)
    shape = stage.layout.shape
    dims = tuple(Along(parts_axis(a) if a in op.rows else a) for a in stage.result_axes)
    fill = op.combine.identity if op.combine is not None else 0.0
    return Operand((), shape, dims, stage.dtype, _grain_dim(op, lead), fill)


def in_slot(layout: Layout, slot: int) -> Layout:
    """The part of a layout in one slot, that of a round."""
    if layout.slots is None:
        return layout
    index = [slice(None)] * len(layout.shape)
    for d in range(len(layout.shape)):
        along = np.moveaxis(layout.slots, d, 0)
        if (along != along[:1]).any():
            index[d] = slice(slot, None, layout.slot_count)
    cuts = tuple((lo[s], hi[s]) for (lo, hi), s in zip(layout.cuts, index, strict=True))
    return replace(layout, cuts=cuts, tiles=layout.tiles[(*index, slice(None))], slots=None)


def _grain_dim(op: TileOp, lead: int) -> int:
    """The grain dimension of partials with `lead` dimensions of parts: the statistics of a row stay together, partials
    lie like the result. A result of one element has none."""
    if op.statistics:
        return lead + len(op.statistics) - 1
    return lead + op.result.grain_dim if op.result.axes else 0
