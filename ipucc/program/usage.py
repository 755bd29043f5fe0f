"""What a program takes of every tile's memory, read off its addresses."""

import numpy as np
from numpy.typing import NDArray

from ipucc.program.model import Program

__all__ = ["tile_bytes"]


def tile_bytes(program: Program) -> NDArray[np.int64]:
    """Bytes of every tile, [tiles]: the end of the highest buffer that the tile holds.

    What lies below the buffers counts in: the reserved bytes, and the code, which every tile holds. Buffers that are
    live at different times may share addresses, so this is what the tile needs and not the sum of its tensors.
    """
    top = np.full(program.target.tiles, program.target.reserved_bytes + program.code_bytes, np.int64)
    for buffer in program.buffers:
        tiles = buffer.layout.used_tiles
        top[tiles] = np.maximum(top[tiles], buffer.offset + buffer.nbytes)
    return top
