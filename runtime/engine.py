"""Runs a program: numbers from tile memory, cycles from the same step tables.

The engine knows steps, not ops. Every compute set is run in fixed chunks of tiles, so that batch shapes, and with them
the bits of the results, do not depend on the machine that simulates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from ipucc.codelets.base import Array, Cells
from ipucc.diagnostics import error
from ipucc.dtypes import itemsize, storage_type, to_storage
from ipucc.program.model import (
    Binding,
    Buffer,
    Call,
    Compute,
    Exchange,
    HostRead,
    HostWrite,
    If,
    Program,
    Repeat,
    Step,
    While,
)  # fmt: skip
from ipucc.program.regions import Regions
from ipucc.program.timing import Decisions, Exchanges, StepTime, copy_time, program_times, step_time, test_time
from ipucc.runtime.cells import extents, image, load, store
from ipucc.runtime.cells import write as put
from ipucc.runtime.memory import TileMemory

__all__ = ["Engine", "Observer"]

Box = tuple[slice, ...]

_MAX_TRIPS: Final = 1 << 20
"""Trips of conditional loops in one run: one that never ends is found out."""

# Elements of the largest operand that one chunk of tiles loads as float32: 64 MiB.
_CHUNK_ELEMENTS = 1 << 24


class Observer:
    """What may watch and check a run; the plain one does nothing."""

    def begin(self, engine: "Engine") -> None:
        """Before the first step of a run."""

    def host_write(self, engine: "Engine", step: HostWrite, offsets: Sequence[int]) -> None:
        """After the host has written a buffer. `offsets` are those of all buffers in this iteration."""

    def exchange(self, engine: "Engine", step: Exchange, offsets: Sequence[int]) -> None:
        """Before the moves of an exchange."""

    def compute(self, engine: "Engine", step: Compute, offsets: Sequence[int]) -> None:
        """Before a compute set."""

    def test(self, engine: "Engine", step: While | If, offsets: Sequence[int]) -> None:
        """Before a condition is tested."""

    def copy(self, engine: "Engine", function: str, src: int, dst: int, offsets: Sequence[int]) -> None:
        """Before an argument or a result of a call is copied."""

    def host_read(self, engine: "Engine", step: HostRead, offsets: Sequence[int]) -> None:
        """Before the host reads a buffer."""


@dataclass(eq=False)
class Engine:
    """One simulated device with a program on it.

    A run leaves the `times` of its steps in their order, and its `decisions`: by the name of a `While` the trips that
    it made, of an `If` 1 or 0 for the branch that it took, one number per time that the run came by.
    """

    program: Program
    observer: Observer = field(default_factory=Observer)
    times: list[StepTime] = field(default_factory=list)
    decisions: dict[str, list[int]] = field(default_factory=dict)
    memory: TileMemory | None = None
    _known: dict[int, StepTime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._exchanges = Exchanges(self.program.target)
        self._regions = Regions(self.program)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once: host writes, all steps, host reads. Returns the outputs by name, in the order of the program.

        `inputs` are arrays in the types and shapes that the program declares (checked by the caller's API).
        """
        self.times = []
        self.decisions = {}
        self._trips = 0
        if self.memory is None:
            self.memory = TileMemory(self.program.target)
        self.observer.begin(self)
        outputs: dict[str, Array] = {}
        offsets = [b.offset for b in self.program.buffers]
        # One BLAS thread: how a sum is split, and with it the last bit, must not depend on the machine's cores.
        with threadpool_limits(limits=1, user_api="blas"):
            self._steps(self.program.steps, offsets, inputs, outputs)
        return {name: outputs[name] for name, _, _ in self.program.outputs if name in outputs}

    def predict(self, decisions: Decisions | None = None) -> list[StepTime]:
        """The times of a run with these decisions (see `program_times`); nothing is computed for it."""
        return program_times(self.program, self._exchanges, decisions)

    def _steps(
        self, steps: Sequence[Step], offsets: list[int], inputs: Mapping[str, Array], outputs: dict[str, Array],
        names: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        for step, name in zip(steps, [""] * len(steps) if names is None else names, strict=True):
            if isinstance(step, Repeat):
                for i in range(step.count):
                    moved = list(offsets)
                    for b, stride in step.strides.items():
                        moved[b] += i * stride
                    self._steps(step.body, moved, inputs, outputs, step.names_in(i))
            elif isinstance(step, While):
                self._while(step, offsets, inputs, outputs)
            elif isinstance(step, If):
                taken = self._test(step, offsets)
                self.decisions.setdefault(step.name, []).append(int(taken))
                self._steps(step.then if taken else step.otherwise, offsets, inputs, outputs)
            elif isinstance(step, Call):
                self._copies(step.function, step.inputs, offsets)
                self._steps(self.program.functions[step.function], offsets, inputs, outputs)
                self._copies(step.function, step.outputs, offsets)
            else:
                self.times.append(self._time(step).called(name))
                self._execute(step, offsets, inputs, outputs)

    def _while(self, step: While, offsets: list[int], inputs: Mapping[str, Array], outputs: dict[str, Array]) -> None:
        trips = 0
        while trips != step.bound and self._test(step, offsets):
            moved = list(offsets)
            for b, stride in step.strides.items():
                moved[b] += trips * stride
            self._steps(step.body, moved, inputs, outputs)
            trips += 1
            self._trips += 1
            if self._trips > _MAX_TRIPS:
                raise error("IPU0710", f"loop {step.name!r} does not end: {_MAX_TRIPS:,} trips were made",
                            help=["give the Loop a trip count as its bound"])  # fmt: skip
        self.decisions.setdefault(step.name, []).append(trips)

    def _test(self, step: While | If, offsets: list[int]) -> bool:
        """The condition, which every tile has a copy of."""
        self.times.append(test_time(step, self.program))
        self.observer.test(self, step, offsets)
        return bool(self._gather(self.program.buffers[step.condition], offsets[step.condition]).any())

    def _time(self, step: Exchange | Compute | HostWrite | HostRead) -> StepTime:
        key = id(step)
        if key not in self._known:
            self._known[key] = step_time(step, self.program, self._exchanges, self._regions)
        return self._known[key]

    def _execute(
        self,
        step: Exchange | Compute | HostWrite | HostRead,
        offsets: list[int],
        inputs: Mapping[str, Array],
        outputs: dict[str, Array],
    ) -> None:
        buffers = self.program.buffers
        if isinstance(step, HostWrite):
            value = inputs.get(step.tensor, self.program.weights.get(step.tensor))
            if value is None:
                raise error("IPU0510", f"the values of {step.tensor!r} are absent: this program can only be timed")
            self._scatter(buffers[step.buffer], offsets[step.buffer], step.view.apply(value, step.fill))
            self.observer.host_write(self, step, offsets)
        elif isinstance(step, HostRead):
            self.observer.host_read(self, step, offsets)
            held = self._gather(buffers[step.buffer], offsets[step.buffer])
            outputs[step.tensor] = step.view.apply(held, step.fill)
        elif isinstance(step, Exchange):
            self.observer.exchange(self, step, offsets)
            self._exchange(step, offsets)
        else:
            self.observer.compute(self, step, offsets)
            for vertices in step.parts:
                self._compute(vertices, offsets)

    def _exchange(self, step: Exchange, offsets: Sequence[int]) -> None:
        from ipucc.runtime.exchange import carry  # numba: only where numbers move

        memory, buffers = self._memory(), self.program.buffers
        for fill in step.fills:
            buffer = buffers[fill.buffer]
            at = memory.base(buffer, buffer.layout.used_tiles, offsets[fill.buffer])
            row = np.full(buffer.nbytes // itemsize(buffer.dtype), fill.value).astype(storage_type(buffer.dtype))
            raw = row.view(np.uint8)
            for a in at.tolist():
                memory.bytes[a : a + raw.size] = raw
        for move in step.moves:
            carry(memory, move, buffers[move.src], buffers[move.dst], offsets[move.src], offsets[move.dst])

    def _compute(self, step: Compute, offsets: Sequence[int]) -> None:
        memory, buffers = self._memory(), self.program.buffers
        largest = max(prod(buffers[b.buffer].layout.cell) for b in (*step.operands, *step.results))
        size = max(1, _CHUNK_ELEMENTS // max(1, largest))
        sizes = {axis: int(n.max(initial=0)) for axis, n in step.cells.n.items()}
        for start in range(0, step.tiles.size, size):
            part = slice(start, min(start + size, step.tiles.size))
            tiles = step.tiles[part]
            arrays = [load(memory, buffers[b.buffer], tiles, b, part, offsets[b.buffer]) for b in step.operands]
            lo = {k: v[part] for k, v in step.cells.lo.items()}
            cells = Cells(lo, {k: v[part] for k, v in step.cells.n.items()}, sizes)
            try:
                with np.errstate(all="ignore"):
                    results = step.codelet.compute(arrays, cells)
                written = step.results[:-1] if step.codelet.has_scratch else step.results
                for b, result in zip(written, results, strict=True):
                    store(memory, buffers[b.buffer], tiles, b, part, offsets[b.buffer], result)
            except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as problem:
                # The verifier holds sizes against the machine, not the parameters of a codelet against its operands.
                what = f"compute set {step.name!r}: codelet {step.codelet.name!r}"
                raise error("IPU0509", f"{what} cannot compute these operands: {problem!r}") from problem

    def _copies(self, function: str, copies: Sequence[tuple[int, int]], offsets: Sequence[int]) -> None:
        """Arguments of a call: copies within every tile, from 64-bit loads and stores."""
        buffers = self.program.buffers
        self.times.append(copy_time(function, copies, self.program))
        memory = self._memory()
        for a, b in copies:
            self.observer.copy(self, function, a, b, offsets)
            tiles = buffers[a].layout.used_tiles
            pairs = zip(
                memory.base(buffers[a], tiles, offsets[a]).tolist(),
                memory.base(buffers[b], tiles, offsets[b]).tolist(),
                strict=True,
            )
            for s, d in pairs:
                memory.bytes[d : d + buffers[a].nbytes] = memory.bytes[s : s + buffers[a].nbytes]

    def _memory(self) -> TileMemory:
        assert self.memory is not None, "numbers are moved outside of a run"
        return self.memory

    def _scatter(self, buffer: Buffer, offset: int, tensor: Array) -> None:
        """Write a host tensor into all cells of a buffer."""
        tensor = to_storage(tensor, buffer.dtype)

        def put(whole: Box, inside: Box, dense: Array, i: int) -> None:
            dense[i : i + 1][(slice(None), *inside)] = tensor[whole]

        self._cells(buffer, offset, put, write=True)

    def _gather(self, buffer: Buffer, offset: int) -> Array:
        """Read a whole tensor out of a buffer, what a cell owns from its first replica."""
        out = np.zeros(buffer.layout.shape, storage_type(buffer.dtype))

        def take(whole: Box, inside: Box, dense: Array, i: int) -> None:
            out[whole] = dense[i : i + 1][(slice(None), *inside)].reshape(out[whole].shape)

        self._cells(buffer, offset, take, write=False)
        return out

    def _cells(
        self,
        buffer: Buffer,
        offset: int,
        transfer: Callable[[Box, Box, Array, int], None],
        write: bool,
    ) -> None:
        memory, layout = self._memory(), buffer.layout
        kind = storage_type(buffer.dtype)
        count = prod(layout.grid)
        size = max(1, _CHUNK_ELEMENTS // max(1, prod(layout.cell)))
        for start in range(0, count, size):
            ids = np.arange(start, min(start + size, count))
            grid = np.unravel_index(ids, layout.grid) if layout.grid else ()
            valid = extents(layout, ids, own=not write)
            binding = Binding(0, ids.astype(np.int32))
            first = layout.tiles.reshape(-1, layout.replicas)
            if write:
                dense = np.zeros((ids.size, *layout.cell), kind)
            else:
                dense = load(memory, buffer, first[ids, 0], binding, slice(None), offset)
            lows = [layout.cuts[d][0][g] for d, g in enumerate(grid)]
            for i in range(ids.size):
                inside = tuple(slice(int(a[i]), int(b[i])) for a, b in valid)
                whole = tuple(
                    slice(int(lo[i]) + s.start, int(lo[i]) + s.stop) for lo, s in zip(lows, inside, strict=True)
                )
                transfer(whole, inside, dense, i)
            if write:
                raw = image(buffer, ids, dense)
                for r in range(layout.replicas):
                    put(memory, buffer, first[ids, r], binding, slice(None), offset, raw)
