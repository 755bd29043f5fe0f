"""What an edge costs: the bytes that must move between two layouts, tile by tile, without listing a transfer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ipucc.target import Target
from ipucc.tiles.cuts import Cut, owned
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import Group, View

__all__ = ["EdgeCost", "Overlaps"]

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Intervals:
    """Two cuts of one dimension: cells overlap in intervals, and no table of all pairs is needed.

    `needed` is the size of every destination cell inside the tensor, `given` what every source cell gives to all.
    """

    src: tuple[Counts, Counts]
    dst: tuple[Counts, Counts]
    needed: Counts
    given: Counts

    @staticmethod
    def of(src: Cut, dst: Cut, size: int) -> "_Intervals":
        lo = np.maximum(dst[0], 0).astype(np.int64)
        hi = np.maximum(np.minimum(dst[1], size), lo)
        first, behind = owned(src)
        begin = first.astype(np.int64)
        end = np.maximum(behind, begin)
        return _Intervals((begin, end), (lo, hi), hi - lo, _covered(lo, hi, end) - _covered(lo, hi, begin))

    def shared(self, d: Counts, s: Counts) -> Counts:
        """Elements that destination cells d and source cells s share, pair by pair."""
        low = np.maximum(self.src[0][s], self.dst[0][d])
        return np.asarray(np.maximum(np.minimum(self.src[1][s], self.dst[1][d]) - low, 0), np.int64)


@dataclass(frozen=True, eq=False)
class _Table:
    """Shared elements of every destination cell (rows) with every source cell (columns), and their sums."""

    table: NDArray[np.int32]
    needed: Counts
    given: Counts

    @staticmethod
    def of(table: NDArray[np.int32]) -> "_Table":
        return _Table(table, table.sum(axis=1, dtype=np.int64), table.sum(axis=0, dtype=np.int64))

    def shared(self, d: Counts, s: Counts) -> NDArray[np.int32]:
        """Elements that destination cells d and source cells s share, pair by pair."""
        return self.table[d, s]


def _covered(lo: Counts, hi: Counts, at: Counts) -> Counts:
    """How many elements of the intervals lo..hi, counted with multiplicity, lie below each position."""

    def below(edges: Counts) -> Counts:
        ordered = np.sort(edges)
        sums = np.concatenate([[0], np.cumsum(ordered)])
        k = np.searchsorted(ordered, at, side="left")
        return np.asarray(k * at - sums[k], np.int64)

    return below(lo) - below(hi)


@dataclass(frozen=True)
class EdgeCost:
    """Estimated cycles of filling one operand: fabric, copies on the tile, and the phase if anything moves."""

    exchange: int
    copy: int
    sync: int

    @property
    def total(self) -> int:
        """All cycles of the edge."""
        return self.exchange + self.copy + self.sync


@dataclass(eq=False)
class Overlaps:
    """Edge costs between layouts; per group of a view, the overlaps of two cuts are counted once and kept."""

    target: Target
    _counts: dict[tuple[bytes, ...], _Intervals | _Table] = field(default_factory=dict)

    def cost(self, src: Layout, dst: Layout, view: View) -> EdgeCost:
        """Cycles until `dst` holds what it needs of `src` through `view`: bytes at the busiest port over the port's
        rate times the fitted factor, one phase, and the local share at the copy rate. Nothing when both agree."""
        if view.is_identity and src.same_as(dst):
            return EdgeCost(0, 0, 0)
        tiles = self.target.tiles
        need, sent = np.ones(dst.grid, np.float64), np.ones(src.grid, np.float64)
        tables: list[_Intervals | _Table] = []
        for g in view.groups:
            table = self._overlap(src, dst, g)
            tables.append(table)
            need = need * _spread(table.needed, dst.grid, g.dst)
            sent = sent * _spread(table.given, src.grid, g.src)
        item = dst.itemsize
        held = self._local(src, dst, view, tables)
        want = np.broadcast_to(need[..., None], dst.tiles.shape).reshape(-1)
        to = dst.tiles.reshape(-1)
        received = np.bincount(to, weights=np.maximum(want - held, 0) * item, minlength=tiles)
        local = np.bincount(to, weights=held * item, minlength=tiles)
        out = np.bincount(src.tiles[..., 0].reshape(-1), weights=sent.reshape(-1) * item, minlength=tiles)
        moved = float(received.max(initial=0.0))
        copy = ceil(float(local.max(initial=0.0)) / self.target.copy_bytes_per_cycle)
        if moved == 0:
            return EdgeCost(0, copy, 0)
        rate = self.target.pair_bytes_per_cycle if _pairs(dst) else self.target.exchange_bytes_per_cycle
        # Every element leaves its tile once however many tiles listen; what no other tile needs stays.
        send = min(float(out.max(initial=0.0)), float(received.sum()))
        port = max(moved, send) / rate
        return EdgeCost(ceil(port * self.target.exchange_factor), copy, self.target.phase_cycles)

    def _overlap(self, src: Layout, dst: Layout, g: Group) -> _Intervals | _Table:
        """How many elements of one group two cells share, counted once per pair of cuts."""
        key = (
            g.digest.encode(),
            repr([src.shape[d] for d in g.src] + [-1] + [dst.shape[d] for d in g.dst]).encode(),
            *(x.tobytes() for d in g.src for x in src.cuts[d]),
            b"|",
            *(x.tobytes() for d in g.dst for x in dst.cuts[d]),
        )
        if key not in self._counts:
            plain = len(g.src) == len(g.dst) == 1 and g.is_identity and src.shape[g.src[0]] == dst.shape[g.dst[0]]
            self._counts[key] = (
                _Intervals.of(src.cuts[g.src[0]], dst.cuts[g.dst[0]], src.shape[g.src[0]])
                if plain
                else _Table.of(_count(src, dst, g))
            )
        return self._counts[key]

    def _local(
        self, src: Layout, dst: Layout, view: View, tables: Sequence[_Intervals | _Table]
    ) -> NDArray[np.float64]:
        """Per destination cell and replica, how many of its elements the tile holds already."""
        total = np.zeros(dst.tiles.size)
        home = np.full((self.target.tiles, src.slot_count), -1, np.int64)
        cells = np.arange(src.tiles[..., 0].size)
        slots = np.zeros(cells.size, np.int64) if src.slots is None else src.slots.reshape(-1)
        for r in range(src.replicas):
            home[src.tiles[..., r].reshape(-1), slots] = cells
        to = dst.tiles.reshape(-1)
        at = np.unravel_index(np.repeat(np.arange(to.size // dst.replicas), dst.replicas), dst.grid) if dst.grid else ()
        for slot in range(src.slot_count):
            mine = home[to, slot]
            has = mine >= 0
            where = np.unravel_index(np.maximum(mine, 0), src.grid) if src.grid else ()
            share = has.astype(np.float64)
            for g, table in zip(view.groups, tables, strict=True):
                d = _join([at[i] for i in g.dst], [dst.grid[i] for i in g.dst], to.size)
                s = _join([where[i] for i in g.src], [src.grid[i] for i in g.src], to.size)
                share *= table.shared(d, s)
            total += share
        return total


def _join(parts: list[NDArray[np.int64]], sizes: list[int], count: int) -> NDArray[np.int64]:
    lin = np.zeros(count, np.int64)
    for p, n in zip(parts, sizes, strict=True):
        lin = lin * n + p
    return lin


def _spread(per_cell: Counts, grid: tuple[int, ...], dims: tuple[int, ...]) -> NDArray[np.float64]:
    shape = [n if d in dims else 1 for d, n in enumerate(grid)]
    return per_cell.reshape(shape).astype(np.float64)


def _count(src: Layout, dst: Layout, g: Group) -> NDArray[np.int32]:
    """[destination cells, source cells]: elements that both hold."""
    cell, linear = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for d in g.dst:
        lo, hi = (x.astype(np.int64) for x in dst.cuts[d])
        size = np.maximum(hi - lo, 0)
        own = np.repeat(np.arange(lo.size), size)
        index = lo[own] + np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        keep = (index >= 0) & (index < dst.shape[d])
        own, index = own[keep], index[keep]
        cell = (cell[:, None] * lo.size + own[None, :]).reshape(-1)
        linear = (linear[:, None] * dst.shape[d] + index[None, :]).reshape(-1)
    source = g.index[linear] if linear.size else linear
    keep = source >= 0
    cell, source = cell[keep], source[keep]
    at, scale = np.zeros(source.size, np.int64), 1
    for d in reversed(g.src):
        index = source % src.shape[d]
        source = source // src.shape[d]
        at += (np.searchsorted(src.cuts[d][0], index, side="right") - 1) * scale
        scale *= src.grid[d]
    cells = int(np.prod([dst.grid[d] for d in g.dst], dtype=np.int64))
    return np.bincount(cell * scale + at, minlength=cells * scale).reshape(cells, scale).astype(np.int32)


def _pairs(layout: Layout) -> bool:
    """Whether all replicas of every cell come in pairs of neighbouring tiles, so that pairs receive the same data."""
    if layout.replicas % 2:
        return False
    flat = np.sort(layout.tiles.reshape(-1, layout.replicas), axis=1)
    return bool(((flat[:, 0::2] % 2 == 0) & (flat[:, 1::2] == flat[:, 0::2] + 1)).all())
