"""Buckets: where the blocks of a pattern lie that is known only when a program runs.

The grid of blocks is cut into cells of `band` block rows by `group` block columns. Every cell has a bucket, a fixed
number of slots (its capacity); each slot holds one block, its values beside its place, or nothing (place -1, values 0).
Buckets are what a program is compiled for: any pattern that fits them runs.

Where a bucket would overflow, blocks go to a free slot of the bucket before it in the same band, cyclically, which may
have to hand on blocks of its own for that. A bucket with a `reach` of 2 takes blocks of its own group of columns and of
the next one; with a reach of 1 it takes its own only.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, lgamma
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.sparsity.blocks import Array, Block, Mask, cut, join

__all__ = ["BeyondCapacity", "Buckets", "Encoded", "PatternInput", "capacity_for"]

Ints = NDArray[np.int64]

OVERFLOW: Final = 1e-6
"""The chance that a random pattern does not fit, for which a capacity is chosen."""


class BeyondCapacity(ValueError):
    """A pattern has more blocks in some place than the buckets there have slots."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A pattern in buckets: values [bands, groups, capacity, bk, bn], places [bands, groups, capacity, 2] as block row
    and block column (-1: an empty slot). `held` [bands, groups] are the blocks of every bucket, `spilled` those of them
    that belong to the next group."""

    values: Array
    places: NDArray[np.int16]
    held: Ints
    spilled: Ints


@dataclass(frozen=True)
class Buckets:
    """Buckets of `capacity` blocks for a weight of `shape` [k, n] in blocks of `block`; a cell has `cell` [band, group]
    block rows and columns. Raises ValueError for figures that make no buckets."""

    shape: tuple[int, int]
    block: Block
    cell: tuple[int, int]
    capacity: int
    reach: int = 1

    def __post_init__(self) -> None:
        for name in ("shape", "block", "cell"):
            if len(getattr(self, name)) != 2 or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} {list(getattr(self, name))} must be two positive numbers")
        if self.capacity < 1:
            raise ValueError(f"a bucket must hold a block, not {self.capacity}")
        if self.reach not in (1, 2) or self.reach > self.grid[1]:
            raise ValueError(f"a bucket reaches 1 or 2 of {self.grid[1]} groups, not {self.reach}")
        if max(self.blocks) > np.iinfo(np.int16).max:
            raise ValueError(f"a weight of {self.blocks[0]} x {self.blocks[1]} blocks has more than places can name")

    @property
    def blocks(self) -> tuple[int, int]:
        """Block rows and block columns of the weight."""
        return -(-self.shape[0] // self.block[0]), -(-self.shape[1] // self.block[1])

    @property
    def grid(self) -> tuple[int, int]:
        """Bands and groups: the buckets."""
        return -(-self.blocks[0] // self.cell[0]), -(-self.blocks[1] // self.cell[1])

    @property
    def slots(self) -> int:
        """The blocks that all buckets together can hold."""
        return self.grid[0] * self.grid[1] * self.capacity

    def counts(self, mask: Mask) -> Ints:
        """[bands, groups]: how many blocks of a mask over the grid of blocks lie in every cell."""
        rows, cols = np.nonzero(mask)
        at = rows // self.cell[0] * self.grid[1] + cols // self.cell[1]
        return np.bincount(at, minlength=self.grid[0] * self.grid[1]).reshape(self.grid)

    def encode(self, mask: Mask, weight: Array) -> Encoded:
        """The blocks of `weight` [k, n] that a mask over the grid of blocks keeps. A bucket has its blocks column by
        column. BeyondCapacity where they do not fit."""
        rows, cols = np.nonzero(mask)
        at, slot, held, spilled = self._slots(mask, rows, cols)
        size = (*self.grid, self.capacity)
        values = np.zeros((self.grid[0] * self.grid[1], self.capacity, *self.block), weight.dtype)
        places = np.full((*values.shape[:2], 2), -1, np.int16)
        values[at, slot] = cut(weight, self.block)[rows, cols]
        places[at, slot] = np.stack([rows, cols], axis=1)
        return Encoded(values.reshape(*size, *self.block), places.reshape(*size, 2), held, spilled)

    def decode(self, values: Array, places: NDArray[np.integer]) -> tuple[Array, Mask]:
        """The weight [k, n] and the mask over its blocks that buckets hold: the inverse of `encode`."""
        used = places[..., 0] >= 0
        rows, cols = places[used].T
        mask = np.zeros(self.blocks, bool)
        mask[rows, cols] = True
        grid = np.zeros((*self.blocks, *self.block), values.dtype)
        grid[rows, cols] = values[used]
        return join(grid, self.shape), mask

    def fits(self, mask: Mask) -> bool:
        """Whether every block of a mask finds a slot."""
        return not self._too_full(self.counts(mask)).any()

    def capped(self, mask: Mask, scores: NDArray[np.floating]) -> Mask:
        """The mask without the blocks that find no slot: what is left has the highest sum of positive `scores` (over
        the grid of blocks) that buckets can hold. Equal scores go by place. A mask that fits stays as it is.

        Which sets of blocks find slots is a matroid (they are matched to slots), so taking blocks by falling score, and
        leaving out each that does not fit beside those taken before, is optimal.
        """
        out = np.array(mask)
        rows, cols = np.nonzero(mask)
        band, group = rows // self.cell[0], cols // self.cell[1]
        for b in np.flatnonzero(self._too_full(self.counts(mask))).tolist():
            mine = np.flatnonzero(band == b)
            mine = mine[np.argsort(-scores[rows[mine], cols[mine]], kind="stable")]
            dropped = self._left_out(group[mine])
            out[rows[mine[dropped]], cols[mine[dropped]]] = False
        return out

    def _left_out(self, group: Ints) -> Mask:
        """Which blocks of one band find no slot, blocks in the order in which they are served; `group` of each.

        Once a block of a group finds none, no later one of that group does: so every group is closed once at most.
        """
        out = np.zeros(group.size, bool)
        done = 0
        while done < group.size:
            low, high = done, group.size
            while low < high:  # The longest prefix that fits.
                middle = (low + high + 1) // 2
                low, high = (low, middle - 1) if self._overflows(group[:middle], out[:middle]) else (middle, high)
            if low == group.size:
                break
            out[low:] |= group[low:] == group[low]
            done = low + 1
        return out

    def _overflows(self, group: Ints, out: Mask) -> bool:
        return bool(self._too_full(np.bincount(group[~out], minlength=self.grid[1])[None])[0])

    def _pushed(self, counts: Ints) -> Ints:
        """[bands, groups]: how many blocks of a group its own bucket hands on to the one before it, the fewest that
        there can be. What a bucket takes from the next one it must hand on in turn where it is full."""
        pushed = np.zeros_like(counts)
        if self.reach == 1:
            return pushed
        groups = self.grid[1]
        for _ in range(2):  # Around the ring: what the first bucket hands on reaches the last one.
            for j in range(groups - 1, -1, -1):
                pushed[:, j] = np.maximum(0, counts[:, j] + pushed[:, (j + 1) % groups] - self.capacity)
        return pushed

    def _too_full(self, counts: Ints) -> Mask:
        """[bands]: which bands have blocks without a slot."""
        pushed = self._pushed(counts)
        held = counts - pushed + np.roll(pushed, -1, axis=1)
        return np.asarray(((held > self.capacity) | (pushed > counts)).any(axis=1))

    def _slots(self, mask: Mask, rows: Ints, cols: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Bucket and slot of every block, and per bucket the blocks that it holds and that it took from the next."""
        counts = self.counts(mask)
        if (full := self._too_full(counts)).any():
            raise BeyondCapacity(self._excess(counts, full))
        pushed = self._pushed(counts)
        band, group = rows // self.cell[0], cols // self.cell[1]
        cell = band * self.grid[1] + group
        order = np.lexsort((rows, cols, cell))
        nth = np.empty(rows.size, np.int64)
        first = np.cumsum(counts.reshape(-1)) - counts.reshape(-1)
        nth[order] = np.arange(rows.size) - first[cell[order]]
        # A group hands on its first columns: they follow the last ones of the bucket before.
        moved = nth < pushed.reshape(-1)[cell]
        at = band * self.grid[1] + (group - moved) % self.grid[1]
        held = np.bincount(at, minlength=self.grid[0] * self.grid[1])
        order = np.lexsort((rows, cols, moved, at))
        slot = np.empty(rows.size, np.int64)
        slot[order] = np.arange(rows.size) - (np.cumsum(held) - held)[at[order]]
        return at, slot, held.reshape(self.grid), np.roll(pushed, -1, axis=1)

    def _excess(self, counts: Ints, full: Mask) -> str:
        band = int(np.argmax(np.where(full, counts.max(axis=1), -1)))
        group = int(np.argmax(counts[band]))
        total, slots = int(counts[band].sum()), self.grid[1] * self.capacity
        if total > slots:
            return f"the block rows of band {band} have {total:,} blocks, their {self.grid[1]} buckets hold {slots:,}"
        beside = " and the one before it has no room" if self.reach > 1 else ""
        return f"bucket {band}, {group} gets {int(counts[band, group]):,} blocks and holds {self.capacity:,}{beside}"


