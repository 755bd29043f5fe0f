"""How many cycles a program takes: one function per kind of step, used by the compiler and by the simulator.

A compute set lasts as long as its slowest tile. An exchange phase lasts as long as the schedule of its transfers under
the port rules: a tile sends and receives 4 bytes a cycle, at the same time; a transfer may have any number of
receivers; where the receivers are whole tile pairs, 8 bytes a cycle move and both send lanes of the sender's pair are
taken; every received fragment costs control slots. The fitted factor on exchange bytes bounds what a schedule can
reach. Sources of the figures: the machine files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipucc.dtypes import itemsize
from ipucc.program.model import (
    Buffer,
    Call,
    Compute,
    Exchange,
    HostRead,
    HostWrite,
    Move,
    Program,
    Repeat,
    Step,
    busy_cells,
)  # fmt: skip
from ipucc.program.transfers import ORDERS, schedule
from ipucc.target import Target
from ipucc.tiles.intersect import Ints, pairs

__all__ = [
    "ExchangeTime", "StepTime", "Transfers", "best_order", "compute_cycles", "copy_time", "exchange_time",
    "program_times", "step_time", "transfers",
]  # fmt: skip


@dataclass(frozen=True)
class StepTime:
    """Cycles of one execution of a step. `sync` is the overhead of a phase, `host` is outside of the total."""

    name: str
    kind: str
    compute: int = 0
    exchange: int = 0
    sync: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """Cycles on the device."""
        return self.compute + self.exchange + self.sync

    def called(self, name: str) -> "StepTime":
        """The same under another name; an empty one changes nothing."""
        return replace(self, name=name) if name and name != self.name else self


@dataclass(frozen=True, eq=False)
class Transfers:
    """The transfers of one exchange: per transfer the sender, its bytes, fragments, and all receiving tiles. A run of
    more than the longest send counts as several fragments.

    `receivers` is [transfers, most receivers], padded with -1. `paired` marks transfers that move at the pair rate.
    `local_bytes` counts, per tile, the bytes that stay on it and are copied.
    """

    sender: Ints
    size: Ints
    fragments: Ints
    receivers: Ints
    paired: Ints
    local_bytes: Ints


@dataclass(frozen=True)
class ExchangeTime:
    """Cycles of one exchange phase: transfers, and the copies within tiles that run behind them.

    `port_cycles` is the least that the ports allow; `code_bytes` is the exchange code per tile.
    """

    exchange: int
    copy: int
    port_cycles: int
    sent_bytes: int
    received_bytes: int
    fragments: int
    code_bytes: Ints


def transfers(moves: tuple[Move, ...], buffers: list[Buffer], target: Target) -> Transfers:
    """Every transfer of an exchange, what stays on a tile taken out."""
    parts: list[tuple[Ints, Ints, Ints, Ints]] = []
    local = np.zeros(target.tiles, np.int64)
    for move in moves:
        if not move.tracks:
            continue
        src, dst = buffers[move.src].layout, buffers[move.dst].layout
        sc = dc = np.zeros(1, np.int64)
        size = runs = np.ones(1, np.int64)
        for t in move.tracks:
            a, b, n, f = pairs(t, 4 * target.max_send_words)
            sc, dc = (sc[:, None] + a[None, :]).reshape(-1), (dc[:, None] + b[None, :]).reshape(-1)
            size, runs = (size[:, None] * n[None, :]).reshape(-1), (runs[:, None] * f[None, :]).reshape(-1)
        holders = src.tiles.reshape(-1, src.replicas).astype(np.int64)
        to = dst.tiles.reshape(-1, dst.replicas)[dc].astype(np.int64)
        if src.replicas == 1:
            here = to == holders[sc]
        else:
            held = np.zeros((holders.shape[0], target.tiles), bool)
            np.put_along_axis(held, holders, True, axis=1)
            here = held[sc[:, None], to]
        np.add.at(local, to[here], np.broadcast_to(size[:, None], to.shape)[here])
        remote = ~here.all(axis=1)
        sender = holders[sc, 0]
        parts.append((sender[remote], size[remote], runs[remote], np.where(here, -1 - to, to)[remote]))
    if not parts:
        none = np.zeros(0, np.int64)
        return Transfers(none, none, none, np.zeros((0, 1), np.int64), none, local)
    width = max(p[3].shape[1] for p in parts)
    listeners = np.concatenate(
        [np.pad(p[3], ((0, 0), (0, width - p[3].shape[1])), constant_values=-(1 << 30)) for p in parts]
    )
    return Transfers(
        np.concatenate([p[0] for p in parts]),
        np.concatenate([p[1] for p in parts]),
        np.concatenate([p[2] for p in parts]),
        np.where(listeners >= 0, listeners, -1),
        _paired(listeners, target),
        local,
    )


def exchange_time(step: Exchange, buffers: list[Buffer], target: Target) -> ExchangeTime:
    """Cycles of an exchange phase with its transfers in the order that the step names."""
    return _timed(transfers(step.moves, buffers, target), step, buffers, target)


def best_order(step: Exchange, buffers: list[Buffer], target: Target) -> str:
    """The ordering rule that finishes first; the earlier rule of `ORDERS` where two tie."""
    moved = transfers(step.moves, buffers, target)
    if moved.size.size == 0:
        return ORDERS[0]
    return min(ORDERS, key=lambda order: schedule(moved, order, target))


def step_time(step: Exchange | Compute | HostWrite | HostRead, program: Program) -> StepTime:
    """Cycles of one step, as the compiler predicts them and as a run counts them.

    An exchange that moves nothing over the fabric costs no phase; its copies within tiles count as compute.
    """
    target = program.target
    if isinstance(step, Compute):
        cycles = int(compute_cycles(step, target).max(initial=0))
        return StepTime(step.name, "compute", compute=cycles)
    if isinstance(step, Exchange):
        t = exchange_time(step, program.buffers, target)
        sync = target.phase_cycles if t.exchange else 0
        return StepTime(step.name, "exchange", compute=t.copy, exchange=t.exchange, sync=sync)
    buffer = program.buffers[step.buffer]
    size = prod(buffer.layout.shape) * itemsize(buffer.dtype)
    kind = "host write" if isinstance(step, HostWrite) else "host read"
    return StepTime(step.tensor, kind, host=ceil(size / target.host_bytes_per_cycle))


def program_times(program: Program) -> list[StepTime]:
    """The time of every step in the order in which a run executes them, loops unrolled and calls followed.

    Steps of a loop have the names of the iteration.
    """
    known: dict[int, StepTime] = {}

    def run(step: Step, name: str = "") -> Iterator[StepTime]:
        if isinstance(step, Repeat):
            for i in range(step.count):
                for inner, called in zip(step.body, step.names_in(i), strict=True):
                    yield from run(inner, called)
        elif isinstance(step, Call):
            yield copy_time(step.function, step.inputs, program)
            for inner in program.functions[step.function]:
                yield from run(inner)
            yield copy_time(step.function, step.outputs, program)
        else:
            if id(step) not in known:
                known[id(step)] = step_time(step, program)
            yield known[id(step)].called(name)

    return [time for step in program.steps for time in run(step)]


def copy_time(function: str, copies: Sequence[tuple[int, int]], program: Program) -> StepTime:
    """The arguments or results of a call, copied within every tile from 64-bit loads and stores."""
    size = sum(program.buffers[a].nbytes for a, _ in copies)
    return StepTime(f"{function}.arguments", "copy", compute=ceil(size / program.target.copy_bytes_per_cycle))


def _timed(moved: Transfers, step: Exchange, buffers: list[Buffer], target: Target) -> ExchangeTime:
    local = moved.local_bytes.copy()
    for fill in step.fills:
        local[buffers[fill.buffer].layout.used_tiles] += buffers[fill.buffer].nbytes
    copy = ceil(int(local.max(initial=0)) / target.copy_bytes_per_cycle)
    tiles = target.tiles
    sent = np.bincount(moved.sender, weights=moved.size, minlength=tiles).astype(np.int64)
    out = np.bincount(moved.sender, weights=moved.fragments, minlength=tiles).astype(np.int64)
    rate = np.where(moved.paired > 0, target.pair_bytes_per_cycle, target.exchange_bytes_per_cycle)
    busy = moved.size / rate
    hears = moved.receivers >= 0
    to = moved.receivers[hears]

    def received(weights: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(to, weights=np.broadcast_to(weights[:, None], hears.shape)[hears], minlength=tiles)

    lanes = np.bincount(moved.sender, weights=busy, minlength=tiles)
    partner = np.bincount(moved.sender ^ 1, weights=np.where(moved.paired > 0, busy, 0), minlength=tiles + 1)
    ports = max(float((lanes + partner[:tiles]).max(initial=0)), float(received(busy).max(initial=0)))
    into = received(moved.fragments.astype(np.float64)).astype(np.int64)
    control = int(into.max(initial=0)) * target.fragment_cycles
    cycles = 0
    if moved.size.size:
        cycles = max(schedule(moved, step.order, target), ceil(ports * target.exchange_factor), control)
    return ExchangeTime(
        cycles,
        copy,
        ceil(ports),
        int(sent.sum()),
        int((moved.size * hears.sum(axis=1)).sum()),
        int(into.sum()),
        (into + out) * target.fragment_code_bytes,
    )


def compute_cycles(step: Compute, target: Target) -> Ints:
    """Cycles of every vertex of a compute set, 0 for an empty cell; the set lasts as long as the longest."""
    return np.asarray(step.codelet.cycles(step.cells.n, target), np.int64) * busy_cells(step.cells)


def _paired(listeners: Ints, target: Target) -> Ints:
    """1 where the receivers are whole pairs of neighbouring tiles, a tile that holds the data itself counted in."""
    if target.pair_tiles != 2 or target.pair_bytes_per_cycle <= target.exchange_bytes_per_cycle:
        return np.zeros(len(listeners), np.int64)
    tiles = np.where(listeners >= 0, listeners, -1 - listeners)
    tiles = np.sort(np.where(tiles >= (1 << 29), -1, tiles), axis=1)
    count = (tiles >= 0).sum(axis=1)
    if tiles.shape[1] % 2:
        tiles = np.pad(tiles, ((0, 0), (1, 0)), constant_values=-1)
    low, high = tiles[:, 0::2], tiles[:, 1::2]
    whole = ((low == -1) & (high == -1)) | ((low % 2 == 0) & (high == low + 1))
    return np.asarray(whole.all(axis=1) & (count % 2 == 0), np.int64)
