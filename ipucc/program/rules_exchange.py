"""Rules about exchanges: moves stay inside their buffers, move whole words, and cover what they fill."""

from dataclasses import dataclass, field
from math import prod

import numpy as np

from ipucc.program.coverage import WORD, layout_key, needed_words, read_words, word_count, written_words
from ipucc.program.facts import Facts, Found, Mask, Problem, name_of
from ipucc.program.model import Exchange, Move
from ipucc.tiles.layout import Layout
from ipucc.tiles.tracks import Extent, extent, word_bytes

__all__ = ["Cover", "Written", "exchanges"]

_MAX_WORDS = 1 << 28
_MAX_ALL_WORDS = 1 << 31
_MAX_STEPS = 1 << 26


@dataclass(frozen=True, eq=False)
class Written:
    """What an exchange writes of a buffer: the first cell that is written twice, the first that is not complete.

    `words` are the written words, [cells, words], kept only where a cell is not complete.
    """

    doubled: str
    missing: str
    words: Mask | None


@dataclass(eq=False)
class Cover:
    """What exchanges write, worked out once per (products of tracks, layout): repeated layers share it."""

    facts: Facts
    known: dict[tuple[object, ...], Written] = field(default_factory=dict)
    needs: dict[tuple[object, ...], Mask] = field(default_factory=dict)
    keys: dict[int, tuple[object, ...]] = field(default_factory=dict)

    def needed(self, buffer: int) -> Mask:
        """[cells, words]: which words of a buffer hold elements."""
        layout = self.facts.buffers[buffer].layout
        key = self._layout(layout)
        if key not in self.needs:
            self.needs[key] = needed_words(layout).astype(bool)
        return self.needs[key]

    def knows(self, step: Exchange, buffer: int) -> bool:
        """Whether `written` has been asked for this before, of another step perhaps."""
        return self._key(step, buffer) in self.known

    def written(self, step: Exchange, buffer: int) -> Written:
        """What the moves of an exchange write of a buffer; they must have passed the checks of bounds."""
        key = self._key(step, buffer)
        if key not in self.known:
            layout = self.facts.buffers[buffer].layout
            marks = written_words([m.tracks for m in step.moves if m.dst == buffer], layout)
            none = np.asarray((self.needed(buffer) & (marks == 0)).any(axis=1))
            twice = np.asarray((marks > 1).any(axis=1))
            self.known[key] = Written(_first(layout, twice), _first(layout, none), marks > 0 if none.any() else None)
        return self.known[key]

    def _layout(self, layout: Layout) -> tuple[object, ...]:
        if id(layout) not in self.keys:
            self.keys[id(layout)] = layout_key(layout)
        return self.keys[id(layout)]

    def _key(self, step: Exchange, buffer: int) -> tuple[object, ...]:
        own = (id(m.tracks) for m in step.moves if m.dst == buffer)
        return (*own, self._layout(self.facts.buffers[buffer].layout))


def _first(layout: Layout, cells: Mask) -> str:
    if not cells.any():
        return ""
    cell = int(np.flatnonzero(cells)[0])
    return f"cell {cell} on tile {layout.tiles.reshape(-1, layout.replicas)[cell, 0]}"


def exchanges(facts: Facts, cover: Cover) -> Found:
    """Moves stay inside their buffers, move whole words, write no word twice and fill what nobody else fills."""
    work = 0
    for step in facts.exchanges:
        bad = False
        for m in step.moves:
            why = _move_problem(facts, step, m)
            if why is not None:
                yield Problem(f"{name_of(step)}: {why.message}", why.id)
                bad = True
        if bad:
            continue
        torn = _torn(facts, step)
        if torn is not None:
            yield torn
            continue
        filled = {f.buffer for f in step.fills} | {m.dst for m in step.moves if m.keeps}
        for dst in dict.fromkeys(m.dst for m in step.moves):
            layout = facts.buffers[dst].layout
            work += 0 if cover.knows(step, dst) else word_count(layout)
            if word_count(layout) > _MAX_WORDS or work > _MAX_ALL_WORDS:
                yield Problem(f"{name_of(step)}: too many words to check", "IPU0505")
                return
            written = cover.written(step, dst)
            if written.doubled:
                yield Problem(f"{name_of(step)}: {facts.label(dst)}, {written.doubled}, is written twice")
            elif written.missing and dst not in filled and len(facts.writers[dst]) == 1:
                yield Problem(f"{name_of(step)}: {facts.label(dst)}, {written.missing}, is not written")


