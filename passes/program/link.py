"""One program of the programs of straight parts: what one part hands on to another stays on the tiles.

Every part has its buffers, its weights and its plans. A value lies where the part left it that made it; a part fetches
what it receives in one exchange before its first step, and before a loop where no trip changes it. What a loop carries
has a buffer in the layout in which the first reader wants it, written before the loop and at the end of every trip.
Sequences that are sliced and results that are stacked move by an address that goes on from trip to trip, and cost
nothing. A condition is sent to all tiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ipucc.codelets.base import Array
from ipucc.dtypes import itemsize
from ipucc.frontend import Branch, Loop, Module, Part, Region, parts_of
from ipucc.passes.plan.resting import spread_layout
from ipucc.passes.program.roll import renumbered, stack_layout
from ipucc.program.model import (
    Buffer,
    Compute,
    Exchange,
    Extents,
    Fill,
    HostRead,
    HostWrite,
    If,
    Move,
    Program,
    Repeat,
    Step,
    While,
    walk,
)  # fmt: skip
from ipucc.sparsity.buckets import PatternInput
from ipucc.target import Target
from ipucc.tiles.intersect import intersect
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import Group, View
from ipucc.values import Declared

__all__ = ["link"]


def link(module: Module, programs: Mapping[Part, Program], target: Target) -> Program:
    """The program of a module from those of its parts. Buffers have layouts and no addresses; the exchanges between
    parts have the order of the first rule."""
    return _Linker(module, programs, target).run()


@dataclass(eq=False)
class _Cell:
    """A value on the tiles: its buffer, -1 until somebody says in which layout it is wanted, and what it is of that,
    None for all of it as it is."""

    dtype: str
    shape: tuple[int, ...]
    buffer: int = -1
    view: View | None = None


Names = dict[str, _Cell]


@dataclass(eq=False)
class _Frame:
    """A loop around the steps at hand: the names that no trip of it changes, and what is fetched before it."""

    outside: frozenset[str]
    fetched: list[Move]


@dataclass(eq=False)
class _Linker:
    module: Module
    programs: Mapping[Part, Program]
    target: Target
    buffers: list[Buffer] = field(default_factory=list)
    weights: dict[str, Array | None] = field(default_factory=dict)
    writes: list[HostWrite] = field(default_factory=list)
    reads: dict[str, HostRead] = field(default_factory=dict)
    patterns: dict[str, PatternInput] = field(default_factory=dict)
    extents: Extents = field(default_factory=dict)
    counters: list[Declared] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    wanted: set[str] = field(default_factory=set)

    def run(self) -> Program:
        self.wanted = _wanted(self.module.region) | {name for name, _, _ in self.module.outputs}
        known: Names = {}
        steps = self._region(self.module.region, known, ())
        for name, _, _ in self.module.outputs:
            if name in known:
                cell = known[name]
                view = cell.view or View.identity(cell.shape)
                self.reads[name] = HostRead(name, self._buffer_of(cell, name), view)
        outputs = [*self.module.outputs, *self.counters]
        return Program(
            self.target, self.buffers, [*self.writes, *steps, *(self.reads[name] for name, _, _ in outputs)],
            list(self.module.inputs), outputs, self.weights, patterns=self.patterns, extents=self.extents,
        )  # fmt: skip

    def _region(self, region: Region, known: Names, frames: tuple[_Frame, ...]) -> list[Step]:
        steps: list[Step] = []
        for item in region:
            if isinstance(item, Part):
                steps += self._part(item, known, frames)
            elif isinstance(item, Loop):
                steps += self._loop(item, known, frames)
            else:
                steps += self._branch(item, known, frames)
        return steps

    def _part(self, part: Part, known: Names, frames: tuple[_Frame, ...]) -> list[Step]:
        program = self.programs[part]
        base = len(self.buffers)
        for b in program.buffers:
            self.buffers.append(replace(b, alias=b.alias + base if b.alias >= 0 else -1))
        number = {b: b + base for b in range(len(program.buffers))}
        renamed = self._weights(program)
        self.patterns.update(program.patterns)
        self.extents.update(program.extents)
        self.counters += [port for port in program.outputs if port[0] in program.counters]
        steps: list[Step] = []
        moves: list[Move] = []
        for step in (renumbered(s, number) for s in program.steps):
            if isinstance(step, HostWrite) and step.tensor in part.received:
                moves += self._fetched(step, known, frames)
            elif isinstance(step, HostWrite):
                self.writes.append(replace(step, tensor=renamed.get(step.tensor, step.tensor)))
            elif isinstance(step, HostRead):
                buffer = self.buffers[step.buffer]
                if step.tensor in part.handed:
                    view = None if step.view.is_identity else step.view
                    known[step.tensor] = _Cell(buffer.dtype, step.view.dst, step.buffer, view)
                else:
                    self.reads[step.tensor] = step
            else:
                steps.append(step)
        return [*self._exchange(f"{_first_name(steps)}.fetch", moves), *steps]

    def _fetched(self, step: HostWrite, known: Names, frames: tuple[_Frame, ...]) -> list[Move]:
        """What brings a received value to where a part wants it, before the part if not before a loop around it."""
        cell = known[step.tensor]
        if cell.buffer < 0:
            cell.buffer = step.buffer
            return []
        move = self._move(cell, step.tensor, step.buffer)
        for frame in frames:
            if step.tensor in frame.outside:
                frame.fetched.append(move)
                return []
        return [move]

    def _weights(self, program: Program) -> dict[str, str]:
        """Take over the weights of a part; those that have the name of another one get a new name."""
        renamed: dict[str, str] = {}
        for name, value in program.weights.items():
            new, number = name, 1
            while new in self.weights and not _same(self.weights[new], value):
                number += 1
                new = f"{name}#{number}"
            self.weights[new] = value
            renamed[name] = new
        return renamed

    def _loop(self, loop: Loop, known: Names, frames: tuple[_Frame, ...]) -> list[Step]:
        name = self._name(loop.name)
        trips = loop.count if loop.count is not None else loop.bound
        inner = dict(known)
        for c in loop.carried:
            before = known[c.before]
            inner[c.inside] = _Cell(before.dtype, before.shape)
        for s in loop.sliced:
            inner[s.inside] = _Cell(known[s.whole].dtype, known[s.whole].shape[1:])
        frame = _Frame(frozenset(known), [])
        body = self._region(loop.body, inner, (*frames, frame))
        enter, carry, strides = frame.fetched, list[Move](), dict[int, int]()
        condition = -1
        for c in loop.carried:
            before, cell, after = known[c.before], inner[c.inside], inner[c.after]
            ends = [cell.buffer] if cell.buffer >= 0 else []
            if c.inside == loop.condition:
                condition = self._everywhere(f"{name}.condition")
                ends.append(condition)
            if not ends or (c.result in self.wanted and cell.buffer < 0):
                ends.append(self._buffer_of(cell, c.inside))
            for end in ends:
                enter.append(self._move(before, c.before, end))
                carry.append(self._move(after, c.after, end))
            known[c.result] = cell
        slices: list[Move] = []
        empty: list[Fill] = []
        for s in loop.sliced:
            cell = inner[s.inside]
            if cell.buffer >= 0 and trips:
                member, copies = self._member(cell.buffer)
                slices += [self._copy(b, a) for a, b in copies]
                stack = self._stacked(member, trips, s.backwards, strides)
                enter.append(self._move(known[s.whole], s.whole, stack))
        for t in loop.stacked:
            cell = inner[t.inside]
            assert trips is not None
            if cell.view is not None and (not cell.view.src or prod(cell.view.src) > prod(cell.shape)):
                # A number, which is no member of a stack, or more than is stacked.
                cell, move = self._own(cell, t.inside)
                carry.append(move)
            member, copies = self._member(self._buffer_of(cell, t.inside))
            carry += [self._copy(a, b) for a, b in copies]
            stack = self._stacked(member, trips, t.backwards, strides)
            rows = None if cell.view is None else _of_rows(cell.view, trips)
            known[t.whole] = _Cell(cell.dtype, (trips, *cell.shape), stack, rows)
            if loop.count is None:
                # Trips that are not made leave nothing.
                empty.append(Fill(stack, 0.0))
        steps = (*self._exchange(f"{name}.slice", slices), *body, *self._exchange(f"{name}.carry", carry))
        entering: list[Step] = [Exchange(f"{name}.enter", tuple(enter), tuple(empty))] if enter or empty else []
        if loop.count is not None:
            return [*entering, Repeat(loop.count, steps, strides)]
        return [*entering, While(name, condition, steps, loop.bound, strides)]

    def _stacked(self, buffer: int, trips: int, backwards: bool, strides: dict[int, int]) -> int:
        """The stack of which a buffer is another member in every trip, and with it all that reads its bytes."""
        member = self.buffers[buffer]
        stack = len(self.buffers)
        self.buffers.append(Buffer(f"{member.name}.stack", member.dtype, stack_layout(member.layout, trips)))
        size = member.nbytes
        first = (trips - 1) * size if backwards else 0
        moving = [b for b, x in enumerate(self.buffers) if b == buffer or x.alias == buffer]
        for b in moving:
            self.buffers[b].alias, self.buffers[b].alias_offset = stack, self.buffers[b].alias_offset + first
            strides[b] = -size if backwards else size
        return stack

    def _member(self, buffer: int) -> tuple[int, list[tuple[int, int]]]:
        """A buffer that can be a member of a stack: the given one, or beside one that is a member of another stack a
        new one, and then the pair that is copied on the tiles."""
        old = self.buffers[buffer]
        if old.alias < 0:
            return buffer, []
        self.buffers.append(Buffer(old.name, old.dtype, old.layout))
        return len(self.buffers) - 1, [(buffer, len(self.buffers) - 1)]

    def _branch(self, branch: Branch, known: Names, frames: tuple[_Frame, ...]) -> list[Step]:
        name = self._name(branch.name)
        condition = self._everywhere(f"{name}.condition")
        source = self._move(known[branch.condition], branch.condition, condition)
        steps = self._exchange(f"{name}.enter", [source])
        one, two = dict(known), dict(known)
        then = self._region(branch.then, one, frames)
        otherwise = self._region(branch.otherwise, two, frames)
        left, moves = list[Move](), list[Move]()
        for result, first, second in branch.results:
            # Where the first branch leaves it the second one brings it.
            cell = one[first]
            if cell.view is not None:
                cell, move = self._own(cell, first)
                left.append(move)
            known[result] = cell
            moves.append(self._move(two[second], second, self._buffer_of(cell, first)))
        then += self._exchange(f"{name}.leave", left)
        otherwise += self._exchange(f"{name}.join", moves)
        return [*steps, If(name, condition, tuple(then), tuple(otherwise))]

    def _everywhere(self, name: str) -> int:
        """A bool of which every tile has a copy."""
        layout = Layout((), (), np.arange(self.target.tiles, dtype=np.int32), 1, 0)
        self.buffers.append(Buffer(name, "bool", layout))
        return len(self.buffers) - 1

    def _buffer_of(self, cell: _Cell, name: str) -> int:
        """The buffer of a value, evenly spread where nobody wanted it in another layout."""
        if cell.buffer < 0:
            grain = max(0, len(cell.shape) - 1)
            layout = spread_layout(cell.shape, itemsize(cell.dtype), grain, self.target.tiles)
            cell.buffer = len(self.buffers)
            self.buffers.append(Buffer(name, cell.dtype, layout))
        return cell.buffer

    def _own(self, cell: _Cell, name: str) -> tuple[_Cell, Move]:
        """A value that is a view of a buffer in a buffer of its own, and what brings it there."""
        own = _Cell(cell.dtype, cell.shape)
        return own, self._move(cell, name, self._buffer_of(own, name))

    def _move(self, cell: _Cell, name: str, dst: int) -> Move:
        """A value from where it is to a buffer of its shape."""
        src = self._buffer_of(cell, name)
        a, b = self.buffers[src], self.buffers[dst]
        if (cell.dtype, cell.shape) != (b.dtype, b.layout.shape):
            raise RuntimeError(f"{name} of {cell.dtype} {cell.shape} is no {b.dtype} {b.layout.shape} for {b.name}")
        view = cell.view or View.identity(cell.shape)
        return Move(src, dst, intersect(a.layout, b.layout, view), view)

    def _copy(self, src: int, dst: int) -> Move:
        """A buffer to another one of its layout."""
        layout = self.buffers[src].layout
        view = View.identity(layout.shape)
        return Move(src, dst, intersect(layout, self.buffers[dst].layout, view), view)

    def _exchange(self, name: str, moves: Sequence[Move]) -> list[Step]:
        return [Exchange(name, tuple(moves))] if moves else []

    def _name(self, name: str) -> str:
        """A name of a loop or branch that no other one has."""
        fresh, number = name, 1
        while fresh in self.names:
            number += 1
            fresh = f"{name}#{number}"
        self.names.add(fresh)
        return fresh


def _of_rows(view: View, rows: int) -> View:
    """The view of every one of a number of rows."""
    groups = (Group(tuple(d + 1 for d in g.src), tuple(d + 1 for d in g.dst), g.size if g.is_identity else g.index)
              for g in view.groups)  # fmt: skip
    return View((rows, *view.src), (rows, *view.dst), (Group((0,), (0,), rows), *groups))


def _same(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


def _first_name(steps: Sequence[Step]) -> str:
    named = (s.name for s in walk(steps, {}) if isinstance(s, Exchange | Compute))
    return next(named, "part")


def _wanted(region: Region) -> set[str]:
    """The names that some part, loop or branch reads."""
    found = {name for part in parts_of(region) for name in part.received}
    for item in region:
        if isinstance(item, Loop):
            found |= {c.before for c in item.carried} | {c.after for c in item.carried} | {s.whole for s in item.sliced}
            found |= {t.inside for t in item.stacked} | _wanted(item.body)
        elif isinstance(item, Branch):
            found |= {item.condition} | _wanted(item.then) | _wanted(item.otherwise)
            found |= {name for _, a, b in item.results for name in (a, b)}
    return found
