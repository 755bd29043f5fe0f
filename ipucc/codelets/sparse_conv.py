"""Static block-sparse convolution: a run of blocks of channels, each at one place of the window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, Streams, per_worker, register
from ipucc.codelets.sparse import block_sparse_cycles, run_blocks
from ipucc.codelets.windows import aligned, taps
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["BlockSparseConv"]


@register
@dataclass(frozen=True)
class BlockSparseConv(Codelet):
    """Partials of one run of blocks: out[r, n, slot x bn + j, o..] += sum over i of values[z, i, j] times
    X[n, place x bk + i, o * stride + tap * dilation - begin].

    Operand 0 is X with the channels that the run needs, [n, places x bk, ...]; operands 1 and 3 are as for BlockSparse,
    operand 2 has place x taps + tap per block [r, z], taps counted row by row of `kernel`. `blocks` and `outputs` are
    those of the fullest run; cells hold one run each. `grains` as for Conv.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    grains: tuple[int, ...]
    block: tuple[int, int]
    blocks: int
    outputs: int
    dtype: str

    name: ClassVar[str] = "block_sparse_conv"
    code_bytes: ClassVar[int] = 1100

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """That of a matrix product with a row per position (`block_sparse_cycles`). Lines of a window that is wider
        than one position do not follow each other in memory: every line costs a worker the start of its loop again,
        15 cycles (inferred from the constant part of the same formula)."""
        positions = n["n"]
        for d in range(len(self.kernel)):
            positions = positions * n[f"o{d}"]
        outputs = np.asarray(self.outputs * n["r"], np.int64)
        zero = per_worker(positions * outputs * self.block[1], target) // target.vector_width(itemsize(self.dtype))
        work = block_sparse_cycles(positions, self.blocks * n["r"], outputs, self.block, self.dtype, target)
        if prod(self.kernel) > 1 or any(s > 1 for s in self.strides):
            lines = positions // np.maximum(n[f"o{len(self.kernel) - 1}"], 1)
            work = work + target.workers * self.blocks * 15 * np.maximum(per_worker(lines, target) - 1, 0)
        return np.asarray(work + target.workers * zero, np.int64)

    @property
    def streams(self) -> Streams:
        """poplibs, the constraints of lib/popsparse/codelets/StaticSparseDense{MatMulBlock,ElementWise}.cpp."""
        return ((0, 2), ()) if max(self.block) == 1 else ((0,), (0,))

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        x, values, place, first = operands
        bk, bn = self.block
        values, place, slot = run_blocks(values, place, first, self.blocks, self.block)
        out = [cells.padded(f"o{d}") for d in range(len(self.kernel))]
        for d, (k, s, dil, begin, grain) in enumerate(
            zip(self.kernel, self.strides, self.dilations, self.begins, self.grains, strict=True)
        ):
            shift = (cells.lo[f"o{d}"] * s - begin) % grain
            x = aligned(x, 3 + d, shift, max(out[d] - 1, 0) * s + (k - 1) * dil + 1)
        windows = taps(x, self.kernel, self.strides, self.dilations, out)
        tiles, batch, channels = windows.shape[:3]
        places = batch * prod(out)
        sums = np.zeros((tiles, self.outputs, bn, places), np.float32)
        for z in range(self.blocks):
            at, tap = np.divmod(place[:, z], prod(self.kernel))
            at = np.minimum(at, channels // bk - 1)
            for t in np.unique(tap).tolist():
                some = np.flatnonzero(tap == t)
                channel = at[some, None] * bk + np.arange(bk)[None, :]
                one = windows[(slice(None),) * 3 + np.unravel_index(t, self.kernel)]
                # Indexed dimensions come first: [tiles, bk, n, o...].
                left = one[some[:, None], :, channel].reshape(some.size, bk, places)
                sums[some, slot[some, z]] += np.matmul(values[some, z].swapaxes(1, 2), left)
        shaped = sums.reshape(tiles, self.outputs * bn, batch, *out).swapaxes(1, 2)
        return [shaped[:, None]]
