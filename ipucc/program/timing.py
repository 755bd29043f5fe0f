"""How many cycles a program takes: one function per kind of step, used by the compiler and by the simulator.

A compute set lasts as long as its slowest tile, whose vertices share its workers. An exchange phase lasts as long as
the schedule of its transfers under the port rules: a tile sends and receives 4 bytes a cycle, at the same time; a
transfer may have any number of receivers; where the receivers are whole tile pairs, 8 bytes a cycle move and both send
lanes of the sender's pair are taken; every received fragment costs control slots. The fitted factor on exchange bytes
bounds what a schedule can reach. What crosses from chip to chip takes the links behind that, and a longer phase.
Sources of the figures: the machine files.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from ipucc.diagnostics import error
from ipucc.dtypes import itemsize
from ipucc.program.model import (
    Buffer,
    Call,
    Compute,
    Exchange,
    HostRead,
    HostWrite,
    If,
    Move,
    Program,
    Repeat,
    Step,
    While,
    busy_cells,
    walk,
)  # fmt: skip
from ipucc.program.order import Order, schedule, search_order
from ipucc.program.regions import Regions
from ipucc.program.transfers import Transfers, link_bytes, port_cycles, transfers
from ipucc.target import Target
from ipucc.tiles.intersect import Ints
from ipucc.tiles.layout import Layout

__all__ = [
    "Decisions", "ExchangeTime", "Exchanges", "StepTime", "check_decisions", "compute_cycles", "copy_time",
    "exchange_code", "exchange_time", "program_times", "step_time", "test_time", "tile_cycles",
]  # fmt: skip


@dataclass(frozen=True)
class StepTime:
    """Cycles of one execution of a step. `sync` is the overhead of a phase, `host` is outside of the total, and
    `exchange_bound` is what the best order of transfers could bring `exchange` down to."""

    name: str
    kind: str
    compute: int = 0
    exchange: int = 0
    sync: int = 0
    host: int = 0
    exchange_bound: int = 0

    @property
    def total(self) -> int:
        """Cycles on the device."""
        return self.compute + self.exchange + self.sync

    def called(self, name: str) -> "StepTime":
        """The same under another name; an empty one changes nothing."""
        return replace(self, name=name) if name and name != self.name else self


@dataclass(frozen=True)
class ExchangeTime:
    """Cycles of one exchange phase: transfers, and the copies within tiles that run behind them.

    `port_cycles` is the least that the ports allow, `bound_cycles` the least that is counted for any order: the ports
    by the fitted factor, or the control of the fragments at the receiver with most of them. `fragments` are received
    ones. `link` are the cycles of the busiest chip's links, part of `exchange` and of `bound_cycles`; 0 where nothing
    crosses from chip to chip.
    """

    exchange: int
    copy: int
    bound_cycles: int
    port_cycles: int
    sent_bytes: int
    received_bytes: int
    fragments: int
    link: int = 0


def exchange_time(step: Exchange, buffers: list[Buffer], target: Target) -> ExchangeTime:
    """Cycles of an exchange phase with its transfers in the order that the step says."""
    return Exchanges(target).time(step, buffers)


def exchange_code(moves: tuple[Move, ...], buffers: list[Buffer], target: Target) -> Ints:
    """Bytes of code per tile that sending and receiving takes, by the fragment."""
    return _code(transfers(moves, buffers, target), target)


class Exchanges:
    """Orders, cycles and code of the exchanges of one target, worked out once for all that move the same between the
    same layouts: those of repeated layers, of a program before and behind the making of its loops, of several
    placements of a model."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._orders: dict[tuple[bytes, ...], Order] = {}
        self._ends: dict[tuple[tuple[bytes, ...], Order], int] = {}
        self._times: dict[tuple[object, ...], ExchangeTime] = {}
        self._codes: dict[tuple[bytes, ...], Ints] = {}

    def best_order(self, step: Exchange, buffers: list[Buffer]) -> Order:
        """The rule and its parameters that let an exchange finish first, as far as the search of `search_order`
        goes."""
        key = _moved(step.moves, buffers)
        if key not in self._orders:
            moved = transfers(step.moves, buffers, self.target)
            least = _least(moved, port_cycles(moved, self.target), self.target)
            order, end = search_order(moved, least, self.target)
            self._orders[key], self._ends[key, order] = order, end
        return self._orders[key]

    def find_orders(self, steps: Sequence[Exchange], buffers: list[Buffer]) -> None:
        """What `best_order` will say of many exchanges, worked out on two threads: schedules are compiled code."""
        new = {_moved(step.moves, buffers): step for step in steps}
        # Two at a time, and no more: the transfers of an exchange may be many.
        with ThreadPoolExecutor(2) as threads:
            for _ in threads.map(lambda step: self.best_order(step, buffers), new.values()):
                pass

    def time(self, step: Exchange, buffers: list[Buffer]) -> ExchangeTime:
        """Cycles of an exchange phase with its transfers in the order that the step says."""
        moves = _moved(step.moves, buffers)
        filled = tuple(buffers[f.buffer].layout.digest for f in step.fills)
        key = moves, step.order, filled
        if key not in self._times:
            moved = transfers(step.moves, buffers, self.target)
            if (moves, step.order) not in self._ends:
                self._ends[moves, step.order] = schedule(moved, step.order, self.target) if len(moved) else 0
            fills = [buffers[f.buffer].layout for f in step.fills]
            self._times[key] = _timed(moved, fills, self._ends[moves, step.order], self.target)
        return self._times[key]

    def code(self, step: Exchange, buffers: list[Buffer]) -> Ints:
        """What `exchange_code` says of a step."""
        key = _moved(step.moves, buffers)
        if key not in self._codes:
            self._codes[key] = exchange_code(step.moves, buffers, self.target)
        return self._codes[key]