@dataclass(frozen=True)
class PatternInput:
    """A block-sparse operand that is given as two inputs of a program: its values and its places in buckets."""

    values: str
    places: str
    buckets: Buckets

    @property
    def name(self) -> str:
        """What the two are called together: `w` for `w.values` and `w.places`, else the name of the values."""
        stem = self.values.removesuffix(".values")
        return stem if f"{stem}.values" == self.values and f"{stem}.places" == self.places else self.values


def capacity_for(
    blocks: tuple[int, int], count: int, cell: tuple[int, int], reach: int, overflow: float = OVERFLOW
) -> int:
    """The least capacity with which a pattern of `count` blocks, placed at random in a grid of `blocks`, finds no slot
    for some block with a chance of at most `overflow`.

    The number of blocks in a cell is hypergeometric; chances of cells are added (union bound). With a reach of 2, runs
    of L neighbouring groups share the slots of L + 1 buckets, a whole band those of its own (Hall's condition); the
    chances of all runs are added.
    """
    bands, groups = -(-blocks[0] // cell[0]), -(-blocks[1] // cell[1])
    total = blocks[0] * blocks[1]
    area = min(total, cell[0] * cell[1])

    def chance(capacity: int) -> float:
        if reach == 1:
            return bands * groups * _tail(total, count, area, capacity)
        found = bands * _tail(total, count, min(total, cell[0] * blocks[1]), capacity * groups)
        length = 1
        while length < groups:
            # Long runs several lengths at once: the longest of them in the slots of the shortest.
            more = min(length + 1 + length // 64, groups)
            tail = _tail(total, count, min(total, area * (more - 1)), capacity * (length + 1))
            found += bands * groups * (more - length) * tail
            length = more
        return found

    low, high = max(1, count * area // total), max(1, min(area * reach, count))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) <= overflow else (middle + 1, high)
    return low


@lru_cache(maxsize=1 << 14)
def _tail(total: int, marked: int, drawn: int, limit: int) -> float:
    """The chance that of `drawn` things out of `total`, `marked` of them marked, more than `limit` are marked."""
    low, high = max(0, drawn - (total - marked)), min(marked, drawn)
    if limit < low:
        return 1.0
    if limit >= high:
        return 0.0
    if limit < ceil((drawn + 1) * (marked + 1) / (total + 2)):
        return 1.0  # Below the mode: the chance is large, and nobody asks how large.
    x = limit + 1

    def choose(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    term = np.exp(choose(marked, x) + choose(total - marked, drawn - x) - choose(total, drawn))
    found = 0.0
    while term > found * 1e-6 and x <= high:
        found += term
        term *= (marked - x) * (drawn - x) / ((x + 1) * (total - marked - drawn + x + 1))
        x += 1
    return float(min(1.0, found))
