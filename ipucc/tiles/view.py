"""Views: how the indices of one tensor map to the indices of another that has the same elements, or some of them.

A view is a product of independent groups. A group joins some dimensions of the source with some of the destination and
says, for every linear index over the group's destination dimensions (row-major), which linear index over its source
dimensions holds that element; -1 means that no element does (padding). Reshape, transpose, slice, expand, pad, tile, a
gather by constant indices and a nearest-neighbour resize are all views, and so is every chain of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = ["Group", "View"]

Index = NDArray[np.int64]


class Group:
    """Some source dimensions, some destination dimensions (both ascending) and the index map between them.

    The commonest map, the identity, is given by its length alone and takes no memory.
    """

    def __init__(self, src: tuple[int, ...], dst: tuple[int, ...], index: Index | int) -> None:
        self.src, self.dst = src, dst
        self.size = index if isinstance(index, int) else index.size
        identity = isinstance(index, int) or bool(np.array_equal(index, np.arange(index.size)))
        self._table = None if identity else np.asarray(index, np.int64)

    @property
    def index(self) -> Index:
        """For every linear destination index the linear source index, -1 where there is none."""
        return np.arange(self.size) if self._table is None else self._table

    @property
    def is_identity(self) -> bool:
        """Whether linear destination index i is linear source index i (sizes may still differ)."""
        return self._table is None

    @property
    def is_total(self) -> bool:
        """Whether every destination index has a source."""
        return self._table is None or int(self._table.min()) >= 0

    @cached_property
    def digest(self) -> str:
        """Equal for groups that map the same dimensions alike."""
        index = b"" if self._table is None else self._table.tobytes()
        return sha256(repr((self.src, self.dst, self.size, self.is_identity)).encode() + index).hexdigest()


@dataclass(frozen=True, eq=False)
class View:
    """A map from the elements of a tensor of shape `dst` to the elements of a tensor of shape `src`."""

    src: tuple[int, ...]
    dst: tuple[int, ...]
    groups: tuple[Group, ...]

    @cached_property
    def digest(self) -> str:
        """Equal for equal views."""
        return sha256("".join([repr((self.src, self.dst)), *(g.digest for g in self.groups)]).encode()).hexdigest()

    @staticmethod
    def identity(shape: Sequence[int]) -> "View":
        """The view of a tensor as itself."""
        return _identity(tuple(shape))

    @staticmethod
    def reshape(src: Sequence[int], dst: Sequence[int]) -> "View":
        """Row-major reshape; dimensions are grouped as finely as the sizes allow."""
        a, b = tuple(src), tuple(dst)
        if prod(a) != prod(b):
            raise ValueError(f"cannot view {a} as {b}")
        if prod(a) == 0:
            return View(a, b, (Group(tuple(range(len(a))), tuple(range(len(b))), 0),))
        groups = []
        i = j = 0
        while i < len(a) or j < len(b):
            si, sj, left, right = i, j, 1, 1
            if i < len(a):
                left *= a[i]
                i += 1
            if j < len(b):
                right *= b[j]
                j += 1
            while left != right:
                if left < right:
                    left *= a[i]
                    i += 1
                else:
                    right *= b[j]
                    j += 1
            groups.append(Group(tuple(range(si, i)), tuple(range(sj, j)), left))
        return View(a, b, tuple(groups))

    @staticmethod
    def transpose(src: Sequence[int], perm: Sequence[int]) -> "View":
        """`dst[j]` is `src[perm[j]]`, as in numpy."""
        a = tuple(src)
        groups = tuple(Group((p,), (j,), a[p]) for j, p in enumerate(perm))
        return View(a, tuple(a[p] for p in perm), groups)

    @staticmethod
    def take(src: Sequence[int], dim: int, index: Sequence[int] | Index) -> "View":
        """Dimension `dim` taken at `index`; an index of -1 leaves the element without a source (padding)."""
        a = tuple(src)
        idx = np.asarray(index, np.int64)
        if idx.size and (idx.max() >= a[dim] or idx.min() < -1):
            raise ValueError(f"index outside dimension {dim} of {a}")
        groups = tuple(Group((i,), (i,), idx if i == dim else n) for i, n in enumerate(a))
        return View(a, (*a[:dim], idx.size, *a[dim + 1 :]), groups)

    @staticmethod
    def broadcast(src: Sequence[int], dst: Sequence[int]) -> "View":
        """numpy's broadcasting of shape `src` to shape `dst`."""
        a, b = tuple(src), tuple(dst)
        lead = len(b) - len(a)
        groups = [Group((), (j,), np.zeros(b[j], np.int64)) for j in range(lead)]
        for i, n in enumerate(a):
            m = b[lead + i]
            if n not in (1, m):
                raise ValueError(f"cannot broadcast {a} to {b}")
            groups.append(Group((i,), (lead + i,), m if n == m else np.zeros(m, np.int64)))
        return View(a, b, tuple(groups))

    @property
    def is_identity(self) -> bool:
        """Whether both shapes agree and every dimension maps to itself."""
        return self.src == self.dst and all(g.src == g.dst and g.is_identity for g in self.groups)

    @property
    def is_total(self) -> bool:
        """Whether every destination element has a source."""
        return all(g.is_total for g in self.groups)

    def then(self, outer: "View") -> "View":
        """The view of a view: `outer` reads the tensor that this view makes."""
        if outer.src != self.dst:
            raise ValueError(f"cannot view {self.dst} through a view of {outer.src}")
        groups = []
        for inner_ids, outer_ids in _joined(self.groups, outer.groups, self.dst):
            inner = [self.groups[i] for i in inner_ids]
            over = [outer.groups[i] for i in outer_ids]
            groups.append(_compose(self, outer, inner, over))
        return View(self.src, outer.dst, tuple(groups))

    def apply(self, array: NDArray[np.generic], fill: float = 0.0) -> NDArray[np.generic]:
        """The destination tensor for a source array; elements without a source become `fill`."""
        src_order = [d for g in self.groups for d in g.src]
        flat = array.transpose(src_order).reshape([prod(self.src[d] for d in g.src) for g in self.groups])
        if all(g.is_identity and g.size == n for g, n in zip(self.groups, flat.shape, strict=True)):
            taken = flat
        else:
            taken = flat[np.ix_(*[np.maximum(g.index, 0) for g in self.groups])]
        if not self.is_total:
            mask = np.ones(taken.shape, bool)
            for i, g in enumerate(self.groups):
                mask &= (g.index >= 0).reshape([-1 if j == i else 1 for j in range(len(self.groups))])
            taken = np.where(mask, taken, np.asarray(fill, array.dtype))
        dst_order = [d for g in self.groups for d in g.dst]
        out = taken.reshape([self.dst[d] for d in dst_order])
        return out.transpose(np.argsort(dst_order)) if dst_order else out.reshape(())


