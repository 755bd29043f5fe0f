"""Variables of a program under construction, and the parts of them that copies read and write."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import EllipsisType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.diagnostics import error
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

__all__ = ["Key", "Part", "Slice", "Variable", "into"]

Key = int | slice | EllipsisType | Sequence[int] | NDArray[np.integer]
_FULL: Final = slice(None)


@dataclass(frozen=True, eq=False)
class Slice:
    """Part of a variable, or its elements in another order: what a copy can read.

    `picks` are the indices taken of every dimension of the variable where the part is no more than that: such a part
    can be written too.
    """

    variable: "Variable"
    view: View
    picks: tuple[NDArray[np.int64], ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as numpy has it: dimensions taken at one index are gone."""
        return self.view.dst

    def __getitem__(self, key: Key | tuple[Key, ...]) -> "Slice":
        """Part of this part, to be read; the indices are those of `Variable`."""
        return Slice(self.variable, _taken(self.view, _picks(self.shape, key, self.variable.name)))

    def reshape(self, *shape: int) -> "Slice":
        """The same elements in row-major order under another shape."""
        if prod(shape) != prod(self.shape):
            raise error("IPU1002", f"a part of {self.variable.name!r} of the shape {list(self.shape)} has no view as "
                        f"{list(shape)}")  # fmt: skip
        return Slice(self.variable, self.view.then(View.reshape(self.shape, shape)))

    def transpose(self, *order: int) -> "Slice":
        """Dimensions in another order, as in numpy; without any, reversed."""
        perm = order or tuple(reversed(range(len(self.shape))))
        if sorted(perm) != list(range(len(self.shape))):
            raise error("IPU1002", f"{list(perm)} is no order of the dimensions of {self.variable.name!r}")
        return Slice(self.variable, self.view.then(View.transpose(self.shape, perm)))

    def broadcast_to(self, *shape: int) -> "Slice":
        """As numpy.broadcast_to."""
        try:
            view = View.broadcast(self.shape, shape)
        except ValueError as problem:
            raise error("IPU1002", f"{self.variable.name!r}: {problem}") from problem
        return Slice(self.variable, self.view.then(view))


@dataclass(frozen=True, eq=False)
class Variable:
    """A tensor in tile memory: `layout` says which tile holds which cell of it. Made by `Builder.variable`."""

    name: str
    dtype: str
    layout: Layout
    buffer: int
    owner: object

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return self.layout.shape

    @property
    def cells(self) -> int:
        """Number of cells over all tiles, replicas not counted."""
        return prod(self.layout.grid)

    @property
    def tiles(self) -> NDArray[np.int32]:
        """[cells, replicas]: the tiles that hold each cell."""
        return self.layout.tiles.reshape(-1, self.layout.replicas)

    @property
    def nbytes(self) -> int:
        """Bytes on every tile that holds part of it."""
        return self.layout.nbytes

    @property
    def whole(self) -> Slice:
        """All of it."""
        return Slice(self, View.identity(self.shape), tuple(np.arange(n) for n in self.shape))

    def __getitem__(self, key: Key | tuple[Key, ...]) -> Slice:
        """Part of it, to be read or written by a copy. As in numpy: numbers, slices, an ellipsis, and lists of indices,
        each for a dimension of its own."""
        picks = _picks(self.shape, key, self.name)
        return Slice(self, _taken(View.identity(self.shape), picks), tuple(index for index, _ in picks))

    def reshape(self, *shape: int) -> Slice:
        """See `Slice.reshape`."""
        return self.whole.reshape(*shape)

    def transpose(self, *order: int) -> Slice:
        """See `Slice.transpose`."""
        return self.whole.transpose(*order)

    def broadcast_to(self, *shape: int) -> Slice:
        """See `Slice.broadcast_to`."""
        return self.whole.broadcast_to(*shape)


Part = Variable | Slice


def into(part: Slice) -> View:
    """The variable of a part as a view of what is copied into the part: elements outside of it have no source.

    Raises IPU1002 for a part that cannot be written.
    """
    variable, picks = part.variable, part.picks
    if picks is None:
        raise error("IPU1002", f"a part of {variable.name!r} in another order or shape cannot be written",
                    help=["reshape or transpose what is copied instead"])  # fmt: skip
    sizes = tuple(p.size for p in picks)
    view = View.reshape(part.shape, sizes)
    for d, (index, size) in enumerate(zip(picks, variable.shape, strict=True)):
        if index.size == size and np.array_equal(index, np.arange(size)):
            continue
        if np.unique(index).size != index.size:
            raise error("IPU1002", f"a part of {variable.name!r} names an index of dimension {d} twice")
        places = np.full(size, -1, np.int64)
        places[index] = np.arange(index.size)
        view = view.then(View.take(view.dst, d, places))
    return view


def _taken(view: View, picks: Sequence[tuple[NDArray[np.int64], bool]]) -> View:
    """A view without what is not picked of every dimension."""
    for d, (index, _) in enumerate(picks):
        if not np.array_equal(index, np.arange(view.dst[d])):
            view = view.then(View.take(view.dst, d, index))
    return view.then(View.reshape(view.dst, tuple(index.size for index, single in picks if not single)))


def _picks(shape: tuple[int, ...], key: Key | tuple[Key, ...], name: str) -> list[tuple[NDArray[np.int64], bool]]:
    """(indices, whether the dimension goes) of every dimension. Raises IPU1002 for what is no part of the shape."""
    keys = key if isinstance(key, tuple) else (key,)
    named = [k for k in keys if k is not Ellipsis]
    if len(named) > len(shape) or len(keys) - len(named) > 1:
        raise error("IPU1002", f"{len(named)} indices for {name!r}, which has {len(shape)} dimensions")
    at = next((i for i, k in enumerate(keys) if k is Ellipsis), len(keys))
    rest = [_FULL] * (len(shape) - len(named))
    out = []
    for d, (one, size) in enumerate(zip([*keys[:at], *rest, *keys[at + 1 :]], shape, strict=True)):
        if isinstance(one, slice):
            out.append((np.arange(size)[one], False))
            continue
        index = np.asarray(one)
        whole = index.dtype.kind in "iu" and index.ndim < 2
        if not whole or (index.size and not -size <= int(index.min()) <= int(index.max()) < size):
            raise error("IPU1002", f"{name!r}: {one!r} is no index of dimension {d} of {size} elements")
        out.append((np.atleast_1d(np.where(index < 0, index + size, index)).astype(np.int64), index.ndim == 0))
    return out
