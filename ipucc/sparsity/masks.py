"""Masks: chosen from scores for a density, found from zeros, or given by the user and checked."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ipucc.sparsity.blocks import Array, Block, Mask, cut, grid_of

__all__ = ["blocks_with_any", "choose", "kept_count", "read_mask"]


def kept_count(blocks: int, density: float) -> int:
    """How many of `blocks` a density keeps: the nearest number, halves up, one at least."""
    return min(blocks, max(1, math.floor(density * blocks + 0.5)))


def choose(scores: NDArray[np.float64], density: float, within: Literal["layer", "output"] = "layer") -> Mask:
    """The mask that keeps the blocks of highest score; equal scores go by place, in the order of the grid.

    `scores` is [taps, block rows, block columns]. With `within="output"` blocks compete only within their block column
    (the outputs they add to), and every column keeps the same number to one; the columns that keep one more are those
    whose next block scores highest. The number of all is `kept_count`.
    """
    count = kept_count(scores.size, density)
    mask = np.zeros(scores.size, bool)
    if within == "layer":
        # The lowest score that is kept may come up more often than there is room: then in the order of place.
        flat = scores.reshape(-1)
        lowest = np.partition(flat, flat.size - count)[flat.size - count]
        mask[flat > lowest] = True
        mask[np.flatnonzero(flat == lowest)[: count - int(mask.sum())]] = True
        return mask.reshape(scores.shape)
    by_output = scores.reshape(-1, scores.shape[-1]).T
    order = np.argsort(-by_output, axis=1, kind="stable")
    each, more = divmod(count, len(by_output))
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    kept = rank < each
    if more:
        following = np.take_along_axis(by_output, order[:, each : each + 1], axis=1)[:, 0]
        lucky = np.argsort(-following, kind="stable")[:more]
        kept[lucky, order[lucky, each]] = True
    return np.ascontiguousarray(kept.T).reshape(scores.shape)


def blocks_with_any(elements: Array, block: Block) -> Mask:
    """The blocks of [taps, k, n] that hold any element other than zero."""
    return np.asarray(cut(elements != 0, block).any(axis=(-2, -1)))


def read_mask(given: Array, shape: Sequence[int], block: Block) -> tuple[Mask, Mask | None]:
    """A user's mask for a weight [taps, k, n] as one over blocks, and over elements where it was given so.

    `given` is over elements (the shape of the weight) or over blocks (that of the grid), of bools or of numbers 0 and
    1. It is taken as it is: a block is kept if any of its elements is, and elements that the mask drops are zero in
    it. Raises ValueError for another shape, other element types, other numbers, or a mask that keeps nothing.
    """
    grid = grid_of(shape, block)
    if given.shape not in (tuple(shape), grid):
        raise ValueError(f"it has the shape {list(given.shape)}")
    if given.dtype.kind not in "biuf":
        raise ValueError(f"its element type is {given.dtype}, and should be bool, or numbers 0 and 1")
    kept = given.astype(bool)
    # A NaN is no 1 either.
    if given.dtype.kind != "b" and not (given == kept).all():
        raise ValueError("it has numbers other than 0 and 1")
    if not kept.any():
        raise ValueError("it keeps nothing")
    if given.shape == grid:
        return kept, None
    return blocks_with_any(kept, block), kept
