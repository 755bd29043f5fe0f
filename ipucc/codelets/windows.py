"""Windows over dense cells, for convolutions and pooling: numpy only, no cycles."""

from collections.abc import Sequence

import numpy as np

from ipucc.codelets.base import Array, Counts

__all__ = ["aligned", "taps"]


def aligned(x: Array, axis: int, shift: Counts, size: int, fill: float = 0.0) -> Array:
    """`size` positions of an axis, from `shift` on, which differs by tile; positions behind the array are `fill`."""
    have = x.shape[axis]
    first = int(shift[0]) if shift.size else 0
    if (shift == first).all():
        part = x[(slice(None),) * axis + (slice(first, first + size),)]
        short = size - part.shape[axis]
        if short == 0:
            return part
        pads = [(0, 0)] * x.ndim
        pads[axis] = (0, short)
        return np.pad(part, pads, constant_values=np.asarray(fill).astype(x.dtype))
    at = shift[:, None] + np.arange(size)[None, :]
    form = [at.shape[0]] + [1] * (x.ndim - 1)
    form[axis] = size
    taken = np.take_along_axis(x, np.clip(at, 0, have - 1).reshape(form), axis=axis)
    inside = ((at >= 0) & (at < have)).reshape(form)
    return np.where(inside, taken, np.asarray(fill).astype(x.dtype))


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