def _moved(moves: tuple[Move, ...], buffers: list[Buffer]) -> tuple[bytes, ...]:
    """Equal for moves that make the same transfers."""
    return tuple(
        x
        for m in moves
        for x in (buffers[m.src].layout.digest, buffers[m.dst].layout.digest, *(t.digest for t in m.tracks))
    )


def _timed(moved: Transfers, fills: Sequence[Layout], end: int, target: Target) -> ExchangeTime:
    """The time of an exchange whose last transfer arrives at `end`."""
    local = moved.local_bytes.copy()
    for layout in fills:
        local[layout.used_tiles] += layout.nbytes
    ports = port_cycles(moved, target)
    link = ceil(link_bytes(moved, target) / target.link_bytes_per_cycle)
    least = _least(moved, ports, target) + link
    return ExchangeTime(
        max(end + link, least) if len(moved) else 0,
        ceil(int(local.max(initial=0)) / target.copy_bytes_per_cycle),
        least,
        ceil(ports),
        int(moved.size.sum()),
        int(moved.size @ np.diff(moved.first)),
        int(_heard(moved, target).sum()),
        link,
    )


def _code(moved: Transfers, target: Target) -> Ints:
    sent = np.bincount(moved.sender, weights=moved.fragments, minlength=target.tiles).astype(np.int64)
    return (sent + _heard(moved, target)) * target.fragment_code_bytes


def step_time(
    step: Exchange | Compute | HostWrite | HostRead,
    program: Program,
    exchanges: Exchanges | None = None,
    regions: Regions | None = None,
) -> StepTime:
    """Cycles of one step, as the compiler predicts them and as a run counts them. `exchanges` are filled and used
    again; `regions` are those of the program.

    An exchange that moves nothing over the fabric costs no phase; its copies within tiles count as compute.
    """
    target = program.target
    if isinstance(step, Compute):
        cycles = int(tile_cycles(step, regions or Regions(program)).max(initial=0))
        return StepTime(step.name, "compute", compute=cycles)
    if isinstance(step, Exchange):
        t = (exchanges or Exchanges(target)).time(step, program.buffers)
        sync = (target.phase_cycles if t.exchange else 0) + (target.link_phase_cycles if t.link else 0)
        return StepTime(step.name, "exchange", t.copy, t.exchange, sync, exchange_bound=t.bound_cycles)
    buffer = program.buffers[step.buffer]
    size = prod(buffer.layout.shape) * itemsize(buffer.dtype)
    kind = "host write" if isinstance(step, HostWrite) else "host read"
    return StepTime(step.tensor, kind, host=ceil(size / target.host_bytes_per_cycle))


Decisions = Mapping[str, int | Sequence[int]]
"""By the name of a `While` how many trips it makes, of an `If` 1 or 0 for the branch it takes: one number for every
time, or one per time in the order of the run."""


def program_times(
    program: Program, exchanges: Exchanges | None = None, decisions: Decisions | None = None
) -> list[StepTime]:
    """The time of every step in the order in which a run executes them, loops unrolled and calls followed.

    Where data decides, the run is that of the `decisions`. Without one, a loop makes as many trips as its bound says,
    or one where it has none, and an If takes the branch that lasts longer. Steps of a loop have the names of the
    iteration. `exchanges` are filled and used again.
    """
    exchanges = exchanges or Exchanges(program.target)
    regions = Regions(program)
    known: dict[int, StepTime] = {}
    ahead = {name: repeat(n) if isinstance(n, int) else iter(n) for name, n in (decisions or {}).items()}

    def decided(step: While | If) -> int | None:
        return next(ahead[step.name], None) if step.name in ahead else None

    def all_of(steps: Sequence[Step]) -> list[StepTime]:
        return [time for step in steps for time in run(step)]

    def run(step: Step, name: str = "") -> Iterator[StepTime]:
        if isinstance(step, While):
            trips = decided(step)
            trips = (step.bound or 1) if trips is None else trips
            for _ in range(trips):
                yield test_time(step, program)
                yield from all_of(step.body)
            if trips != step.bound:
                yield test_time(step, program)
        elif isinstance(step, If):
            yield test_time(step, program)
            taken = decided(step)
            if taken is None:
                yield from max(all_of(step.then), all_of(step.otherwise), key=lambda times: sum(t.total for t in times))
            else:
                yield from all_of(step.then if taken else step.otherwise)
        elif isinstance(step, Repeat):
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
                known[id(step)] = step_time(step, program, exchanges, regions)
            yield known[id(step)].called(name)

    return all_of(program.steps)


