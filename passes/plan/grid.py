"""Plans and grids: an op's iteration space cut into cells, and the tile that each cell is laid on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.copy import Pack
from ipucc.dtypes import itemsize
from ipucc.ops.spec import Operand, TileOp
from ipucc.tiles.cuts import Cut, cut_axis, nested_cut, whole
from ipucc.tiles.layout import Ints, Layout

__all__ = ["Grid", "Plan", "following", "grid_of", "operand_layout", "packing", "result_layout"]

Wide = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells per axis, and tiles as an array with one dimension per axis of `axes`.

    With serial steps one tile computes several cells of `serial`, one after the other: cell i of that axis is done in
    round i mod `rounds`, and `tiles` repeats the tile for all of them. With a `ring`, a reduce axis, `rounds` tiles
    that are neighbours along it begin with another one of these cells each: the tile at position j of the ring does
    cell i in round (i - j) mod `rounds`, so that every cell passes by all tiles of the ring.
    """

    axes: tuple[str, ...]
    cells: Mapping[str, Cut]
    tiles: Ints
    serial: str | None = None
    rounds: int = 1
    ring: str | None = None

    def slots(self) -> Ints | None:
        """Which of its tile's cells of the serial axis every cell is, in the shape of `tiles`; None for one round."""
        if self.serial is None or self.rounds == 1:
            return None
        at = self.axes.index(self.serial)
        turn = np.arange(self.tiles.shape[at], dtype=np.int32) % self.rounds
        return np.broadcast_to(turn.reshape([-1 if i == at else 1 for i in range(self.tiles.ndim)]), self.tiles.shape)

    def round(self, turn: int) -> "Grid":
        """The cells that one round computes, as a grid of their own; with a ring those of its first tiles' rounds."""
        if self.serial is None or self.rounds == 1:
            return self
        at = self.axes.index(self.serial)
        pick = slice(turn, None, self.rounds)
        lo, hi = self.cells[self.serial]
        cells = {**self.cells, self.serial: (lo[pick], hi[pick])}
        return Grid(self.axes, cells, self.tiles[(slice(None),) * at + (pick,)])

    def sizes(self) -> Ints:
        """The extent of the largest cell of the serial axis in every round."""
        if self.serial is None:
            return np.ones(1, np.int32)
        lo, hi = self.cells[self.serial]
        return np.asarray((hi - lo).reshape(-1, self.rounds).max(axis=0))

    def largest(self) -> int:
        """The round with the largest cells."""
        return int(self.sizes().argmax())

    def weight(self) -> float:
        """How many of the largest round all rounds together are."""
        sizes = self.sizes()
        return float(sizes.sum() / max(1, int(sizes.max())))

    def vertices(self, turn: int) -> tuple[Ints, dict[str, Ints]]:
        """The tile of every vertex of a round, and per axis the cell that it works on."""
        first = self.round(0)
        index = np.unravel_index(np.arange(first.tiles.size), first.tiles.shape) if self.axes else ()
        at = {a: i.astype(np.int32) for a, i in zip(self.axes, index, strict=True)}
        if self.serial is not None and self.rounds > 1:
            ahead = turn if self.ring is None else (turn + at[self.ring]) % self.rounds
            at[self.serial] = at[self.serial] * np.int32(self.rounds) + np.int32(ahead)
        return first.tiles.reshape(-1), at

    def extents(self, turn: int) -> tuple[dict[str, Wide], dict[str, Wide]]:
        """Per axis the first index and the extent of every vertex's cell in a round."""
        _, at = self.vertices(turn)
        lo = {a: self.cells[a][0][i].astype(np.int64) for a, i in at.items()}
        return lo, {a: self.cells[a][1][i].astype(np.int64) - lo[a] for a, i in at.items()}

    def summed(self, axis: str, turn: int) -> "Grid":
        """Where the sums over the reduce axis `axis` lie behind a round, for rounds that add up, as a grid without
        rounds: the cells that are added up, one after the other on a tile or around a ring, are one cell."""
        lo, hi = self.cells[axis]
        cells = {**self.cells, axis: (lo[:: self.rounds], hi[self.rounds - 1 :: self.rounds])}
        at = self.axes.index(axis)
        if self.ring is None or self.serial is None:
            return Grid(self.axes, cells, self.tiles[(slice(None),) * at + (slice(None, None, self.rounds),)])
        along = self.axes.index(self.serial)
        tiles = np.moveaxis(self.tiles, (at, along), (0, 1))
        cell = np.arange(tiles.shape[1])
        holder = np.arange(0, lo.size, self.rounds)[:, None] + (cell % self.rounds - turn)[None, :] % self.rounds
        tiles = np.moveaxis(tiles[holder, cell[None, :]], (0, 1), (at, along))
        return Grid(self.axes, cells, np.ascontiguousarray(tiles))


@dataclass(frozen=True, eq=False)
class Plan:
    """How one op is cut: `parts` per axis over tiles, outermost axis of the grid first; `serial` steps of one axis.

    Steps of a reduce axis add up what the ones before have left. With `rotates` the steps are those of a parallel axis,
    and as many neighbours along the reduce axis hand their sums on to each other (see `Grid`). `gathered` weights rest
    in one copy spread over the tiles that share them and are collected before use; resident ones rest where they are
    used. Partials, or statistics of rows, are joined in `groups` groups first where there is more than one. `grid`
    overrides the cut (a plan that follows another op's layout).
    """

    parts: tuple[tuple[str, int], ...]
    serial: tuple[str, int] | None = None
    gathered: bool = False
    grid: Grid | None = None
    rotates: bool = False
    groups: int = 1

    def describe(self) -> str:
        """`m/16 n/8`, serial steps as `n*4`, followed layouts as `like producer`, partials that are joined in groups
        first as `8 groups`."""
        text = " ".join(f"{a}/{p}" for a, p in self.parts if p > 1) or "one tile"
        if self.grid is not None:
            text = "like producer"
        if self.serial is not None:
            text += f" {self.serial[0]}*{self.serial[1]}"
        text += " rotating" if self.rotates else ""
        text += f" {self.groups} groups" if self.groups > 1 else ""
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
    ring = next(a.name for a in op.axes if a.kind == "reduce") if plan.rotates else None
    if ring is not None and cells[ring][0].size % rounds:
        raise ValueError(f"op {op.name!r} has {cells[ring][0].size} cells along {ring}, no rings of {rounds}")
    return Grid(tuple(names), cells, tiles, serial, rounds, ring)


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
