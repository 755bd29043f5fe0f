"""Copies within a tile: gathers by constant positions, and re-ordering of a cell for the matrix unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.codelets.macs import transpose
from ipucc.dtypes import compute_type, itemsize
from ipucc.target import Target
from ipucc.tiles.layout import GRAIN_BYTES

__all__ = ["Copy", "Pack", "spanned"]

Grouped = tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None], ...]
Part = tuple[tuple[int, ...], int, Grouped]

# Measured on a C600 (ipu-stack, crates cost.rs): indexed layout transform, six workers on the tile.
_INDEXED_CYCLES = 10


def spanned(shape: tuple[int, ...], src: tuple[int, ...]) -> int | None:
    """The one source dimension of a group of which a copy's cell needs an interval only: the outermost that is longer
    than one. All of the group's other source dimensions are needed whole."""
    return next((s for s in src if shape[s] > 1), None)


@register
@dataclass(frozen=True)
class Copy(Codelet):
    """A tensor of shape `shape` over axes d0, d1, ... put together from parts of other tensors.

    Each part is (source shape, its grain dimension, groups); a group is (source dimensions, destination dimensions,
    index), as in `ipucc.tiles.view`, index None for the identity. Elements that no part has become `gap`.
    """

    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    dtype: str
    gap: float

    name: ClassVar[str] = "copy"
    code_bytes: ClassVar[int] = 400

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """10 cycles an element on the tile: launch + elements x 10."""
        elements = np.ones(1, np.int64)
        for d in range(len(self.shape)):
            elements = elements * n[f"d{d}"]
        share = per_worker(elements, target) * target.workers
        return target.launch_cycles + share * _INDEXED_CYCLES

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        tiles = operands[0].shape[0]
        sizes = [cells.padded(f"d{d}") for d in range(len(self.shape))]
        out = np.full((tiles, *sizes), self.gap).astype(compute_type(self.dtype))
        grain = max(1, GRAIN_BYTES // itemsize(self.dtype))
        if not out.size:
            return [out]
        for (shape, grain_dim, groups), x in zip(self.parts, operands, strict=True):
            if x.size == 0:
                continue
            at = np.zeros((tiles, *([1] * len(sizes))), np.int64)
            held = np.ones((tiles, *([1] * len(sizes))), bool)
            strides = [int(np.prod(x.shape[2 + s :], dtype=np.int64)) for s in range(len(shape))]
            for src, dst, index in groups:
                offset, valid = _positions(shape, self.shape, src, dst, index, cells, sizes)
                for s, (coord, first) in zip(src, offset, strict=True):
                    if s == grain_dim:
                        first = first // grain * grain
                    at = at + np.clip(coord - first, 0, max(x.shape[1 + s] - 1, 0)) * strides[s]
                held = held & valid
            full = np.broadcast_to(at, out.shape).reshape(tiles, -1)
            taken = np.take_along_axis(x.reshape(tiles, -1), full, axis=1).reshape(out.shape)
            np.copyto(out, taken, where=np.broadcast_to(held, out.shape))
        return [out]


def _positions(
    shape: tuple[int, ...],
    result: tuple[int, ...],
    src: tuple[int, ...],
    dst: tuple[int, ...],
    index: tuple[int, ...] | None,
    cells: Cells,
    sizes: Sequence[int],
) -> tuple[list[tuple[NDArray[np.int64], NDArray[np.int64]]], NDArray[np.bool_]]:
    """Per source dimension of a group its coordinates and the first one that the tile holds; and which elements have
    a source. All are shaped to broadcast over [tiles, result cell...]."""
    tiles = next(iter(cells.lo.values())).size if cells.lo else 1
    rank = len(sizes)
    linear = np.zeros((tiles, *([1] * rank)), np.int64)
    inside = np.ones((tiles, *([1] * rank)), bool)
    for d in dst:
        at = cells.lo[f"d{d}"][:, None] + np.arange(sizes[d])[None, :]
        ok = np.arange(sizes[d])[None, :] < cells.n[f"d{d}"][:, None]
        form = [tiles] + [1] * rank
        form[1 + d] = sizes[d]
        linear = linear * result[d] + np.minimum(at, result[d] - 1).reshape(form)
        inside = inside & ok.reshape(form)
    table = np.arange(int(np.prod([result[d] for d in dst], dtype=np.int64))) if index is None else np.asarray(index)
    source = table[linear] if dst else np.broadcast_to(table[0], linear.shape)
    inside = inside & (source >= 0)
    # Flattened: numpy's unravel_index is wrong for large arrays whose last dimension is 1.
    flat = np.maximum(source, 0).reshape(-1)
    coords = [c.reshape(source.shape) for c in np.unravel_index(flat, [shape[s] for s in src])] if src else []
    followed = spanned(shape, src) if dst else None
    out = []
    for s, c in zip(src, coords, strict=True):
        first = np.zeros((tiles, *([1] * rank)), np.int64)
        if s == followed:
            first = _begins(table, [shape[i] for i in src], src.index(s), result[dst[0]], cells, f"d{dst[0]}", first)
        out.append((c, first))
    return out, inside


def _begins(
    table: NDArray[np.int64], shape: Sequence[int], at: int, rows: int, cells: Cells, axis: str, form: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where the operand's cells begin along the source dimension `at`, in the form of `form`: at the smallest position
    that any index of the group's first result dimension needs which the cell has, however the others are cut."""
    index = table.reshape(rows, -1)
    low = np.unravel_index(np.maximum(index, 0).reshape(-1), shape)[at].reshape(index.shape)
    low = np.where(index < 0, shape[at], low).min(axis=1)
    lo, n = cells.lo[axis], cells.n[axis]
    found = np.full(lo.shape, shape[at], np.int64)
    for i in np.flatnonzero(n > 0):
        found[i] = low[lo[i] : lo[i] + n[i]].min()
    return found.reshape(form.shape)


@register
@dataclass(frozen=True)
class Pack(Codelet):
    """The same cell in another local order: what lay in grains of the dimension `grain` lies in grains of `into`.
    `axes` are all dimensions of the cell.

    In both orders a square of two grains is contiguous, so that the cell is so many transposed matrices, as in poplibs'
    regrouping. (A kernel that somebody wrote for this, measured by ipu-stack on a C600, takes 4 cycles an element.)
    """

    axes: tuple[str, ...]
    grain: str
    into: str
    dtype: str

    name: ClassVar[str] = "pack"
    code_bytes: ClassVar[int] = 300

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """A launch, and transposes of all matrices of `grain` and `into`."""
        matrices = np.ones(1, np.int64)
        for axis in self.axes:
            matrices = matrices * (1 if axis in (self.grain, self.into) else n[axis])
        return target.launch_cycles + transpose(matrices, n[self.grain], n[self.into], self.dtype, target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        return [operands[0]]
