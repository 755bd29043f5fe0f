"""What an edge costs: the bytes that must move between two layouts, tile by tile, without listing a transfer."""

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
Small = NDArray[np.int32]

_APART = -1
"""A group whose neighbouring indices lie apart in memory: every element is a run of its own."""


@dataclass(frozen=True)
class EdgeCost:
    """Estimated cycles of filling one operand: fabric, copies on the tile, and the phase if anything moves. `code` is
    the exchange code of the fullest tile in bytes."""

    exchange: int
    copy: int
    sync: int
    code: int = 0

    @property
    def total(self) -> int:
        """All cycles of the edge."""
        return self.exchange + self.copy + self.sync


@dataclass(frozen=True, eq=False)
class _Intervals:
    """Two cuts of one dimension: cells overlap in intervals, and no table of all pairs is needed.

    `needed` is the size of every destination cell inside the tensor, `given` what every source cell gives to all;
    `needed_runs` and `given_runs` count the same in contiguous runs. `chunk` is the number of neighbouring indices
    that lie together in memory, 0 for any number.
    """

    src: tuple[Counts, Counts]
    dst: tuple[Counts, Counts]
    needed: Counts
    given: Counts
    needed_runs: Counts
    given_runs: Counts
    chunk: int

    @staticmethod
    def of(src: Cut, dst: Cut, size: int, chunk: int) -> "_Intervals":
        lo = np.maximum(dst[0], 0).astype(np.int64)
        hi = np.maximum(np.minimum(dst[1], size), lo)
        first, behind = owned(src)
        begin = first.astype(np.int64)
        end = np.maximum(behind, begin)
        needed, given = hi - lo, _covered(lo, hi, end) - _covered(lo, hi, begin)
        if chunk == 0:
            needed_runs, given_runs = _met(begin, end, lo, hi), _met(lo, hi, begin, end)
        else:
            needed_runs, given_runs = -(-needed // chunk), -(-given // chunk)
        return _Intervals((begin, end), (lo, hi), needed, given, needed_runs, given_runs, chunk)


@dataclass(frozen=True, eq=False)
class _Table:
    """Shared elements and runs of every destination cell (rows) with every source cell (columns), and their sums."""

    table: Small
    breaks: Small
    needed: Counts
    given: Counts
    needed_runs: Counts
    given_runs: Counts

    @staticmethod
    def of(table: Small, breaks: Small) -> "_Table":
        sums = [x.sum(axis=axis, dtype=np.int64) for x in (table, breaks) for axis in (1, 0)]
        return _Table(table, breaks, *sums)


def _covered(lo: Counts, hi: Counts, at: Counts) -> Counts:
    """How many elements of the intervals lo..hi, counted with multiplicity, lie below each position."""

    def below(edges: Counts) -> Counts:
        ordered = np.sort(edges)
        sums = np.concatenate([[0], np.cumsum(ordered)])
        k = np.searchsorted(ordered, at, side="left")
        return np.asarray(k * at - sums[k], np.int64)

    return below(lo) - below(hi)


def _met(lo: Counts, hi: Counts, begin: Counts, end: Counts) -> Counts:
    """How many of the intervals lo..hi each of begin..end overlaps; empty ones overlap nothing."""
    some = hi > lo
    started = np.searchsorted(np.sort(lo[some]), end, side="left")
    over = np.searchsorted(np.sort(hi[some]), begin, side="right")
    return np.asarray(np.where(end > begin, started - over, 0), np.int64)


@dataclass(eq=False)
class _Known:
    """A layout as flat arrays: the tile of every (cell, replica), the cell of every (slot, tile), cell coordinates."""

    layout: Layout
    to: Small
    at: Small
    home: Small
    pairs: bool
    _coords: dict[tuple[tuple[int, ...], bool], Small] = field(default_factory=dict)

    @staticmethod
    def of(layout: Layout, tiles: int) -> "_Known":
        to = np.ascontiguousarray(layout.tiles.reshape(-1), np.int32)
        at = np.ascontiguousarray(layout.tiles[..., 0].reshape(-1), np.int32)
        home = np.full((layout.slot_count, tiles), -1, np.int32)
        cells = np.arange(at.size, dtype=np.int32)
        slots = np.zeros(cells.size, np.int64) if layout.slots is None else layout.slots.reshape(-1)
        for r in range(layout.replicas):
            home[slots, layout.tiles[..., r].reshape(-1)] = cells
        return _Known(layout, to, at, home, _pairs(layout))

    def coords(self, dims: tuple[int, ...], replicas: bool) -> Small:
        """Of every cell (of every replica of it), its place along the joined dimensions."""
        key = dims, replicas
        if key not in self._coords:
            grid = self.layout.grid
            cells = np.arange(self.at.size)
            at = np.unravel_index(cells, grid) if grid else ()
            lin = np.zeros(cells.size, np.int64)
            for d in dims:
                lin = lin * grid[d] + at[d]
            self._coords[key] = (np.repeat(lin, self.layout.replicas) if replicas else lin).astype(np.int32)
        return self._coords[key]


@dataclass(eq=False)
class Overlaps:
    """Edge costs between layouts; per group of a view, the overlaps of two cuts are counted once and kept."""

    target: Target
    _counts: dict[tuple[object, ...], _Intervals | _Table] = field(default_factory=dict)
    _known: dict[int, _Known] = field(default_factory=dict)
    _cuts: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def cost(self, src: Layout, dst: Layout, view: View) -> EdgeCost:
        """Cycles until `dst` holds what it needs of `src` through `view`: bytes at the busiest port over the port's
        rate times the fitted factor, or the control of the fragments that the busiest tile receives if that is more;
        one phase; and the local share at the copy rate. Nothing when both agree."""
        from ipucc.passes.plan.overlap_kernel import share_intervals, share_table, take, tally  # numba

        if view.is_identity and src.same_as(dst):
            return EdgeCost(0, 0, 0)
        a, b = self._flat(src), self._flat(dst)
        chunks = _chunks(src, dst, view)
        want, want_runs = np.ones(b.to.size), np.ones(b.to.size)
        given, given_runs = np.ones(a.at.size), np.ones(a.at.size)
        met = [self._overlap(src, dst, g, chunk) for g, chunk in zip(view.groups, chunks, strict=True)]
        for g, m in zip(view.groups, met, strict=True):
            take(want, want_runs, b.coords(g.dst, True), m.needed, m.needed_runs)
            take(given, given_runs, a.coords(g.src, False), m.given, m.given_runs)
        held, held_runs = np.zeros(b.to.size), np.zeros(b.to.size)
        for mine in a.home:
            share, runs = np.ones(b.to.size), np.ones(b.to.size)
            mine_here = mine[b.to]
            for g, m in zip(view.groups, met, strict=True):
                d, s = b.coords(g.dst, True), a.coords(g.src, False)
                if isinstance(m, _Intervals):
                    share_intervals(share, runs, mine_here, d, s, *m.dst, *m.src, m.chunk)
                else:
                    share_table(share, runs, mine_here, d, s, m.table, m.breaks)
            if not view.groups:
                share[mine_here < 0] = 0.0
            held += share
            held_runs += runs
        most, total, near, out, into, both = tally(
            b.to, want, want_runs, held, held_runs, given, given_runs, a.at, self.target.tiles
        )
        item, target = dst.itemsize, self.target
        copy = ceil(near * item / target.copy_bytes_per_cycle)
        if most == 0:
            return EdgeCost(0, copy, 0)
        rate = target.pair_bytes_per_cycle if b.pairs else target.exchange_bytes_per_cycle
        # Every element leaves its tile once however many tiles listen; what no other tile needs stays.
        port = max(most, min(out, total)) * item / rate
        # Long runs are sent in several fragments.
        pieces = ceil(most * item / into / (4 * target.max_send_words))
        into, both = into * pieces, both * pieces
        cycles = max(ceil(port * target.exchange_factor), ceil(into) * target.fragment_cycles)
        return EdgeCost(cycles, copy, target.phase_cycles, ceil(both) * target.fragment_code_bytes)

    def _flat(self, layout: Layout) -> _Known:
        known = self._known.get(id(layout))
        if known is None:
            # The entry keeps the layout, so that its id stays its own.
            known = self._known[id(layout)] = _Known.of(layout, self.target.tiles)
        return known

    def _cut(self, layout: Layout, d: int) -> bytes:
        key = id(layout), d
        if key not in self._cuts:
            lo, hi = layout.cuts[d]
            self._cuts[key] = lo.tobytes() + hi.tobytes()
        return self._cuts[key]

    def _overlap(self, src: Layout, dst: Layout, g: Group, chunk: int) -> _Intervals | _Table:
        """How much of one group two cells share, counted once per pair of cuts."""
        plain = len(g.src) == len(g.dst) == 1 and g.is_identity and src.shape[g.src[0]] == dst.shape[g.dst[0]]
        key = (
            0 if plain else g.digest,
            chunk,
            tuple(src.shape[d] for d in g.src),
            tuple(dst.shape[d] for d in g.dst),
            *(self._cut(src, d) for d in g.src),
            *(self._cut(dst, d) for d in g.dst),
        )
        if key not in self._counts:
            if plain:
                step = 1 if chunk == _APART else chunk
                made: _Intervals | _Table = _Intervals.of(
                    src.cuts[g.src[0]], dst.cuts[g.dst[0]], src.shape[g.src[0]], step
                )
            else:
                made = _Table.of(*_count(src, dst, g, chunk))
            self._counts[key] = made
        return self._counts[key]


def _chunks(src: Layout, dst: Layout, view: View) -> list[int]:
    """Per group how many of its neighbouring indices lie together in both layouts (see `_Intervals.chunk`).

    In memory a cell is [grains][other dimensions][grain]: neighbours along the last other dimension always touch,
    those along one further out only where everything inside is whole in both layouts.
    """
    src_order, dst_order = _outwards(src), _outwards(dst)
    chunks = [_APART] * len(view.groups)
    number = {d: i for i, g in enumerate(view.groups) for d in g.dst}
    for i, g in enumerate(view.groups):
        if src.grain_dim in g.src and dst.grain_dim in g.dst:
            chunks[i] = dst.grain
    for a, b in zip(src_order, dst_order, strict=False):
        i = number.get(b, -1)
        if i < 0 or a not in view.groups[i].src:
            break
        chunks[i] = 0
        g = view.groups[i]
        plain = len(g.src) == len(g.dst) == 1 and g.is_identity
        if not plain or src.cell[a] != dst.cell[b] or not np.array_equal(src.cuts[a][0], dst.cuts[b][0]):
            break
    return chunks


def _outwards(layout: Layout) -> list[int]:
    """Dimensions by the distance of neighbours in memory, nearest first; those with one index in every cell last."""
    order = [d for d in reversed(range(len(layout.shape))) if d != layout.grain_dim]
    order += [layout.grain_dim] if layout.shape else []
    return [d for d in order if layout.cell[d] > 1]


def _count(src: Layout, dst: Layout, g: Group, chunk: int) -> tuple[Small, Small]:
    """[destination cells, source cells]: elements that both hold, and the contiguous runs that they form."""
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
    cell, source, linear = cell[keep], source[keep], linear[keep]
    at, scale, left = np.zeros(source.size, np.int64), 1, source
    for d in reversed(g.src):
        index = left % src.shape[d]
        left = left // src.shape[d]
        at += (np.searchsorted(src.cuts[d][0], index, side="right") - 1) * scale
        scale *= src.grid[d]
    cells = int(np.prod([dst.grid[d] for d in g.dst], dtype=np.int64))
    both = cell * scale + at
    table = np.bincount(both, minlength=cells * scale).reshape(cells, scale).astype(np.int32)
    if chunk == _APART:
        return table, table
    begins = np.ones(source.size, bool)
    begins[1:] = (np.diff(both) != 0) | (np.diff(source) != 1) | (np.diff(linear) != 1)
    if chunk > 0:
        begins |= (linear % chunk == 0) | (source % chunk == 0)
    breaks = np.bincount(both[begins], minlength=cells * scale).reshape(cells, scale).astype(np.int32)
    return table, breaks


def _pairs(layout: Layout) -> bool:
    """Whether all replicas of every cell come in pairs of neighbouring tiles, so that pairs receive the same data."""
    if layout.replicas % 2:
        return False
    flat = np.sort(layout.tiles.reshape(-1, layout.replicas), axis=1)
    return bool(((flat[:, 0::2] % 2 == 0) & (flat[:, 1::2] == flat[:, 0::2] + 1)).all())
