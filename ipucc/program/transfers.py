"""What an exchange sends: its moves as transfers from one tile to any number of tiles, without those within a tile."""

from dataclasses import dataclass

import numpy as np

from ipucc.program.model import Buffer, Move
from ipucc.target import Target
from ipucc.tiles.intersect import Ints, pairs
from ipucc.tiles.layout import Layout

__all__ = ["Transfers", "link_bytes", "port_cycles", "transfers"]


@dataclass(frozen=True, eq=False)
class Transfers:
    """The transfers of one exchange: per transfer the sender, its bytes, its fragments, and all receiving tiles.

    The receivers of transfer i are `receivers[first[i] : first[i + 1]]`, one at least. A run of more than the longest
    send counts as several fragments. `paired` marks transfers that move at the pair rate. `local_bytes` counts, per
    tile, the bytes that stay on it and are copied.
    """

    sender: Ints
    size: Ints
    fragments: Ints
    first: Ints
    receivers: Ints
    paired: Ints
    local_bytes: Ints

    def __len__(self) -> int:
        return self.sender.size

    def rate(self, target: Target) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Bytes per cycle of every transfer."""
        return np.where(self.paired > 0, target.pair_bytes_per_cycle, target.exchange_bytes_per_cycle)


def transfers(moves: tuple[Move, ...], buffers: list[Buffer], target: Target) -> Transfers:
    """Every transfer of an exchange, what stays on a tile taken out. Whoever holds the data first in the source's
    layout sends it, once for all holders of a destination cell."""
    parts: list[tuple[Ints, ...]] = []
    local = np.zeros(target.tiles, np.int64)
    for move in moves:
        if move.tracks:
            parts.append(_of_move(move, buffers[move.src].layout, buffers[move.dst].layout, local, target))
    none = np.zeros(0, np.int64)
    sender, size, fragments, count, receivers, paired = (
        (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else [none] * 6
    )
    return Transfers(sender, size, fragments, np.concatenate([[0], np.cumsum(count)]), receivers, paired, local)


def _of_move(move: Move, src: Layout, dst: Layout, local: Ints, target: Target) -> tuple[Ints, ...]:
    """Sender, bytes, fragments, number of receivers, and pairing of every transfer of one move; receivers of all."""
    sc = dc = np.zeros(1, np.int64)
    size = runs = np.ones(1, np.int64)
    for t in move.tracks:
        a, b, n, f = pairs(t, 4 * target.max_send_words)
        sc, dc = (sc[:, None] + a[None, :]).reshape(-1), (dc[:, None] + b[None, :]).reshape(-1)
        size, runs = (size[:, None] * n[None, :]).reshape(-1), (runs[:, None] * f[None, :]).reshape(-1)
    holders = src.tiles.reshape(-1, src.replicas).astype(np.int64)
    cells = dst.tiles.reshape(-1, dst.replicas).astype(np.int64)
    to = cells[dc]
    if src.replicas == 1:
        here = to == holders[sc]
    else:
        held = np.zeros((holders.shape[0], target.tiles), bool)
        np.put_along_axis(held, holders, True, axis=1)
        here = held[sc[:, None], to]
    np.add.at(local, to[here], np.broadcast_to(size[:, None], to.shape)[here])
    sent = ~here.all(axis=1)
    away = ~here[sent]
    # Of a pair that listens, one tile may hold the data itself.
    paired = _paired(cells, target)[dc[sent]]
    return holders[sc[sent], 0], size[sent], runs[sent], away.sum(axis=1), to[sent][away], paired


def _paired(cells: Ints, target: Target) -> Ints:
    """1 for the cells whose holders are whole pairs of neighbouring tiles."""
    if target.pair_tiles != 2 or target.pair_bytes_per_cycle <= target.exchange_bytes_per_cycle or cells.shape[1] % 2:
        return np.zeros(len(cells), np.int64)
    tiles = np.sort(cells, axis=1)
    low, high = tiles[:, 0::2], tiles[:, 1::2]
    return np.asarray(((low % 2 == 0) & (high == low + 1)).all(axis=1), np.int64)


def port_cycles(moved: Transfers, target: Target) -> float:
    """What the busiest port takes for its own transfers: the least that any order of them can take."""
    busy = moved.size / moved.rate(target)
    pairs_of = np.where(moved.paired > 0, busy, 0.0)
    lanes = np.bincount(moved.sender, weights=busy, minlength=target.tiles + 1)
    lanes += np.bincount(moved.sender ^ 1, weights=pairs_of, minlength=target.tiles + 1)
    ears = np.bincount(moved.receivers, weights=np.repeat(busy, np.diff(moved.first)), minlength=target.tiles)
    return max(float(lanes.max(initial=0)), float(ears.max(initial=0)))


def link_bytes(moved: Transfers, target: Target) -> int:
    """Bytes that the busiest chip sends to others, or receives from them: a transfer goes once to every chip on which
    somebody listens."""
    if target.ipus == 1:
        return 0
    which = np.repeat(np.arange(len(moved)), np.diff(moved.first))
    to = moved.receivers // target.tiles_per_ipu
    pairs = np.unique(which * target.ipus + to)
    which, to = pairs // target.ipus, pairs % target.ipus
    of = moved.sender[which] // target.tiles_per_ipu
    size = np.where(of != to, moved.size[which], 0)
    sent, received = (np.bincount(x, weights=size, minlength=target.ipus) for x in (of, to))
    return int(max(sent.max(initial=0), received.max(initial=0)))
