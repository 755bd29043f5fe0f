"""What a program takes of every tile's memory, read off its addresses."""

import numpy as np
from numpy.typing import NDArray

from ipucc.program.model import Program

__all__ = ["tile_bytes"]


def tile_bytes(program: Program) -> NDArray[np.int64]:
    """Bytes of every tile, [tiles]: each byte that is reserved, code, or part of a buffer at some time, once.

    Buffers that are live at different times may share addresses, so this is what the tile needs and not the sum of its
    tensors. It leaves out what stays free between buffers: weights that are loaded 128 bits at a time lie in
    interleaved memory, behind room that others need not fill.
    """
    used = np.full(program.target.tiles, program.target.reserved_bytes + program.code_bytes, np.int64)
    top = used.copy()
    for buffer in sorted(program.buffers, key=lambda b: b.offset):
        tiles, end = buffer.layout.used_tiles, buffer.offset + buffer.nbytes
        used[tiles] += np.maximum(0, end - np.maximum(top[tiles], buffer.offset))
        top[tiles] = np.maximum(top[tiles], end)
    return used