def check_decisions(program: Program, decisions: Decisions) -> None:
    """Raises IPU0711 for a name that no loop and no If has, IPU0712 for a number that is none of theirs."""
    known = {s.name: s for s in walk(program.steps, program.functions) if isinstance(s, While | If)}
    for name, given in decisions.items():
        if name not in known:
            listed = ", ".join(sorted(known)) or "nothing: no step of the program depends on data"
            raise error("IPU0711", f"the program has no loop and no If {name!r}", help=[f"decided by data: {listed}"])
        step = known[name]
        most = 1 if isinstance(step, If) else step.bound
        for n in (given,) if isinstance(given, int) else given:
            if n < 0 or (most is not None and n > most):
                what = "an If takes 1 or 0" if isinstance(step, If) else f"it makes {most} trips at most"
                raise error("IPU0712", f"{name!r}: {n} is not possible, {what}")


def test_time(step: While | If, program: Program) -> StepTime:
    """The test of a condition on every tile: the supervisor loads a byte and branches. Inferred: as a launch."""
    return StepTime(f"{step.name}.test", "test", compute=program.target.launch_cycles)


def copy_time(function: str, copies: Sequence[tuple[int, int]], program: Program) -> StepTime:
    """The arguments or results of a call, copied within every tile from 64-bit loads and stores."""
    size = sum(program.buffers[a].nbytes for a, _ in copies)
    return StepTime(f"{function}.arguments", "copy", compute=ceil(size / program.target.copy_bytes_per_cycle))


def compute_cycles(step: Compute, regions: Regions) -> Ints:
    """Cycles of every vertex of a compute set as its codelet counts them, 0 for an empty cell."""
    return regions.cycles(step) * busy_cells(step.cells)


def tile_cycles(step: Compute, regions: Regions) -> Ints:
    """[tiles]: cycles of a compute set on every tile; the set lasts as long as the slowest.

    Vertices of the whole tile run one after the other. Vertices of one worker each run on all workers at once: a
    launch, then as many cycles as the busiest worker has, times the number of workers, since they issue in turn.
    """
    target = regions.target
    total = np.zeros(target.tiles, np.int64)
    free = np.zeros((target.tiles, target.workers), np.int64)
    for part in step.parts:
        cycles = compute_cycles(part, regions)
        if part.codelet.context == "tile":
            np.add.at(total, part.tiles, cycles)
        elif part.workers is None:
            _next_free(part.tiles, cycles, free)
        else:
            np.add.at(free, (part.tiles, part.workers), cycles)
    longest = free.max(axis=1)
    return np.asarray(total + np.where(longest > 0, target.launch_cycles + target.workers * longest, 0), np.int64)


def _next_free(tiles: NDArray[np.int32], cycles: Ints, free: Ints) -> None:
    """List scheduling: in their order, vertices go to the worker of their tile that is free first. `free` is [tiles,
    workers], the cycles until each is free, and goes on from what it is."""
    order = np.argsort(tiles, kind="stable")
    begin = np.searchsorted(tiles[order], np.arange(free.shape[0] + 1))
    turn = np.arange(order.size) - begin[tiles[order]]
    by_turn = np.argsort(turn, kind="stable")
    edges = np.searchsorted(turn[by_turn], np.arange(int(turn.max(initial=-1)) + 2))
    for i in range(edges.size - 1):
        # The vertices that are the i-th of their tiles.
        these = order[by_turn[edges[i] : edges[i + 1]]]
        first = free[tiles[these]].argmin(axis=1)
        free[tiles[these], first] += cycles[these]


def _heard(moved: Transfers, target: Target) -> Ints:
    """Fragments that every tile receives."""
    fragments = np.repeat(moved.fragments, np.diff(moved.first))
    return np.bincount(moved.receivers, weights=fragments, minlength=target.tiles).astype(np.int64)


def _least(moved: Transfers, ports: float, target: Target) -> int:
    """Cycles below which no exchange is counted, however well it is ordered: ports by the fitted factor, control."""
    control = int(_heard(moved, target).max(initial=0)) * target.fragment_cycles
    return max(ceil(ports * target.exchange_factor), control)
