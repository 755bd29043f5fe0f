"""Zeros in a weight: how many elements, and how many whole blocks of every size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ipucc.sparsity.blocks import Array, Block, cut

__all__ = ["SCANNED", "Scan", "scan", "zero_blocks_bound"]

SCANNED: Final[tuple[Block, ...]] = (
    (1, 1), (4, 4), (4, 8), (8, 4), (4, 16), (16, 4), (8, 8), (8, 16), (16, 8), (16, 16),
)  # fmt: skip
"""Blocks that a scan looks at, small ones first."""


@dataclass(frozen=True)
class Scan:
    """Densities of a weight of `size` elements: the share of blocks with any element other than zero, by block."""

    size: int
    densities: Mapping[Block, float]

    @property
    def elements(self) -> float:
        """The share of elements other than zero."""
        return self.densities[1, 1]

    @property
    def best(self) -> Block:
        """The largest block that covers the elements other than zero about as tightly as any: the density of its
        blocks is at most a quarter above that of 4 x 4 blocks; of two orientations the tighter one."""
        limit = 1.25 * self.densities[4, 4]
        fits = [b for b in SCANNED[1:] if self.densities[b] <= limit]
        return min(fits, key=lambda b: (-b[0] * b[1], self.densities[b], b))


def scan(weight: Array) -> Scan:
    """Densities of a weight [taps, k, n] for all blocks of SCANNED, in one pass over its elements."""
    some = np.asarray(weight != 0)
    # Every larger block is made of blocks of 4 x 4.
    fours = np.asarray(cut(some, (4, 4)).any(axis=(-2, -1)))
    densities = {(1, 1): float(some.mean())} if some.size else {(1, 1): 0.0}
    for bk, bn in SCANNED[1:]:
        blocks = cut(fours, (bk // 4, bn // 4)).any(axis=(-2, -1))
        densities[bk, bn] = float(blocks.mean()) if blocks.size else 0.0
    return Scan(some.size, densities)


def zero_blocks_bound(weight: Array) -> float:
    """A share that the zero blocks of 4 x 4 elements or more cannot exceed, from a sixteenth of the elements of
    [taps, k, n]: a block is zero only if its first element is."""
    firsts = np.asarray(weight[:, ::4, ::4])
    return 1.0 - float(np.count_nonzero(firsts)) / firsts.size if firsts.size else 0.0
