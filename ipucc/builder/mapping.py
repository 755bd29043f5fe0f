"""Tile mappings: how a variable is cut into cells, and which tile holds each of them.

A mapping is said before the shape is known: `grid(16, 92)` cuts two dimensions, `linear()` spreads one dimension over
all tiles, `replicated()` puts everything everywhere. Cells are counted row by row over the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipucc.diagnostics import CompileError, error
from ipucc.target import Target
from ipucc.tiles.cuts import Cut, cut_axis, whole
from ipucc.tiles.layout import GRAIN_BYTES, Layout

__all__ = ["Halo", "Mapping", "Tiles", "grid", "linear", "on_tile", "replicated"]

Tiles = int | ArrayLike | None
"""None for the tiles from 0 on, as many as there are cells; a number for the first so many tiles; or the tile of every
cell: an array of the grid's shape, with a last axis more for the replicas of cells that several tiles hold."""

Halo = int | Sequence[int | tuple[int, int]]
"""Elements beyond a cell that its tile holds too: the same on both sides of every dimension, or per dimension a number
or a pair (before, behind)."""

_WORD = 4


@dataclass(frozen=True, eq=False)
class Mapping:
    """How a variable lies on the tiles. `parts` gives per dimension the number of cells, 0 for as many as there are
    tiles and grains, or the edges between them, from 0 to the size; dimensions that are not named are not cut. `grain`
    is the number of elements of the last dimension that stay together."""

    parts: tuple[int | tuple[int, ...], ...]
    tiles: Tiles = None
    halo: tuple[tuple[int, int], ...] | None = None
    grain: int | None = None
    replicate: bool = False

    def layout(self, name: str, shape: Sequence[int], itemsize: int, target: Target) -> Layout:
        """The layout of a variable. Raises IPU1001 where the mapping fits neither the shape nor the target."""
        dims = tuple(shape)
        core = self._cuts(name, dims, itemsize, target)
        cells = tuple(lo.size for lo, _ in core)
        tiles = self._tiles(name, cells, target)
        cuts, own = core, None
        if self.halo is not None:
            cuts = tuple(
                (np.where(hi > lo, lo - np.int32(a), lo), np.where(hi > lo, hi + np.int32(b), hi))
                for (lo, hi), (a, b) in zip(core, self._halos(name, dims), strict=True)
            )
            own = core
        slots = _slots(tiles)
        return Layout(dims, cuts, tiles, itemsize, max(0, len(dims) - 1), slots, True, own)

    def _cuts(self, name: str, dims: tuple[int, ...], itemsize: int, target: Target) -> tuple[Cut, ...]:
        if len(self.parts) > len(dims):
            raise _wrong(name, f"the mapping cuts {len(self.parts)} dimensions, the shape is {list(dims)}")
        grain = self.grain or max(1, _WORD // itemsize)
        cuts = []
        for d, size in enumerate(dims):
            part = self.parts[d] if d < len(self.parts) else 1
            step = grain if d == len(dims) - 1 else 1
            if part == 0:
                wide = self.grain or max(1, GRAIN_BYTES // itemsize)
                room = self.tiles if isinstance(self.tiles, int) else target.tiles
                cuts.append(cut_axis(size, room, wide if d == len(dims) - 1 else 1))
            elif isinstance(part, int):
                cuts.append(_even(name, d, size, part, step))
            else:
                cuts.append(_at_edges(name, d, size, part))
        return tuple(cuts)

    def _tiles(self, name: str, cells: tuple[int, ...], target: Target) -> NDArray[np.int32]:
        count = prod(cells)
        if self.replicate:
            ids = np.arange(target.tiles if self.tiles is None else 0)
            if self.tiles is not None:
                ids = np.arange(self.tiles) if isinstance(self.tiles, int) else np.asarray(self.tiles).reshape(-1)
            ids = np.broadcast_to(ids, (*cells, ids.size))
        elif self.tiles is None or isinstance(self.tiles, int):
            room = target.tiles if self.tiles is None else self.tiles
            if count > room:
                raise _wrong(
                    name, f"{count} cells for {room} tiles",
                    "give a tile for every cell: tiles=ARRAY; a tile may hold several cells",
                )  # fmt: skip
            ids = np.arange(count).reshape(*cells, 1)
        else:
            ids = np.asarray(self.tiles)
            if ids.dtype.kind not in "iu":
                raise _wrong(name, f"tiles are whole numbers, not {ids.dtype.name}")
            if count == 0 or ids.size == 0 or ids.size % count:
                raise _wrong(name, f"{ids.size} tiles for {count} cells")
            if ids.shape not in ((count,), cells, (*cells, ids.size // count)):
                raise _wrong(name, f"tiles of the shape {list(ids.shape)} for a grid of {list(cells)} cells")
            ids = ids.reshape(*cells, ids.size // count)
        if ids.size == 0 or int(ids.min()) < 0 or int(ids.max()) >= target.tiles:
            raise _wrong(name, f"a tile outside of 0..{target.tiles - 1}, the tiles of {target.name}")
        return np.ascontiguousarray(ids, np.int32)

    def _halos(self, name: str, dims: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        assert self.halo is not None
        halo = self.halo * len(dims) if len(self.halo) == 1 else self.halo
        if len(halo) != len(dims) or any(min(pair) < 0 for pair in halo):
            raise _wrong(name, f"halos {list(halo)} for the shape {list(dims)}")
        return halo


def grid(*parts: int | Sequence[int], tiles: Tiles = None, halo: Halo | None = None, grain: int | None = None
         ) -> Mapping:  # fmt: skip
    """Dimension d is cut into `parts[d]` cells of nearly equal size, or at the edges `parts[d]`.

    With `halo` every cell holds so many elements of its neighbours too, those beyond the ends of the tensor as places
    that hold nothing; a cell owns what it would hold without. `grain` elements of the last dimension stay together, by
    default the exchange's word of 4 bytes.
    """
    spelled = tuple(p if isinstance(p, int) else tuple(int(x) for x in p) for p in parts)
    pairs = None
    if halo is not None:
        each = [halo] if isinstance(halo, int) else list(halo)
        pairs = tuple((x, x) if isinstance(x, int) else (int(x[0]), int(x[1])) for x in each)
    return Mapping(spelled, tiles, pairs, grain)


def linear(parts: int | None = None, *, tiles: Tiles = None, grain: int | None = None) -> Mapping:
    """The first dimension in `parts` cells of nearly equal size, cell i on tile i or as `tiles` says.

    Without `parts` there are as many cells as tiles, of 16 bytes or more.
    """
    return Mapping((parts or 0,), tiles, None, grain)


def on_tile(tile: int) -> Mapping:
    """Everything on one tile."""
    return Mapping((), np.full(1, tile))


def replicated(tiles: Tiles = None) -> Mapping:
    """Everything on every tile, or on each of `tiles`."""
    return Mapping((), tiles, replicate=True)


def _even(name: str, d: int, size: int, parts: int, grain: int) -> Cut:
    if parts < 1:
        raise _wrong(name, f"dimension {d} is cut into {parts} parts")
    cut = cut_axis(size, parts, grain)
    if cut[0].size != parts:
        # A finer grain always does; words are the least that the exchange moves.
        raise _wrong(name, f"dimension {d} of {size} elements cannot be cut into {parts} parts of {grain} or more")
    return cut


def _at_edges(name: str, d: int, size: int, edges: tuple[int, ...]) -> Cut:
    ascends = all(a <= b for a, b in pairwise(edges))
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != size or not ascends:
        raise _wrong(name, f"the edges of dimension {d} do not ascend from 0 to {size}")
    if size == 0:
        return whole(0)
    at = np.asarray(edges, np.int32)
    return at[:-1], at[1:]


def _slots(tiles: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """The slot of every cell, so that cells on one tile have slots of their own; None where no tile holds two."""
    cells = tiles.reshape(-1, tiles.shape[-1])
    if np.unique(tiles).size == tiles.size:
        return None
    if cells.shape[1] == 1:
        flat = cells[:, 0]
        order = np.argsort(flat, kind="stable")
        first = np.searchsorted(flat[order], flat[order])
        slots = np.zeros(flat.size, np.int32)
        slots[order] = np.arange(flat.size) - first
    else:
        held = np.zeros(int(tiles.max()) + 1, np.int32)
        slots = np.zeros(len(cells), np.int32)
        for i, holders in enumerate(cells):
            slots[i] = held[holders].max()
            held[holders] = slots[i] + 1
    return slots.reshape(tiles.shape[:-1])


def _wrong(name: str, why: str, *help: str) -> CompileError:
    return error("IPU1001", f"variable {name!r}: {why}", help=help)
