"""The largest or smallest elements of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.target import Target

__all__ = ["TopK"]


@register
@dataclass(frozen=True)
class TopK(Codelet):
    """The `k` largest (or smallest) elements of every row, in order, or their `places` in it; of equal ones the first
    comes first. Rows are the last dimension of the operand."""

    k: int
    largest: bool
    places: bool
    axes: tuple[str, ...]
    dtype: str

    name: ClassVar[str] = "topk"
    code_bytes: ClassVar[int] = 600

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """A heap of k for each row, rows dealt to the workers: every element is compared with the top (4 cycles) and,
        as if each went in, moved down log2 k levels of 8; then the heap is emptied. Inferred: no vendor formula."""
        rows = np.ones(1, np.int64)
        for axis in self.axes:
            rows = rows * n[axis]
        levels = max(1, int(self.k).bit_length())
        each = 30 + n["r"] * (4 + 8 * levels) + self.k * 8 * levels
        return np.asarray(target.launch_cycles + target.workers * per_worker(rows, target) * each, np.int64)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        size = x.shape[-1]
        if self.largest:
            # Ascending from behind: equal elements keep their order when it is turned.
            found = size - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
        else:
            found = np.argsort(x, axis=-1, kind="stable")
        found = found[..., : self.k]
        return [found.astype(np.int32) if self.places else np.take_along_axis(x, found, axis=-1)]