def _move_problem(facts: Facts, step: Exchange, move: Move) -> Problem | None:
    src, dst = facts.buffers[move.src], facts.buffers[move.dst]
    ends = f"the move from {facts.label(move.src)} to {facts.label(move.dst)}"
    if src.layout.itemsize != dst.layout.itemsize:
        return Problem(f"{ends} changes the element type")
    updates = move.keeps and move.src == move.dst
    if facts.root(move.src) == facts.root(move.dst) and not (updates or facts.apart(step, move.src, move.dst)):
        return Problem(f"{ends} writes bytes that it reads")
    if not move.tracks:
        return None
    for t in move.tracks:
        sizes = {getattr(t, name).shape for name in t.FIELDS}
        if len(sizes) != 1 or not t.count.size or int(t.count.min()) < 1:
            return Problem(f"{ends} has a track without steps")
    if int(move.tracks[-1].run.min()) < 1:
        return Problem(f"{ends} has runs of no bytes")
    x = extent(move.tracks)
    for what, layout, cells, places in (
        ("source", src.layout, x.src_cells, x.src_bytes),
        ("destination", dst.layout, x.dst_cells, x.dst_bytes),
    ):
        if cells[0] < 0 or cells[1] >= prod(layout.grid):
            return Problem(f"{ends}: {what} cells {cells[0]}..{cells[1]} of {prod(layout.grid)}", "IPU0507")
        if places[0] < 0 or places[1] > layout.slot_bytes:
            return Problem(f"{ends}: {what} bytes {places[0]}..{places[1]} of a cell of {layout.slot_bytes}", "IPU0507")
    if word_bytes(move.tracks) < WORD:
        return Problem(f"{ends} moves parts of words")
    return _too_much(ends, x, dst.layout)


def _torn(facts: Facts, step: Exchange) -> Problem | None:
    """What an exchange reads is not what it writes: two readings of one root lie apart, and where a buffer is read and
    updated, the words differ."""
    written = dict.fromkeys((*(m.dst for m in step.moves), *(f.buffer for f in step.fills)))
    for src in dict.fromkeys(m.src for m in step.moves):
        for dst in written:
            if facts.root(src) != facts.root(dst) or facts.apart(step, src, dst):
                continue
            ends = f"{name_of(step)}: {facts.label(dst)} is written where {facts.label(src)} is read"
            into = [m for m in step.moves if m.dst == dst]
            if src != dst or not into or not all(m.keeps for m in into):
                return Problem(ends)
            layout = facts.buffers[src].layout
            if word_count(layout) > _MAX_WORDS:
                return Problem(f"{name_of(step)}: too many words to check", "IPU0505")
            read = read_words([m.tracks for m in step.moves if m.src == src], layout)
            both = (read > 0) & (written_words([m.tracks for m in into], layout) > 0)
            if both.any():
                return Problem(f"{ends}: {_first(layout, np.asarray(both.any(axis=1)))}")
    return None


def _too_much(ends: str, x: Extent, layout: Layout) -> Problem | None:
    if x.bytes > word_count(layout) * WORD:
        return Problem(f"{ends} moves {x.bytes:,.0f} bytes into {word_count(layout) * WORD:,}")
    if x.steps > _MAX_STEPS:
        return Problem(f"{ends} has {x.steps:,.0f} outer steps, at most {_MAX_STEPS:,} are taken", "IPU0505")
    return None
