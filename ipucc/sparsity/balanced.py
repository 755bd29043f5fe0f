"""Masks that fill the cells of a grid of tiles evenly: the best total score under capacities, exactly.

In a bulk-synchronous step all tiles wait for the fullest one. Where a tile holds the blocks of a fixed part of the
weight, as it must where patterns change while the program runs, a mask that is free to choose overloads some of them;
these masks give up a little of the score instead.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ipucc.sparsity.blocks import Mask
from ipucc.sparsity.masks import kept_count

__all__ = ["Balance", "balance_of", "balanced", "cells_of"]

_SCALE = 1 << 40
"""The highest score as an integer: flows have integer costs."""


@dataclass(frozen=True)
class Balance:
    """How evenly a mask fills a grid: blocks of the fullest cell over the mean, and the same of whole rows and columns
    of cells, which a product and its transposed form add up."""

    cell: float
    row: float
    column: float


def cells_of(shape: tuple[int, int], grid: tuple[int, int]) -> NDArray[np.int64]:
    """[rows, columns] of blocks: the cell of each in a grid of `bands` x `across` parts of equal width, to one."""
    (high, wide), (bands, across) = shape, grid
    if not (1 <= bands <= high and 1 <= across <= wide):
        raise ValueError(f"a grid of {bands} x {across} cells does not cut {high} x {wide} blocks")
    return np.add.outer(np.arange(high) * bands // high * across, np.arange(wide) * across // wide)


def balance_of(mask: Mask, grid: tuple[int, int]) -> Balance:
    """The balance of a mask [taps, rows, columns], or [rows, columns], on a grid."""
    kept = mask.reshape(-1, *mask.shape[-2:]).sum(axis=0)
    cells = cells_of((kept.shape[0], kept.shape[1]), grid)
    load = np.bincount(cells.reshape(-1), kept.reshape(-1), minlength=grid[0] * grid[1]).reshape(grid).astype(np.int64)

    def fullest(held: NDArray[np.int64]) -> float:
        return float(held.max() / held.mean()) if held.any() else 1.0

    return Balance(fullest(load), fullest(load.sum(axis=1)), fullest(load.sum(axis=0)))


def balanced(
    scores: NDArray[np.float64], density: float, grid: tuple[int, int], slack: float = 0.0, *, sides: bool = False
) -> Mask:
    """The mask of highest total score that keeps `kept_count` blocks and overfills no cell of the grid.

    `scores` is [taps, rows, columns], none negative. A cell keeps at most ceil(mean x (1 + slack)) blocks, the mean
    over all cells; with `sides` whole rows and columns of cells are bounded alike, which takes a flow of least cost
    (exact, integers), where the bound on cells alone is a matroid that taking the best blocks first solves. Where
    cells are too small for the count, the bound of a cell is what lets the count be kept. Equal scores go by place.
    """
    if slack < 0:
        raise ValueError(f"slack must not be negative, not {slack}")
    cells = np.broadcast_to(cells_of((scores.shape[1], scores.shape[2]), grid), scores.shape).reshape(-1)
    flat = scores.reshape(-1)
    count = kept_count(flat.size, density)
    size = np.bincount(cells, minlength=grid[0] * grid[1])
    cap = ceil(count / size.size * (1 + slack))
    while int(np.minimum(size, cap).sum()) < count:
        cap += 1
    # The rank of every block within its cell, the best first.
    order = np.lexsort((np.arange(flat.size), -flat, cells))
    rank = np.empty(flat.size, np.int64)
    rank[order] = np.arange(flat.size) - np.repeat(np.cumsum(size) - size, size)
    eligible = np.flatnonzero(rank < cap)
    mask = np.zeros(flat.size, bool)
    if not sides:
        best = eligible[np.argsort(-flat[eligible], kind="stable")[:count]]
        mask[best] = True
        return mask.reshape(scores.shape)
    while True:
        kept = _flow(flat, cells, eligible, count, grid, slack)
        if kept is not None:
            mask[kept] = True
            return mask.reshape(scores.shape)
        # Uneven grids: rows or columns of cells cannot take their share. One more block a cell, until they can.
        slack += size.size / count


def _flow(
    scores: NDArray[np.float64], cells: NDArray[np.int64], eligible: NDArray[np.int64], count: int,
    grid: tuple[int, int], slack: float,
) -> NDArray[np.int64] | None:  # fmt: skip
    """The `count` eligible blocks of highest total score with bounded rows and columns of cells; None: there are not
    as many. From the source to every row of cells, by one arc per block to a column, and on to the sink."""
    # Loading the solver takes longer than most masks, and every compile imports this module.
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow

    bands, across = grid
    source, sink = bands + across, bands + across + 1
    flow = SimpleMinCostFlow()
    rows, columns = np.divmod(cells[eligible], across)
    cost = -np.rint(scores[eligible] / max(float(scores.max()), 1e-300) * _SCALE).astype(np.int64)
    arcs = flow.add_arcs_with_capacity_and_unit_cost(rows, bands + columns, np.ones(eligible.size, np.int64), cost)
    room = ceil(count / bands * (1 + slack)), ceil(count / across * (1 + slack))
    for r in range(bands):
        flow.add_arc_with_capacity_and_unit_cost(source, r, room[0], 0)
    for c in range(across):
        flow.add_arc_with_capacity_and_unit_cost(bands + c, sink, room[1], 0)
    flow.set_nodes_supplies(np.array([source, sink]), np.array([count, -count]))
    if flow.solve() != flow.OPTIMAL:
        return None
    return eligible[np.asarray(flow.flows(arcs)) > 0]
