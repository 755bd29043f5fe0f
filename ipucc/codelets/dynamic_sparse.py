"""Block-sparse products whose pattern is data: every vertex multiplies the blocks of one bucket.

A bucket has a fixed number of slots, and cycles count every slot as full: they are those of the fullest pattern, which
no run exceeds. Formulas restate poplibs, lib/popsparse/PerformanceEstimation.hpp, with one bucket and one subgroup per
pass, since a bucket is multiplied where it lies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, Streams, per_worker, register
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["DynamicSparse", "SampledProduct", "bucket_cycles", "sampled_cycles"]


def bucket_cycles(
    rows: Counts, blocks: Counts, outputs: Counts, block: tuple[int, int], dtype: str, partials: str, target: Target,
    transposed: bool = False,
) -> Counts:  # fmt: skip
    """Cycles of one bucket of `blocks` over `outputs` block columns (block rows when transposed), `rows` rows of the
    dense operand.

    Blocks (sparseDenseBlockMultiply, line 187): supervisor 40 + 46 + 56 + 2, an output 1, a block its coefficients by
    64-bit loads, 3 and 12 for each time the matrix unit is loaded; workers 20-26, and for every load of a block a
    constant and 2, 4 or 4 (fp16) or 4, 8 or 8 (fp32) cycles per row. Blocks of 16 are loaded in two halves where
    operands or partials are fp32; there poplibs counts 4 cycles per row, above what the unit can do in fp32.
    Transposed, every block is transposed first (block transpose: 18 + workers x (34 + blocks of a worker x (6 + 23 per
    4 sides, fp32 12 per 2 sides))).

    Elements (sparseDenseElementwiseMultiply, line 528, general form; transposed the vertex that shares the buckets of
    the forward product, line 720): the workers share the outputs, transposed the elements of every row.
    """
    if max(block) == 1:
        return _elements_transposed(rows, blocks, outputs, dtype, target) if transposed else (
            _elements(rows, blocks, outputs, dtype, target)
        )  # fmt: skip
    w, half, side = target.workers, itemsize(dtype) <= 2, max(block)
    z = np.maximum(1, per_worker(rows, target))
    wide = itemsize(partials) > 2
    loads = 2 if side > 8 and (wide or not half) else 1
    if side <= 4:
        start, each, inner = 26, (2 if half else 4), ((14 if not half else 19) if wide else 17)
    elif side <= 8:
        start, each, inner = (20 if half and wide else 23), (4 if half else 8), (23 if wide else 20)
    else:
        start, each, inner = (23 if loads == 2 else 22), (4 if half else 8), (24 if loads == 2 else 22)
    load = block[0] * block[1] * itemsize(dtype) // 8 + 3 + 12 * loads
    cycles = 40 + 46 + 56 + 2 + outputs + blocks * load + w * (start + blocks * loads * (inner - 3 + z * each))
    if transposed:
        turn = 6 + (-(-side // 4) * 23 if half else -(-side // 2) * 12)
        cycles = cycles + 18 + w * (34 + per_worker(blocks, target) * turn)
    return np.asarray(cycles, np.int64)


def _elements(rows: Counts, blocks: Counts, outputs: Counts, dtype: str, target: Target) -> Counts:
    x, y, z = per_worker(outputs, target), per_worker(blocks, target), rows
    if itemsize(dtype) <= 2:
        work = 30 + 11 * x + np.where(z >= 8, 16 * x + z // 8 * 3 * y, 0)
        work = work + np.where(z & 4, 13 * x + 2 * y, 0) + np.where(z & 3, 11 * x + 2 * (z & 3) * y, 0)
    else:
        work = 27 + 12 * x + np.where(z >= 4, 12 * x + z // 4 * 3 * y, 0)
        work = work + np.where(z & 2, 8 * x + 2 * y, 0) + np.where(z & 1, 8 * x + 2 * y, 0)
        work = work + np.where(z & 3, 3 * x, x)
    return np.asarray(30 + 44 + 46 + target.workers * work, np.int64)


def _elements_transposed(rows: Counts, blocks: Counts, outputs: Counts, dtype: str, target: Target) -> Counts:
    # The elements of a row are dealt to the workers: each row costs a worker at least one.
    y, z = outputs + per_worker(np.maximum(blocks - outputs, 0), target), rows
    if itemsize(dtype) <= 2:
        each = np.where(z >= 4, 2 + z // 4 * 5, 0) + np.where(z & 3, 5 + 3 * (z & 3), 0)
        work = 24 + outputs * (20 + 8) + y * each
    else:
        each = np.where(z >= 2, 2 + z // 2 * 3, 0) + np.where(z & 1, 4, 0)
        work = 21 + outputs * (22 + 8) + y * each
    return np.asarray(30 + 44 + 68 + target.workers * work, np.int64)


def sampled_cycles(
    rows: Counts, blocks: Counts, outputs: Counts, block: tuple[int, int], dtype: str, partials: str, target: Target
) -> Counts:
    """Cycles of the products A^T B of one bucket of `blocks` over `outputs` block columns, `rows` rows contracted.

    The faster of two ways. On the vector unit (sparseDenseGradWElementwiseMultiply, line 90, general form;
    sparseDenseBlockMultiplyGradW, line 329) the workers share the blocks. On the matrix unit
    (sparseDenseBlockMultiplyGradWAmp) it is loaded for every 16 rows (fp32: 8) of every block; not for fp32 blocks
    of 16.
    """
    w, half, side = target.workers, itemsize(dtype) <= 2, max(block)
    x, y, z = per_worker(outputs, target), per_worker(blocks, target), rows
    fixed = 37 + 38 + 26
    if side == 1:
        if half:
            start, each = 33 + 6 * x, 11 + z // 4 + np.where(z & 2, 3, 0) + np.where(z & 1, 4, 0)
        else:
            start, each = 32 + 7 * x, 9 + z // 2 + (z & 1)
        return np.asarray(fixed + w * (start + y * each), np.int64)
    wide = itemsize(partials) > 2
    if side <= 4:
        head, rate = (33 if wide else 29) if half else 45, 6 if half else 12
    elif side <= 8:
        head, rate = 9 + 8 * 13 if half else 8 + 8 * 25, 24 if half else 48
    else:
        head, rate = 505 if wide else 441, 96
    vector = fixed + w * (27 + 9 * x + y * (head + z * rate))
    if side > 8 and not half:
        return np.asarray(vector, np.int64)
    passes = np.maximum(1, -(-z // (16 if half else 8)))
    if side <= 4:
        load, worker, off, kept = 54, (18 if wide else 17) if half else 21, 2 if half else 1, 6
    elif side <= 8:
        load, worker, off, kept = 114, 28 if half else 34, 4 if half else 2, 8 if wide else 7
    else:
        load, worker, off, kept = 234, 33, 4, 10
    supervisor = fixed + 23 + np.maximum(outputs - 1, 0) * 8 + outputs * 32
    supervisor = supervisor + blocks * (10 + 15 + (passes - 1) * 4 + passes * (8 + load))
    matrix = supervisor + w * (kept + blocks * (worker * passes - off * (passes - 1)))
    return np.asarray(np.minimum(vector, matrix), np.int64)


@dataclass(frozen=True)
class _OfBuckets(Codelet):
    """What both products share. A bucket [r, c] takes blocks of `cell` block rows and `reach` times as many block
    columns, cyclically over `groups` buckets."""

    block: tuple[int, int]
    cell: tuple[int, int]
    groups: int
    reach: int
    capacity: int
    dtype: str
    partials: str

    def _places(self, places: Array, cells: Cells) -> tuple[Array, Array, Array]:
        """[tiles, capacity]: block row and column within what the bucket takes, and whether there is a block."""
        at = places[:, 0, 0].astype(np.int64)
        row = at[..., 0] - cells.lo["r"][:, None] * self.cell[0]
        col = (at[..., 1] - cells.lo["c"][:, None] * self.cell[1]) % (self.groups * self.cell[1])
        inside = (at[..., 0] >= 0) & (row >= 0) & (row < self.cell[0]) & (col < self.cell[1] * self.reach)
        return np.where(inside, row, 0), np.where(inside, col, 0), inside

    def _outputs(self, transposed: bool) -> int:
        """Block columns (rows, transposed) that the blocks of a full bucket add to, at most."""
        return min(self.capacity, self.cell[0] if transposed else self.cell[1] * self.reach)


@register
@dataclass(frozen=True)
class DynamicSparse(_OfBuckets):
    """Partials of a bucket: out[r, c, m, col x bn + j] += A[m, row x bk + i] values[r, c, z, i, j], or transposed
    out[r, c, m, row x bk + i] += A[m, col x bn + j] values[r, c, z, i, j].

    Operand 0 is the part of the dense operand that a bucket takes, operand 1 its values, operand 2 its places: block
    row and block column of every slot in the whole weight, -1 for an empty slot.
    """

    transposed: bool = False

    name: ClassVar[str] = "dynamic_sparse"
    code_bytes: ClassVar[int] = 1200

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """See `bucket_cycles`; clearing the partials costs a vector store each."""
        buckets = n["r"] * n["c"]
        zero = per_worker(n["m"] * n["p"], target) // target.vector_width(itemsize(self.partials))
        work = bucket_cycles(
            n["m"], self.capacity * buckets, self._outputs(self.transposed) * buckets, self.block, self.dtype,
            self.partials, target, self.transposed,
        )  # fmt: skip
        return work + target.workers * zero

    @property
    def streams(self) -> Streams:
        """poplibs, the constraints of lib/popsparse/codelets/SparseDenseMatMul{Block,ElementWise}.cpp."""
        return ((0, 2), ()) if max(self.block) == 1 else ((0,), (0,))

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        a, values, places = operands
        values = values[:, 0, 0]
        row, col, inside = self._places(places, cells)
        bk, bn = self.block
        wide, size = self.cell[1] * self.reach * bn, self.cell[0] * bk
        if self.transposed:
            values, row, col, bk, bn, wide, size = values.swapaxes(2, 3), col, row, bn, bk, size, wide
        tiles, rows = a.shape[:2]
        dense = a[:, :, :size].reshape(tiles, rows, -1, bk)
        out = np.zeros((tiles, rows, wide // bn, bn), np.float32)
        at = np.arange(tiles)
        for z in np.flatnonzero(inside.any(axis=0)).tolist():
            left = dense[at, :, row[:, z]]
            product = left * values[:, z] if bk == 1 else np.matmul(left, values[:, z])
            out[at, :, col[:, z]] += np.where(inside[:, z, None, None], product, 0)
        return [out.reshape(tiles, 1, 1, rows, wide)]


@register
@dataclass(frozen=True)
class SampledProduct(_OfBuckets):
    """out[r, c, z, i, j] = sum over m of A[m, row x bk + i] B[m, col x bn + j] at the places of a bucket's blocks, 0 in
    an empty slot. Operand 0 is the part of A, operand 1 that of B that a bucket takes, operand 2 its places."""

    name: ClassVar[str] = "sampled_product"
    code_bytes: ClassVar[int] = 1000

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """See `sampled_cycles`."""
        buckets = n["r"] * n["c"]
        return sampled_cycles(
            n["m"], self.capacity * buckets, self._outputs(False) * buckets, self.block, self.dtype, self.partials,
            target,
        )  # fmt: skip

    @property
    def streams(self) -> Streams:
        """poplibs, the constraints of lib/popsparse/codelets/SparseDenseMatMul{BlockAmpGradW,GradWElementWise}.cpp."""
        return ((0, 1), ()) if max(self.block) == 1 else ((1,), (0,))

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        a, b, places = operands
        row, col, inside = self._places(places, cells)
        bk, bn = self.block
        tiles, rows = a.shape[:2]
        left = a[:, :, : self.cell[0] * bk].reshape(tiles, rows, -1, bk)
        right = b[:, :, : self.cell[1] * self.reach * bn].reshape(tiles, rows, -1, bn)
        # Rows past a short cell are filled with zeros and add nothing.
        out = np.zeros((tiles, self.capacity, bk, bn), np.float32)
        at = np.arange(tiles)
        for z in np.flatnonzero(inside.any(axis=0)).tolist():
            product = np.matmul(left[at, :, row[:, z]].swapaxes(1, 2), right[at, :, col[:, z]])
            out[:, z] = np.where(inside[:, z, None, None], product, 0)
        return [out[:, None, None]]
