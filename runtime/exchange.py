"""Carries out an exchange on tile memory: a loop nest over the product of the tracks, in machine words."""

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numpy.typing import NDArray

from ipucc.program.model import Buffer, Move
from ipucc.runtime.memory import TileMemory
from ipucc.tiles.intersect import Ints
from ipucc.tiles.tracks import flatten, word_bytes

__all__ = ["bases", "carry"]

_WORDS: dict[int, np.dtype[np.generic]] = {8: np.dtype(np.uint64), 4: np.dtype(np.uint32), 2: np.dtype(np.uint16)}


def bases(memory: TileMemory, buffer: Buffer, offset: int) -> tuple[Ints, Ints]:
    """[cells, replicas] tile ids and byte addresses of every cell of a buffer."""
    layout = buffer.layout
    tiles = layout.tiles.reshape(-1, layout.replicas)
    at = memory.base(buffer, tiles.reshape(-1), offset).reshape(tiles.shape)
    if layout.slots is not None:
        at = at + (layout.slots.reshape(-1).astype(np.int64) * layout.slot_bytes)[:, None]
    return tiles.astype(np.int64), at


def carry(memory: TileMemory, move: Move, src: Buffer, dst: Buffer, src_offset: int, dst_offset: int) -> None:
    """Move the bytes of one move. A destination that has a replica of the source takes its own."""
    if not move.tracks:
        return
    word = word_bytes(move.tracks)
    kind = _WORDS.get(word, np.dtype(np.uint8))
    view = memory.bytes.view(kind)
    src_tiles, src_base = bases(memory, src, src_offset)
    dst_tiles, dst_base = bases(memory, dst, dst_offset)
    src_cell, dst_cell, src_at, dst_at = flatten(move.tracks)
    inner = move.tracks[-1]
    _carrier(kind)(
        view,
        src_cell,
        dst_cell,
        src_at // word,
        dst_at // word,
        inner.src_cell,
        inner.dst_cell,
        inner.src_at // word,
        inner.dst_at // word,
        inner.count,
        inner.src_step // word,
        inner.dst_step // word,
        inner.run // word,
        src_tiles,
        src_base // word,
        dst_tiles,
        dst_base // word,
    )


@cache
def _carrier(word: np.dtype[np.generic]) -> Callable[..., None]:
    """`_carry` for words of that type, compiled when first needed. The arrays of a program that was read from a file
    cannot be written: one signature takes them and others."""
    one, two = (numba.types.Array(numba.int64, n, "C", readonly=True) for n in (1, 2))
    memory = numba.typeof(np.empty(0, word))  # type: ignore[no-untyped-call, unused-ignore]
    signature = numba.void(memory, *[one] * 12, *[two] * 4)
    compiled: Callable[..., None] = numba.njit([signature], cache=True, nogil=True)(_carry)
    return compiled


def _carry(
    mem: NDArray[np.generic],
    o_sc: Ints, o_dc: Ints, o_sa: Ints, o_da: Ints,
    i_sc: Ints, i_dc: Ints, i_sa: Ints, i_da: Ints, i_n: Ints, i_ss: Ints, i_ds: Ints, i_run: Ints,
    src_tiles: Ints, src_base: Ints, dst_tiles: Ints, dst_base: Ints,
) -> None:  # fmt: skip
    copies = src_tiles.shape[1]
    for o in range(o_sc.size):
        for i in range(i_sc.size):
            sc = o_sc[o] + i_sc[i]
            dc = o_dc[o] + i_dc[i]
            run = i_run[i]
            for r in range(dst_tiles.shape[1]):
                pick = 0
                for c in range(copies):
                    if src_tiles[sc, c] == dst_tiles[dc, r]:
                        pick = c
                        break
                s = src_base[sc, pick] + o_sa[o] + i_sa[i]
                d = dst_base[dc, r] + o_da[o] + i_da[i]
                for _ in range(i_n[i]):
                    for w in range(run):
                        mem[d + w] = mem[s + w]
                    s += i_ss[i]
                    d += i_ds[i]
