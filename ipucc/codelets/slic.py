"""Cycles of the short-window unit (SLIC), after poplibs' published estimator.

Source: poplibs, lib/poplin/PerformanceEstimation.hpp, lines 1085-1453 (fp16 operands), restated. It slides a window of
1 x 4 taps along rows of positions, for one group of 4 channels or for 8 groups of one channel each.
"""

from typing import Final

import numpy as np

from ipucc.codelets.amp import amp_types, dealt_lines
from ipucc.codelets.base import Counts
from ipucc.target import Target

__all__ = ["CHANNELS", "GROUPS", "WINDOW", "slic"]

WINDOW: Final = 4
"""Taps of the window."""
CHANNELS: Final = 4
"""Channels of the one group that a pass takes."""
GROUPS: Final = 8
"""Groups of one channel that a depthwise pass takes."""


def _row(length: Counts, stride: int, zero: bool) -> Counts:
    """Cycles of one row of positions for one worker; `zero` in the pass that clears the output."""
    if stride == 2:
        return np.select([length == 1, length == 2], [13 + 0 * length, 15 + 0 * length], 15 + 2 * (length - 3))
    few = np.where(length == 1, 13, 13 + length if zero else 17 + length)
    return np.where(length < 5, few, 15 + (length - 5))


def slic(
    groups: Counts, windows: Counts, lines: Counts, width: Counts, stride: int, depthwise: bool, partials: str,
    target: Target, adds: bool = False,
) -> Counts:  # fmt: skip
    """Cycles of `groups` x `windows` passes over `lines` x `width` positions, two over the input where the mode has
    half of the chains.

    `depthwise` passes take 8 groups of one channel, the others one group of 4 channels (in and out). poplibs counts
    the loading of weights once, for all groups; here every group loads its own. `adds`: no pass clears the output.
    """
    w = target.workers
    kind, acc = amp_types("float16", partials)
    passes = 1 if target.amp.units(kind, acc) >= 16 else 2
    single = acc == "fp32"
    items, length = dealt_lines(lines, width, target)

    def inner(zero: bool) -> Counts:
        row = _row(length, stride, zero) - (1 if single else 0)
        return w * (
            17 + (4 if depthwise else 0) + items * (10 + (1 if zero else 0) + (3 if single else 0) + row * passes)
        )

    if depthwise:
        # Two strides of 4 groups; the workers put the weights in order.
        load = 9 + 6 + w * 11 + 6 + 16
        body, strides, group = 2 * (load + 21) + 7 + 15, 2, 15 + 8
    else:
        body, strides, group = 18 + 16 + 20, 1, 15
    each = group + 6 + windows * (body + 6) + strides * (inner(not adds) + (windows - 1) * inner(False))
    return np.asarray(28 + groups * each, np.int64)
