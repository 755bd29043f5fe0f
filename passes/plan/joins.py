"""How partials are joined: at once, or in groups first.

The tiles that hold the partials of one result cell deal it out among themselves: each receives its piece of all
partials and joins them. Where there are fewer grains of a cell than such tiles, most of them stay idle, and those that
do not receive a grain from every other one. Joined within groups of neighbours first, and these sums across the groups,
the pieces come from about twice the square root of as many tiles, for one more phase. A third level would save less
than its phase on any number of tiles that a chip has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.base import Codelet, Counts
from ipucc.codelets.rows import parts_axis
from ipucc.dtypes import itemsize
from ipucc.ops.spec import Axis, TileOp
from ipucc.passes.plan.grid import Grid
from ipucc.target import Target
from ipucc.tiles.cuts import cut_axis, nested_cut, useful_parts, whole
from ipucc.tiles.layout import GRAIN_BYTES

__all__ = ["Joined", "joined", "joining_grid"]

_NEAR: Final = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Numbers of groups that are tried, over the square root of the number of partials."""


def joining_grid(op: TileOp, grid: Grid, cut: Sequence[str], groups: int) -> Grid:
    """Every result cell (of statistics, where rows are cut) dealt to the tiles that hold its partials: to all of them,
    or to those of each of `groups` groups along the first of the `cut` axes. A cell of a cut axis is then the interval
    of partials that a group joins. The axes that count parts of rows are called by `parts_axis`."""
    names = list(op.statistics or op.result.axes)
    members = prod(grid.cells[a][0].size for a in cut)
    # [result axes..., tiles of the partials]; axes that are never cut have one cell and add nothing.
    single = [a for a in grid.axes if a not in names and a not in cut]
    tiles = grid.tiles.transpose([grid.axes.index(a) for a in (*names, *cut, *single)])
    shape = [grid.cells[a][0].size for a in names]
    first = grid.cells[cut[0]][0].size
    lo, hi = cut_axis(first, groups)
    least = int((hi - lo).min())
    tiles = tiles.reshape(*shape, first, members // first)[..., lo[:, None] + np.arange(least), :]
    tiles = tiles.reshape(*shape, lo.size, -1)
    # Grain dimension last: the cut of the other axes keeps runs long.
    grain_axis = names[-1] if op.statistics else (names[op.result.grain_dim] if names else "")
    order = sorted(range(len(names)), key=lambda d: (names[d] == grain_axis, d))
    grains = []
    for d in order:
        begin, end = grid.cells[names[d]]
        fixed = _kept_whole(op.axis(names[d]), grid.serial)
        grains.append(1 if fixed else int((-(-(end - begin) // _grain(op, op.axis(names[d])))).max(initial=1)))
    dealt = _dealt(tuple(grains), tiles.shape[-1])
    ways = [dealt[order.index(d)] for d in range(len(names))]
    cells = {a: nested_cut(grid.cells[a], way, _grain(op, op.axis(a))) for a, way in zip(names, ways, strict=True)}
    spread = tiles[..., : prod(ways)].reshape([*shape, lo.size, *ways])
    rank = len(names)
    spread = spread.transpose([*(x for d in range(rank) for x in (d, rank + 1 + d)), rank])
    spread = spread.reshape([*(n * w for n, w in zip(shape, ways, strict=True)), lo.size, *([1] * (len(cut) - 1))])
    counted = {_counted(op, a): whole(grid.cells[a][0].size) for a in cut} | {_counted(op, cut[0]): (lo, hi)}
    return Grid((*names, *counted), {**cells, **counted}, np.ascontiguousarray(spread), grid.serial, grid.rounds)


def _counted(op: TileOp, axis: str) -> str:
    """The axis that counts the partials along a cut axis."""
    return parts_axis(axis) if axis in op.rows else axis


def _kept_whole(axis: Axis, serial: str | None) -> bool:
    """Whether the cells of an axis are not dealt out."""
    return axis.kind == "whole" or axis.name == serial


@cache
def _dealt(grains: tuple[int, ...], tiles: int) -> tuple[int, ...]:
    """In how many parts a cell of so many grains per axis is dealt to `tiles` tiles, so that the largest part is least;
    of equal ones that with most parts of the first axes."""
    if not grains:
        return ()
    first, *others = grains
    found = []
    for ways in useful_parts(first, tiles).tolist():
        rest = _dealt(tuple(others), tiles // ways)
        size = -(-first // ways) * prod(-(-n // w) for n, w in zip(others, rest, strict=True))
        found.append((-size, (ways, *rest)))
    return max(found)[1]


def _grain(op: TileOp, axis: Axis) -> int:
    """Cuts of a reduction fall on whole grains of both the result and the partials."""
    if op.statistics or op.result.axes[op.result.grain_dim] != axis.name:
        return 1
    return max(axis.grain, GRAIN_BYTES // min(itemsize(op.result.dtype), itemsize(op.partial_dtype)))


@dataclass(frozen=True, eq=False)
class Joined:
    """What joining the partials of many plans takes at best, for every plan: the number of groups that are joined
    first (1 where all are joined at once), cycles of the codelets, bytes that a tile receives, bytes that lie on it
    beside the result, and phases."""

    groups: Counts
    cycles: Counts
    received: NDArray[np.float64]
    held: Counts
    phases: Counts

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """All of these."""
        return self.groups, self.cycles, self.received, self.held, self.phases


def joined(
    op: TileOp, n: Mapping[str, Counts], parts: Mapping[str, Counts], serial: str | None, target: Target, exact: bool
) -> Joined:
    """The estimate for cells of the extents `n` with `parts` partials along every axis that may be cut; it means
    nothing for plans with a single partial. `serial` is the axis of steps, whose cells are not dealt out.

    All partials are joined at once, and every tile has an even share of its cell. `exact`: in whole grains, or in
    groups first where that is faster.
    """
    levels = _Levels(op, n, parts, serial, target)
    if not exact:
        return levels.evenly()
    found = levels.at_once()
    between = op.combine.joining(op.partial_dtype) if op.combine is not None else None
    if between is None:
        return found
    for near in _NEAR:
        other = levels.in_groups(between, near)
        better = (other.groups > 1) & (levels.cost(other) < levels.cost(found))
        found = Joined(*(np.where(better, a, b) for a, b in zip(other.columns, found.columns, strict=True)))
    return found


class _Levels:
    """The ways to join the partials of many plans."""

    def __init__(
        self, op: TileOp, n: Mapping[str, Counts], parts: Mapping[str, Counts], serial: str | None, target: Target
    ) -> None:
        assert op.combine is not None
        self.op, self.n, self.target, self.combine = op, n, target, op.combine
        self.cut = [a.name for a in op.axes if a.kind in ("reduce", "row")]
        self.first = self.partials = np.ones(1, np.int64)
        for a in reversed(self.cut):
            self.first = np.where(parts[a] > 1, parts[a], self.first)
            self.partials = self.partials * parts[a]
        self.axes = [op.axis(a) for a in op.statistics or op.result.axes]
        self.dealt = [a for a in self.axes if not _kept_whole(a, serial)]
        self.grains, self.grain_bytes = np.ones(1, np.int64), np.full(1, itemsize(op.partial_dtype), np.int64)
        for axis in self.axes:
            if axis in self.dealt:
                each = min(_grain(op, axis), axis.size)
                self.grains, self.grain_bytes = self.grains * -(-n[axis.name] // each), self.grain_bytes * each
            else:
                self.grain_bytes = self.grain_bytes * n[axis.name]

    def cost(self, x: Joined) -> Counts:
        """Estimated cycles."""
        target = self.target
        fabric = (x.received / target.exchange_bytes_per_cycle * target.exchange_factor).astype(np.int64)
        return x.cycles + fabric + x.phases * target.phase_cycles

    def evenly(self) -> Joined:
        """All partials at once, every tile with an equal share of the cell; of statistics with all of it."""
        grains, size = np.ones(1, np.int64), np.full(1, itemsize(self.op.partial_dtype), np.int64)
        for a in self.axes:
            grains, size = grains * -(-self.n[a.name] // a.grain), size * self.n[a.name]
        rows = bool(self.op.rows)
        piece = grains if rows else -(-grains // self.partials)
        received = size * (self.partials - 1) / (1 if rows else self.partials)
        held = size * (self.partials + 1 if rows else 2)
        cycles = self._cycles(self.combine, self.partials, self.axes, piece, grains)
        return self._joined(np.ones(1, np.int64), cycles, received, held, 1)

    def at_once(self) -> Joined:
        """All partials at once, in whole grains."""
        piece, cycles, received = self._level(self.combine, self.partials, self.grains, not self.op.rows)
        held = (self.grains + piece * self.partials) * self.grain_bytes
        return self._joined(np.ones(1, np.int64), cycles, received, held, 1)

    def in_groups(self, between: Codelet, near: float) -> Joined:
        """In groups first, about as many as the square root of all times `near`, joined by the codelet `between`."""
        wanted = np.clip(np.rint(np.sqrt(self.partials) * near).astype(np.int64), 1, self.first)
        along = -(-self.first // wanted)
        groups = -(-self.first // along)
        members = along * (self.partials // self.first)
        rows = bool(self.op.rows)
        piece, cycles, received = self._level(between, members, self.grains, True)
        last, late, again = self._level(self.combine, groups, self.grains if rows else piece, not rows)
        held = np.maximum(self.grains + piece * members, piece + last * groups) * self.grain_bytes
        return self._joined(np.where(members > 1, groups, 1), cycles + late, received + again, held, 2)

    def _level(self, codelet: Codelet, over: Counts, grains: Counts, dealing: bool) -> tuple[Counts, Counts, Counts]:
        """Grains of a tile's piece, cycles, and bytes received, where as many tiles join `over` partials of `grains`:
        each its piece of them, or without dealing each all of them."""
        piece = -(-grains // over) if dealing else grains
        cycles = self._cycles(codelet, over, self.dealt, piece, self.grains)
        # A fragment takes its control, however short it is.
        rate = self.target.exchange_bytes_per_cycle / self.target.exchange_factor
        each = np.maximum(piece * self.grain_bytes, int(self.target.fragment_cycles * rate))
        return piece, cycles, (over - 1) * each

    def _cycles(self, codelet: Codelet, over: Counts, axes: Sequence[Axis], piece: Counts, grains: Counts) -> Counts:
        """Cycles of joining `over` partials of a piece of a cell of so many grains along `axes`: a cut of the longest
        one stands for any."""
        n = dict(self.n)
        if axes:
            main = max(axes, key=lambda a: a.size).name
            n[main] = np.maximum(1, -(-n[main] * piece // np.maximum(grains, 1)))
        for i, a in enumerate(self.cut):
            n[_counted(self.op, a)] = over if i == 0 else np.ones(1, np.int64)
        return codelet.cycles(n, self.target)

    def _joined(self, groups: Counts, cycles: Counts, received: NDArray[Any], held: Counts, phases: int) -> Joined:
        columns = self.partials, groups, cycles, received.astype(np.float64), held, np.full(1, phases, np.int64)
        _, *found = (x.copy() for x in np.broadcast_arrays(*columns))
        return Joined(*found)
