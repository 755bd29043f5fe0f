"""Layouts and tile lists as short, stable text."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from ipucc.tiles.layout import Layout

__all__ = ["layout_text", "tile_ranges"]

_SHOWN = 4


def tile_ranges(tiles: NDArray[np.integer]) -> str:
    """The distinct tiles of a list as half-open ranges, `tiles[0:128 256:384]`.

    Of more than four ranges the first three, the last one, their number and a hash of all are shown.
    """
    ids = np.unique(tiles)
    if ids.size == 0:
        return "tiles[]"
    first = np.flatnonzero(np.diff(ids, prepend=ids[0] - 2) != 1)
    last = np.append(first[1:], ids.size) - 1
    texts = [f"{a}:{b + 1}" for a, b in zip(ids[first].tolist(), ids[last].tolist(), strict=True)]
    if len(texts) > _SHOWN:
        texts = [*texts[: _SHOWN - 1], "..", texts[-1], f"{ids.size} tiles in {len(texts)} ranges {_hash(ids)}"]
    return f"tiles[{' '.join(texts)}]"


def layout_text(layout: Layout) -> str:
    """`[130/4 512/32]`: size and number of cells per dimension, then what is out of the ordinary, then the tiles.

    Dimensions that are not cut show their size alone. `grain` is the dimension whose grains stay together, the hash
    stands for cuts, slots and the order of the tiles.
    """
    dims = " ".join(str(n) if g == 1 else f"{n}/{g}" for n, g in zip(layout.shape, layout.grid, strict=True))
    parts = [f"[{dims}]"]
    if len(layout.shape) > 1 and layout.grain_dim != len(layout.shape) - 1:
        parts.append(f"grain {layout.grain_dim}")
    if layout.by_rows:
        parts.append("by rows")
    if layout.replicas > 1:
        parts.append(f"x{layout.replicas}")
    if layout.slot_count > 1:
        parts.append(f"slots {layout.slot_count}")
    if layout.core is not None:
        parts.append("overlapping")
    parts.append(tile_ranges(layout.tiles))
    slots = [] if layout.slots is None else [layout.slots]
    cuts = (*layout.cuts, *(layout.core or ()))
    parts.append(_hash(*(x for cut in cuts for x in cut), layout.tiles, *slots))
    return " ".join(parts)


def _hash(*arrays: NDArray[np.integer]) -> str:
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(repr(a.shape).encode())
        digest.update(np.ascontiguousarray(a.astype(np.int64)).tobytes())
    return f"#{digest.hexdigest()[:6]}"
