"""Tile memory: one array of tiles x bytes, and the one function that turns (buffer, tiles) into addresses."""

import mmap

import numpy as np
from numpy.typing import NDArray

from ipucc.diagnostics import error
from ipucc.program.model import Buffer
from ipucc.target import Target

__all__ = ["TileMemory", "lazy_bytes"]

# One offset on all tiles would fall into the same cache sets if the row pitch were a multiple of a page.
_PITCH_PAD = 64
# Words are at most 16 bytes wide in the exchange kernels: their reads may not leave the mapping.
_GUARD = 4096


def lazy_bytes(size: int) -> NDArray[np.uint8]:
    """Zeros whose pages are taken when they are first touched. Raises IPU0505 where there is no room for them."""
    try:
        area = mmap.mmap(-1, size)
    except (OSError, OverflowError, ValueError) as problem:
        raise error("IPU0505", f"{size:,} bytes of simulated memory cannot be had: {problem}") from problem
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # Huge pages would make the whole machine resident for a program that uses a few bytes per tile.
        area.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(area, np.uint8)


class TileMemory:
    """The memory of all tiles, zero at the start. Pages are taken when they are first touched.

    Rows are physical tile ids. Every access goes through `base`, which checks tile ids and extents.
    """

    def __init__(self, target: Target) -> None:
        self.tiles = target.tiles
        self.tile_bytes = target.tile_bytes
        self.pitch = target.tile_bytes + _PITCH_PAD
        self.bytes = lazy_bytes(self.tiles * self.pitch + _GUARD)

    def base(self, buffer: Buffer, tiles: NDArray[np.integer], offset: int) -> NDArray[np.int64]:
        """Address in `bytes` of the buffer's first byte on each tile. Raises IPU0507 outside of tile memory."""
        if offset < 0 or offset + buffer.nbytes > self.tile_bytes:
            raise error(
                "IPU0507",
                f"buffer {buffer.name!r} lies at bytes {offset}..{offset + buffer.nbytes} of a tile "
                f"that has {self.tile_bytes}",
            )
        if tiles.size and (int(tiles.min()) < 0 or int(tiles.max()) >= self.tiles):
            raise error("IPU0507", f"buffer {buffer.name!r} names a tile outside 0..{self.tiles - 1}")
        return tiles.astype(np.int64) * self.pitch + offset
