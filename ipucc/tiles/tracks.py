"""What can be read off a product of tracks without carrying it out: its words, its extent, its outer steps."""

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from ipucc.tiles.intersect import Track

__all__ = ["Extent", "extent", "flatten", "word_bytes"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Extent:
    """Bounds of a product of tracks: source and destination cells (first, last), byte offsets within cells (lowest,
    end of the highest), `bytes` moved per holder of the destination, and `steps` of the outer tracks together.

    `bytes` and `steps` are floats: they serve as bounds and may exceed any integer.
    """

    src_cells: tuple[int, int]
    dst_cells: tuple[int, int]
    src_bytes: tuple[int, int]
    dst_bytes: tuple[int, int]
    bytes: float
    steps: float


def word_bytes(tracks: tuple[Track, ...]) -> int:
    """The largest word (8, 4, 2 or 1 bytes) that divides every address, step and length of a product of tracks."""
    unit = 8
    for t in tracks:
        many = t.count > 1
        for a in (t.src_at, t.dst_at, t.run, t.src_step[many], t.dst_step[many]):
            unit = gcd(unit, int(np.gcd.reduce(a, initial=0)))
    return unit


def extent(tracks: tuple[Track, ...]) -> Extent:
    """The bounds of a product of at least one track. Every combination of sequences occurs, so they are tight."""
    src_cells, dst_cells, src_bytes, dst_bytes = (0, 0), (0, 0), (0, 0), (0, 0)
    moved = steps = 1.0
    for i, t in enumerate(tracks):
        last = i + 1 == len(tracks)
        run = t.run if last else np.zeros_like(t.run)
        src_cells = _plus(src_cells, t.src_cell, t.src_cell)
        dst_cells = _plus(dst_cells, t.dst_cell, t.dst_cell)
        src_bytes = _plus(src_bytes, *_swept(t.src_at, t.src_step, t.count, run))
        dst_bytes = _plus(dst_bytes, *_swept(t.dst_at, t.dst_step, t.count, run))
        count = t.count.astype(np.float64)
        moved *= float((count * t.run).sum()) if last else float(count.sum())
        steps *= 1.0 if last else float(count.sum())
    return Extent(src_cells, dst_cells, src_bytes, dst_bytes, moved, steps)


def _plus(bounds: tuple[int, int], low: Ints, high: Ints) -> tuple[int, int]:
    return bounds[0] + int(low.min()), bounds[1] + int(high.max())


def _swept(at: Ints, step: Ints, count: Ints, run: Ints) -> tuple[Ints, Ints]:
    """First byte and end of every sequence."""
    way = (count - 1) * step
    return at + np.minimum(way, 0), at + np.maximum(way, 0) + run


def flatten(tracks: tuple[Track, ...]) -> tuple[Ints, Ints, Ints, Ints]:
    """(source cell, destination cell, source offset, destination offset) of every step of all tracks but the last."""
    out = tuple(np.zeros(1, np.int64) for _ in range(4))
    for t in tracks[:-1]:
        which = np.repeat(np.arange(len(t)), t.count)
        nth = np.arange(which.size) - np.repeat(np.cumsum(t.count) - t.count, t.count)
        own = (
            t.src_cell[which],
            t.dst_cell[which],
            t.src_at[which] + nth * t.src_step[which],
            t.dst_at[which] + nth * t.dst_step[which],
        )
        out = tuple((a[:, None] + b[None, :]).reshape(-1) for a, b in zip(out, own, strict=True))
    return out[0], out[1], out[2], out[3]
