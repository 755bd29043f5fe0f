"""Cycles of the matrix unit (AMP), after poplibs' published estimators.

Source: poplibs, lib/poplin/PerformanceEstimation.hpp (the 1x1 form, lines 380-660; the n x 1 form, lines 660-1083),
restated. The 1x1 form reproduces a published measurement of a Bow chip (tessellate-ipu, "IPU Peak Flops") within
7 cycles from 32 rows on.
"""

import numpy as np

from ipucc.codelets.base import Counts
from ipucc.target import AmpType, Target

__all__ = ["amp_1x1", "amp_nx1", "amp_types", "dealt_lines"]


def amp_types(dtype: str, partials: str) -> tuple[AmpType, AmpType]:
    """The mode of the matrix unit for these element types: fp16 with either partials, else fp32."""
    if dtype == "float16":
        return "fp16", "fp16" if partials == "float16" else "fp32"
    return "fp32", "fp32"


def _rows_1x1(rows: Counts, zero: int, dtype: AmpType, common: bool, units: int) -> Counts:
    """Cycles of one worker for `rows` output positions; `zero` is 1 in the pass that clears the output."""
    if common and dtype == "fp16":
        return _by_length(rows, (22 - zero, 33 - zero, 42 - zero), 38 - zero + 4 * (rows - 3))
    wipe = (2 if dtype == "fp16" else 8 if units >= 16 else 4) * rows * zero
    if dtype == "fp16":
        return _by_length(rows, (24, 39 + 2 * zero, 40 + 2 * zero), 41 + 2 * zero + 4 * (rows - 3)) + wipe
    return _by_length(rows, (24, 47 + 2 * zero, 46 + 2 * zero), 46 + 2 * zero + 8 * (rows - 3)) + wipe


def _by_length(rows: Counts, few: tuple[int, int, int], more: Counts) -> Counts:
    """`few` for 0, 1 and 2 rows, `more` from 3 on."""
    return np.where(rows < 3, np.asarray(few, np.int64)[np.minimum(rows, 2)], more)


def amp_1x1(
    groups: Counts, rows: Counts, k: Counts, n: Counts, dtype: str, partials: str, target: Target, adds: bool = False
) -> Counts:
    """Cycles of `groups` products [rows, k] x [k, n] on one tile, weights [k, n] stationary in the matrix unit. `adds`:
    the first pass adds to the output as all others do, and does not clear it."""
    kind, acc = amp_types(dtype, partials)
    units = target.amp.units(kind, acc)
    common = kind == "fp16" and (acc == "fp32" or units >= 16)
    load = target.amp_weight_cycles(kind, acc)
    w = target.workers
    most, least = -(-rows // w), rows // w
    saved, kept = (7, 3) if common else (0, 0)

    def inner(zero: int) -> Counts:
        slow = _rows_1x1(most, zero, kind, common, units) - saved
        fast = np.where(least > 0, _rows_1x1(least, zero, kind, common, units) - saved, 0)
        # A worker with fewer rows can be dearer (poplibs' table has 2 rows above 3). It then sets the pace alone;
        # that is how 16 rows come out nearest to the measurement (409 cycles, 402 measured).
        return np.asarray(np.where(fast > slow, w * fast, np.maximum(w * slow, w * fast + 14)), np.int64)

    c = 1 if common else 0
    gi = -(-k // target.amp_input_channels(kind))
    go = -(-n // units)
    first = inner(0 if adds else 1)
    body = 12 + c + (gi - 1) * (16 - c + go * (19 + 6 + load + inner(0))) + 11 + go * (19 - c + 7 + load + first)
    return np.asarray(50 + w * (saved + kept * (gi * groups - 1)) + groups * body, np.int64)


def dealt_lines(lines: Counts, width: Counts, target: Target) -> tuple[Counts, Counts]:
    """How many lines of positions the busiest worker has, and how long they are: where there are fewer lines than
    workers, lines are split."""
    items = np.maximum(1, lines // target.workers)
    share = -(-lines * width // target.workers)
    return items, -(-share // items)


def amp_nx1(
    groups: Counts, lines: Counts, width: Counts, k: Counts, n: Counts, window: int, height: int, dtype: str,
    partials: str, target: Target, adds: bool = False,
) -> Counts:  # fmt: skip
    """Cycles of a convolution in `window` passes: `lines` x `width` output positions per channel.

    A pass multiplies `height` taps of one dimension (1, 2 or 4) by as many input channels as then fill the unit.
    Weights of 4 taps are shuffled while they are loaded, at half of the rate. `adds`: the output is not cleared.
    """
    kind, acc = amp_types(dtype, partials)
    units = target.amp.units(kind, acc)
    load = target.amp_weight_cycles(kind, acc)
    if height == 4 and target.weight_load_bytes(kind) > target.vector_bytes:
        load *= 2
    load += {1: 15, 2: 46, 4: 60}[height] + 3
    w = target.workers
    items, length = dealt_lines(lines, width, target)
    if kind == "fp16":
        extra = 1 if acc == "fp32" or units >= 16 else 0
        few, per_line = (17, 29, 33 + extra), 34 + 4 * (length - 3)
    else:
        few, per_line = (17, 33, 44), 45 + 8 * (length - 3)
    one = _by_length(length, few, per_line)
    worker = 17 + (1 if acc == "fp16" else 0) + items * (3 + one - 9)
    gi = -(-k // (target.amp_input_channels(kind) // height))
    go = -(-n // units)
    position = w * worker
    inner = 14 + window * (12 + load) + window * position
    wide = 2 if acc == "fp32" else 4
    share = np.ceil(lines * width * go * units / w)
    zeroing = 0 if adds else w * (groups * (np.ceil(share / wide) + 5)).astype(np.int64)
    return np.asarray(
        109 + 9 * w + w * (10 if kind == "fp16" else 9) + groups * (17 * go + 6 * (go - 1) + 1) + 6 * (groups - 1) + 1
        + groups * (16 + gi * (14 + go * (14 + inner))) + zeroing,
        np.int64,
    )  # fmt: skip
