"""Pooling: maxima, means and p-norms over windows. Axes: n (batch), c (channels), o0, o1, ... (positions)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.codelets.windows import aligned, taps
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["Pool"]


@register
@dataclass(frozen=True)
class Pool(Codelet):
    """`kind` is max, mean or norm (the `p`-norm). Outside the tensor, X must be the least value for max, else 0.

    `spans` gives, per spatial dimension, the first position and the end of those that a mean counts: the tensor, or
    with it its padding. `grains` is the multiple of elements at which cells of X begin, as for a convolution.
    """

    kind: str
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    grains: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    dtype: str
    p: int = 2

    name: ClassVar[str] = "pool"
    code_bytes: ClassVar[int] = 900

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """popnn's estimate (popnnCycleEstimators.cpp): 7 + workers x worker + 6; a worker needs 17 + 13 per row of
        results + 20 per result + 3 + (4 + 3 taps, 5 + 3 taps for sums) per vector of channels."""
        rank, count = len(self.kernel), prod(self.kernel)
        lines = n["n"]
        for d in range(rank - 1):
            lines = lines * n[f"o{d}"]
        results = lines * n[f"o{rank - 1}"]
        vectors = -(-n["c"] // target.vector_width(itemsize(self.dtype)))
        each = 3 + (4 if self.kind == "max" else 5) + 3 * count
        if self.kind == "norm":
            each += 2 * count
        share = per_worker(results * vectors, target)
        worker = 21 + 13 * per_worker(lines, target) + 20 * per_worker(results, target) + each * share
        return 13 + target.workers * worker

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        out = [cells.padded(f"o{d}") for d in range(len(self.kernel))]
        for d, (k, s, dil, begin, grain) in enumerate(
            zip(self.kernel, self.strides, self.dilations, self.begins, self.grains, strict=True)
        ):
            shift = (cells.lo[f"o{d}"] * s - begin) % grain
            x = aligned(x, 3 + d, shift, max(out[d] - 1, 0) * s + (k - 1) * dil + 1)
        if self.kind == "norm":
            x = np.abs(x) ** np.float32(self.p)
        windows = taps(x, self.kernel, self.strides, self.dilations, out)
        result: Array | None = None
        for tap in np.ndindex(*self.kernel):
            part = windows[(slice(None),) * 3 + tap]
            if result is None:
                result = part.copy()
            elif self.kind == "max":
                np.maximum(result, part, out=result)
            else:
                result += part
        assert result is not None
        if self.kind == "norm":
            result = result ** np.float32(1 / self.p)
        elif self.kind == "mean":
            for d in range(len(self.kernel)):
                form = [result.shape[0], 1, 1] + [1] * len(self.kernel)
                form[3 + d] = out[d]
                result = result / self._counted(d, cells, out[d]).reshape(form)
        return [result]

    def _counted(self, d: int, cells: Cells, out: int) -> Array:
        """[tiles, out]: how many taps of a dimension lie where a mean counts."""
        start = (cells.lo[f"o{d}"][:, None] + np.arange(out)[None, :]) * self.strides[d] - self.begins[d]
        at = start[:, :, None] + (np.arange(self.kernel[d]) * self.dilations[d])[None, None, :]
        low, high = self.spans[d]
        counted: Array = ((at >= low) & (at < high)).sum(axis=2)
        return np.maximum(counted, 1).astype(np.float32)
