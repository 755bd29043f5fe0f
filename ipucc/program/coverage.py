"""Which words of a buffer an exchange writes, and which words hold elements: exact, word by word, per cell.

Replicas of a cell receive the same words and are counted once.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from ipucc.tiles.intersect import Ints, Track
from ipucc.tiles.layout import Layout
from ipucc.tiles.tracks import flatten

Marks = NDArray[np.uint8]

__all__ = ["WORD", "layout_key", "needed_words", "read_words", "word_count", "written_words"]

WORD = 4
"""Bytes of the words in which the machine moves data, and in which memory is checked."""


def word_count(layout: Layout) -> int:
    """Words of all cells of a layout, each cell once."""
    return prod(layout.grid) * (layout.slot_bytes // WORD)


def written_words(products: Sequence[tuple[Track, ...]], layout: Layout) -> Marks:
    """[cells, words of a cell]: how often products of tracks write each word of a destination; 2 stands for more.

    Cells and offsets must lie inside the layout, all numbers be whole words (see `ipucc.tiles.tracks`).
    """
    return _marked(products, layout, source=False)


def read_words(products: Sequence[tuple[Track, ...]], layout: Layout) -> Marks:
    """The same of what they read of a source."""
    return _marked(products, layout, source=True)


def _marked(products: Sequence[tuple[Track, ...]], layout: Layout, source: bool) -> Marks:
    from ipucc.program.coverage_kernel import mark  # numba: imported only where words are counted

    marks = np.zeros((prod(layout.grid), layout.slot_bytes // WORD), np.uint8)
    for tracks in products:
        if not tracks:
            continue
        src_cell, dst_cell, src_at, dst_at = flatten(tracks)
        t = tracks[-1]
        cell, at, first, begin, step = (
            (src_cell, src_at, t.src_cell, t.src_at, t.src_step) if source
            else (dst_cell, dst_at, t.dst_cell, t.dst_at, t.dst_step)
        )  # fmt: skip
        mark(marks, cell, at // WORD, first, begin // WORD, t.count, step // WORD, t.run // WORD)
    return marks


def needed_words(layout: Layout) -> Marks:
    """[cells, words of a cell]: 1 for every word that holds an element of the tensor."""
    from ipucc.program.coverage_kernel import flag

    marks = np.zeros((prod(layout.grid), layout.slot_bytes // WORD), np.uint8)
    lists = [_words(layout, d) for d in range(len(layout.shape))]
    if not lists:
        marks[:] = 1
        return marks
    inner = max(range(len(lists)), key=lambda d: lists[d][0].size)
    cell, at = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for d, (own_cell, own_at) in enumerate(lists):
        if d != inner:
            cell = (cell[:, None] + own_cell[None, :]).reshape(-1)
            at = (at[:, None] + own_at[None, :]).reshape(-1)
    flag(marks, cell, at, *lists[inner])
    return marks


def _words(layout: Layout, dim: int) -> tuple[Ints, Ints]:
    """What every position of every cell of a dimension adds to (flat cell, word), if it lies in the tensor.

    Only elements of one grain share words: along all other dimensions, and from grain to grain, positions differ by
    whole words.
    """
    lo, hi = (x.astype(np.int64) for x in layout.cuts[dim])
    cell = np.repeat(np.arange(lo.size), hi - lo)
    local = np.arange(cell.size) - np.repeat(np.cumsum(hi - lo) - (hi - lo), hi - lo)
    index = lo[cell] + local
    inside = (index >= 0) & (index < layout.shape[dim])
    cell, word = cell[inside] * prod(layout.grid[dim + 1 :]), layout.positions(dim, local[inside]) // WORD
    # Positions of a cell ascend: elements of one word follow each other.
    new = np.ones(cell.size, bool)
    new[1:] = (np.diff(cell) != 0) | (np.diff(word) != 0)
    return cell[new], word[new]


def layout_key(layout: Layout) -> tuple[object, ...]:
    """Equal for layouts that put every element at the same place of the same cell (tiles do not matter)."""
    cuts: list[NDArray[np.int32]] = [x for cut in layout.cuts for x in cut]
    return (layout.shape, layout.grain_dim, layout.by_rows, layout.itemsize, layout.grid, *(x.tobytes() for x in cuts))
