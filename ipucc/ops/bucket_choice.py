"""Which buckets to compile for: cells of the grid of blocks, and slots, with which a random pattern multiplies fast."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.dynamic_sparse import bucket_cycles
from ipucc.dtypes import itemsize
from ipucc.sparsity.blocks import Block
from ipucc.sparsity.buckets import OVERFLOW, Buckets, capacity_for
from ipucc.sparsity.masks import kept_count
from ipucc.target import Target
from ipucc.tiles.cuts import useful_parts
from ipucc.tiles.layout import GRAIN_BYTES

__all__ = ["choose_buckets"]

_SIDES: Final = 24
"""Numbers of bands, and of groups, that are tried."""


def choose_buckets(
    rows: int, shape: tuple[int, int], block: Block, density: float, dtype: str, partials: str, target: Target,
    offered: int = 4, overflow: float = OVERFLOW, reach: int = 0,
) -> list[Buckets]:  # fmt: skip
    """The buckets for a weight of `shape` with the fewest estimated cycles over `rows` rows of the dense operand, best
    first. Each has the least capacity that a random pattern of this density exceeds with a chance of at most
    `overflow`. `reach` is theirs, 0 for whichever is faster.

    The estimate knows the vertices' own formula, the bytes they take and the partials moved and added. It only ranks:
    the planner prices what is offered exactly.
    """
    grid = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    count = kept_count(grid[0] * grid[1], density)
    candidates = []
    for cell, far in _cells(grid, block, dtype, target):
        if reach not in (0, far):
            continue
        mean = max(1, -(-cell[0] * cell[1] * count // (grid[0] * grid[1])))
        least = _estimate(Buckets(shape, block, cell, mean, far), rows, dtype, partials, target)
        candidates.append((least, cell, far))
    candidates.sort()
    found: list[tuple[int, tuple[int, int], int, Buckets]] = []
    for least, cell, far in candidates:
        # With more slots it only gets slower: behind the best ones found nothing better can come.
        if len(found) >= offered and least >= sorted(f[0] for f in found)[offered - 1]:
            break
        buckets = Buckets(shape, block, cell, capacity_for(grid, count, cell, far, overflow), far)
        found.append((_estimate(buckets, rows, dtype, partials, target), cell, far, buckets))
    return [f[-1] for f in sorted(found, key=lambda f: f[:3])[:offered]]


def _cells(grid: tuple[int, int], block: Block, dtype: str, target: Target) -> Iterator[tuple[tuple[int, int], int]]:
    """Cells that give no more buckets than there are tiles, whose sides are whole grains, and reaches."""
    grain = max(1, GRAIN_BYTES // itemsize(dtype))
    sides = []
    for size, side in zip(grid, block, strict=True):
        parts = useful_parts(size, target.tiles)
        picked = np.unique(np.geomspace(1, parts.size, _SIDES).round().astype(np.int64)) - 1
        whole = 1 if max(block) == 1 else -(-grain // side)
        # Sides that divide the grid leave no cell short.
        even = parts[size % np.maximum(parts, 1) == 0]
        blocks = -(-size // np.union1d(parts[picked], even))
        sides.append(np.unique(-(-blocks // whole) * whole).tolist())
    for high in sides[0]:
        for wide in sides[1]:
            groups = -(-grid[1] // wide)
            if -(-grid[0] // high) * groups <= target.tiles:
                yield (high, wide), 1
                if groups > 1:
                    yield (high, wide), 2


def _estimate(buckets: Buckets, rows: int, dtype: str, partials: str, target: Target) -> int:
    (bands, groups), (high, wide), (bk, bn) = buckets.grid, buckets.cell, buckets.block
    size, partial = itemsize(dtype), itemsize(partials)
    parts = useful_parts(rows, max(1, target.tiles // (bands * groups)))
    cell: NDArray[np.int64] = -(-rows // parts)
    columns = wide * buckets.reach
    full = np.full(cell.size, buckets.capacity)
    work = bucket_cycles(cell, full, np.minimum(full, columns), buckets.block, dtype, partials, target)
    work = work + cell * columns * bn // target.vector_width(partial)
    # The partials of all bands are spread over all tiles, moved there and added.
    results = -(-rows * buckets.shape[1] // target.tiles)
    depth = bands * buckets.reach
    # Buckets of a band take the same rows of the dense operand: pairs of tiles receive them at the pair rate.
    rate, pair = target.exchange_bytes_per_cycle, target.pair_bytes_per_cycle
    taken = high * bk * cell * size / (pair if groups % target.pair_tiles == 0 else rate)
    moved = taken + results * depth * partial / rate
    added = (depth + 9) * -(-results * partial // 16)
    held = buckets.capacity * (bk * bn * size + 4)
    cycles = work + moved * target.exchange_factor + added
    # Buckets that fill a tile leave no room for anything else.
    crowded = np.where(held > target.usable_bytes // 2, held, 0)
    return int((cycles + crowded).min())
