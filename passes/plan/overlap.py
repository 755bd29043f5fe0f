"""What an edge costs: the bytes that must move between two layouts, tile by tile, without listing a transfer."""

from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ipucc.target import Target
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import Group, View

__all__ = ["EdgeCost", "Overlaps"]

Counts = NDArray[np.int64]


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
    _counts: dict[tuple[bytes, ...], Counts] = field(default_factory=dict)

    def cost(self, src: Layout, dst: Layout, view: View) -> EdgeCost:
        """Cycles until `dst` holds what it needs of `src` through `view`: bytes at the busiest port over the port's
        rate times the fitted factor, one phase, and the local share at the copy rate. Nothing when both agree."""
        if view.is_identity and src.same_as(dst):
            return EdgeCost(0, 0, 0)
        tiles = self.target.tiles
        need, sent = np.ones(dst.grid, np.float64), np.ones(src.grid, np.float64)
        tables = []
        for g in view.groups:
            table = self._overlap(src, dst, g)
            tables.append(table)
            need = need * _spread(table.sum(axis=1), dst.grid, g.dst)
            sent = sent * _spread(table.sum(axis=0), src.grid, g.src)
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

    def _overlap(self, src: Layout, dst: Layout, g: Group) -> Counts:
        """[destination cells, source cells] of one group: elements that both hold."""
        key = (
            g.index.tobytes(),
            repr([(src.shape[d]) for d in g.src] + [-1] + [dst.shape[d] for d in g.dst]).encode(),
            *(x.tobytes() for d in g.src for x in src.cuts[d]),
            b"|",
            *(x.tobytes() for d in g.dst for x in dst.cuts[d]),
        )
        if key not in self._counts:
            self._counts[key] = _count(src, dst, g)
        return self._counts[key]

    def _local(self, src: Layout, dst: Layout, view: View, tables: list[Counts]) -> NDArray[np.float64]:
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
                share *= table[d, s]
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


def _count(src: Layout, dst: Layout, g: Group) -> Counts:
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
    return np.bincount(cell * scale + at, minlength=cells * scale).reshape(cells, scale).astype(np.int64)


def _pairs(layout: Layout) -> bool:
    """Whether all replicas of every cell come in pairs of neighbouring tiles, so that pairs receive the same data."""
    if layout.replicas % 2:
        return False
    flat = np.sort(layout.tiles.reshape(-1, layout.replicas), axis=1)
    return bool(((flat[:, 0::2] % 2 == 0) & (flat[:, 1::2] == flat[:, 0::2] + 1)).all())
