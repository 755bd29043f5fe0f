"""The order of the transfers of an exchange: a rule with parameters, the schedule it makes, and the search for both.

A program stores the rule, not the list: `greedy{queue=near,look=64,pieces=1}`. Both sides of the file evaluate it here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

import numpy as np

from ipucc.target import Target
from ipucc.tiles.intersect import Ints

if TYPE_CHECKING:
    from ipucc.program.transfers import Transfers

__all__ = ["FIRST_ORDER", "Order", "schedule", "search_order"]

_SEARCHED: Final = ("near", "long", "wide")
_QUEUES: Final = (*_SEARCHED, "given")
_MOST: Final = 1024
_TEXT: Final = re.compile(r"greedy\{queue=(\w+),look=([1-9]\d{0,3}),pieces=([1-9]\d{0,3})\}", re.ASCII)

# Cycles are counted in eighths so that 8 bytes a cycle and 4 bytes a cycle are whole numbers for any byte count.
_SCALE: Final = 8

# Receivers of all transfers, times pieces, that one search may schedule; a second of work for the largest exchanges.
_BUDGET: Final = 1 << 22

_NO_LIMIT: Final = 1 << 59


@dataclass(frozen=True)
class Order:
    """The rule `greedy`: a sender that becomes free starts, among the first `look` transfers of its queue, the one
    whose receivers are all free, and where there are several, the one with the receiver that has most left to hear.

    `queue` says how a sender's transfers are lined up: `near`, by the distance of their last receiver from the sender,
    counted upwards and around, so that senders that serve the same receivers start with different ones; `long`, most
    bytes first; `wide`, most receivers first; `given`, move by move as the exchange lists them, and within a move by
    the cells of its source. With `look=1` a sender keeps to its queue, whatever its receivers do. A transfer of several
    fragments may make room for another between them; it is sent in at most `pieces` equal parts.
    """

    queue: str = "near"
    look: int = 64
    pieces: int = 1

    def __str__(self) -> str:
        return f"greedy{{queue={self.queue},look={self.look},pieces={self.pieces}}}"

    @staticmethod
    def parse(text: str) -> "Order":
        """The rule that a text stands for. ValueError for any other text."""
        match = _TEXT.fullmatch(text)
        if match is not None:
            order = Order(match[1], int(match[2]), int(match[3]))
            if order.queue in _QUEUES and max(order.look, order.pieces) <= _MOST:
                return order
        raise ValueError(
            f"unknown order of transfers, not like {Order()} with queue {', '.join(_QUEUES)} and numbers up to {_MOST}"
        )


FIRST_ORDER: Final = Order()
"""The cheapest rule to evaluate, and the first that is tried."""


def schedule(moved: "Transfers", order: Order, target: Target) -> int:
    """Cycles until the last transfer has arrived under the rule, port conflicts and nothing else counted."""
    return _scheduled(moved, order, _queue(moved, order.queue, target), target, _NO_LIMIT)


def search_order(moved: "Transfers", enough: int, target: Target) -> tuple[Order, int]:
    """The rule whose schedule ends first, the first one tried of several, and its cycles. The search ends with a
    schedule of `enough` cycles or less, or when its budget of work, counted in transfers and not in time, is spent."""
    best = FIRST_ORDER
    if not len(moved):
        return best, 0
    queues = {best.queue: _queue(moved, best.queue, target)}
    least = _scheduled(moved, best, queues[best.queue], target, _NO_LIMIT)
    fan, spent = np.diff(moved.first), moved.receivers.size
    longest, parts = int(np.bincount(moved.sender).max()), int(moved.fragments.max())
    tried = {(queues[best.queue].tobytes(), min(best.look, longest), min(best.pieces, parts))}
    for order in _candidates():
        spent += int(np.minimum(moved.fragments, order.pieces) @ fan)
        if least <= enough or spent > _BUDGET:
            break
        if order.queue not in queues:
            queues[order.queue] = _queue(moved, order.queue, target)
        # Most rules come to the same for exchanges of few transfers, or of few fragments.
        same = queues[order.queue].tobytes(), min(order.look, longest), min(order.pieces, parts)
        if same in tried:
            continue
        tried.add(same)
        cycles = _scheduled(moved, order, queues[order.queue], target, least - 1)
        if cycles < least:
            best, least = order, cycles
    return best, least


def _scheduled(moved: "Transfers", order: Order, queue: Ints, target: Target, limit: int) -> int:
    """The cycles of a schedule, any number above `limit` for one that takes more than that."""
    from ipucc.program.schedule_kernel import makespan  # numba: imported only where transfers are scheduled

    cost = np.ceil(moved.size * _SCALE / moved.rate(target)).astype(np.int64)
    pieces = np.minimum(moved.fragments, order.pieces)
    begin = np.searchsorted(moved.sender[queue], np.arange(target.tiles + 1))
    end = makespan(
        queue, begin, moved.sender, -(-cost // pieces), pieces, moved.first, moved.receivers, moved.paired, order.look,
        np.int64(limit * _SCALE),
    )  # fmt: skip
    return ceil(int(end) / _SCALE)


def _candidates() -> Iterator[Order]:
    """The rules behind the first, `FIRST_ORDER`, in the order in which they are tried: cheap ones first."""
    for look, pieces in ((64, 1), (64, 4), (512, 4), (512, 16)):
        for queue in _SEARCHED:
            order = Order(queue, look, pieces)
            if order != FIRST_ORDER:
                yield order


def _queue(moved: "Transfers", name: str, target: Target) -> Ints:
    """The transfers, sender by sender, lined up by the rule of that name."""
    return np.asarray(np.lexsort((_preference(moved, name, target), moved.sender)), np.int64)


def _preference(moved: "Transfers", name: str, target: Target) -> Ints:
    """The key by which a sender lines up its transfers, smallest first."""
    if name == "near":
        furthest = np.maximum.reduceat(moved.receivers, moved.first[:-1])
        return np.asarray((furthest - moved.sender) % target.tiles, np.int64)
    if name == "given":
        return np.arange(len(moved))
    return -moved.size if name == "long" else -np.diff(moved.first)
