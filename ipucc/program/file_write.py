"""Writing a program: JSON for its structure, tables for its arrays, each distinct thing once.

Layouts, views, track products, cells, codelets and arrays are interned by content, so that repeated layers share them
in the file and, after reading, in memory.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from ipucc import __version__
from ipucc.codelets.base import Cells, Codelet
from ipucc.program.container import Writer, write_archive
from ipucc.program.fields import plain
from ipucc.program.file_patterns import pattern_entries
from ipucc.program.file_plans import placement_entry
from ipucc.program.model import (
    Binding,
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
)
from ipucc.program.tensors import pack_tensors
from ipucc.target import dump_target
from ipucc.tiles.intersect import Track
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

__all__ = ["FORMAT", "IDENTITY_LIMIT", "VERSION", "save_program"]

FORMAT: Final = "ipucc program"
VERSION: Final = 4

IDENTITY_LIMIT: Final = 1 << 24
"""Index maps 0, 1, 2, ... up to this length are stored as their length alone; longer ones as arrays, so that no small
file stands for a large array."""

Json = object
_INTS: Final = tuple(np.dtype(t) for t in ("<i1", "<i2", "<i4", "<i8"))


def save_program(program: Program, path: str | Path) -> None:
    """Write a program as an `.ipux` file. The same program gives the same bytes in every process.

    `program.manifest` must be JSON; its key `placement`, a table, is kept with the ops in an entry of its own. The file
    appears whole or not at all. Raises IPU0508 where it cannot be written, TypeError for what no file can hold.
    """
    tables = _Tables()
    body = _Body(tables).program(program)
    info = {k: v for k, v in program.manifest.items() if k != "placement"}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "tool": f"ipucc {__version__}",
        "target": dump_target(program.target),
        "target_digest": program.target.digest(),
        "inputs": program.inputs,
        "outputs": program.outputs,
        "patterns": pattern_entries(program.patterns.values()),
        "extents": program.extents,
        "missing_weights": sorted(name for name, value in program.weights.items() if value is None),
        "info": info,
    }
    weights = {k: np.asarray(v) for k, v in sorted(program.weights.items()) if v is not None}
    entries = [
        ("manifest.json", *_json(manifest, indent=1)),
        ("placement.json", *_json(placement_entry(program.manifest.get("placement"), program.ops), indent=1)),
        ("program.json", *_json(body)),
        ("tables.safetensors", *pack_tensors(tables.named())),
        ("weights.safetensors", *pack_tensors(weights)),
    ]  # fmt: skip
    write_archive(Path(path), entries)


def _json(value: Json, indent: int | None = None) -> tuple[int, Writer]:
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(plain(value), indent=indent, separators=separators, allow_nan=False).encode()

    def write(file: BinaryIO) -> None:
        file.write(text)

    return len(text), write


class _Tables:
    """Integer arrays by content, each in the narrowest type that holds it."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[np.generic]] = []
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self._by_id: dict[int, tuple[int, object]] = {}

    def add(self, array: NDArray[np.integer]) -> int:
        """The number of an array. The array itself is kept, so that its id stays its own."""
        known = self._by_id.get(id(array))
        if known is not None:
            return known[0]
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        kind = next(t for t in _INTS if np.iinfo(t.name).min <= low and high <= np.iinfo(t.name).max)
        narrow = np.ascontiguousarray(array.astype(kind))
        key = (kind.name, narrow.shape, hashlib.sha256(narrow.data if narrow.size else b"").digest())
        if key not in self._by_content:
            self._by_content[key] = len(self.arrays)
            self.arrays.append(narrow)
        self._by_id[id(array)] = (self._by_content[key], array)
        return self._by_content[key]

    def named(self) -> dict[str, NDArray[np.generic]]:
        """All arrays by their numbers as text."""
        return {str(i): a for i, a in enumerate(self.arrays)}


class _Pool:
    """Entries of one kind by content, in order of their first use."""

    def __init__(self) -> None:
        self.entries: list[Json] = []
        self._by_text: dict[str, int] = {}
        self._by_id: dict[int, tuple[int, object]] = {}

    def known(self, thing: object) -> int | None:
        found = self._by_id.get(id(thing))
        return None if found is None else found[0]

    def add(self, thing: object, entry: Json) -> int:
        text = json.dumps(plain(entry), allow_nan=False)
        if text not in self._by_text:
            self._by_text[text] = len(self.entries)
            self.entries.append(entry)
        self._by_id[id(thing)] = (self._by_text[text], thing)
        return self._by_text[text]


