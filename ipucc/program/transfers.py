"""The order of the transfers of an exchange, as a rule, and the schedule that the rule makes.

A rule gives every sender an order of its transfers; senders take turns. Each transfer starts as soon as its sender's
lane and all its receivers are free. Rules, not lists, are stored in a program: both sides of the file evaluate them
here.
"""

from math import ceil
from typing import TYPE_CHECKING, Final

import numpy as np

from ipucc.target import Target
from ipucc.tiles.intersect import Ints

if TYPE_CHECKING:
    from ipucc.program.timing import Transfers

__all__ = ["ORDERS", "schedule"]

ORDERS: Final = ("linear", "rotate", "longest", "wide")
"""`linear`: as listed. `rotate`: sender number i starts i places further on in its list, so that senders which
serve the same receivers start with different ones. `longest`: long transfers first. `wide`: those with most receivers
first."""

# Cycles are counted in eighths so that 8 bytes a cycle and 4 bytes a cycle are whole numbers for any byte count.
_SCALE: Final = 8


def schedule(moved: "Transfers", order: str, target: Target) -> int:
    """Cycles until the last transfer has arrived, with the rule `order`. KeyError-free: unknown rules are IPU0506."""
    from ipucc.program.schedule_kernel import makespan  # numba: imported only where transfers are scheduled

    rank = _turns(moved.sender, _within(moved, order))
    rate = np.where(moved.paired > 0, target.pair_bytes_per_cycle, target.exchange_bytes_per_cycle)
    cost = np.ceil(moved.size * _SCALE / rate).astype(np.int64)
    return ceil(int(makespan(rank, moved.sender, cost, moved.receivers, moved.paired, target.tiles)) / _SCALE)


def _within(moved: "Transfers", order: str) -> Ints:
    """For every transfer its place in its sender's own list."""
    n = moved.sender.size
    if order == "linear" or order == "rotate":
        key = np.arange(n)
    elif order == "longest":
        key = -moved.size
    elif order == "wide":
        key = -(moved.receivers >= 0).sum(axis=1)
    else:
        from ipucc.diagnostics import error

        raise error("IPU0506", f"unknown order of transfers {order!r}", help=[f"known orders: {', '.join(ORDERS)}"])
    by = np.lexsort((np.arange(n), key, moved.sender))
    sender = moved.sender[by]
    first = np.flatnonzero(np.diff(sender, prepend=-1))
    length = np.diff(np.append(first, n))
    place = np.arange(n) - np.repeat(first, length)
    if order == "rotate":
        turn = np.repeat(np.arange(first.size), length)
        size = np.repeat(length, length)
        place = (place - turn) % size
    out = np.empty(n, np.int64)
    out[by] = place
    return out


def _turns(sender: Ints, place: Ints) -> Ints:
    """All first transfers in order of the sender, then all second ones, and so on."""
    return np.lexsort((sender, place))
