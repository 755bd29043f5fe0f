"""Where host tensors rest between the time the host writes them and the time an op reads them."""

from dataclasses import replace
from math import prod

import numpy as np

from ipucc.ops.graph import TileGraph
from ipucc.ops.spec import Operand
from ipucc.passes.plan.price import Hosted, worth_gathering
from ipucc.passes.plan.problem import Candidate
from ipucc.tiles.cuts import Cut, cut_axis, nested_cut, owned, useful_parts
from ipucc.tiles.layout import GRAIN_BYTES, Layout

__all__ = ["home_layout", "hosted_kind", "resting", "spread_layout"]


def spread_layout(shape: tuple[int, ...], itemsize: int, grain_dim: int, tiles: int) -> Layout:
    """One copy of a tensor spread over the first `tiles` tiles, so that the fullest tile holds as little as the two
    longest dimensions can be cut to: where a host tensor rests that no op gives a home."""
    grain = max(1, GRAIN_BYTES // itemsize)
    grains = [-(-n // (grain if d == grain_dim else 1)) for d, n in enumerate(shape)]
    parts = [1] * len(shape)
    longest = sorted(range(len(shape)), key=lambda d: (-grains[d], d))[:2]
    best: tuple[int, int] | None = None
    for first in useful_parts(grains[longest[0]], tiles).tolist() if longest else []:
        rest = tiles // first
        second = int(useful_parts(grains[longest[1]], rest)[-1]) if len(longest) > 1 else 1
        cell = -(-grains[longest[0]] // first) * (-(-grains[longest[1]] // second) if len(longest) > 1 else 1)
        if best is None or (cell, first * second) < best:
            best = cell, first * second
            parts = [1] * len(shape)
            parts[longest[0]] = first
            if len(longest) > 1:
                parts[longest[1]] = second
    cuts = tuple(cut_axis(n, parts[d], grain if d == grain_dim else 1) for d, n in enumerate(shape))
    grid = [c[0].size for c in cuts]
    held = np.arange(prod(grid), dtype=np.int32).reshape(*grid, 1)
    return Layout(shape, cuts, held, itemsize, grain_dim)


def home_layout(graph: TileGraph, home: tuple[int, int], cand: Candidate) -> Layout:
    """Where a host tensor rests that has its home at an operand (op, operand) of an op placed like that."""
    i, k = home
    stage = next(st for st in cand.stages if k in st.operands)
    op = graph.ops[i].in_form(cand.form)
    return resting(stage.operand_layout(op, k), hosted_kind(graph, op.operands[k]), cand.plan.gathered)


def hosted_kind(graph: TileGraph, operand: Operand) -> Hosted:
    """Where an operand comes from that no op of the graph makes."""
    kind = graph.tensors[operand.sources[0].tensor].kind
    assert kind != "result"
    return kind


def resting(used: Layout, kind: Hosted, gathered: bool) -> Layout:
    """Where a host tensor rests that an op needs as in `used`: there, or in one copy.

    An input that several tiles need is written once and fetched from there. A weight is written wherever it is used,
    unless the plan gathers weights and this one takes enough of every tile. What another part hands on comes over an
    exchange in any case, which brings it to all tiles that need it at once. Where cells overlap (halos), the one copy
    of what they share lies in the last of them. The copy of a cell is dealt out to the tiles that share the cell. What
    is cut out of order is spread.
    """
    if (kind == "weight" and not gathered) or (kind == "received" and used.slots is None):
        return used
    parts = [_inside(cut, n) for cut, n in zip(used.cuts, used.shape, strict=True)]
    held = prod(int((hi - lo).sum()) for lo, hi in parts)
    if held <= prod(used.shape) and used.replicas == 1:
        return used
    if all((np.diff(lo) >= 0).all() and (np.diff(hi) >= 0).all() for lo, hi in parts):
        cuts = tuple(_inside(owned(cut), n) for cut, n in zip(used.cuts, used.shape, strict=True))
        one = replace(used, cuts=cuts) if held > prod(used.shape) else used
        one = dealt_layout(one) if one.replicas > 1 else one
    else:
        tiles = used.used_tiles
        one = spread_layout(used.shape, used.itemsize, used.grain_dim, tiles.size)
        one = replace(one, tiles=tiles[one.tiles], by_rows=used.by_rows)
    if kind != "weight":
        return one
    return one if bool(worth_gathering(np.asarray(used.nbytes), one.nbytes)) else used


def _inside(cut: Cut, size: int) -> Cut:
    """What every cell has of the tensor."""
    lo = np.minimum(np.maximum(cut[0], 0), size).astype(np.int32)
    return lo, np.minimum(np.maximum(cut[1], lo), size).astype(np.int32)


def dealt_layout(used: Layout) -> Layout:
    """One copy of what `used` holds, every cell cut into pieces for the tiles that share it.

    Cuts run along the dimensions that lie outermost in memory, so that a piece is one contiguous run of its cell.
    """
    others = [d for d in range(len(used.shape)) if d != used.grain_dim]
    grained = [used.grain_dim] if used.shape else []
    order = [*others, *grained] if used.by_rows else [*grained, *others]
    cuts, ways, left = list(used.cuts), [1] * len(used.shape), used.replicas
    for d in order:
        grain = used.grain if d == used.grain_dim else 1
        lo, hi = used.cuts[d]
        ways[d] = max(1, min(left, int((-(-(hi - lo) // grain)).max(initial=1))))
        left //= ways[d]
        cuts[d] = nested_cut(used.cuts[d], ways[d], grain)
    pieces, rank = prod(ways), len(used.shape)
    # Pieces are dealt evenly over the tiles that share a cell, all of them where there are as many pieces.
    pick = np.arange(pieces) * used.replicas // pieces
    inner = used.tiles[..., pick].reshape((*used.grid, *ways))
    inner = inner.transpose([x for d in range(rank) for x in (d, rank + d)])
    tiles = inner.reshape(*(n * w for n, w in zip(used.grid, ways, strict=True)), 1)
    slots = used.slots
    for d, w in enumerate(ways):
        slots = slots if slots is None else np.repeat(slots, w, axis=d)
    return replace(used, cuts=tuple(cuts), tiles=np.ascontiguousarray(tiles), slots=slots)
