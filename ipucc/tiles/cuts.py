"""Cutting one axis into contiguous cells.

A cut is a pair of int32 arrays `(lo, hi)`: cell i holds the indices lo[i] <= x < hi[i]. Cells are counted in grains, so
that no word of tile memory is shared by two cells; only the last cell may end inside a grain.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cut", "cut_axis", "nested_cut", "owned", "useful_parts", "whole"]

Cut = tuple[NDArray[np.int32], NDArray[np.int32]]


def cut_axis(size: int, parts: int, grain: int = 1) -> Cut:
    """Cut `size` indices into `parts` cells of whole grains whose sizes differ by at most one grain.

    Returns fewer cells than asked for when there are fewer grains than parts: take the count from the result.
    """
    grains = -(-size // grain)
    parts = max(1, min(parts, grains))
    edges = np.arange(parts + 1, dtype=np.int64) * grains // parts * grain
    edges[-1] = size
    return edges[:-1].astype(np.int32), edges[1:].astype(np.int32)


def nested_cut(outer: Cut, parts: int, grain: int = 1) -> Cut:
    """Cut every cell of `outer` into exactly `parts` cells of whole grains; surplus cells are empty (lo == hi)."""
    lo, hi = outer[0].astype(np.int64), outer[1].astype(np.int64)
    grains = -(-(hi - lo) // grain)
    steps = np.arange(parts + 1, dtype=np.int64)
    edges = lo[:, None] + grains[:, None] * steps[None, :] // parts * grain
    edges = np.minimum(edges, hi[:, None])
    return edges[:, :-1].reshape(-1).astype(np.int32), edges[:, 1:].reshape(-1).astype(np.int32)


def owned(cut: Cut) -> Cut:
    """The cut without overlaps: of an index in several cells (a halo), the last of them is the owner."""
    lo, hi = cut
    if lo.size < 2:
        return cut
    return lo, np.append(np.minimum(hi[:-1], lo[1:]), hi[-1:])


def whole(size: int) -> Cut:
    """The cut with one cell that holds everything."""
    return np.zeros(1, np.int32), np.full(1, size, np.int32)


def useful_parts(grains: int, limit: int) -> NDArray[np.int64]:
    """The part counts p <= limit at which ceil(grains / p), the largest cell, changes: about 2 sqrt(grains) values."""
    limit = max(1, min(grains, limit))
    parts = np.arange(1, limit + 1, dtype=np.int64)
    largest = -(-grains // parts)
    keep = np.ones(limit, bool)
    keep[1:] = largest[1:] != largest[:-1]
    return parts[keep]
