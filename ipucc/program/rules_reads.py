"""The rule that what is read has been written: cell by cell, in the order in which a program runs."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.program.facts import Facts, Found, Mask, Problem, filled_cells, name_of
from ipucc.program.model import Compute, Exchange, HostRead, HostWrite, If, Repeat, Step, While
from ipucc.program.rules_exchange import Cover
from ipucc.tiles.intersect import Track

__all__ = ["reads"]

_MAX_FOLLOWED: Final = 1 << 12
"""Steps of one loop that are followed one by one; what comes after them is taken to go on as it began."""

_MAX_VISITS: Final = 1 << 18

Place = tuple[int, int, tuple[int, ...]]
"""Root buffer, address, and grid: where cells are written."""

_State = tuple[dict[Place, Mask], dict[Place, Mask], set[Place]]


def reads(facts: Facts, cover: Cover) -> Found:
    """What is read has been written before: every cell, or every byte where cells are read as others.

    Exchanges that write a buffer one after the other, with no read in between, fill it together. The first one behind a
    read begins a new version, which must be filled again, unless its moves keep what they do not write.
    """
    return _Reads(facts, cover).steps(facts.program.steps, [b.offset for b in facts.buffers])


class _Reads:
    """Which cells have been written so far. `offsets` are those of the loop iterations at hand."""

    def __init__(self, facts: Facts, cover: Cover) -> None:
        self.facts = facts
        self.cover = cover
        self.state: dict[Place, Mask] = {}
        self.spans: dict[int, dict[Place, int]] = {}
        self.sizes: dict[Place, int] = {}
        self.words: dict[Place, Mask] = {}
        self.read: set[Place] = set()
        self.visits = 0
        self.sources: dict[int, NDArray[np.int64]] = {}
        self.full: dict[int, Mask] = {}

    def steps(self, steps: Sequence[Step], offsets: list[int]) -> Iterator[Problem]:
        for step in steps:
            self.visits += 1
            if self.visits > _MAX_VISITS:
                yield Problem(
                    f"loops and functions run more than {_MAX_VISITS:,} steps that must be followed", "IPU0505"
                )
                return
            if isinstance(step, HostWrite):
                self._of(step.buffer, offsets)[:] = True
            elif isinstance(step, HostRead):
                yield from self._read(step, step.buffer, None, offsets)
            elif isinstance(step, Exchange):
                for m in step.moves:
                    yield from self._read(step, m.src, self._source_cells(m.tracks), offsets)
                self._exchange(step, offsets)
            elif isinstance(step, Compute):
                for o in (o for part in step.parts for o in part.operands):
                    yield from self._read(step, o.buffer, o.cells, offsets)
                for r in (r for part in step.parts for r in part.results):
                    self._of(r.buffer, offsets)[r.cells] = True
            elif isinstance(step, Repeat):
                yield from self._loop(step, step.count, offsets)
            elif isinstance(step, While):
                yield from self._read(step, step.condition, None, offsets)
                # Without a trip nothing is written.
                before = self._saved()
                yield from self._loop(step, step.bound or 2, offsets)
                self._join(before, self._saved())
            elif isinstance(step, If):
                yield from self._read(step, step.condition, None, offsets)
                before = self._saved()
                yield from self.steps(step.then, offsets)
                then = self._saved()
                self._restore(before)
                yield from self.steps(step.otherwise, offsets)
                self._join(then, self._saved())
            else:
                yield from self._copies(step, step.inputs, offsets)
                yield from self.steps(self.facts.program.functions[step.function], offsets)
                yield from self._copies(step, step.outputs, offsets)

    def _saved(self) -> _State:
        """What has been written so far, to be returned to."""
        self.visits += sum(m.size for m in self.state.values()) // 1024
        return (
            {p: m.copy() for p, m in self.state.items()}, {p: m.copy() for p, m in self.words.items()}, set(self.read)
        )  # fmt: skip

    def _restore(self, saved: _State) -> None:
        state, words, self.read = saved[0], saved[1], set(saved[2])
        self.state = {p: m.copy() for p, m in state.items()}
        self.words = {p: m.copy() for p, m in words.items()}
        self.spans = {}
        for place in self.state:
            self.spans.setdefault(place[0], {})[place] = self.sizes[place]

    def _join(self, one: _State, two: _State) -> None:
        """Go on with what has been written on both of two ways."""
        both = {p: one[0][p] & two[0][p] for p in one[0] if p in two[0]}
        words = {p: one[1][p] & two[1][p] for p in one[1] if p in two[1]}
        self._restore((both, words, one[2] | two[2]))

    def _loop(self, loop: Repeat | While, count: int, offsets: list[int]) -> Iterator[Problem]:
        """Without strides two iterations tell all; with strides as many are followed as are worth it."""
        turns = min(count, max(2, _MAX_FOLLOWED // max(1, len(loop.body)) if loop.strides else 2))
        for i in range(turns):
            # Copying the offsets counts too: a hostile program has many buffers and many iterations.
            self.visits += len(offsets) // 64
            moved = list(offsets)
            for b, stride in loop.strides.items():
                moved[b] += i * stride
            yield from self.steps(loop.body, moved)
        body = {id(s) for s in loop.body}
        written = [b for b in loop.strides if any(id(s) in body for s in self.facts.writers.get(b, ()))]
        for b in written:
            moved = list(offsets)
            for i in range(turns, count):
                self.visits += 1
                if self.visits > _MAX_VISITS:
                    return
                moved[b] = offsets[b] + i * loop.strides[b]
                self._of(b, moved)[:] = True

    def _of(self, buffer: int, offsets: list[int]) -> Mask:
        layout = self.facts.buffers[buffer].layout
        place = (self.facts.root(buffer), offsets[buffer], layout.grid)
        if place not in self.state:
            self.state[place] = np.zeros(prod(layout.grid), bool)
            self.sizes[place] = layout.nbytes
            self.spans.setdefault(place[0], {})[place] = layout.nbytes
        return self.state[place]

    def _filled(self, buffer: int) -> Mask:
        layout = self.facts.buffers[buffer].layout
        if id(layout) not in self.full:
            self.full[id(layout)] = filled_cells(layout)
        return self.full[id(layout)]

    def _read(self, step: Step, buffer: int, cells: NDArray[np.integer] | None, offsets: list[int]
              ) -> Iterator[Problem]:  # fmt: skip
        layout, at = self.facts.buffers[buffer].layout, offsets[buffer]
        root, label = self.facts.root(buffer), self.facts.label(buffer)
        own = (root, at, layout.grid)
        held = self.state.get(own)
        if held is not None:
            self.read.add(own)
            ready = held | ~self._filled(buffer)
            lost = np.flatnonzero(~ready) if cells is None else cells[~ready[cells]]
            if lost.size:
                yield Problem(f"{name_of(step)} reads {label}, cell {lost[0]}, before anything is written there")
            return
        # The bytes were written as cells of another tensor: all of that must be there.
        end = at
        for place, size in sorted(self.spans.get(root, {}).items(), key=lambda entry: (entry[0][1], -entry[1])):
            if place[1] <= end < place[1] + size and self.state[place].all():
                self.read.add(place)
                end = place[1] + size
            if end >= at + layout.nbytes:
                return
        yield Problem(f"{name_of(step)} reads {label} before anything is written there")

    def _exchange(self, step: Exchange, offsets: list[int]) -> None:
        for f in step.fills:
            self._of(f.buffer, offsets)[:] = True
        for dst in dict.fromkeys(m.dst for m in step.moves):
            words = self.cover.written(step, dst).words
            held = self._of(dst, offsets)
            place = (self.facts.root(dst), offsets[dst], self.facts.buffers[dst].layout.grid)
            if words is None:
                held[:] = True
            elif all(f.buffer != dst for f in step.fills):
                updates = all(m.keeps for m in step.moves if m.dst == dst)
                if place in self.read and not updates:
                    held[:] = False
                    self.words.pop(place, None)
                have = self.words.setdefault(place, np.zeros_like(words))
                have |= words
                held |= ~(self.cover.needed(dst) & ~have).any(axis=1)
            self.read.discard(place)

    def _copies(self, step: Step, copies: Sequence[tuple[int, int]], offsets: list[int]) -> Iterator[Problem]:
        for a, b in copies:
            yield from self._read(step, a, None, offsets)
            self._of(b, offsets)[:] = True

    def _source_cells(self, tracks: tuple[Track, ...]) -> NDArray[np.int64]:
        """The cells that a product of tracks reads."""
        if id(tracks) not in self.sources:
            cells = np.zeros(1 if tracks else 0, np.int64)
            for t in tracks:
                cells = np.unique(cells[:, None] + np.unique(t.src_cell)[None, :])
            self.sources[id(tracks)] = cells
        return self.sources[id(tracks)]
