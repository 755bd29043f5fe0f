"""Windows over dense cells, for convolutions and pooling: numpy only, no cycles."""

from collections.abc import Sequence

import numpy as np

from ipucc.codelets.base import Array, Counts

__all__ = ["aligned", "picked", "taps"]


def aligned(x: Array, axis: int, shift: Counts, size: int) -> Array:
    """`size` positions of an axis, from `shift` on, which differs by tile; 0 behind the end of x."""
    first = int(shift[0]) if shift.size else 0
    if (shift == first).all():
        part = x[(slice(None),) * axis + (slice(first, first + size),)]
        short = size - part.shape[axis]
        if short == 0:
            return part
        pads = [(0, 0)] * x.ndim
        pads[axis] = (0, short)
        return np.pad(part, pads)
    return picked(x, axis, shift[:, None] + np.arange(size)[None, :])


def picked(x: Array, axis: int, at: Counts) -> Array:
    """Positions `at` [tiles, count] of an axis of x [tiles, ...]; 0 for positions that x does not have."""
    have = x.shape[axis]
    out = np.empty((*x.shape[:axis], at.shape[1], *x.shape[axis + 1 :]), x.dtype)
    # Most tiles want the same positions of their cells: they are served together.
    rows, kind = np.unique(at, axis=0, return_inverse=True)
    for i, row in enumerate(rows):
        tiles = np.flatnonzero(kind.reshape(-1) == i)
        some = np.take(x[tiles], np.clip(row, 0, have - 1), axis=axis)
        some[(slice(None),) * axis + (np.flatnonzero((row < 0) | (row >= have)),)] = 0
        out[tiles] = some
    return out


def taps(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], out: Sequence[int]
) -> Array:
    """A read-only view [..., kernel..., out...] of the windows over the last dimensions of `x`.

    Element [k, o] of a dimension is x[o * stride + k * dilation]; `x` must be as long as the last window needs.
    """
    lead = x.ndim - len(kernel)
    for d, (k, s, dil, o) in enumerate(zip(kernel, strides, dilations, out, strict=True)):
        if o > 0 and (o - 1) * s + (k - 1) * dil >= x.shape[lead + d]:
            raise ValueError(f"windows of dimension {d} run past {x.shape}")
    inner = x.strides[lead:]
    by_tap = [s * d for s, d in zip(inner, dilations, strict=True)]
    by_position = [s * d for s, d in zip(inner, strides, strict=True)]
    return np.lib.stride_tricks.as_strided(
        x, (*x.shape[:lead], *kernel, *out), (*x.strides[:lead], *by_tap, *by_position), writeable=False
    )
