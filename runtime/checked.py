"""Checked mode: every word of tile memory carries the version of the tensor that it holds.

A run stamps a new tag for every execution of a step on every word that the step writes, and holds every word that a
step reads against what should be there. It finds words that were never written, words of another tensor, words of an
earlier version (of an earlier iteration or run too) and words that one exchange writes twice. It does not see the wrong
box of the right version of a tensor: for that there is `ipucc.runtime.fingerprint`.

Cost: an exchange takes two to four times as long, a compute set one pass over the tags of its operands; tags take half
of the memory that the program touches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.diagnostics import CompileError, error
from ipucc.program.coverage import WORD
from ipucc.program.facts import Facts, name_of
from ipucc.program.model import Compute, Exchange, HostRead, HostWrite, If, Move, Program, While
from ipucc.program.rules_exchange import Cover
from ipucc.runtime.cells import extents
from ipucc.runtime.engine import Engine, Observer
from ipucc.runtime.exchange import bases
from ipucc.runtime.memory import TileMemory, lazy_bytes
from ipucc.runtime.tags import FINE, INVALID, Tags, carry_tags, copy_tags, valid_rows
from ipucc.tiles.intersect import Ints
from ipucc.tiles.layout import Layout
from ipucc.tiles.tracks import flatten, word_bytes

__all__ = ["TagChecker", "checked_engine"]

_LAST_TAG: Final = (1 << 16) - 1
_CHUNK: Final = 64

Place = tuple[int, int]
"""Root buffer and address: one tensor, or one member of a stack."""


def checked_engine(program: Program) -> Engine:
    """An engine whose runs raise IPU0611 at the first read of stale or foreign memory, naming step, tile, tensor."""
    return Engine(program, observer=TagChecker(program))


@dataclass(eq=False)
class _Version:
    """Who wrote a tag: the place, the step, and in which run."""

    place: int
    step: str
    run: int


@dataclass(eq=False)
class TagChecker(Observer):
    """Watches the runs of one program. `last_tag` is the highest tag in use before tags are renumbered."""

    program: Program
    last_tag: int = _LAST_TAG
    run: int = 0
    _facts: Facts = field(init=False)
    _cover: Cover = field(init=False)
    _tags: Tags = field(init=False)
    _versions: list[_Version] = field(default_factory=lambda: [_Version(-1, "", 0)])
    _owner: NDArray[np.int32] = field(default_factory=lambda: np.full(_LAST_TAG + 1, -1, np.int32))
    _places: dict[Place, int] = field(default_factory=dict)
    _floors: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _wholes: dict[int, int] = field(default_factory=dict)
    _read: set[int] = field(default_factory=set)
    _masks: dict[tuple[object, ...], NDArray[np.bool_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._facts = Facts(self.program)
        self._cover = Cover(self._facts)
        self._tags = np.zeros(0, np.uint16)

    # What the engine reports

    def begin(self, engine: Engine) -> None:
        """Nothing that an earlier run has written is valid in this one."""
        memory = _memory(engine)
        if not self._tags.size:
            self._tags = lazy_bytes(memory.bytes.size // 2).view(np.uint16)
        self.run += 1
        self._floors.clear()
        self._sizes.clear()
        self._wholes.clear()
        self._read.clear()

    def host_write(self, engine: Engine, step: HostWrite, offsets: Sequence[int]) -> None:
        """The whole buffer is a new version, on all its tiles."""
        layout = self.program.buffers[step.buffer].layout
        tag = self._new(step.buffer, offsets, name_of(step))
        for r in range(layout.replicas):
            tiles = layout.tiles.reshape(-1, layout.replicas)[:, r]
            self._stamp(engine, step.buffer, offsets, tiles, np.arange(tiles.size), tag)
        self._floor(step.buffer, offsets)[:] = tag

    def exchange(self, engine: Engine, step: Exchange, offsets: Sequence[int]) -> None:
        """Sources must hold what they should, destinations become new versions; no word arrives twice."""
        memory = _memory(engine)
        least: dict[int, int] = {}
        for f in step.fills:
            layout = self.program.buffers[f.buffer].layout
            least[f.buffer] = tag = self._new(f.buffer, offsets, name_of(step))
            first = memory.base(self.program.buffers[f.buffer], layout.used_tiles, offsets[f.buffer]) // WORD
            self._window(layout.nbytes // WORD)[first] = tag
            self._floor(f.buffer, offsets)[:] = tag
        for dst in dict.fromkeys(m.dst for m in step.moves):
            tag = self._new(dst, offsets, name_of(step))
            for m in step.moves:
                if m.dst == dst and m.tracks:
                    self._carry(memory, step, m, offsets, tag)
            place = self._place(dst, offsets)
            # Exchanges fill a buffer together as long as nobody reads it; the first behind a read begins a new version.
            updates = all(m.keeps for m in step.moves if m.dst == dst)
            begins = place not in self._floors or (place in self._read and not updates)
            if dst not in least and (begins or self._cover.written(step, dst).words is None):
                self._floor(dst, offsets)[:] = tag
            self._read.discard(place)

    def compute(self, engine: Engine, step: Compute, offsets: Sequence[int]) -> None:
        """Operands must hold what they should, the cells of results become new versions."""
        for part in step.parts:
            for b in part.operands:
                self._check(engine, name_of(step), b.buffer, offsets, part.tiles, b.cells)
        for part in step.parts:
            for b in part.results:
                tag = self._new(b.buffer, offsets, name_of(step))
                self._stamp(engine, b.buffer, offsets, part.tiles, b.cells, tag)
                slots = _slots(self.program.buffers[b.buffer].layout)[b.cells]
                self._floor(b.buffer, offsets)[part.tiles, slots] = tag

    def test(self, engine: Engine, step: While | If, offsets: Sequence[int]) -> None:
        """Every copy of the condition must hold what it should."""
        tiles = self.program.buffers[step.condition].layout.tiles.reshape(-1)
        self._check(engine, name_of(step), step.condition, offsets, tiles, np.zeros(tiles.size, np.int64))

    def copy(self, engine: Engine, function: str, src: int, dst: int, offsets: Sequence[int]) -> None:
        """What was valid is valid behind the copy; what was not is found where it is used."""
        memory, buffers = _memory(engine), self.program.buffers
        layout = buffers[src].layout
        owner, place, floors = self._expected(src, offsets)
        tag = self._new(dst, offsets, f"arguments of {function!r}")
        tiles = layout.used_tiles
        from_, to = (memory.base(buffers[b], tiles, offsets[b]) // WORD for b in (src, dst))
        words = layout.slot_bytes // WORD
        for s in range(layout.slot_count):
            floor = floors[tiles, min(s, floors.shape[1] - 1)]
            copy_tags(self._tags, from_ + s * words, to + s * words, words, owner, place, floor, tag)
        self._floor(dst, offsets)[:] = tag

    def host_read(self, engine: Engine, step: HostRead, offsets: Sequence[int]) -> None:
        """The cells that the host reads, those of the first replica, must hold what they should."""
        layout = self.program.buffers[step.buffer].layout
        tiles = layout.tiles.reshape(-1, layout.replicas)[:, 0]
        self._check(engine, name_of(step), step.buffer, offsets, tiles, np.arange(tiles.size))

    # Versions

    def _place(self, buffer: int, offsets: Sequence[int]) -> int:
        key = (self._facts.root(buffer), offsets[buffer])
        return self._places.setdefault(key, len(self._places))

    def _floor(self, buffer: int, offsets: Sequence[int]) -> NDArray[np.int64]:
        """[tiles, slots]: the oldest tag that is valid in every cell of a place, to be written to."""
        place = self._place(buffer, offsets)
        slots = self.program.buffers[buffer].layout.slot_count
        size = self.program.buffers[buffer].nbytes
        if size >= self._sizes.get(place, 0):
            self._wholes.pop(place, None)
        elif place in self._floors and place not in self._wholes:
            # The first member of a stack that was written as a whole: its other members are as old as that.
            self._wholes[place] = int(self._floors[place].min())
        self._sizes[place] = max(size, self._sizes.get(place, 0)) if place in self._wholes else size
        if place not in self._floors or self._floors[place].shape[1] != slots:
            self._floors[place] = np.full((self.program.target.tiles, slots), _LAST_TAG + 1, np.int64)
        return self._floors[place]

    def _expected(self, buffer: int, offsets: Sequence[int]) -> tuple[NDArray[np.int32], int, NDArray[np.int64]]:
        """(owner of every tag, who the owner must be, [tiles, slots] oldest valid tags) for reading a buffer."""
        place = self._place(buffer, offsets)
        layout = self.program.buffers[buffer].layout
        self._read.add(place)
        whole = place in self._wholes and layout.nbytes == self._sizes[place]
        if place in self._floors and self._sizes[place] >= layout.nbytes and not whole:
            floors = self._floors[place]
            if floors.shape[1] != layout.slot_count:
                # The same bytes in other cells: each must be as young as the oldest of those.
                floors = np.broadcast_to(floors.min(axis=1, keepdims=True), (floors.shape[0], layout.slot_count))
            return self._owner, place, floors
        # A stack as a whole, whose members were written one by one: any of them, of this run.
        root = self._facts.root(buffer)
        members = [p for (r, _), p in self._places.items() if r == root and p in self._floors]
        owner = np.where(np.isin(self._owner, members), np.int32(place), np.int32(-1)).astype(np.int32)
        tags = [int(self._floors[p].min()) for p in members] + [self._wholes[p] for p in members if p in self._wholes]
        oldest = min(tags, default=_LAST_TAG + 1)
        return owner, place, np.full((self.program.target.tiles, layout.slot_count), oldest, np.int64)

    def _new(self, buffer: int, offsets: Sequence[int], step: str) -> int:
        """A tag for a new version of what lies at a place."""
        place = self._place(buffer, offsets)
        if len(self._versions) > self.last_tag:
            self._renumber()
        tag = len(self._versions)
        self._versions.append(_Version(place, step, self.run))
        self._owner[tag] = place
        return tag

    def _renumber(self) -> None:
        """Give the tags that may still be valid the lowest numbers, and take the others from all words."""
        alive = [0]
        for tag in range(1, len(self._versions)):
            place = self._versions[tag].place
            floors = self._floors.get(place)
            if floors is not None and tag >= min(int(floors.min()), self._wholes.get(place, _LAST_TAG)):
                alive.append(tag)
        if len(alive) > self.last_tag // 2:
            raise error(
                "IPU0505", f"more than {self.last_tag // 2} versions of tensors are live at once in checked mode"
            )
        kept = np.array(alive)
        table = np.zeros(_LAST_TAG + 1, np.uint16)
        table[kept] = np.arange(kept.size)
        rows = self._tags[: self._tags.size // _CHUNK * _CHUNK]
        for part in (*np.array_split(rows, _CHUNK), self._tags[rows.size :]):
            if part.any():
                part[:] = table[part]
        for floors in self._floors.values():
            floors[:] = np.where(floors > _LAST_TAG, _LAST_TAG + 1, np.searchsorted(kept, floors))
        self._wholes = {p: int(np.searchsorted(kept, tag)) for p, tag in self._wholes.items()}
        self._versions = [self._versions[t] for t in alive]
        self._owner[:] = -1
        self._owner[: kept.size] = [v.place for v in self._versions]

    # Words

    def _window(self, words: int) -> Tags:
        return np.lib.stride_tricks.as_strided(self._tags, (self._tags.size - words + 1, words), (2, 2))

    def _first(self, engine: Engine, buffer: int, offsets: Sequence[int], tiles: NDArray[np.integer],
               cells: NDArray[np.integer]) -> Ints:  # fmt: skip
        """The word at which every cell begins."""
        b = self.program.buffers[buffer]
        slots = _slots(b.layout)[cells] * b.layout.slot_bytes
        first: Ints = (_memory(engine).base(b, tiles, offsets[buffer]) + slots) // WORD
        return first

    def _stamp(self, engine: Engine, buffer: int, offsets: Sequence[int], tiles: NDArray[np.integer],
               cells: NDArray[np.integer], tag: int) -> None:  # fmt: skip
        words = self.program.buffers[buffer].layout.slot_bytes // WORD
        self._window(words)[self._first(engine, buffer, offsets, tiles, cells)] = tag

    def _check(self, engine: Engine, step: str, buffer: int, offsets: Sequence[int], tiles: NDArray[np.integer],
               cells: NDArray[np.integer]) -> None:  # fmt: skip
        """Raises IPU0611 unless every element of the cells is of the version that should be there."""
        layout = self.program.buffers[buffer].layout
        owner, place, floors = self._expected(buffer, offsets)
        first = self._first(engine, buffer, offsets, tiles, cells)
        floor = np.ascontiguousarray(floors[tiles, _slots(layout)[cells]])
        words = layout.slot_bytes // WORD
        good = np.zeros(first.size, bool)
        valid_rows(self._tags, first, words, owner, place, floor, good)
        # Words beyond a cell's elements hold anything.
        for i in np.flatnonzero(~good).tolist():
            tags = self._tags[first[i] : first[i] + words]
            wrong = np.flatnonzero(((owner[tags] != place) | (tags < floor[i])) & self._mask(layout, int(cells[i])))
            if wrong.size:
                raise self._violation(step, buffer, int(tiles[i]), int(cells[i]), int(first[i] + wrong[0]), engine)

    def _mask(self, layout: Layout, cell: int) -> NDArray[np.bool_]:
        """Which words of a cell hold elements; equal for cells of equal extents."""
        bounds = tuple((int(a[0]), int(b[0])) for a, b in extents(layout, np.array([cell])))
        key = (id(layout), bounds)
        if key not in self._masks:
            at = np.zeros(1, np.int64)
            for d, (a, b) in enumerate(bounds):
                at = (at[:, None] + layout.positions(d, np.arange(a, b))[None, :]).reshape(-1)
            mask = np.zeros(layout.slot_bytes // WORD, bool)
            mask[at // WORD] = True
            self._masks[key] = mask
        return self._masks[key]

    def _carry(self, memory: TileMemory, step: Exchange, move: Move, offsets: Sequence[int], tag: int) -> None:
        src, dst = self.program.buffers[move.src], self.program.buffers[move.dst]
        if word_bytes(move.tracks) < WORD:
            raise error("IPU0509", f"{name_of(step)} moves parts of words, which cannot be followed")
        owner, place, floors = self._expected(move.src, offsets)
        src_tiles, src_base = bases(memory, src, offsets[move.src])
        dst_tiles, dst_base = bases(memory, dst, offsets[move.dst])
        floor = np.ascontiguousarray(floors[src_tiles, _slots(src.layout)[:, None]])
        sc, dc, sa, da = flatten(move.tracks)
        t = move.tracks[-1]
        found, source, read, cell, written = carry_tags(
            self._tags, sc, dc, sa // WORD, da // WORD,
            t.src_cell, t.dst_cell, t.src_at // WORD, t.dst_at // WORD, t.count, t.src_step // WORD,
            t.dst_step // WORD, t.run // WORD,
            src_tiles, src_base // WORD, dst_tiles, dst_base // WORD, owner, place, floor,
            self._cover.needed(move.src), tag,
        )  # fmt: skip
        if found == FINE:
            return
        if found == INVALID:
            tile = read * WORD // memory.pitch
            raise self._violation(name_of(step), move.src, tile, source, read, memory)
        tile, at = divmod(written * WORD, memory.pitch)
        raise error(
            "IPU0611",
            f"{name_of(step)} writes byte {at} of tile {tile} twice",
            notes=[f"cell {cell} of {self._facts.label(move.dst)}"],
        )

    def _violation(
        self, step: str, buffer: int, tile: int, cell: int, word: int, memory: Engine | TileMemory
    ) -> CompileError:
        pitch = (memory if isinstance(memory, TileMemory) else _memory(memory)).pitch
        version = self._versions[int(self._tags[word])]
        if version.place < 0:
            there = "nothing was ever written there"
        else:
            root, at = next(key for key, p in self._places.items() if p == version.place)
            what = self._facts.label(root) if root != self._facts.root(buffer) else "an earlier version of it"
            run = "" if version.run == self.run else f" in run {version.run} (this is run {self.run})"
            there = f"it holds {what} (address {at}), written by {version.step}{run}"
        return error(
            "IPU0611",
            f"{step} reads {self._facts.label(buffer)} on tile {tile}, and byte {word * WORD % pitch} of the tile "
            "holds something else",
            notes=[there, f"cell {cell} of the tensor"],
            data={"step": step, "tile": tile, "buffer": buffer, "cell": cell},
        )


def _memory(engine: Engine) -> TileMemory:
    if engine.memory is None:
        raise error("IPU0902", "checked mode needs tile memory")
    return engine.memory


def _slots(layout: Layout) -> NDArray[np.int64]:
    """The slot of every cell (flat index)."""
    if layout.slots is None:
        return np.zeros(prod(layout.grid), np.int64)
    return layout.slots.reshape(-1).astype(np.int64)
