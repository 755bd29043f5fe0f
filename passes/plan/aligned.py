"""Cuts that an op takes over from what it reads: the same number of parts along dimensions that both have.

Where producer and consumer cut a dimension alike, whole cells move, or none: few fragments, and little of what a tile
has to hold beside. Such plans are rarely the fastest of an op alone, so they are offered beside those.
"""

from collections.abc import Iterator, Sequence

from ipucc.ops.spec import Along, Span, TileOp
from ipucc.passes.plan.overlap_flat import same_dim
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

__all__ = ["aligned_cuts"]


def aligned_cuts(
    op: TileOp, operand: int, view: View, layouts: Sequence[Layout]
) -> list[tuple[tuple[str, int], ...]]:  # fmt: skip
    """(axis, parts) with which `op` would cut operand `operand` as `layouts` of its source cut it, `view` between them:
    of the parallel axes, and of these with the reduce axes. In the order of the layouts, each once."""
    found: dict[tuple[tuple[str, int], ...], None] = {}
    for layout in layouts:
        parts = dict(_parts(op, operand, view, layout))
        parallel = {a: n for a, n in parts.items() if op.axis(a).kind == "parallel"}
        for cut in (parallel, parts):
            if any(n > 1 for n in cut.values()):
                found.setdefault(tuple(sorted(cut.items())))
    return list(found)


def _parts(op: TileOp, operand: int, view: View, layout: Layout) -> Iterator[tuple[str, int]]:
    for group in view.groups:
        dims = same_dim(group, view)
        kind = op.operands[operand].dims[dims[1]] if dims is not None else None
        if dims is None or not isinstance(kind, Along | Span):
            continue
        axis = op.axis(kind.axis)
        # A window that moves in steps reads other cells than it makes.
        if axis.kind in ("parallel", "reduce") and not axis.pinned and axis.size == view.dst[dims[1]]:
            yield axis.name, layout.grid[dims[0]]
