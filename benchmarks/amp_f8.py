"""Cycles of the matrix unit on 8-bit floats with fp16 partials, after poplibs' published estimators.

Source: poplibs, lib/poplin/PerformanceEstimation.hpp (lines 493 and 617 for one tap, the end of the n x 1 form for
windows), restated. Weights are loaded once per tap, where the source's bracket counts two loads per row of taps.
Not a part of the compiler, which has no 8-bit kernels.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray

from ipucc.target import Target

__all__ = ["conv_f8"]

Ints = NDArray[np.int64]

_UNITS = 16
_LAUNCH = 14
"""What a worker with fewer positions may lag behind."""


def _positions(n: Ints, zero: int) -> Ints:
    """Cycles of a worker for n output positions; `zero` is 1 in the pass that clears the output."""
    few = np.asarray((4, 18 - 5 * zero, 23 - 5 * zero))[np.minimum(n, 2)]
    return np.where(n < 3, few, 27 - 5 * zero + 4 * (n - 3))


def _loop(rows: Ints, zero: int, target: Target) -> Ints:
    w = target.workers
    most, least = -(-rows // w), rows // w
    slow = w * (17 + _positions(most, zero))
    return np.maximum(slow, np.where(least > 0, w * (17 + _positions(least, zero)) + _LAUNCH, 0))


def conv_f8(lines: Ints, width: Ints, ic: Ints, oc: Ints, window: tuple[int, int], stride: int, target: Target) -> Ints:
    """Cycles of one tile's share of a convolution: `lines` x `width` positions."""
    w, load = target.workers, target.amp_weight_cycles("fp8", "fp16")
    gi, go = -(-ic // target.amp_input_channels("fp8")), -(-oc // _UNITS)
    if prod(window) == 1 and stride == 1:
        first = 6 * w + 10 + 14 * w + 11 + 6 * w + load + _loop(lines * width, 1, target)
        later = 11 * w + 6 + 6 * w + load + _loop(lines * width, 0, target)
        return np.asarray(46 + 2 * w + 9 + go * (first + (gi - 1) * later), np.int64)
    items = np.maximum(1, lines // w)
    share = -(-lines * width // w)
    length = -(-share // items)
    worker = 18 + items * (16 + _positions(length, 0))
    taps = window[0] * (20 * w + 16 + (window[1] - 1) * (13 * w + 8)) + prod(window) * (load + w * worker)
    return np.asarray(83 + 5 * w + 7 + go * (8 * w + 10 + gi * (8 * w + 13 + taps)), np.int64)
