"""An op under its plan: the stages that run one after the other.

An op without a cut reduce axis is one stage. Cutting a reduce axis makes two: partials on every tile, then a
reduction that deals the result cell of every group of tiles back to the tiles of the group. Cutting a row makes two on
the same cells: statistics on every tile, then its own part of the result, of the statistics of all parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ipucc.codelets.base import Codelet
from ipucc.codelets.rows import parts_axis
from ipucc.dtypes import itemsize
from ipucc.ops.spec import Along, Axis, Operand, TileOp
from ipucc.passes.plan.grid import Grid, Plan, grid_of, operand_layout, result_layout
from ipucc.tiles.cuts import nested_cut, whole
from ipucc.tiles.layout import GRAIN_BYTES, Layout

__all__ = ["Stage", "first_round", "partial_operand", "stages_of"]


@dataclass(frozen=True, eq=False)
class Stage:
    """One compute set per serial round, and where its result lies.

    `operands` are positions in the op's operands; `takes_partials` says that the result of the stage before comes
    first. `suffix` tells the stages of one op apart. Ops that differ in names only share their stages. An operand that
    two stages read is brought once: both have the same cells on the same tiles, and a round of the one is followed by
    that of the other. `by_rows` are the operands whose cells lie by rows; partials lie like the stage that makes them.
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

    def operand_layout(self, op: TileOp, k: int, turn: int | None = None) -> Layout:
        """What the cells of the stage (or of one round of it) need of operand k, as it arrives."""
        grid = self.grid if turn is None else self.grid.round(turn)
        return operand_layout(op.operands[k], grid).in_order(k in self.by_rows)


def stages_of(op: TileOp, plan: Plan) -> tuple[Stage, ...]:
    """The stages of an op under a plan; the last one's layout is where the op's result rests."""
    grid = grid_of(op, plan)
    shape = tuple(op.axis(a).size for a in op.result.axes)
    cut = [a.name for a in op.axes if a.kind in ("reduce", "row") and grid.cells[a.name][0].size > 1]
    if not cut:
        layout = result_layout(op.result.axes, shape, op.result.dtype, op.result.grain_dim, grid)
        return (
            Stage(
                "",
                op.codelet,
                grid,
                tuple(range(len(op.operands))),
                False,
                layout,
                op.result.axes,
                op.result.dtype,
                op.macs,
            ),
        )
    if op.partial is None or op.combine is None:
        raise ValueError(f"op {op.name!r} has no partials, but its plan cuts {cut}")
    if op.rows:
        return _along_rows(op, grid, op.partial, op.combine)
    held = (*cut, *op.result.axes)
    sizes = (*(grid.cells[a][0].size for a in cut), *shape)
    partials = _partial_layout(op, grid, cut, held, sizes)
    first = tuple(i for i, o in enumerate(op.operands) if not o.epilogue)
    make = Stage(".partials", op.partial, grid, first, False, partials, held, op.partial_dtype, op.macs)
    joined = _combined_grid(op, grid, cut)
    layout = result_layout(op.result.axes, shape, op.result.dtype, op.result.grain_dim, joined)
    late = tuple(i for i, o in enumerate(op.operands) if o.epilogue)
    join = Stage(
        ".reduce", op.combine, joined, late, True, layout, op.result.axes, op.result.dtype, 0
    )  # fmt: skip
    return make, join


def _along_rows(op: TileOp, grid: Grid, partial: Codelet, combine: Codelet) -> tuple[Stage, Stage]:
    """Statistics and results on the same cells; the axes that count parts have one cell, of all parts."""
    parts = tuple(grid.cells[a][0].size for a in op.rows)
    counted = {parts_axis(a): whole(n) for a, n in zip(op.rows, parts, strict=True)}
    tiles = grid.tiles.reshape(*grid.tiles.shape, *([1] * len(parts)))
    cells = Grid((*grid.axes, *counted), {**grid.cells, **counted}, tiles, grid.serial, grid.rounds)
    held = (*op.rows, *op.statistics)
    sizes = (*parts, *(op.axis(a).size for a in op.statistics))
    statistics = _partial_layout(op, cells, op.rows, held, sizes)
    first = tuple(i for i, o in enumerate(op.operands) if not o.epilogue)
    shape = tuple(op.axis(a).size for a in op.result.axes)
    layout = result_layout(op.result.axes, shape, op.result.dtype, op.result.grain_dim, cells)
    every = tuple(range(len(op.operands)))
    return (
        Stage(".statistics", partial, cells, first, False, statistics, held, op.partial_dtype, op.macs),
        Stage("", combine, cells, every, True, layout, op.result.axes, op.result.dtype, 0),
    )


