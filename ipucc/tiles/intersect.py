"""The difference between two layouts: which bytes must move so that a second layout of a tensor comes to hold it.

The moves between two layouts are the product of one `Track` per group of a view; nothing is stored per transfer. A
track lists sequences of equal steps: `count` times from (source cell, byte offset) to (destination cell, byte offset).
The last track of a product moves contiguous runs of bytes; the others only add to cells and offsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from math import prod

import numpy as np
from numpy.typing import NDArray

from ipucc.tiles.cuts import Cut
from ipucc.tiles.layout import GRAIN_BYTES, Layout
from ipucc.tiles.view import Group, View

__all__ = ["Track", "intersect", "pairs"]

Ints = NDArray[np.int64]

# Folding an outer track into the runs multiplies the two lists; past this size the loop nest is the better form.
_FOLD_LIMIT = 65536


@dataclass(frozen=True, eq=False)
class Track:
    """Sequences of one group: arrays of equal length, cells as offsets into the flattened grids, offsets in bytes.

    `run` is the number of contiguous bytes of every step in the track that carries the data, 0 in the others.
    """

    src_cell: Ints
    dst_cell: Ints
    src_at: Ints
    dst_at: Ints
    count: Ints
    src_step: Ints
    dst_step: Ints
    run: Ints

    FIELDS = ("src_cell", "dst_cell", "src_at", "dst_at", "count", "src_step", "dst_step", "run")

    def __len__(self) -> int:
        return self.count.size

    @cached_property
    def digest(self) -> bytes:
        """Equal for tracks that move the same."""
        return sha256(b";".join(getattr(self, name).tobytes() for name in self.FIELDS)).digest()


def intersect(src: Layout, dst: Layout, view: View, wanted: Sequence[Cut] | None = None) -> tuple[Track, ...]:
    """The moves that fill `dst` (a layout of `view.dst`) from `src` (a layout of `view.src`).

    An element that several cells of `src` hold comes from the one that owns it (`Layout.owned`). `wanted` gives, per
    dimension of `dst`, the part of every cell that is filled; None fills all of it.

    Positions of `dst` outside its tensor, and elements without a source, receive nothing. The result is empty when
    nothing moves. Both layouts must have the same item size.
    """
    if src.shape != view.src or dst.shape != view.dst or src.itemsize != dst.itemsize:
        raise ValueError("layouts do not fit the view")
    carrier = _carrier(src, dst, view.groups)
    outer, inner = [], None
    for g in view.groups:
        track = _track(src, dst, g, dst.cuts if wanted is None else wanted, carries=g is carrier)
        if not len(track):
            return ()
        if g is carrier:
            inner = track
        else:
            outer.append(track)
    if inner is None:
        one = np.zeros(1, np.int64)
        # A single element takes a word of its own.
        size = np.full(1, max(src.itemsize, 4), np.int64)
        inner = Track(one, one, one, one, one + 1, one, one, size)
    outer = [t for t in outer if not _trivial(t)]
    return _fold(outer, inner)


def pairs(track: Track, longest: int | None = None) -> tuple[Ints, Ints, Ints, Ints]:
    """(source cell, destination cell, elements or bytes, fragments) per distinct pair of cells of a track.

    The third array counts bytes for the track that carries data and indices otherwise; the fourth counts runs, or the
    pieces of at most `longest` bytes that they are sent in.
    """
    width = int(track.dst_cell.max(initial=0)) + 1
    keys, inverse = np.unique(track.src_cell * width + track.dst_cell, return_inverse=True)
    weight = track.count * np.maximum(track.run, 1)
    size = np.bincount(inverse, weights=weight, minlength=keys.size).astype(np.int64)
    pieces = track.count if longest is None else track.count * np.maximum(1, -(-track.run // longest))
    runs = np.bincount(inverse, weights=pieces, minlength=keys.size).astype(np.int64)
    return keys // width, keys % width, size, runs


def _carrier(src: Layout, dst: Layout, groups: Sequence[Group]) -> Group | None:
    """The group in which neighbours of the destination's grain are neighbours in memory."""
    for g in groups:
        if dst.shape and dst.grain_dim in g.dst and (not src.shape or src.grain_dim in g.src):
            return g
    for g in groups:
        if dst.shape and dst.grain_dim in g.dst:
            return g
    return None


