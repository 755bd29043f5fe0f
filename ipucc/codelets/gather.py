"""Gathers by indices that are known only while the program runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["Gather"]


@register
@dataclass(frozen=True)
class Gather(Codelet):
    """y[batch.., i, rest..] = data[batch.., index[batch.., i], rest..] where the tile holds that row, else 0.

    `size` is the extent of the gathered axis v; negative indices count from its end. Every row lies on one tile of a
    cut of v, so that the sum of the tiles' results is the gather, bit for bit.
    """

    batch: tuple[str, ...]
    rest: tuple[str, ...]
    size: int
    dtype: str

    name: ClassVar[str] = "gather"
    code_bytes: ClassVar[int] = 600

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """popops' MultiSlice: workers x (30 + indices x (19 + 2 per vector of a row)), with every index on this tile,
        the bound that does not depend on data. A vector is 2 elements, 4 of one byte (3 cycles)."""
        indices = n["i"]
        for axis in self.batch:
            indices = indices * n[axis]
        row = np.ones_like(indices)
        for axis in self.rest:
            row = row * n[axis]
        width, each = (4, 3) if itemsize(self.dtype) == 1 else (2, 2)
        return 20 + target.workers * (30 + per_worker(indices, target) * (19 + -(-row // width) * each))

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        data, index = operands
        lead = data.shape[: 1 + len(self.batch)]
        held, rest = data.shape[len(lead)], data.shape[len(lead) + 1 :]
        form = (-1,) + (1,) * len(self.batch) + (1,)
        at = np.where(index < 0, index + self.size, index).astype(np.int64) - cells.lo["v"].reshape(form)
        inside = (at >= 0) & (at < cells.n["v"].reshape(form))
        count, length = prod(lead), index.shape[-1]
        table = data.reshape(count, held, prod(rest))
        rows = table[np.arange(count)[:, None], np.where(inside, at, 0).reshape(count, length)]
        rows[~inside.reshape(count, length)] = 0
        return [rows.reshape(*lead, length, *rest)]
