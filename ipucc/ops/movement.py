"""How a view moves elements: in whole words or in less, and what a copy that applies it reads.

The exchange moves whole 32-bit words. Elements of fewer bytes move as they are where those that share a word stay
together; where they do not, a copy puts them into their places on the tile.
"""

import numpy as np

from ipucc.codelets.copy import spanned
from ipucc.dtypes import itemsize
from ipucc.ops.graph import Ref, TileTensor
from ipucc.ops.spec import Axis, DimMap, Everything, Span
from ipucc.tiles.view import View

__all__ = ["begins_word", "copy_axes", "copy_dims", "in_words"]


def begins_word(view: View, tensor: TileTensor, dtype: str) -> bool:
    """Whether the single element that a view picks is the first one of its word: words are moved whole."""
    for g in view.groups:
        if tensor.grain_dim in g.src:
            place = np.unravel_index(max(int(g.index[0]), 0), [view.src[d] for d in g.src])
            return bool(place[g.src.index(tensor.grain_dim)] % -(-4 // itemsize(dtype)) == 0)
    return True


def in_words(view: View, src_grain: int, dst_grain: int, word: int) -> bool:
    """Whether every `word` elements along the destination's grain dimension are neighbours in the source's grains."""
    if word <= 1:
        return True
    group = next((g for g in view.groups if dst_grain in g.dst), None)
    if group is None or src_grain not in group.src:
        return False
    shape = [view.dst[d] for d in group.dst]
    if group.is_identity and group.src[-1] == src_grain and group.dst[-1] == dst_grain:
        sizes = view.src[src_grain], view.dst[dst_grain]
        if sizes[0] == sizes[1] or not (sizes[0] % word or sizes[1] % word):
            return True
    index = np.moveaxis(group.index.reshape(shape), group.dst.index(dst_grain), -1)
    inner = [view.src[d] for d in group.src]
    at = group.src.index(src_grain)
    below = int(np.prod(inner[at + 1 :], dtype=np.int64))
    size = inner[at]
    n = index.shape[-1]
    pad = -n % word
    last_is_tail = n % word != 0
    if pad:
        index = np.concatenate([index, np.full((*index.shape[:-1], pad), -2)], axis=-1)
    blocks = index.reshape(-1, word)
    first = blocks[:, :1]
    whole_gap = (blocks == -1).all(axis=1)
    place = first // below % size
    want = first + below * np.arange(word)[None, :]
    fits = (blocks == want) | (blocks == -2)
    good = fits.all(axis=1) & (first[:, 0] >= 0) & (place[:, 0] % word == 0)
    inside = place[:, 0] + word <= size
    if last_is_tail:
        # A partial word is moved whole only where it ends the source as well.
        tail = (blocks == -2).any(axis=1)
        inside = np.where(tail, place[:, 0] + n % word == size, inside)
    good &= inside
    return bool((good | whole_gap).all())


def copy_axes(ref: Ref) -> tuple[Axis, ...]:
    """The iteration space of a copy: the dimensions of the result."""
    return tuple(Axis(f"d{d}", n) for d, n in enumerate(ref.shape))


def copy_dims(view: View) -> tuple[DimMap, ...]:
    """What a cell of a copy needs of every source dimension: of one per group an interval, which follows the cut of the
    group's first result dimension, of the others everything.

    Two dimensions that follow one axis would make a layout of which only the diagonal is used.
    """
    dims: list[DimMap] = [Everything(n) for n in view.src]
    for g in view.groups:
        if not g.dst or not g.size or 0 in view.src:
            continue
        rows = g.index.reshape(view.dst[g.dst[0]], -1)
        gap = rows < 0
        # Flattened: numpy's unravel_index is wrong for large arrays whose last dimension is 1.
        flat = np.maximum(rows, 0).reshape(-1)
        coords = [c.reshape(rows.shape) for c in np.unravel_index(flat, [view.src[s] for s in g.src])] if g.src else []
        followed = spanned(view.src, g.src)
        for s, c in zip(g.src, coords, strict=True):
            if s != followed:
                continue
            low = np.where(gap, view.src[s], c).min(axis=1)
            high = np.where(gap, -1, c).max(axis=1) + 1
            none = gap.all(axis=1)
            # Rows without a source need nothing: an interval that no hull is widened by.
            dims[s] = Span(f"d{g.dst[0]}", np.where(none, view.src[s], low), np.where(none, 0, high))
    return tuple(dims)