def _axis_points(layout: Layout, dim: int, part: Cut) -> tuple[Ints, Ints, Ints]:
    """(cell, global index, byte offset) of every position of a part of every cell of one dimension that lies in the
    tensor."""
    lo, hi = (x.astype(np.int64) for x in part)
    sizes = np.maximum(hi - lo, 0)
    cell = np.repeat(np.arange(lo.size), sizes)
    index = lo[cell] + np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep = (index >= 0) & (index < layout.shape[dim])
    cell, index = cell[keep], index[keep]
    return cell, index, layout.positions(dim, index - layout.cuts[dim][0][cell])


def _grid_strides(layout: Layout) -> list[int]:
    grid = layout.grid
    return [prod(grid[d + 1 :]) for d in range(len(grid))]


def _track(src: Layout, dst: Layout, group: Group, wanted: Sequence[Cut], carries: bool) -> Track:
    """All sequences of one group."""
    if len(group.src) == len(group.dst) == 1 and group.is_identity:
        quick = _interval_track(src, dst, group.src[0], group.dst[0], wanted[group.dst[0]], carries)
        if quick is not None:
            return quick
    dst_cell = np.zeros(1, np.int64)
    dst_at = np.zeros(1, np.int64)
    linear = np.zeros(1, np.int64)
    tail = np.full(1, dst.grain_dim in group.dst and (not src.shape or src.grain_dim in group.src))
    strides = _grid_strides(dst)
    for d in group.dst:
        cell, index, at = _axis_points(dst, d, wanted[d])
        if d == dst.grain_dim:
            tail = (tail[:, None] & (index[None, :] == dst.shape[d] - 1)).reshape(-1)
        else:
            tail = np.repeat(tail, index.size)
        dst_cell = (dst_cell[:, None] + cell[None, :] * strides[d]).reshape(-1)
        dst_at = (dst_at[:, None] + at[None, :]).reshape(-1)
        linear = (linear[:, None] * dst.shape[d] + index[None, :]).reshape(-1)
    source = group.index[linear] if linear.size else linear
    keep = source >= 0
    dst_cell, dst_at, source, tail = dst_cell[keep], dst_at[keep], source[keep], tail[keep]
    src_cell = np.zeros(source.size, np.int64)
    src_at = np.zeros(source.size, np.int64)
    strides = _grid_strides(src)
    for d in reversed(group.src):
        index = source % src.shape[d]
        source = source // src.shape[d]
        if d == src.grain_dim:
            tail = tail & (index == src.shape[d] - 1)
        cell = np.searchsorted(src.owned[d][0].astype(np.int64), index, side="right") - 1
        src_cell += cell * strides[d]
        src_at += src.positions(d, index - src.cuts[d][0].astype(np.int64)[cell])
    order = np.lexsort((dst_at, src_cell, dst_cell))
    size = src.itemsize if carries else 0
    return _sequences(
        src_cell[order], dst_cell[order], src_at[order], dst_at[order], tail[order], size, bool(src.shape)
    )