@lru_cache(maxsize=4096)
def _identity(dims: tuple[int, ...]) -> View:
    return View(dims, dims, tuple(Group((i,), (i,), n) for i, n in enumerate(dims)))


def _joined(inner: Sequence[Group], outer: Sequence[Group], middle: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pairs of group lists, one per set of groups that share middle dimensions, in order of the first member.

    A dimension of size 1 joins nothing that is more than itself: its index is 0 whatever the others are.
    """
    parent = list(range(len(inner) + len(outer)))
    alone = [True] * len(parent)

    def find(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    owner = {d: i for i, g in enumerate(inner) for d in g.dst}
    shared = [(owner[d], len(inner) + j, middle[d] == 1) for j, g in enumerate(outer) for d in g.src]
    for x, y, trivial in sorted(shared, key=lambda s: s[2]):
        if trivial and not (alone[x] or alone[y]):
            continue
        alone[x] = alone[y] = False
        a, b = find(x), find(y)
        parent[max(a, b)] = min(a, b)
    sets: dict[int, tuple[list[int], list[int]]] = {}
    for x in range(len(parent)):
        pair = sets.setdefault(find(x), ([], []))
        if x < len(inner):
            pair[0].append(x)
        else:
            pair[1].append(x - len(inner))
    return list(sets.values())


def _compose(first: View, second: View, inner: Sequence[Group], outer: Sequence[Group]) -> Group:
    """One group for all of `inner` (source to middle) and `outer` (middle to destination)."""
    src = tuple(sorted(d for g in inner for d in g.src))
    dst = tuple(sorted(d for g in outer for d in g.dst))
    if len(inner) == 1 and len(outer) == 1 and inner[0].dst == outer[0].src:
        if inner[0].is_identity:
            return Group(src, dst, outer[0].size if outer[0].is_identity else outer[0].index)
        if outer[0].is_identity:
            return Group(src, dst, inner[0].index[: outer[0].size])
        idx = outer[0].index
        return Group(src, dst, np.where(idx >= 0, inner[0].index[np.maximum(idx, 0)], -1))
    shape = [second.dst[d] for d in dst]
    grid = np.indices(shape, dtype=np.int64).reshape(len(shape), -1) if shape else np.zeros((0, 1), np.int64)
    valid = np.ones(grid.shape[1], bool)
    middle: dict[int, Index] = {}
    for g in outer:
        lin = _ravel([grid[dst.index(d)] for d in g.dst], [second.dst[d] for d in g.dst], grid.shape[1])
        got = g.index[lin]
        valid &= got >= 0
        middle.update(zip(g.src, _unravel(np.maximum(got, 0), [second.src[d] for d in g.src]), strict=True))
    source: dict[int, Index] = {}
    for g in inner:
        nought = np.zeros(grid.shape[1], np.int64)  # A dimension of size 1 may belong to another group.
        lin = _ravel([middle.get(d, nought) for d in g.dst], [first.dst[d] for d in g.dst], grid.shape[1])
        got = g.index[lin]
        valid &= got >= 0
        source.update(zip(g.src, _unravel(np.maximum(got, 0), [first.src[d] for d in g.src]), strict=True))
    lin = _ravel([source[d] for d in src], [first.src[d] for d in src], grid.shape[1])
    return Group(src, dst, np.where(valid, lin, -1))


def _ravel(coords: Sequence[Index], shape: Sequence[int], count: int) -> Index:
    lin = np.zeros(count, np.int64)
    for c, n in zip(coords, shape, strict=True):
        lin = lin * n + c
    return lin


def _unravel(lin: Index, shape: Sequence[int]) -> list[Index]:
    coords: list[Index] = []
    for n in reversed(shape):
        coords.append(lin % n if n else lin)
        lin = lin // n if n else lin
    return coords[::-1]
