"""Static block-sparse matmul: every tile multiplies its own run of blocks, each loaded into the matrix unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, Streams, per_worker, register
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["BlockSparse", "block_sparse_cycles", "run_blocks"]


def block_sparse_cycles(
    rows: Counts, blocks: Counts, outputs: Counts, block: tuple[int, int], dtype: str, target: Target
) -> Counts:
    """Cycles of one vertex: `blocks` blocks over `outputs` block columns, `rows` rows of the dense operand.

    poplibs, lib/popsparse/StaticMatMulPartitioner.cpp (static planner's estimate): 30 + header x workers +
    outputs x (2 x workers + 17) + blocks x (16 + area x bytes / 8 + y x workers), with y the worker's cycles for its
    rows: 13 + n (fp16, side 4), 14 + 2(n-1) (8), 19 + 4(n-1) (16); fp32 12 + 4(n-1), 19 + 8(n-1), 2(37 + 8(n-1)).
    Blocks of other sides count as the next larger one; larger than 16 as several.

    Single elements: see `_elements`.
    """
    n = np.maximum(1, per_worker(rows, target))
    half = itemsize(dtype) <= 2
    side = max(block)
    if side == 1:
        return _elements(rows, blocks, outputs, half, target)
    if side <= 4:
        y = 13 + n if half else 12 + 4 * (n - 1)
    elif side <= 8:
        y = 14 + 2 * (n - 1) if half else 19 + 8 * (n - 1)
    else:
        y = (19 + 4 * (n - 1) if half else 2 * (37 + 8 * (n - 1))) * (-(-block[0] // 16) * -(-block[1] // 16))
    w = target.workers
    area = block[0] * block[1] * itemsize(dtype) // 8
    return np.asarray(30 + 15 * w + outputs * (2 * w + 17) + blocks * (16 + area + y * w), np.int64)


def run_blocks(
    values: Array, place: Array, first: Array, blocks: int, block: tuple[int, int]
) -> tuple[Array, Counts, Counts]:  # fmt: skip
    """The blocks [tiles, z, bk, bn] of one run a tile, and of each its place and its slot [tiles, z]. Those past a
    run's end are zero, and add nothing wherever they go."""
    tiles, (bk, bn) = values.shape[0], block
    starts = np.minimum(first[:, 0].astype(np.int64), blocks)
    slot = np.zeros((tiles, blocks + 1), np.int64)
    # Before every slot but the first one, its number rises; one without blocks rises with the next.
    np.add.at(slot, (np.arange(tiles)[:, None], starts[:, 1:-1]), 1)
    shaped = values.reshape(tiles, -1)[:, : blocks * bk * bn].reshape(tiles, blocks, bk, bn)
    return shaped, place[:, 0, :blocks].astype(np.int64), slot.cumsum(axis=1)[:, :blocks]


def _elements(rows: Counts, blocks: Counts, outputs: Counts, half: bool, target: Target) -> Counts:
    """Cycles of a vertex that multiplies single elements.

    poplibs, the same file's element-wise estimate: workers x (31 + outputs of a worker x (8 + 3 (k - 1)) for every 8
    rows of the dense operand, (7 + 2 (k - 1)) for every 4), k elements an output. Workers share the outputs; where
    there are few, the rows (inferred). fp32 has half as many rows in a pass (inferred).
    """
    wide = 8 if half else 4

    def passes(rows: Counts, outputs: Counts, blocks: Counts) -> Counts:
        full, rest = rows // wide, -(-(rows % wide) // (wide // 2))
        more, less = 5 * outputs + 3 * blocks, 5 * outputs + 2 * blocks
        return np.asarray(full * more + np.where(rest == 2, more, rest * less))

    w = target.workers
    each = per_worker(outputs, target)
    by_outputs = passes(rows, each, -(-blocks * each // np.maximum(outputs, 1)))
    by_rows = passes(np.maximum(1, per_worker(rows, target)), outputs, blocks)
    return np.asarray(30 + w * (31 + np.minimum(by_outputs, by_rows)), np.int64)


@register
@dataclass(frozen=True)
class BlockSparse(Codelet):
    """Partials of one run of blocks: out[r, m, slot x bn + j] += A[m, place x bk + i] values[z, i, j].

    Operand 0 is the dense operand, gathered: [m, places x bk]; operand 1 the run's blocks [r, z, bk x bn], or
    [r, z x bk x bn], slot by slot; operand 2 the place of each [r, z]; operand 3 where the blocks of every slot begin,
    and end [r, slots + 1].
    `blocks` and `outputs` are those of the fullest run; cells hold one run each.
    """

    block: tuple[int, int]
    blocks: int
    outputs: int
    dtype: str

    name: ClassVar[str] = "block_sparse"
    code_bytes: ClassVar[int] = 900

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """See `block_sparse_cycles`; clearing the partials costs a vector store each."""
        runs = n["r"]
        outputs = np.asarray(self.outputs * runs, np.int64)
        zero = per_worker(n["m"] * outputs * self.block[1], target) // target.vector_width(itemsize(self.dtype))
        work = block_sparse_cycles(n["m"], self.blocks * runs, outputs, self.block, self.dtype, target)
        return work + target.workers * zero

    @property
    def streams(self) -> Streams:
        """poplibs, the constraints of lib/popsparse/codelets/StaticSparseDense{MatMulBlock,ElementWise}.cpp."""
        return ((0, 2), ()) if max(self.block) == 1 else ((0,), (0,))

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        a, values, place, first = operands
        bk, bn = self.block
        tiles, rows = a.shape[:2]
        values, place, slot = run_blocks(values, place, first, self.blocks, self.block)
        dense = a.reshape(tiles, rows, -1, bk)
        out = np.zeros((tiles, rows, self.outputs, bn), np.float32)
        at = np.arange(tiles)
        for z in range(self.blocks):
            left = dense[at, :, np.minimum(place[:, z], dense.shape[2] - 1)]
            product = left * values[:, z] if bk == 1 else np.matmul(left, values[:, z])
            out[at, :, slot[:, z]] += product
        return [out.reshape(tiles, 1, rows, self.outputs * bn)]