def _partial_layout(
    op: TileOp, grid: Grid, cut: Sequence[str], held: Sequence[str], sizes: tuple[int, ...]
) -> Layout:  # fmt: skip
    """Partials as a tensor with a leading dimension of one index per cell of each cut reduce axis."""
    ones = {a: (np.arange(n, dtype=np.int32), np.arange(1, n + 1, dtype=np.int32))
            for a, n in zip(cut, sizes, strict=False)}  # fmt: skip
    index = Grid(grid.axes, {**grid.cells, **ones}, grid.tiles, grid.serial, grid.rounds)
    return result_layout(held, sizes, op.partial_dtype, _grain_dim(op, len(cut)), index)


def partial_operand(op: TileOp, stage: Stage) -> Operand:
    """The partials as the next stage reads them: the cut axes whole, the other axes cell by cell."""
    lead = len(stage.result_axes) - len(op.statistics or op.result.axes)
    shape = stage.layout.shape
    dims = tuple(Along(parts_axis(a) if a in op.rows else a) for a in stage.result_axes)
    return Operand((), shape, dims, stage.dtype, _grain_dim(op, lead))


def first_round(layout: Layout) -> Layout:
    """The part of a layout in slot 0 (all rounds of a serial plan look alike)."""
    if layout.slots is None:
        return layout
    index = [slice(None)] * len(layout.shape)
    for d in range(len(layout.shape)):
        along = np.moveaxis(layout.slots, d, 0)
        if (along != along[:1]).any():
            index[d] = slice(0, None, layout.slot_count)
    cuts = tuple((lo[s], hi[s]) for (lo, hi), s in zip(layout.cuts, index, strict=True))
    return replace(layout, cuts=cuts, tiles=layout.tiles[(*index, slice(None))], slots=None)


def _grain_dim(op: TileOp, lead: int) -> int:
    """The grain dimension of partials with `lead` dimensions of parts: the statistics of a row stay together, partials
    lie like the result. A result of one element has none."""
    if op.statistics:
        return lead + len(op.statistics) - 1
    return lead + op.result.grain_dim if op.result.axes else 0


def _combined_grid(op: TileOp, grid: Grid, cut: Sequence[str]) -> Grid:
    """The reduction's grid: every result cell dealt to the tiles that hold its partials."""
    group = prod(grid.cells[a][0].size for a in cut)
    names = list(op.result.axes)
    # [result axes..., tiles of the group]; axes that are never cut have one cell and add nothing.
    single = [a for a in grid.axes if a not in names and a not in cut]
    tiles = grid.tiles.transpose([grid.axes.index(a) for a in (*names, *cut, *single)])
    tiles = tiles.reshape(*[grid.cells[a][0].size for a in names], group)
    # Grain dimension last: the cut of the other axes keeps runs long.
    order = [d for d in range(len(names)) if d != op.result.grain_dim]
    if names:
        order.append(op.result.grain_dim)
    cells, left = dict(grid.cells), group
    ways = [1] * len(names)
    for d in order:
        axis = op.axis(names[d])
        if axis.kind == "whole" or axis.name == grid.serial:
            continue
        grain = _grain(op, axis)
        lo, hi = grid.cells[names[d]]
        most = max(1, int((-(-(hi - lo) // grain)).max(initial=1)))
        ways[d] = next(w for w in range(min(most, left), 0, -1) if left % w == 0)
        left //= ways[d]
    for d, way in enumerate(ways):
        cells[names[d]] = nested_cut(grid.cells[names[d]], way, _grain(op, op.axis(names[d])))
    used = prod(ways)
    shape = list(tiles.shape[:-1])
    spread = tiles[..., :used].reshape([*shape, *ways])
    rank = len(names)
    spread = spread.transpose([x for d in range(rank) for x in (d, rank + d)])
    spread = spread.reshape([n * w for n, w in zip(shape, ways, strict=True)])
    for a in op.axes:
        if a.name in cut:
            cells[a.name] = whole(grid.cells[a.name][0].size)
        elif a.name not in names:
            del cells[a.name]
    spread = spread.reshape(*spread.shape, *([1] * len(cut)))
    return Grid((*names, *cut), cells, np.ascontiguousarray(spread), grid.serial, grid.rounds)


def _grain(op: TileOp, axis: Axis) -> int:
    """Cuts of the reduction fall on whole grains of both the result and the partials."""
    if op.result.axes[op.result.grain_dim] != axis.name:
        return 1
    return max(axis.grain, GRAIN_BYTES // min(itemsize(op.result.dtype), itemsize(op.partial_dtype)))