def _interval_track(src: Layout, dst: Layout, s: int, d: int, wanted: Cut, carries: bool) -> Track | None:
    """The track of a dimension that maps to itself, from the overlaps of two cuts, no element listed.

    None where elements must be listed: the dimension holds grains on one side only, or cuts fall inside grains.
    """
    n = min(src.shape[s], dst.shape[d])
    (a, b), (c, e) = src.owned[s], wanted
    low = np.maximum(a[None, :], np.maximum(c, 0)[:, None]).astype(np.int64)
    high = np.minimum(np.minimum(b[None, :], e[:, None]), n).astype(np.int64)
    to, of = np.nonzero(high > low)
    low, high = low[to, of], high[to, of]
    from_src, from_dst = low - src.cuts[s][0][of], low - dst.cuts[d][0][to]
    grained = (s == src.grain_dim, d == dst.grain_dim)
    cells = of * _grid_strides(src)[s], to * _grid_strides(dst)[d]
    if not carries:
        if any(grained):
            return None
        one = np.ones(1, np.int64)
        steps = int(src.positions(s, one)[0]), int(dst.positions(d, one)[0])
        count = high - low
        many = count > 1
        return Track(
            *cells, src.positions(s, from_src), dst.positions(d, from_dst), count,
            np.where(many, steps[0], 0), np.where(many, steps[1], 0), np.zeros_like(count),
        )  # fmt: skip
    grain = src.grain
    if not all(grained) or (from_src % grain).any() or (from_dst % grain).any():
        return None
    full, rest = (high - low) // grain, (high - low) % grain
    size = grain * src.itemsize
    first = np.full(1, grain, np.int64)
    steps = int(src.positions(s, first)[0]), int(dst.positions(d, first)[0])
    # Whole grains, then the part of a grain that is left; at the end of both tensors the grain is moved whole, so that
    # what lies behind it continues the run.
    ends = (high == src.shape[s]) & (high == dst.shape[d])
    full += ends & (rest > 0)
    tail = np.where(ends, 0, rest * src.itemsize)
    zero = np.zeros_like(full)
    if src.by_rows and dst.by_rows:
        # All grains of an overlap lie behind each other.
        at = src.positions(s, from_src), dst.positions(d, from_dst)
        return Track(*cells, *at, zero + 1, zero, zero, full * size + tail)
    parts = [
        (full > 0, zero, full, np.where(full > 1, steps[0], 0), np.where(full > 1, steps[1], 0), zero + size),
        (tail > 0, full * grain, zero + 1, zero, zero, tail),
    ]
    columns = []
    for has, skip, count, step_s, step_d, run in parts:
        at = src.positions(s, from_src + skip), dst.positions(d, from_dst + skip)
        columns.append([x[has] for x in (*cells, *at, count, step_s, step_d, run)])
    joined = [np.concatenate(pair) for pair in zip(*columns, strict=True)]
    order = np.lexsort((joined[3], joined[0], joined[1]))
    return Track(*(x[order] for x in joined))


def _sequences(
    src_cell: Ints, dst_cell: Ints, src_at: Ints, dst_at: Ints, tail: NDArray[np.bool_], itemsize: int, grained: bool
) -> Track:
    """Join single elements to runs (where `itemsize` > 0) and runs to sequences of equal steps.

    A run that ends with the tensor on both sides (`tail`) is lengthened to the end of its grain, which both layouts
    store: the machine moves words, and what lies behind continues the run. `grained` says that the source has grains;
    where it has none, or the ends lie differently in their grains, whole words are moved.
    """
    n = src_cell.size
    run = np.full(n, itemsize, np.int64)
    if itemsize and n:
        new = np.ones(n, bool)
        new[1:] = (
            (np.diff(src_cell) != 0)
            | (np.diff(dst_cell) != 0)
            | (np.diff(src_at) != itemsize)
            | (np.diff(dst_at) != itemsize)
        )
        start = np.flatnonzero(new)
        stop = np.append(start[1:], n)
        run = (stop - start) * itemsize
        left = -(src_at[start] + run) % GRAIN_BYTES
        alike = grained & (left == -(dst_at[start] + run) % GRAIN_BYTES)
        run += np.where(tail[stop - 1] & (src_at[start] % 4 == 0) & (dst_at[start] % 4 == 0),
                        np.where(alike, left, -run % 4), 0)  # fmt: skip
        src_cell, dst_cell, src_at, dst_at = (a[start] for a in (src_cell, dst_cell, src_at, dst_at))
        n = start.size
    same = np.zeros(n, bool)
    same[1:] = (np.diff(src_cell) == 0) & (np.diff(dst_cell) == 0) & (np.diff(run) == 0)
    step_s, step_d = np.zeros(n, np.int64), np.zeros(n, np.int64)
    step_s[1:], step_d[1:] = np.diff(src_at), np.diff(dst_at)
    steady = np.zeros(n, bool)
    steady[2:] = (np.diff(step_s)[1:] == 0) & (np.diff(step_d)[1:] == 0) & same[2:] & same[1:-1]
    first = ~steady
    # The second element of a sequence fixes its step: it opens none of its own unless the first already did so.
    breaks = np.flatnonzero(first)
    starts = []
    previous = -2
    for i in breaks.tolist():
        if previous == i - 1 and same[i]:
            previous = -2
            continue
        starts.append(i)
        previous = i
    begin = np.asarray(starts, np.int64)
    count = np.diff(np.append(begin, n))
    second = np.minimum(begin + 1, max(n - 1, 0))
    many = count > 1
    return Track(
        src_cell[begin],
        dst_cell[begin],
        src_at[begin],
        dst_at[begin],
        count,
        np.where(many, step_s[second], 0) if n else count,
        np.where(many, step_d[second], 0) if n else count,
        run[begin],
    )


