"""Layouts as flat arrays for the edge costs, and how the runs between two of them are counted."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.tiles.layout import Layout
from ipucc.tiles.view import Group, View

__all__ = ["Flat", "RunCounts", "order_pairs", "same_dim"]

Small = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Flat:
    """A layout as flat arrays: the tile of every (cell, replica), the tile of every cell's first replica, and the
    cell of every (slot, tile), -1 where there is none. `orders` has what lies next to each other in memory, by grains
    and by rows (see `_outwards`), `full` whether all cells fill a dimension alike. Layouts of equal `content` hold the
    same on every tile, in whichever local order."""

    layout: Layout
    content: bytes
    to: Small
    at: Small
    home: Small
    pairs: bool
    cuts: tuple[int, ...]
    orders: tuple[list[int], list[int]]
    full: tuple[bool, ...]
    _coords: dict[tuple[tuple[int, ...], int], Small] = field(default_factory=dict)

    @staticmethod
    def of(layout: Layout, content: bytes, cuts: tuple[int, ...], tiles: int) -> "Flat":
        """The arrays of a layout on a machine of so many tiles; `cuts` are numbers of its cuts."""
        to = np.ascontiguousarray(layout.tiles.reshape(-1), np.int32)
        at = np.ascontiguousarray(layout.tiles[..., 0].reshape(-1), np.int32)
        home = np.full((layout.slot_count, tiles), -1, np.int32)
        slots = np.zeros(at.size, np.int64) if layout.slots is None else layout.slots.reshape(-1)
        for r in range(layout.replicas):
            home[slots, layout.tiles[..., r].reshape(-1)] = np.arange(at.size, dtype=np.int32)
        orders = _outwards(layout, False), _outwards(layout, True)
        full = tuple(_full(layout, d) for d in range(len(layout.shape)))
        return Flat(layout, content, to, at, home.reshape(-1), _pairs(layout), cuts, orders, full)

    def coords(self, dims: tuple[int, ...], replicas: int) -> Small:
        """Of every cell (repeated per replica), its place along the joined dimensions."""
        key = dims, replicas
        if key not in self._coords:
            grid = self.layout.grid
            made = np.zeros((*grid, replicas), np.int32)
            for d in dims:
                if grid[d] > 1:
                    made *= np.int32(grid[d])
                    made += np.arange(grid[d], dtype=np.int32).reshape(-1, *[1] * (len(grid) - d))
            self._coords[key] = made.reshape(-1)
        return self._coords[key]


class RunCounts:
    """How runs are counted in a view, for any pair of layouts."""

    def __init__(self, view: View) -> None:
        self._number = {d: i for i, g in enumerate(view.groups) for d in g.dst}
        self._src = [frozenset(g.src) for g in view.groups]
        self._plain = [same_dim(g, view) is not None for g in view.groups]

    def variants(self, a: Flat, b: Flat) -> list[list[int]]:
        """Per group how runs are counted: 0 every element apart, 1 neighbours join, 2 the elements of a grain join; for
        both by grains, both by rows, and one each.

        Elements of a grain are neighbours in both. What lies next to them in both layouts always touches, what lies
        further out only where everything inside fills every cell of both alike.
        """
        src, dst = a.layout, b.layout
        apart = [0] * len(self._src)
        i = self._number.get(dst.grain_dim, -1)
        if i < 0 or src.grain_dim not in self._src[i]:
            return [apart] * 3
        apart[i] = 2
        counts = []
        for src_order, dst_order in (
            (a.orders[0], b.orders[0]),
            (a.orders[1], b.orders[1]),
            (a.orders[0], b.orders[1]),
        ):
            found = list(apart)
            for x, y in zip(src_order, dst_order, strict=False):
                s, d = src.grain_dim if x == _GRAINS else x, dst.grain_dim if y == _GRAINS else y
                i = self._number.get(d, -1)
                if (x == _GRAINS) != (y == _GRAINS) or i < 0 or s not in self._src[i]:
                    break
                found[i] = 1
                if not self._plain[i] or a.cuts[s] != b.cuts[d] or not (a.full[s] and b.full[d]):
                    break
            counts.append(found)
        return counts


_GRAINS: Final = -1
"""In an order of dimensions: the grains of the grain dimension."""


def _outwards(layout: Layout, by_rows: bool) -> list[int]:
    """What lies next to the elements of a grain in memory, nearest first: dimensions, and the grains; without those of
    one index in every cell."""
    others = [d for d in reversed(range(len(layout.shape))) if d != layout.grain_dim and layout.cell[d] > 1]
    grains = [_GRAINS] if layout.shape and layout.cell[layout.grain_dim] > layout.grain else []
    return [*grains, *others] if by_rows else [*others, *grains]


def _full(layout: Layout, dim: int) -> bool:
    """Whether all cells take as many places in memory as the largest along a dimension, in whole grains."""
    lo, hi = layout.cuts[dim]
    grain = layout.grain if dim == layout.grain_dim else 1
    return bool((-(-(hi - lo) // grain) == -(-layout.cell[dim] // grain)).all())


def order_pairs(a: Flat, b: Flat) -> list[list[int]]:
    """[source by rows, destination by rows]: 0 both by grains, 1 both by rows, 2 one each. A layout whose cells lie the
    same in both orders counts as whichever the other one has."""
    if a.orders[0] == a.orders[1]:
        return [[0, 1], [0, 1]]
    if b.orders[0] == b.orders[1]:
        return [[0, 0], [1, 1]]
    return [[0, 2], [2, 1]]


def same_dim(group: Group, view: View) -> tuple[int, int] | None:
    """The source and the destination dimension of a group that is one dimension as it is, those of size 1 left out."""
    src = [d for d in group.src if view.src[d] != 1]
    dst = [d for d in group.dst if view.dst[d] != 1]
    if len(src) == len(dst) == 1 and group.is_identity and view.src[src[0]] == view.dst[dst[0]]:
        return src[0], dst[0]
    return None


def _pairs(layout: Layout) -> bool:
    """Whether all replicas of every cell come in pairs of neighbouring tiles, so that pairs receive the same data."""
    if layout.replicas % 2:
        return False
    flat = np.sort(layout.tiles.reshape(-1, layout.replicas), axis=1)
    return bool(((flat[:, 0::2] % 2 == 0) & (flat[:, 1::2] == flat[:, 0::2] + 1)).all())
