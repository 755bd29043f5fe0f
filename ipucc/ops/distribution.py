"""Where the blocks of a sparse weight go: ways to deal them to the tiles, and the few that are worth a plan.

A run is what one vertex multiplies. Blocks are dealt in bands of block rows with equal counts of blocks, and inside a
band, column by column, in runs of equal count; or to the cells of a grid of block rows and columns that are permuted
so that the cells are evenly full. Few bands gather more of the dense operand, many leave more partials.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.sparse import block_sparse_cycles
from ipucc.dtypes import itemsize
from ipucc.sparsity.balanced import cells_of
from ipucc.target import Target
from ipucc.tiles.cuts import useful_parts

__all__ = [
    "Figures", "Pattern", "Runs", "Scheme", "banded_runs", "deal", "dealt", "figures_of", "grid_runs", "runs_of",
    "worthwhile", "worthwhile_fixed",
]  # fmt: skip

Ints = NDArray[np.int64]

_COUNTS: Final = 40
"""Numbers of runs that are tried, from few to one per tile."""
_COARSE: Final = 3
"""Of which every third is tried first."""
_REFINED: Final = 3
_GRIDS: Final = 8
_BANDS: Final = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, eq=False)
class Pattern:
    """The blocks of a weight that are there: `rows` and `cols` of each in a grid of `shape` blocks of size `block`.
    Of a convolution `taps` names the place in the window. Block rows are gathered `together` so many: narrow ones of a
    grain come as one piece of memory."""

    rows: Ints
    cols: Ints
    shape: tuple[int, int]
    block: tuple[int, int]
    taps: Ints | None = None
    together: int = 1

    @property
    def units(self) -> int:
        """How many groups of block rows there are to gather."""
        return -(-self.shape[0] // self.together)

    @property
    def size(self) -> int:
        """The number of blocks."""
        return int(self.rows.size)

    @cached_property
    def by_column(self) -> Ints:
        """The blocks column by column, those of a column by row and tap."""
        keys = (self.rows, self.cols) if self.taps is None else (self.taps, self.rows, self.cols)
        return np.lexsort(keys)


@dataclass(frozen=True)
class Scheme:
    """A way to deal blocks: `banded` in runs of equal count, `bands` times `across` of them, or to the cells of a
    `grid` of bands of rows times groups of columns, permuted, or as they lie, in equal widths, if it is `plain`;
    `fixed` is plain, with all rows and columns of its cell in every run, needed or not."""

    kind: str
    bands: int
    across: int

    @property
    def count(self) -> int:
        """The number of runs."""
        return self.bands * self.across

    def __str__(self) -> str:
        return f"{self.kind} {self.bands}x{self.across}"

    @staticmethod
    def parse(text: str) -> "Scheme":
        """The scheme that `str` wrote. ValueError for anything else."""
        found = re.fullmatch(r"(banded|grid|plain|fixed) ([1-9]\d{0,4})x([1-9]\d{0,4})", text)
        if found is None:
            raise ValueError(f"{text!r} is not `banded BxA`, `grid BxA`, `plain BxA` or `fixed BxA`")
        return Scheme(found[1], int(found[2]), int(found[3]))


@dataclass(frozen=True, eq=False)
class Runs:
    """Blocks dealt to runs. `order` sorts the blocks; run r has blocks `start[r]`..`start[r + 1]` of that order.

    `rows` lists the block rows, or groups of them, that the runs need, run by run (`row_start`), `place` per block the
    position of its row in its run's list; `slot` per block which of its run's block columns it adds to, `columns`
    [runs, slots] names them (-1). A run has room for `capacity` blocks.
    """

    order: Ints
    start: Ints
    rows: Ints
    row_start: Ints
    place: Ints
    slot: Ints
    columns: Ints
    capacity: int

    @property
    def count(self) -> int:
        """The number of runs."""
        return self.start.size - 1


def deal(pattern: Pattern, run: Ints, count: int, cells: Ints | None = None, capacity: int = 0) -> Runs:
    """The runs of a distribution: block i belongs to run `run[i]` of `count`. A run has its blocks column by column,
    and room for those of the fullest run, or for `capacity`.

    It needs the block rows and makes the block columns of its blocks; with `cells` [block rows, block columns] those of
    all places that belong to it, whether a block is there or not.
    """
    rows, cols = pattern.rows, pattern.cols
    order = _sorted_by(run, pattern.by_column)
    run, row, col = run[order], rows[order], cols[order]
    start = np.searchsorted(run, np.arange(count + 1))
    high, wide = pattern.units, pattern.shape[1]
    unit, part = np.divmod(row, pattern.together)
    needed, made = run * high + unit, run * wide + col
    if cells is not None:
        needed = np.append(
            needed, (cells * high + np.arange(pattern.shape[0])[:, None] // pattern.together).reshape(-1)
        )
        made = np.append(made, (cells * wide + np.arange(wide)).reshape(-1))
    needed, place = np.unique(needed, return_inverse=True)
    row_start = np.searchsorted(needed // high, np.arange(count + 1))
    made, slot = np.unique(made, return_inverse=True)
    place, slot = place.reshape(-1)[: order.size], slot.reshape(-1)[: order.size]
    col_run = made // wide
    col_start = np.searchsorted(col_run, np.arange(count + 1))
    columns = np.full((count, int(np.diff(col_start).max(initial=1))), -1, np.int64)
    columns[col_run, np.arange(made.size) - col_start[col_run]] = made % wide
    return Runs(
        order, start, needed % high, row_start, (place - row_start[run]) * pattern.together + part,
        slot - col_start[run], columns, max(capacity, int(np.diff(start).max(initial=0))),
    )  # fmt: skip


def banded_runs(pattern: Pattern, bands: int, across: int) -> Ints:
    """The run of every block: `bands` of contiguous block rows with equal counts, to a block row, each dealt column by
    column to `across` runs of equal count, to a block.

    The distribution of poplibs' static planner (lib/popsparse/StaticMatMulPartitioner.cpp): contiguous bands with
    equal counts of non-zeros, every tile of a band a contiguous run of them.
    """
    rows = pattern.rows
    if bands == 1:
        band = np.zeros(rows.size, np.int64)
    else:
        counts = np.bincount(rows, minlength=pattern.shape[0])
        middle = np.cumsum(counts) - (counts + 1) // 2
        band = np.minimum(middle * bands // max(1, rows.size), bands - 1)[rows]
    order = _sorted_by(band, pattern.by_column)
    size = np.bincount(band, minlength=bands)
    nth = np.arange(rows.size) - np.repeat(np.cumsum(size) - size, size)
    run = np.empty(rows.size, np.int64)
    run[order] = band[order] * across + nth * across // np.maximum(size[band[order]], 1)
    return run


def _sorted_by(group: Ints, order: Ints) -> Ints:
    """The items of `order` group by group. Groups are few: numpy sorts 16 bits in linear time."""
    return order[np.argsort(group[order].astype(np.uint16), kind="stable")]


def grid_runs(pattern: Pattern, bands: int, across: int) -> Ints:
    """The run of every block on a grid of `bands` x `across` cells whose rows and columns are permuted: columns, the
    fullest first, to the emptiest group; then rows, the fullest first, to the band that leaves the fullest cell
    emptiest (largest first, as in multiprocessor scheduling)."""
    rows, cols = pattern.rows, pattern.cols
    high, wide = pattern.shape
    group = _largest_first(np.bincount(cols, minlength=wide), across)
    found = np.bincount(rows * across + group[cols], minlength=high * across).reshape(high, across)
    load, held = np.zeros((bands, across), np.int64), np.zeros(bands, np.int64)
    band = np.zeros(high, np.int64)
    more = found.sum(axis=1)
    for r in np.argsort(-more, kind="stable").tolist():
        after = load + found[r]
        # The emptiest of those with the emptiest fullest cell; a band has fewer blocks than all together.
        at = int((after.max(axis=1) * (rows.size + 1) + held).argmin())
        band[r], load[at] = at, after[at]
        held[at] += more[r]
    return band[rows] * across + group[cols]


def _largest_first(weights: Ints, groups: int) -> Ints:
    """The group of every item: the heaviest first, each to the group with the least weight and, of these, fewest."""
    load, held = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    out = np.zeros(weights.size, np.int64)
    for i in np.argsort(-weights, kind="stable").tolist():
        at = int((load * (weights.size + 1) + held).argmin())
        out[i] = at
        load[at] += weights[i]
        held[at] += 1
    return out


@dataclass(frozen=True)
class Figures:
    """Of the fullest run: blocks, block rows gathered (whole groups), block columns made; and the most runs that share
    a column."""

    blocks: int
    rows: int
    outputs: int
    holders: int


def figures_of(pattern: Pattern, run: Ints, count: int) -> Figures:
    """What the fullest of `count` runs has; block i belongs to run `run[i]`."""
    wide = pattern.shape[1]
    touched = np.zeros((count, pattern.units), bool)
    touched[run, pattern.rows // pattern.together] = True
    made = np.zeros((count, wide), bool)
    made[run, pattern.cols] = True
    return Figures(
        int(np.bincount(run, minlength=count).max()), int(touched.sum(axis=1).max()) * pattern.together,
        int(made.sum(axis=1).max()), int(made.sum(axis=0).max()),
    )  # fmt: skip


def runs_of(pattern: Pattern, scheme: Scheme) -> Ints:
    """The run of every block under a scheme."""
    if scheme.kind in ("plain", "fixed"):
        return cells_of(pattern.shape, (scheme.bands, scheme.across))[pattern.rows, pattern.cols]
    made = banded_runs if scheme.kind == "banded" else grid_runs
    return made(pattern, scheme.bands, scheme.across)


def dealt(pattern: Pattern, scheme: Scheme, capacity: int = 0) -> Runs:
    """The runs of a scheme, with room for `capacity` blocks each, or for those of the fullest.

    Those of a `fixed` one need and make the same, in the same places, whatever the pattern is.
    """
    cells = cells_of(pattern.shape, (scheme.bands, scheme.across)) if scheme.kind == "fixed" else None
    return deal(pattern, runs_of(pattern, scheme), scheme.count, cells, capacity)


def worthwhile(
    pattern: Pattern, m: int, dtype: str, partials: str, target: Target, offered: int
) -> list[tuple[Scheme, Runs]]:
    """The schemes with the fewest estimated cycles, best first, each of another shape: what is offered to placement.

    `m` rows of the dense operand are cut over the tiles that runs leave. The estimate knows the vertices' own formula,
    the bytes gathered and the partials moved and added; it only ranks, placement prices what is offered exactly.
    """
    search = _Search(pattern, m, dtype, partials, target)
    search.bands()
    search.grids()
    ranked = sorted(search.priced.items(), key=lambda entry: entry[1])
    chosen: list[tuple[Scheme, Runs]] = []
    shapes: set[tuple[str, int, int]] = set()
    for scheme, cycles in ranked:
        shape = scheme.kind, scheme.bands.bit_length(), scheme.count.bit_length()
        if len(chosen) == offered or cycles > 2 * ranked[0][1]:
            break
        if shape not in shapes:
            shapes.add(shape)
            chosen.append((scheme, dealt(pattern, scheme)))
    return chosen


def worthwhile_fixed(
    patterns: Sequence[Pattern], m: int, dtype: str, partials: str, target: Target, offered: int
) -> list[tuple[Scheme, int]]:
    """The `fixed` schemes with the fewest estimated cycles for weights of one shape, best first, and the blocks that
    the fullest of all their runs has. Estimates are those of `worthwhile`."""
    search = _Search(patterns[0], m, dtype, partials, target)
    capacities: dict[Scheme, int] = {}
    for (bands, across), even in search.even_grids().items():
        scheme = Scheme("fixed", bands, across)
        run = max(int(np.bincount(runs_of(p, scheme), minlength=1).max()) for p in patterns)
        capacities[scheme] = run
        search.priced[scheme] = search.estimate(replace(even, blocks=run), scheme.count)
    ranked = sorted(search.priced, key=lambda scheme: (search.priced[scheme], scheme.bands, scheme.across))
    return [(scheme, capacities[scheme]) for scheme in ranked[:offered]]


@dataclass(eq=False)
class _Search:
    """Schemes with their estimated cycles, for `m` rows of the dense operand."""

    pattern: Pattern
    m: int
    dtype: str
    partials: str
    target: Target
    priced: dict[Scheme, int] = field(default_factory=dict)

    def price(self, scheme: Scheme) -> None:
        """Deals the blocks and estimates what comes of it."""
        if scheme not in self.priced:
            self.priced[scheme] = self.estimate(
                figures_of(self.pattern, runs_of(self.pattern, scheme), scheme.count), scheme.count
            )

    def estimate(self, f: Figures, count: int) -> int:
        """Cycles of the fullest run, at the best cut of the rows over the tiles that runs leave."""
        parts = useful_parts(self.m, max(1, self.target.tiles // count))
        cell = -(-self.m // parts)
        size, wide = itemsize(self.dtype), itemsize(self.partials)
        (high, across), target = self.pattern.block, self.target
        blocks, outputs = np.full(cell.size, f.blocks), np.full(cell.size, f.outputs)
        work = block_sparse_cycles(cell, blocks, outputs, self.pattern.block, self.dtype, target)
        gather = f.rows * high * cell * size
        # Every column's partials are spread over the tiles that share in the reduction.
        partial = f.outputs * across * cell * wide
        depth = min(f.holders, count)
        moved = gather + partial * min(depth, 4)
        cycles = work + moved / target.exchange_bytes_per_cycle * target.exchange_factor
        cycles = cycles + target.workers * depth * partial // (wide * 24)
        idle = parts * count * 4 < target.tiles
        return int((cycles + np.where(idle, target.phase_cycles // 4, 0)).min())

    def counts(self) -> Ints:
        """Numbers of runs, from one to one a tile, of which every one is a little fuller than the next."""
        useful = useful_parts(self.pattern.size, self.target.tiles)
        step = max(1, -(-useful.size // _COUNTS))
        return np.unique(np.append(useful[::-1][::step], 1))

    def bands(self) -> None:
        """Runs of equal count: every number of bands with some numbers of runs, then the best ones with those near."""
        counts, limit = self.counts(), min(self.pattern.shape[0], self.target.tiles)
        best: dict[int, tuple[int, int]] = {}
        for bands in (x for x in _BANDS if x <= limit):
            for at in range(counts.size - 1, -1, -_COARSE):
                if (scheme := self._banded(bands, int(counts[at]))) is not None:
                    self.price(scheme)
                    best[bands] = min(best.get(bands, (self.priced[scheme], at)), (self.priced[scheme], at))
        for bands in sorted(best, key=lambda x: (best[x], x))[:_REFINED]:
            at = best[bands][1]
            for near in counts[max(0, at - _COARSE + 1) : at + _COARSE].tolist():
                if (scheme := self._banded(bands, near)) is not None:
                    self.price(scheme)

    def _banded(self, bands: int, count: int) -> Scheme | None:
        across = count // bands
        return Scheme("banded", bands, across) if across and bands * across <= self.pattern.size else None

    def grids(self) -> None:
        """Grids, permuted and as they lie, that are best if filled evenly: those take longer to deal than to price."""
        found = self.even_grids()
        for bands, across in sorted(found, key=lambda grid: (self.estimate(found[grid], grid[0] * grid[1]), grid))[
            :_GRIDS
        ]:
            self.price(Scheme("plain", bands, across))
            if self.pattern.size <= 1 << 16:
                self.price(Scheme("grid", bands, across))

    def even_grids(self) -> dict[tuple[int, int], Figures]:
        """Grids of bands and groups, and what a run of each has that needs all rows and makes all columns of its cell,
        were all cells equally full."""
        (high, wide), found = self.pattern.shape, {}
        for count in self.counts().tolist():
            for bands in _BANDS:
                across = min(count // bands, wide)
                if across > 1 and 1 < bands <= high and bands * across > count // 2:
                    rows = -(-self.pattern.units // bands) * self.pattern.together
                    blocks = -(-self.pattern.size // (bands * across))
                    found[bands, across] = Figures(blocks, rows, -(-wide // across), bands)
        return found
