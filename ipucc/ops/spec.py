"""Tile ops: an iteration space, what it reads and writes, and the codelet that computes a cell of it.

An op of the tile graph is described by named axes and by one access map per operand. A map says, for every dimension
of the operand (as the op sees it, after its views), which interval of it a cell of the iteration space needs. Planner,
exchange lowering, memory and simulator know nothing else of an op.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.base import Codelet
from ipucc.dtypes import itemsize
from ipucc.tiles.cuts import Cut, whole
from ipucc.tiles.layout import GRAIN_BYTES
from ipucc.tiles.view import View

__all__ = ["Along", "Axis", "DimMap", "Everything", "Operand", "Result", "Source", "Span", "TileOp"]

AxisKind = Literal["parallel", "reduce", "row", "whole"]


@dataclass(frozen=True)
class Axis:
    """One axis of an iteration space. `parallel` axes may be cut freely, cutting a `reduce` axis leaves partials,
    cutting a `row` axis, which the result has as well, leaves statistics that every cell of the row needs, and a
    `whole` axis is never cut over tiles. Cuts fall on multiples of `grain`. A `pinned` axis has one index per cell.
    """

    name: str
    size: int
    kind: AxisKind = "parallel"
    grain: int = 1
    pinned: bool = False


@dataclass(frozen=True)
class Along:
    """The dimension is the axis: cell for cell the same interval."""

    axis: str


@dataclass(frozen=True, eq=False)
class Span:
    """Index i of the axis needs the interval lo[i] <= x < hi[i] of the dimension.

    Windows, dilation, resizing and gathers by constant indices are spans; they may run past the tensor (halo). A cell
    needs the hull of its indices' intervals.
    """

    axis: str
    lo: NDArray[np.int64]
    hi: NDArray[np.int64]


@dataclass(frozen=True)
class Everything:
    """Every cell needs all `size` indices of the dimension."""

    size: int


DimMap = Along | Span | Everything


@dataclass(frozen=True, eq=False)
class Source:
    """A tensor of the tile graph, seen through a view."""

    tensor: int
    view: View


@dataclass(frozen=True, eq=False)
class Operand:
    """What an op reads: one source, or several that together make one tensor (a concatenation).

    `fill` is the value outside a cell's true extent, `gap` the one where no source has an element. `grain_dim` is the
    dimension whose grains arrive together; where the codelet wants another, `pack_dim`, the cell is re-ordered on the
    tile first. `epilogue` operands are read where results are finished: behind the reduction when a reduce axis is
    cut.
    """

    sources: tuple[Source, ...]
    shape: tuple[int, ...]
    dims: tuple[DimMap, ...]
    dtype: str
    grain_dim: int
    fill: float = 0.0
    gap: float = 0.0
    pack_dim: int | None = None
    epilogue: bool = False

    def cut(self, dim: int, cells: Mapping[str, Cut]) -> tuple[str | None, Cut]:
        """The axis that a dimension depends on, and the interval of it that each of the axis' cells needs."""
        kind = self.dims[dim]
        if isinstance(kind, Everything):
            return None, whole(kind.size)
        lo, hi = cells[kind.axis]
        if isinstance(kind, Along):
            return kind.axis, (lo, hi)
        low, high = _hull(kind, lo, hi)
        if dim == self.grain_dim:
            grain = max(1, GRAIN_BYTES // itemsize(self.dtype))
            low, high = low // grain * grain, np.where(high > low, -(-high // grain) * grain, low // grain * grain)
        return kind.axis, (low.astype(np.int32), high.astype(np.int32))


def _hull(span: Span, lo: NDArray[np.int32], hi: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per cell the smallest `lo` and the largest `hi` of its indices.

    The interval of an empty cell is empty, and where the next cell begins: cells of rising intervals stay in order.
    """
    full = np.flatnonzero(hi > lo)
    low, high = np.zeros(lo.size, np.int64), np.zeros(lo.size, np.int64)
    # reduceat takes pairs (first, behind the last); the entries between cells are dropped.
    edges = np.stack([lo[full], np.minimum(hi[full], span.lo.size)], axis=1).reshape(-1)
    low[full] = np.minimum.reduceat(np.append(span.lo, span.lo[-1]), edges)[::2]
    high[full] = np.maximum.reduceat(np.append(span.hi, span.hi[-1]), edges)[::2]
    low = np.minimum(low, high)
    if full.size < lo.size:
        begins = np.append(low[full], high[full[-1:]])
        empty = np.flatnonzero(hi <= lo)
        low[empty] = high[empty] = begins[np.searchsorted(full, empty)] if full.size else 0
    return low, high


@dataclass(frozen=True)
class Result:
    """What an op writes: one axis per dimension, and the dimension whose grains stay together in memory."""

    tensor: int
    axes: tuple[str, ...]
    dtype: str
    grain_dim: int


@dataclass(frozen=True, eq=False)
class TileOp:
    """One op of the tile graph.

    `codelet` computes finished results. Where a reduce axis is cut, `partial` computes partials of type
    `partial_dtype` (one more leading dimension per cut axis) and `combine` reduces them and applies the epilogue.
    Where a row axis is cut, `partial` computes statistics of the axes `statistics`, behind one leading dimension per
    row axis, and `combine` makes the cell's own part of the result of those of all parts, the operands read again.
    `macs` counts multiply-accumulates of the dense op, for utilisation.

    `forms` are other ways to compute the same: each reads the same sources by operands in the same order and writes
    the same tensor (shape, type and grain dimension), through axes, access maps, operand grains and codelets of its
    own. `form` names one; the usual form has no name. Plans of all forms compete.

    Ops that were offered as chains (`Builder.offered`) have one form per chain, `chained`: what one of them hands on to
    the next is a tensor of that chain, and what they read of others they read through views of their own.
    """

    name: str
    kind: str
    axes: tuple[Axis, ...]
    operands: tuple[Operand, ...]
    result: Result
    codelet: Codelet
    partial: Codelet | None = None
    partial_dtype: str = "float32"
    combine: Codelet | None = None
    statistics: tuple[str, ...] = ()
    macs: int = 0
    sparse_macs: int | None = None
    origin: tuple[str, ...] = field(default=())
    form: str = ""
    forms: tuple["TileOp", ...] = ()
    chained: bool = False

    @property
    def all_forms(self) -> tuple["TileOp", ...]:
        """The op itself and its forms, by their numbers."""
        return self, *self.forms

    def in_form(self, form: int) -> "TileOp":
        """The op itself for 0, else the form of this number, counted from 1."""
        return self.forms[form - 1] if form else self

    @property
    def rows(self) -> tuple[str, ...]:
        """The row axes."""
        return tuple(a.name for a in self.axes if a.kind == "row")

    def axis(self, name: str) -> Axis:
        """The axis of this name."""
        return next(a for a in self.axes if a.name == name)
