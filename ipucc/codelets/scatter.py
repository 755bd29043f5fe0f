"""Scatters: rows of a table changed by rows of updates, at places that come from data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, register
from ipucc.dtypes import itemsize
from ipucc.target import Target

__all__ = ["SCATTER_OPS", "Scatter"]

SCATTER_OPS: Final = ("none", "add", "mul", "max", "min")


@register
@dataclass(frozen=True)
class Scatter(Codelet):
    """out[b, v, q..] = data[b, v, q..] changed by update[b, i, q..] for every i with index[b, i] == v.

    `op` none replaces (the last of several wins), add, mul, max and min combine. An index counts from the end where it
    is negative; what lies outside `size` rows changes nothing.
    """

    op: str
    rest: tuple[str, ...]
    size: int
    dtype: str

    name: ClassVar[str] = "scatter"
    code_bytes: ClassVar[int] = 450

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """Launch, a copy of the cell, and for every update a comparison of its index and, as if each of them fell into
        this cell, a load, an operation and a store per vector. One worker per share of the columns, as in popops'
        MultiUpdateAdd; inferred: its formula is for one row of updates at a time."""
        width = np.ones(1, np.int64)
        for axis in self.rest:
            width = width * n[axis]
        per_vector = max(1, target.vector_width(itemsize(self.dtype)))
        vectors = -(-width // per_vector)
        share = -(-vectors // target.workers)
        copied = n["b"] * n["v"] * share
        updates = n["b"] * n["i"] * (6 + 3 * share)
        return np.asarray(target.launch_cycles + target.workers * (2 * copied + updates), np.int64)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        data, index, update = operands
        out = data.copy()
        at = index.astype(np.int64)
        at = np.where(at < 0, at + self.size, at)
        outside = (at < 0) | (at >= self.size)
        local = at - cells.lo["v"][:, None, None]
        held = ~outside & (local >= 0) & (local < cells.n["v"][:, None, None])
        held &= cells.mask("b", held.shape[1])[:, :, None]
        tile, row, place = np.nonzero(held)
        where = (tile, row, local[tile, row, place])
        change = update[tile, row, place]
        if self.op == "none":
            out[where] = change
        else:
            function = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[self.op]
            function.at(out, where, change)
        return [out]
