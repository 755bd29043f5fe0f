"""Tags: one uint16 per 4-byte word of tile memory, the loops that check and stamp them.

A word is valid for a read when its tag belongs to the place that is read (`owner[tag] == place`) and is not older than
the version that the cell holds (`tag >= floor`). Tag 0 stands for memory that nobody wrote.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from ipucc.tiles.intersect import Ints

__all__ = ["DOUBLE", "FINE", "INVALID", "Tags", "carry_tags", "copy_tags", "valid_rows"]

Tags = NDArray[np.uint16]

FINE, INVALID, DOUBLE = 0, 1, 2
"""What `carry_tags` found: nothing, a source word that is not valid, a destination word that is written twice."""


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def valid_rows(
    tags: Tags, first: Ints, words: int, owner: NDArray[np.int32], place: int, floor: Ints, out: NDArray[np.bool_]
) -> None:
    """out[i]: whether all `words` words from word first[i] on are valid."""
    for i in range(first.size):
        good = True
        for w in range(first[i], first[i] + words):
            t = tags[w]
            if owner[t] != place or t < floor[i]:
                good = False
                break
        out[i] = good


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def copy_tags(
    tags: Tags, src: Ints, dst: Ints, words: int, owner: NDArray[np.int32], place: int, floor: Ints, new: int
) -> None:
    """Stamp `new` on every word of dst whose source word is valid, 0 on the others."""
    for i in range(src.size):
        for w in range(words):
            t = tags[src[i] + w]
            tags[dst[i] + w] = new if owner[t] == place and t >= floor[i] else 0


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def carry_tags(
    tags: Tags,
    o_sc: Ints, o_dc: Ints, o_sa: Ints, o_da: Ints,
    i_sc: Ints, i_dc: Ints, i_sa: Ints, i_da: Ints, i_n: Ints, i_ss: Ints, i_ds: Ints, i_run: Ints,
    src_tiles: Ints, src_base: Ints, dst_tiles: Ints, dst_base: Ints,
    owner: NDArray[np.int32], place: int, floor: Ints, held: NDArray[np.bool_], new: int,
) -> tuple[int, int, int, int, int]:  # fmt: skip
    """The loop nest of an exchange, over tags: checks source words, stamps destinations. Words that hold no element of
    the source (`held`, [cells, words]), such as the rest of a grain behind the end of the tensor, may hold anything.

    Returns (finding, source cell, source word, destination cell, destination word) of the first word at fault.
    """
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
                least = floor[sc, pick]
                at = o_sa[o] + i_sa[i]
                s = src_base[sc, pick] + at
                d = dst_base[dc, r] + o_da[o] + i_da[i]
                for _ in range(i_n[i]):
                    for w in range(run):
                        t = tags[s + w]
                        if (owner[t] != place or t < least) and held[sc, at + w]:
                            return 1, sc, s + w, dc, d + w
                        if tags[d + w] == new:
                            return 2, sc, s + w, dc, d + w
                        tags[d + w] = new
                    at += i_ss[i]
                    s += i_ss[i]
                    d += i_ds[i]
    return 0, 0, 0, 0, 0
