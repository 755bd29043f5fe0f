"""Fingerprints: whether an exchange brings every element to where its view says it belongs.

Every element of a source is filled with a hash of its index, the exchange runs on memory of its own, and every element
of every destination, on all its tiles, is held against the hash of the element that the view names. Unlike checked mode
this sees the wrong box of the right tensor: tiles that are swapped, offsets that are shifted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.base import Array
from ipucc.diagnostics import CompileError, error
from ipucc.dtypes import storage_type
from ipucc.program.facts import Facts
from ipucc.program.model import Binding, Buffer, Exchange, Fill, HostWrite, Program
from ipucc.runtime.cells import extents, load
from ipucc.runtime.engine import Engine
from ipucc.tiles.view import View

__all__ = ["check_exchange", "check_exchanges"]

_BITS: Final = {1: "uint8", 2: "uint16", 4: "uint32"}
_CHUNK_ELEMENTS: Final = 1 << 22


def check_exchanges(program: Program) -> int:
    """Check every distinct exchange of a program; returns how many there are. Raises like `check_exchange`."""
    seen: set[tuple[object, ...]] = set()
    for step in Facts(program).exchanges:
        moves = (
            (id(m.tracks), id(m.view), id(program.buffers[m.src].layout), id(program.buffers[m.dst].layout), m.dst)
            for m in step.moves
        )
        # Which buffers they are does not matter, which of them are the same one does.
        first = min((m.dst for m in step.moves), default=0)
        key = (tuple((*rest, dst - first) for *rest, dst in moves), tuple(f.value for f in step.fills))
        if key not in seen:
            seen.add(key)
            check_exchange(program, step)
    return len(seen)


def check_exchange(program: Program, step: Exchange) -> None:
    """Raises IPU0902 for the first element that an exchange does not bring to its place.

    The program must have addresses. Narrow elements are checked several times with other hashes, so that 32 bits are
    compared for each.
    """
    itemsizes = {program.buffers[m.src].layout.itemsize for m in step.moves}
    for salt in range(4 // min(itemsizes, default=4)):
        _Check(program, step, salt).run()


@dataclass(frozen=True, eq=False)
class _Check:
    program: Program
    step: Exchange
    salt: int

    def run(self) -> None:
        sources = list(dict.fromkeys(m.src for m in self.step.moves))
        shadow = [self._shadow(b) for b in self.program.buffers]
        values: dict[str, Array | None] = {f"%{b}": self._hashes(b) for b in sources}
        writes = [HostWrite(f"%{b}", b, View.identity(shadow[b].layout.shape)) for b in sources]
        fills = tuple(Fill(f.buffer, float(self._pattern(f))) for f in self.step.fills)
        moved = Exchange(self.step.name, self.step.moves, fills, self.step.order)
        scratch = Program(self.program.target, shadow, [*writes, moved], [], [], values)
        engine = Engine(scratch)
        engine.run({})
        for dst in dict.fromkeys(m.dst for m in self.step.moves):
            expected, known = self._expected(dst, values)
            for tile, cell, held in _cells(engine, shadow[dst]):
                here = _slices(shadow[dst], cell)
                wrong = (held != expected[here]) & known[here]
                if wrong.any():
                    at = tuple(int(x[0]) for x in np.nonzero(np.atleast_1d(wrong)))
                    raise self._error(dst, tile, cell, at, int(np.atleast_1d(held)[at]), values)

    def _shadow(self, buffer: Buffer) -> Buffer:
        kind = _BITS[buffer.layout.itemsize]
        return Buffer(buffer.name, kind, buffer.layout, buffer.offset, buffer.alias, buffer.alias_offset)

    def _hashes(self, buffer: int) -> Array:
        """One number per element of a source, from its index, the source and the salt (the finaliser of SplitMix64)."""
        layout = self.program.buffers[buffer].layout
        x = np.arange(prod(layout.shape), dtype=np.uint64) + np.uint64(((buffer + 1) << 40) + (self.salt << 58))
        with np.errstate(over="ignore"):
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (x ^ (x >> np.uint64(31))).astype(_BITS[layout.itemsize]).reshape(layout.shape)

    def _pattern(self, fill: Fill) -> int:
        """The bits of a fill's value."""
        buffer = self.program.buffers[fill.buffer]
        value = np.full(1, fill.value).astype(storage_type(buffer.dtype))
        return int(value.view(_BITS[buffer.layout.itemsize])[0])

    def _expected(self, dst: int, values: dict[str, Array | None]) -> tuple[Array, NDArray[np.bool_]]:
        """What a destination must hold, and where that is known: where a view has a source, or everywhere if filled."""
        layout = self.program.buffers[dst].layout
        fill = next((f for f in self.step.fills if f.buffer == dst), None)
        out = np.full(layout.shape, 0 if fill is None else self._pattern(fill), _BITS[layout.itemsize])
        known = np.full(layout.shape, fill is not None)
        for m in self.step.moves:
            source = values[f"%{m.src}"]
            if m.dst == dst and source is not None:
                has = np.asarray(m.view.apply(np.ones(m.view.src, bool), 0.0), bool)
                np.copyto(out, m.view.apply(source), where=has)
                known |= has
        return out, known

    def _error(self, dst: int, tile: int, cell: int, at: tuple[int, ...], held: int, values: dict[str, Array | None]
               ) -> CompileError:  # fmt: skip
        buffers = self.program.buffers
        starts = [s.start for s in _slices(buffers[dst], cell)]
        element = tuple(a + s for a, s in zip(at, starts, strict=False))
        found = "nothing that a source has"
        for name, source in values.items():
            if source is not None and (source == held).any():
                index = tuple(np.argwhere(source == held)[0].tolist())
                found = f"element {index} of {name} {buffers[int(name[1:])].name!r}, or one like it"
                break
        return error(
            "IPU0902",
            f"exchange {self.step.name!r} does not bring element {element} of %{dst} {buffers[dst].name!r} "
            f"to tile {tile}",
            notes=[f"cell {cell} holds {found}"],
        )


def _cells(engine: Engine, buffer: Buffer) -> Iterator[tuple[int, int, Array]]:
    """(tile, cell, the elements of the tensor that it holds) for every cell and replica of a buffer."""
    layout = buffer.layout
    tiles = layout.tiles.reshape(-1, layout.replicas)
    size = max(1, _CHUNK_ELEMENTS // max(1, prod(layout.cell)))
    memory = engine.memory
    assert memory is not None
    for r in range(layout.replicas):
        for start in range(0, len(tiles), size):
            ids = np.arange(start, min(start + size, len(tiles)), dtype=np.int32)
            dense = load(memory, buffer, tiles[ids, r], Binding(0, ids), slice(None), buffer.offset)
            inside = extents(layout, ids)
            for i, cell in enumerate(ids.tolist()):
                own = tuple(slice(int(a[i]), int(b[i])) for a, b in inside)
                yield int(tiles[cell, r]), cell, dense[i : i + 1][(slice(None), *own)][0]


def _slices(buffer: Buffer, cell: int) -> tuple[slice, ...]:
    """The box of the tensor that a cell holds."""
    layout = buffer.layout
    where = np.unravel_index(cell, layout.grid) if layout.grid else ()
    box = []
    for d, (a, b) in enumerate(extents(layout, np.array([cell]))):
        low = int(layout.cuts[d][0][where[d]])
        box.append(slice(low + int(a[0]), low + int(b[0])))
    return tuple(box)
