"""Cycles of products on the vector unit, and of transposing a cell, after poplibs' published estimators.

Source: poplibs, lib/poplin/PerformanceEstimation.hpp (horizontal MAC, lines 79-243; vertical MAC, lines 246-395) and
lib/popsparse/PerformanceEstimation.hpp (transposes, lines 876-925), restated.
"""

import numpy as np

from ipucc.codelets.base import Counts, per_worker
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["axpy", "dot", "lanes", "transpose", "vmac"]


def dot(
    groups: Counts, rows: Counts, k: Counts, n: Counts, dtype: str, partials: str, target: Target, adds: bool = False
) -> Counts:
    """`groups` products [rows, k] x [k, n] as dot products of k: the horizontal MAC, 1 x 1, with the roles of its
    operands swapped, so that the workers share the n columns and not the few rows.

    A vector of each operand is loaded and multiplied per issue; the operands lie in grains of k, over which the loads
    step with a stride (inferred: at no cost). Results of 2 bytes are dealt in pairs, since a store is a word. `adds`:
    a load and an addition more for every result (inferred).
    """
    half = dtype == "float16"
    both = half and partials == "float16"
    word = max(1, 4 // itemsize(partials))
    share = word * per_worker(-(-n // word), target)
    one = (3 * 2 + 1 + 4 if both else 3 + 4) - (1 if half else 0) + -(-k // target.vector_width(itemsize(dtype)))
    one = one + (2 if adds else 0)
    body = np.where(rows == 1, 1 + share * (2 + one), share * (7 + rows * one))
    worker = 16 - 15 + 13 + body + 16
    fixed = (55 if half else 48) + target.workers * ((9 if both else 10) + 15)
    return np.asarray(fixed + groups * (23 + 15 + 10 + target.workers * worker), np.int64)


def lanes(partials: str) -> int:
    """Channels that the vertical MAC accumulates at once: 8 in fp16, 4 in fp32."""
    return 8 if itemsize(partials) <= 2 else 4


def vmac(
    blocks: Counts, items: Counts, taps: Counts, dtype: str, partials: str, target: Target, adds: bool = False
) -> Counts:
    """The vertical MAC kernel: `blocks` of `lanes` channels, in each of which `items` positions add up `taps` products.

    Restated with positions dealt to the workers, so that no reduction follows. poplibs knows fp16 operands only; fp32
    takes twice the loads of fp16 with fp32 partials (inferred). `adds`: the sums are not cleared before.
    """
    wide = lanes(partials)
    if wide == 8:
        core, each, per_tap = 13, 22, 3
    else:
        core, each, per_tap = 19, 7 + 5, 2 if itemsize(dtype) <= 2 else 3
    zero = 0 if adds else 4 + -(-items * wide // (4 if wide == 8 else 2))
    worker = core + per_worker(items, target) * (each + 3 + per_tap * (taps - 1))
    return np.asarray(61 + 14 + 26 + blocks * (zero + 32 + 24 + target.workers * worker), np.int64)


def axpy(
    groups: Counts, rows: Counts, k: Counts, n: Counts, dtype: str, partials: str, target: Target, adds: bool = False
) -> Counts:
    """`groups` products [rows, k] x [k, n] with the right operand in grains of n: a row of it times one element of the
    left, accumulated. The loads and multiplications of the vertical MAC, a tap per k (inferred)."""
    return vmac(groups, rows * -(-n // lanes(partials)), k, dtype, partials, target, adds)


def transpose(groups: Counts, rows: Counts, columns: Counts, dtype: str, target: Target) -> Counts:
    """`groups` matrices transposed in blocks of 4 x 4 (fp16: 4 cycles) or 2 x 2 (fp32: 3 cycles). The workers share
    the matrices, as in poplibs, or the rows or columns of each (inferred), whichever is fastest. Bytes take as long
    as fp16 (inferred)."""
    grain, block = (4, 4) if itemsize(dtype) <= 2 else (2, 3)
    down, across = -(-rows // grain), -(-columns // grain)

    def one(down: Counts, across: Counts) -> Counts:
        return np.asarray(18 + across * (12 + block * np.maximum(down - 2, 0)), np.int64)

    shared = np.minimum(one(per_worker(down, target), across), one(down, per_worker(across, target)))
    work = np.minimum(per_worker(groups, target) * one(down, across), groups * shared)
    return np.asarray(7 + target.workers * (29 + work), np.int64)