def _trivial(track: Track) -> bool:
    """A track that adds nothing: one step from cell 0, offset 0 to cell 0, offset 0."""
    arrays = (track.src_cell, track.dst_cell, track.src_at, track.dst_at)
    return len(track) == 1 and int(track.count[0]) == 1 and not any(int(a[0]) for a in arrays)


def _fold(outer: list[Track], inner: Track) -> tuple[Track, ...]:
    """Lengthen the runs by outer tracks whose steps continue them, innermost first."""
    inner = _collapse(inner)
    changed = True
    while changed:
        changed = False
        length = int(inner.run[0])
        if not (inner.run == length).all():
            break
        for i, t in enumerate(outer):
            ok = (t.count == 1) | ((t.src_step == length) & (t.dst_step == length))
            if not (ok.all() and (t.count > 1).any()):
                continue
            if len(t) * len(inner) <= _FOLD_LIMIT:
                inner = _collapse(_multiply(t, inner))
                del outer[i]
            elif (t.count == t.count[0]).all():
                # All runs become longer alike: the track is left with where they begin.
                inner = _collapse(replace(inner, run=inner.run * t.count[0]))
                none = np.zeros_like(t.count)
                outer[i] = replace(t, count=none + 1, src_step=none, dst_step=none)
            else:
                continue
            changed = True
            break
    return (*outer, inner)


def _collapse(t: Track) -> Track:
    """Make one run of a sequence whose steps are as long as its runs."""
    whole = (t.count > 1) & (t.src_step == t.run) & (t.dst_step == t.run)
    run = np.where(whole, t.run * t.count, t.run)
    count = np.where(whole, 1, t.count)
    step_s, step_d = np.where(whole, 0, t.src_step), np.where(whole, 0, t.dst_step)
    return Track(t.src_cell, t.dst_cell, t.src_at, t.dst_at, count, step_s, step_d, run)


def _multiply(a: Track, b: Track) -> Track:
    """The product of an outer track, all of whose sequences become longer runs, with the carrying one."""
    n, m = len(a), len(b)

    def both(x: Ints, y: Ints) -> Ints:
        return (x[:, None] + y[None, :]).reshape(-1)

    return Track(
        both(a.src_cell, b.src_cell),
        both(a.dst_cell, b.dst_cell),
        both(a.src_at, b.src_at),
        both(a.dst_at, b.dst_at),
        np.tile(b.count, n),
        np.tile(b.src_step, n),
        np.tile(b.dst_step, n),
        np.repeat(a.count, m) * np.tile(b.run, n),
    )
