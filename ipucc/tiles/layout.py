"""Layouts: which box of a tensor each tile holds, and where inside its buffer every element lies.

A layout cuts every dimension into cells and names a tile (or several, for replicas) for every cell of the grid. All
tiles use the same local order, made from the largest cell, one of two: *by grains*, the grain dimension outermost in
whole grains, the other dimensions in their own order, the grain itself innermost ([k/8][m][8] for a matmul operand of
half precision); or *by rows*, the grain dimension innermost as a whole, so that every row is one run ([m][k]). Both
take the same bytes. One tile may hold several cells of one tensor, one per slot, each at its own multiple of the slot
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from math import prod

import numpy as np
from numpy.typing import NDArray

from ipucc.tiles.cuts import Cut, owned, whole

__all__ = ["GRAIN_BYTES", "Layout"]

# Exchanges move whole 32-bit words; 16 bytes keep 128-bit loads and exchange units aligned.
GRAIN_BYTES = 16

Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a tensor of `shape` lies. `tiles` has the cells of each dimension as leading axes and replicas last.

    `cuts[d]` may run past the tensor on both sides (halos): those positions exist in the buffer, nothing is stored
    there. `slots`, of the shape of the grid, gives the slot of every cell; None means that a tile holds one cell.
    `by_rows` chooses the local order. Where cells overlap, `core` says which part of every cell is its own, None that
    the last cell owns an index that lies in several: readers of the tensor take every element from its owner.
    """

    shape: tuple[int, ...]
    cuts: tuple[Cut, ...]
    tiles: Ints
    itemsize: int
    grain_dim: int
    slots: Ints | None = None
    by_rows: bool = False
    core: tuple[Cut, ...] | None = None

    @staticmethod
    def on_one_tile(shape: Sequence[int], itemsize: int, grain_dim: int, tile: int = 0) -> "Layout":
        """The whole tensor on one tile."""
        dims = tuple(shape)
        tiles = np.full((1,) * len(dims) + (1,), tile, np.int32)
        return Layout(dims, tuple(whole(n) for n in dims), tiles, itemsize, grain_dim)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of cells along every dimension."""
        return tuple(self.tiles.shape[:-1])

    @property
    def replicas(self) -> int:
        """How many tiles hold each cell."""
        return int(self.tiles.shape[-1])

    @property
    def grain(self) -> int:
        """Elements of the grain dimension that stay together (16 bytes)."""
        return max(1, GRAIN_BYTES // self.itemsize)

    @cached_property
    def cell(self) -> tuple[int, ...]:
        """Extent of the largest cell along every dimension, in elements."""
        return tuple(int((hi - lo).max(initial=0)) for lo, hi in self.cuts)

    @cached_property
    def storage(self) -> tuple[int, ...]:
        """Shape of a cell in memory: (grains, the other dimensions in order, elements of a grain), or by rows (the
        other dimensions in order, elements of whole grains)."""
        if not self.shape:
            return (1, max(1, 4 // self.itemsize))
        g = self.grain
        others = [n for d, n in enumerate(self.cell) if d != self.grain_dim]
        grains = -(-self.cell[self.grain_dim] // g)
        return (*others, grains * g) if self.by_rows else (grains, *others, g)

    @cached_property
    def slot_bytes(self) -> int:
        """Bytes of one cell in memory."""
        return prod(self.storage) * self.itemsize

    @cached_property
    def slot_count(self) -> int:
        """Cells that one tile holds."""
        return 1 if self.slots is None else int(self.slots.max(initial=0)) + 1

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer on every tile that holds part of the tensor."""
        return self.slot_bytes * self.slot_count

    def positions(self, dim: int, local: NDArray[np.int64]) -> NDArray[np.int64]:
        """Byte offset that local index `local` of dimension `dim` adds to an element's address inside its cell."""
        rest = 1 if self.by_rows else prod(n for d, n in enumerate(self.cell) if d != self.grain_dim)
        if dim == self.grain_dim:
            return (local // self.grain * (rest * self.grain) + local % self.grain) * self.itemsize
        step = self.storage[-1]
        for d in range(len(self.cell) - 1, dim, -1):
            if d != self.grain_dim:
                step *= self.cell[d]
        return local * (step * self.itemsize)

    @cached_property
    def owned(self) -> tuple[Cut, ...]:
        """Per dimension the part of every cell from which its elements are read."""
        return tuple(owned(cut) for cut in self.cuts) if self.core is None else self.core

    @cached_property
    def used_tiles(self) -> Ints:
        """Ascending ids of the tiles that hold part of the tensor."""
        return np.unique(self.tiles)

    @cached_property
    def digest(self) -> bytes:
        """Equal for layouts in which every element has the same tile, address and owner by the same local order."""
        what = self.shape, self.itemsize, self.grain_dim, self.by_rows, self.tiles.shape, self.slots is None
        h = sha256(repr(what if self.core is None else (*what, True)).encode())
        cuts = (*self.cuts, *(self.core or ()))
        for x in (self.tiles, *(() if self.slots is None else (self.slots,)), *(x for cut in cuts for x in cut)):
            h.update(x.tobytes() + b";")
        return h.digest()

    def same_as(self, other: "Layout") -> bool:
        """Whether every element has the same tile and the same address in both layouts."""
        if self is other:
            return True
        slots = self.slots if self.slots is not None else np.zeros(self.grid, np.int32)
        other_slots = other.slots if other.slots is not None else np.zeros(other.grid, np.int32)
        return (
            self.shape == other.shape
            and self.itemsize == other.itemsize
            and self.grain_dim == other.grain_dim
            and self._order == other._order
            and all(
                np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
                for a, b in zip((*self.cuts, *self.owned), (*other.cuts, *other.owned), strict=True)
            )
            and np.array_equal(self.tiles, other.tiles)
            and np.array_equal(slots, other_slots)
        )

    def in_order(self, by_rows: bool) -> "Layout":
        """The same layout in the given local order."""
        return self if by_rows == self.by_rows else replace(self, by_rows=by_rows)

    @property
    def _order(self) -> bool:
        """Whether elements lie by rows and would lie elsewhere by grains."""
        if not self.by_rows or not self.shape:
            return False
        others = prod(n for d, n in enumerate(self.cell) if d != self.grain_dim)
        return others > 1 and self.cell[self.grain_dim] > self.grain
