"""Plans and grids: an op's iteration space cut into cells, and the tile that each cell is laid on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ipucc.codelets.copy import Pack
from ipucc.dtypes import itemsize
from ipucc.ops.spec import Operand, TileOp
from ipucc.tiles.cuts import Cut, cut_axis, nested_cut, whole
from ipucc.tiles.layout import Ints, Layout

__all__ = ["Grid", "Plan", "following", "grid_of", "operand_layout", "packing", "result_layout"]


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells per axis, and tiles as an array with one dimension per axis of `axes`.

    With serial steps one tile computes several cells of `serial`, one after the other: cell i of that axis is done in
    round i mod `rounds`, and `tiles` repeats the tile for all of them.
    """

    axes: tuple[str, ...]
    cells: Mapping[str, Cut]
    tiles: Ints
    serial: str | None = None
    rounds: int = 1

    def slots(self) -> Ints | None:
        """The round of every cell, in the shape of `tiles`; None for a single round."""
        if self.serial is None or self.rounds == 1:
            return None
        at = self.axes.index(self.serial)
        turn = np.arange(self.tiles.shape[at], dtype=np.int32) % self.rounds
        return np.broadcast_to(turn.reshape([-1 if i == at else 1 for i in range(self.tiles.ndim)]), self.tiles.shape)

    def round(self, turn: int) -> "Grid":
        """The cells that one round computes, as a grid of their own."""
        if self.serial is None or self.rounds == 1:
            return self
        at = self.axes.index(self.serial)
        pick = slice(turn, None, self.rounds)
        lo, hi = self.cells[self.serial]
        cells = {**self.cells, self.serial: (lo[pick], hi[pick])}
        return Grid(self.axes, cells, self.tiles[(slice(None),) * at + (pick,)])


@dataclass(frozen=True, eq=False)
class Plan:
    """How one op is cut: `parts` per axis over tiles, outermost axis of the grid first; `serial` steps of one axis.

    `gathered` weights rest in one copy spread over the tiles that share them and are collected before use; resident
    ones rest where they are used. `grid` overrides the cut (a plan that follows another op's layout).
    """

    parts: tuple[tuple[str, int], ...]
    serial: tuple[str, int] | None = None
    gathered: bool = False
    grid: Grid | None = None

    def describe(self) -> str:
        """`m/16 n/8`, serial steps as `n*4`, followed layouts as `like producer`."""
        text = " ".join(f"{a}/{p}" for a, p in self.parts if p > 1) or "one tile"
        if self.grid is not None:
            text = "like producer"
        if self.serial is not None:
            text += f" {self.serial[0]}*{self.serial[1]}"
        return text + (" gathered" if self.gathered else "")


def grid_of(op: TileOp, plan: Plan) -> Grid:
    """The plan's grid on tiles 0, 1, 2, ... in the order of its axes; axes that are not cut have one cell."""
    if plan.grid is not None:
        return plan.grid
    wanted = dict(plan.parts)
    cells: dict[str, Cut] = {}
    for axis in op.axes:
        parts = wanted.get(axis.name, 1)
        cells[axis.name] = cut_axis(axis.size, parts, axis.grain) if parts > 1 else whole(axis.size)
    names = [a for a, _ in plan.parts]
    names += [a.name for a in op.axes if a.name not in wanted]
    shape = [cells[a][0].size for a in names]
    tiles = np.arange(prod(shape), dtype=np.int32).reshape(shape)
    if plan.serial is None:
        return Grid(tuple(names), cells, tiles)
    serial, rounds = plan.serial
    cells[serial] = nested_cut(cells[serial], rounds, op.axis(serial).grain)
    tiles = np.repeat(tiles, rounds, axis=names.index(serial))
    return Grid(tuple(names), cells, tiles, serial, rounds)


def following(op: TileOp, layout: Layout) -> Plan | None:
    """The plan that computes where `layout` holds an operand whose dimensions are the result's axes; None where the op
    cannot be cut like that."""
    if layout.slots is not None or layout.replicas != 1:
        return None
    cells = {}
    for name, (lo, hi) in zip(op.result.axes, layout.cuts, strict=True):
        axis = op.axis(name)
        if (axis.kind == "whole" and lo.size > 1) or (lo % axis.grain).any():
            return None
        cells[name] = (lo, hi)
    for axis in op.axes:
        if axis.name not in cells:
            cells[axis.name] = cut_axis(axis.size, 1)
    extra = tuple(a.name for a in op.axes if a.name not in op.result.axes)
    tiles = layout.tiles[..., 0].reshape([*layout.grid, *([1] * len(extra))])
    grid = Grid((*op.result.axes, *extra), cells, tiles)
    parts = tuple((a, cells[a][0].size) for a in grid.axes)
    return Plan(parts, grid=grid)


def packing(operand: Operand) -> Pack:
    """What re-orders a cell, of the axes d0, d1, ..., of an operand that arrives in other grains than are wanted."""
    axes = tuple(f"d{d}" for d in range(len(operand.shape)))
    return Pack(axes, f"d{operand.grain_dim}", f"d{operand.pack_dim}", operand.dtype)


def _arrange(grid: Grid, axes: Sequence[str | None], values: Ints) -> Ints:
    """`values` (in the shape of the grid) with the named axes first, in order, and all others joined at the end."""
    named = [a for a in axes if a is not None]
    rest = [a for a in grid.axes if a not in named]
    moved = values.transpose([grid.axes.index(a) for a in (*named, *rest)])
    shape = [1 if a is None else grid.tiles.shape[grid.axes.index(a)] for a in axes]
    return np.ascontiguousarray(moved.reshape(*shape, -1))


def operand_layout(operand: Operand, grid: Grid, grain_dim: int | None = None) -> Layout:
    """What every cell of the grid needs of an operand, on the tile of that cell. Slots follow serial rounds."""
    axes, cuts = [], []
    for d in range(len(operand.shape)):
        axis, cut = operand.cut(d, grid.cells)
        axes.append(axis)
        cuts.append(cut)
    slots = grid.slots()
    held = None
    if slots is not None and grid.serial in axes:
        held = _arrange(grid, axes, slots)[..., 0]
    # Rounds that need the same part of an operand share it: each tile once.
    source = grid.round(0) if grid.serial not in axes else grid
    tiles = _arrange(source, axes, source.tiles)
    dim = operand.grain_dim if grain_dim is None else grain_dim
    return Layout(operand.shape, tuple(cuts), tiles, itemsize(operand.dtype), dim, held)


def result_layout(axes: Sequence[str], shape: tuple[int, ...], dtype: str, grain_dim: int, grid: Grid) -> Layout:
    """Where the result of every cell lies: on the tile that computes it. Axes that the result lacks must not be cut."""
    slots = grid.slots()
    tiles = _arrange(grid, axes, grid.tiles)
    held = None if slots is None else _arrange(grid, axes, slots)[..., 0]
    return Layout(shape, tuple(grid.cells[a] for a in axes), tiles, itemsize(dtype), grain_dim, held)