class _Body:
    """The content of `program.json`."""

    def __init__(self, tables: _Tables) -> None:
        self.tables = tables
        self.layouts, self.views, self.tracks, self.cells, self.codelets = (_Pool() for _ in range(5))

    def program(self, program: Program) -> Mapping[str, Json]:
        buffers = [self._buffer(b) for b in program.buffers]
        steps = [self._step(s) for s in program.steps]
        functions = {name: [self._step(s) for s in body] for name, body in program.functions.items()}
        return {
            "code_bytes": program.code_bytes,
            "layouts": self.layouts.entries,
            "views": self.views.entries,
            "tracks": self.tracks.entries,
            "cells": self.cells.entries,
            "codelets": self.codelets.entries,
            "buffers": buffers,
            "functions": functions,
            "steps": steps,
        }

    def _buffer(self, b: Buffer) -> Json:
        return {
            "name": b.name, "dtype": b.dtype, "layout": self._layout(b.layout), "offset": b.offset, "alias": b.alias,
            "alias_offset": b.alias_offset,
        }  # fmt: skip

    def _step(self, step: Step) -> Json:
        if isinstance(step, Exchange):
            return {
                "do": "exchange", "name": step.name, "moves": [self._move(m) for m in step.moves],
                "fills": [[f.buffer, f.value] for f in step.fills], "order": str(step.order),
            }  # fmt: skip
        if isinstance(step, Compute):
            return {
                "do": "compute", "name": step.name, "codelet": self._codelet(step.codelet),
                "tiles": self.tables.add(step.tiles), "cells": self._cells(step.cells),
                "operands": [self._binding(b) for b in step.operands],
                "results": [self._binding(b) for b in step.results], "macs": step.macs,
                "workers": None if step.workers is None else self.tables.add(step.workers),
                "beside": [self._step(s) for s in step.beside],
            }  # fmt: skip
        if isinstance(step, HostWrite | HostRead):
            return {
                "do": "host_write" if isinstance(step, HostWrite) else "host_read", "tensor": step.tensor,
                "buffer": step.buffer, "view": self._view(step.view), "fill": step.fill,
            }  # fmt: skip
        if isinstance(step, Repeat):
            return {
                "do": "repeat", "count": step.count, "body": [self._step(s) for s in step.body],
                "strides": sorted(step.strides.items()), "names": step.names,
            }  # fmt: skip
        if isinstance(step, While):
            return {
                "do": "while", "name": step.name, "condition": step.condition, "bound": step.bound,
                "body": [self._step(s) for s in step.body], "strides": sorted(step.strides.items()),
            }  # fmt: skip
        if isinstance(step, If):
            return {
                "do": "if", "name": step.name, "condition": step.condition,
                "then": [self._step(s) for s in step.then], "otherwise": [self._step(s) for s in step.otherwise],
            }  # fmt: skip
        assert isinstance(step, Call)
        return {"do": "call", "function": step.function, "inputs": step.inputs, "outputs": step.outputs}

    def _move(self, move: Move) -> Json:
        return [move.src, move.dst, self._tracks(move.tracks), self._view(move.view), move.keeps]

    def _binding(self, b: Binding) -> Json:
        return [b.buffer, self.tables.add(b.cells), b.fill]

    def _layout(self, layout: Layout) -> int:
        known = self.layouts.known(layout)
        if known is not None:
            return known
        entry = {
            "shape": layout.shape,
            "cuts": [[self.tables.add(lo), self.tables.add(hi)] for lo, hi in layout.cuts],
            "tiles": self.tables.add(layout.tiles),
            "itemsize": layout.itemsize,
            "grain_dim": layout.grain_dim,
            "by_rows": layout.by_rows,
            "slots": None if layout.slots is None else self.tables.add(layout.slots),
            "core": None if layout.core is None else [[self.tables.add(x) for x in cut] for cut in layout.core],
        }
        return self.layouts.add(layout, entry)

    def _view(self, view: View) -> int:
        known = self.views.known(view)
        if known is not None:
            return known
        groups = []
        for g in view.groups:
            short = g.size <= IDENTITY_LIMIT and g.is_identity
            groups.append([g.src, g.dst, None if short else self.tables.add(g.index), g.size])
        return self.views.add(view, {"src": view.src, "dst": view.dst, "groups": groups})

    def _tracks(self, tracks: tuple[Track, ...]) -> int:
        known = self.tracks.known(tracks)
        if known is not None:
            return known
        return self.tracks.add(tracks, [[self.tables.add(getattr(t, f)) for f in Track.FIELDS] for t in tracks])

    def _cells(self, cells: Cells) -> int:
        known = self.cells.known(cells)
        if known is not None:
            return known
        entry = {
            "lo": [[axis, self.tables.add(a)] for axis, a in cells.lo.items()],
            "n": [[axis, self.tables.add(a)] for axis, a in cells.n.items()],
            "sizes": None if cells.sizes is None else sorted(cells.sizes.items()),
        }
        return self.cells.add(cells, entry)

    def _codelet(self, codelet: Codelet) -> int:
        known = self.codelets.known(codelet)
        return self.codelets.add(codelet, codelet.to_json()) if known is None else known
