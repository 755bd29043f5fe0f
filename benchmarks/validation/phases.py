"""Exchange phases of benchmarks: transfers made by hand, under ipucc's schedule and port rules."""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from ipucc.program.order import Order, search_order
from ipucc.program.transfers import Transfers, port_cycles
from ipucc.target import Target

__all__ = ["halo", "one_to_one", "phase_cycles"]

Ints = NDArray[np.int64]


def one_to_one(sender: Ints, receiver: Ints, nbytes: Ints, tiles: int) -> Transfers:
    """Transfers from one tile to another each, in one fragment."""
    ones = np.ones(sender.size, np.int64)
    first = np.arange(sender.size + 1)
    return Transfers(sender, nbytes, ones, first, receiver, np.zeros_like(ones), np.zeros(tiles, np.int64))


def phase_cycles(moved: Transfers, target: Target, order: Order | None = None) -> int:
    """Cycles of the transfers, without the overhead of the phase: those of the best order that is found, or of one, but
    no less than the ports by the fitted factor."""
    from ipucc.program.order import schedule

    least = ceil(port_cycles(moved, target) * target.exchange_factor)
    end = search_order(moved, least, target)[1] if order is None else schedule(moved, order, target)
    return max(end, least)


def halo(grid: tuple[int, ...], cell: tuple[int, ...], item: int, tiles: int) -> Transfers:
    """Every tile of a grid of tiles sends the layer of its cell that faces each neighbour: `cell` elements of `item`
    bytes along the dimensions of the grid."""
    at = np.arange(int(np.prod(grid))).reshape(grid)
    senders, receivers, sizes = [], [], []
    for d in range(len(grid)):
        low = np.take(at, range(grid[d] - 1), axis=d).reshape(-1)
        high = np.take(at, range(1, grid[d]), axis=d).reshape(-1)
        face = item * int(np.prod([c for i, c in enumerate(cell) if i != d]))
        senders += [low, high]
        receivers += [high, low]
        sizes += [np.full(2 * low.size, face)]
    return one_to_one(np.concatenate(senders), np.concatenate(receivers), np.concatenate(sizes), tiles)
