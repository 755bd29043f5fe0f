"""In how many serial steps a combination of part counts is worth taking.

Steps save memory and cost time: another phase, smaller cells. So a combination gets as few of them as bring it into the
memory of a tile, or into a part of it, since placement may have to make do with less. Steps in which sums rotate save
time as well, that of the reduction; their number is given by the tiles along the reduce axis.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from ipucc.ops.spec import TileOp
from ipucc.passes.plan.price import Counts, Priced, Serial, leaves_words

__all__ = ["serial_steps"]

Pricing = Callable[[Counts, Serial], Priced]

_MOST: Final = 64
"""Steps at most."""
_SHARES: Final = (1, 2, 4)
"""Parts of the memory that combinations are brought into."""
_LEFT: Final = (1, 2, 3, 4, 5, 6, 8)
"""How many rings the tiles along a reduce axis may form, and so how many partials are left where sums rotate."""
_FASTEST: Final = 4_000
"""Combinations that are tried with sums that rotate: the fastest without."""


def serial_steps(
    op: TileOp, parts: Counts, base: Priced, budget: int, alike: int, adds: bool, price: Pricing
) -> Iterator[tuple[Counts, Serial, Priced]]:
    """All serial steps to try: the rows of `parts` that they are for, and the prices of these.

    `base` has the prices without steps, `price` gives those of some rows with steps. `budget` and `alike` are those of
    `enumerate_plans`; `adds` says that the op has forms whose rounds add up.
    """
    if not op.result.axes:
        return
    for i, axis in enumerate(op.axes):
        if axis.kind == "parallel" or (axis.kind == "reduce" and adds):
            yield from _as_few_as_fit(op, i, parts, base, budget, alike, price)
    reduced = [i for i, a in enumerate(op.axes) if a.kind == "reduce"]
    if len(reduced) == 1 and adds and leaves_words(op):
        yield from _rings(op, reduced[0], parts, base, price)


def _as_few_as_fit(
    op: TileOp, i: int, parts: Counts, base: Priced, budget: int, alike: int, price: Pricing
) -> Iterator[tuple[Counts, Serial, Priced]]:
    axis = op.axes[i]
    grains = -(-axis.size // axis.grain)
    # A round without a share of the sums would be in vain: cells of a reduce axis are all cut as the smallest can be.
    most = np.minimum(grains // parts[:, i] if axis.kind == "reduce" else -(-grains // parts[:, i]), _MOST)
    rows = np.flatnonzero(most > 1)
    if not rows.size:
        return
    adds = axis.name if axis.kind == "reduce" else None
    most, cell = most[rows], -(-grains // parts[rows, i])
    lean = Serial(axis.name, most, adds)
    leanest = price(rows, lean)
    yield rows, lean, leanest
    done = most
    for gathered in (False, True):
        before, behind = (x.total(gathered, alike) for x in (base.of(rows), leanest))
        # What steps divide, and what they do not: bytes = fixed + divided / steps.
        divided = (before - behind) * most / (most - 1)
        fixed = before - divided
        for share in _SHARES:
            room = budget // share
            wanted = np.flatnonzero((before > room) & (behind <= room))
            if not wanted.size:
                continue
            steps = np.ceil(divided[wanted] / np.maximum(room - fixed[wanted], 1)).astype(np.int64)
            steps = np.clip(steps, 2, most[wanted])
            # As many as pieces of that size need.
            steps = np.minimum(-(-cell[wanted] // np.maximum(cell[wanted] // steps, 1)), most[wanted])
            new = np.flatnonzero(steps != done[wanted])
            picked = rows[wanted[new]]
            if picked.size:
                serial = Serial(axis.name, steps[new], adds)
                yield picked, serial, price(picked, serial)


def _rings(
    op: TileOp, reduced: int, parts: Counts, base: Priced, price: Pricing
) -> Iterator[tuple[Counts, Serial, Priced]]:
    ways = parts[:, reduced]
    fast = np.zeros(len(parts), bool)
    fast[np.argsort(base.score, kind="stable")[:_FASTEST]] = True
    for i, axis in enumerate(op.axes):
        if axis.kind != "parallel":
            continue
        most = -(-axis.size // axis.grain) // parts[:, i]
        for left in _LEFT:
            steps = ways // left
            rows = np.flatnonzero(fast & (ways % left == 0) & (steps > 1) & (steps <= most))
            if rows.size:
                serial = Serial(axis.name, steps[rows], op.axes[reduced].name)
                yield rows, serial, price(rows, serial)
