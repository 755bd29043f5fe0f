"""Reading a program: every field is held against its type and its range before anything is built from it.

What the fields mean together is the verifier's business; here a file is only turned into objects that are well formed.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.all import load_all
from ipucc.codelets.base import Array, Cells, Codelet, codelet_class
from ipucc.diagnostics import CompileError, error
from ipucc.dtypes import STORAGE
from ipucc.program.container import Bytes, read_archive
from ipucc.program.fields import Field, parse_json, typed_fields
from ipucc.program.file_patterns import read_patterns
from ipucc.program.file_plans import read_placement
from ipucc.program.file_write import FORMAT, IDENTITY_LIMIT, VERSION
from ipucc.program.model import (
    Binding,
    Buffer,
    Call,
    Compute,
    Exchange,
    Fill,
    HostRead,
    HostWrite,
    If,
    Move,
    Program,
    Repeat,
    Step,
    While,
)
from ipucc.program.order import Order
from ipucc.program.tensors import read_tensors
from ipucc.program.verify import verify_program
from ipucc.target import Target, parse_target
from ipucc.tiles.cuts import Cut
from ipucc.tiles.intersect import Track
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import Group, View

__all__ = ["load_program"]

_LIMITS: Final[dict[str, int]] = {
    "manifest.json": 1 << 24,
    "placement.json": 1 << 26,
    "program.json": 1 << 26,
    "tables.safetensors": 1 << 30,
    "weights.safetensors": 1 << 40,
}
_MAX_RANK: Final = 32
_MAX_SIZE: Final = 1 << 31
_MAX_DEPTH: Final = 16
_MAX_COUNT: Final = 1 << 31
_MAX_WORK: Final = 1 << 26
"""Array elements that all references of `program.json` together may lead to, so that work is bounded."""

T = TypeVar("T")
Ports = list[tuple[str, str, tuple[int, ...]]]


def load_program(path: str | Path) -> Program:
    """The program in an `.ipux` file, checked and verified. Weights stay in the file, mapped, until they are used.

    Raises IPU0501 (cannot be opened), IPU0502 (another format), IPU0503 (damaged), IPU0504 (another version), IPU0505
    (beyond a limit of the reader), IPU0506 (a wrong field), IPU0507 and IPU0509 (not a program that can run).
    """
    entries = _entries(path)
    where = str(path)
    manifest = _manifest(entries, where)
    for name in ("placement.json", "program.json", "tables.safetensors", "weights.safetensors"):
        if name not in entries:
            raise error("IPU0503", f"the entry {name} is missing", where=where)
    tables = _Tables(read_tensors(entries["tables.safetensors"], "tables.safetensors", where))
    weights: dict[str, Array | None] = {}
    weights.update(sorted(read_tensors(entries["weights.safetensors"], "weights.safetensors", where).items()))
    for f in manifest["missing_weights"].elements():
        if weights.setdefault(f.text(), None) is not None:
            raise f.wrong("this weight is not missing")
    info = dict(_plain_table(manifest["info"]))
    figures, ops = read_placement(parse_json(entries["placement.json"].tobytes(), "placement.json", where))
    if figures:
        info["placement"] = figures
    body = parse_json(entries["program.json"].tobytes(), "program.json", where)
    program = _Body(body, tables, _target(manifest)).program(
        _ports(manifest["inputs"]), _ports(manifest["outputs"]), dict(sorted(weights.items())), info
    )
    program.ops = ops
    program.patterns = read_patterns(manifest["patterns"], program.inputs)
    program.extents = {name: _cuts(f) for name, f in manifest["extents"].items()}
    verify_program(program, where)
    return program


def _entries(path: str | Path) -> dict[str, Bytes]:
    return read_archive(Path(path), _LIMITS, "manifest.json")


def _manifest(entries: Mapping[str, Bytes], where: str) -> Field:
    manifest = parse_json(entries["manifest.json"].tobytes(), "manifest.json", where)
    if manifest["format"].value != FORMAT:
        raise error("IPU0502", "the file is no ipucc program (manifest.json has another format)", where=where)
    version = manifest["version"].integer(1, _MAX_SIZE)
    if version != VERSION:
        raise error("IPU0504", f"the program has format version {version}, this ipucc reads {VERSION}", where=where,
                    help=["compile the model again with this ipucc"])  # fmt: skip
    return manifest.keys(
        "format",
        "version",
        "tool",
        "target",
        "target_digest",
        "inputs",
        "outputs",
        "patterns",
        "extents",
        "missing_weights",
        "info",
    )


def _cuts(given: Field) -> tuple[tuple[int, str], ...]:
    """The dimensions of an output that are cut; the verifier holds them against the outputs."""
    pairs = [f.elements(2) for f in given.elements()]
    return tuple((axis.integer(0, _MAX_SIZE), counter.text()) for axis, counter in pairs)


def _plain_table(field: Field) -> dict[str, object]:
    return {key: f.value for key, f in field.items()}


def _target(manifest: Field) -> Target:
    try:
        target = parse_target(_plain_table(manifest["target"]), manifest.where)
    except CompileError as problem:
        raise CompileError(
            [manifest["target"].wrong(d.message).diagnostics[0] for d in problem.diagnostics]
        ) from problem
    if target.digest() != manifest["target_digest"].value:
        raise manifest["target_digest"].wrong("it is not the digest of the target")
    return target


def _ports(given: Field) -> Ports:
    out: Ports = []
    names: set[str] = set()
    for f in given.elements():
        name, dtype, shape = f.elements(3)
        if name.text() in names:
            raise name.wrong("the name stands twice")
        names.add(name.text())
        out.append((name.text(), _dtype(dtype), _shape(shape)))
    return out


def _dtype(f: Field) -> str:
    if f.text() not in STORAGE:
        raise f.wrong(f"unknown element type {f.text()!r}")
    return f.text()


def _shape(f: Field) -> tuple[int, ...]:
    shape = f.integers(0, _MAX_SIZE)
    if len(shape) > _MAX_RANK or prod(max(1, n) for n in shape) > 1 << 48:
        raise f.wrong("absurd shape")
    return shape


class _Tables:
    """The arrays of a file, each once per element type that is asked for."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self._known: dict[tuple[int, str], NDArray[np.generic]] = {}
        self._range: dict[int, tuple[int, int]] = {}
        self._work = 0

    def get(self, f: Field, kind: str, rank: int = 1, low: int = 0, high: int = _MAX_SIZE) -> NDArray[Any]:
        """The array that a field names: integers between low and high, of this rank."""
        number = f.integer(0, max(0, len(self.arrays) - 1))
        array = self.arrays.get(str(number))
        if array is None or array.dtype.kind != "i":
            raise f.wrong(f"table {number} is no array of integers")
        self._work += array.size
        if self._work > _MAX_WORK:
            raise f.wrong(f"the program refers to more than {_MAX_WORK:,} table entries", "IPU0505")
        if array.ndim != rank:
            raise f.wrong(f"table {number} has {array.ndim} dimensions instead of {rank}")
        if number not in self._range:
            self._range[number] = (int(array.min()), int(array.max())) if array.size else (low, high)
        if self._range[number][0] < low or self._range[number][1] > high:
            raise f.wrong(f"table {number} has values outside {low}..{high}")
        if (number, kind) not in self._known:
            self._known[number, kind] = np.array(array, kind)
            self._known[number, kind].flags.writeable = False
        return self._known[number, kind]


class _Body:
    """The content of `program.json`, built from the pools up to the steps."""

    def __init__(self, body: Field, tables: _Tables, target: Target) -> None:
        load_all()
        self.body = body.keys(
            "code_bytes", "layouts", "views", "tracks", "cells", "codelets", "buffers", "functions", "steps"
        )
        self.tables = tables
        self.target = target
        self.identity: NDArray[np.int64] = np.zeros(0, np.int64)

    def program(self, inputs: Ports, outputs: Ports, weights: dict[str, Array | None], info: dict[str, object]
                ) -> Program:  # fmt: skip
        body = self.body
        self.layouts = [self._layout(f) for f in body["layouts"].elements()]
        self.views = [self._view(f) for f in body["views"].elements()]
        self.tracks = [self._track_product(f) for f in body["tracks"].elements()]
        self.cells = [self._cells(f) for f in body["cells"].elements()]
        self.codelets = [_codelet(f) for f in body["codelets"].elements()]
        self.count = len(body["buffers"].elements())
        buffers = [self._buffer(f) for f in body["buffers"].elements()]
        self.functions = [name for name, _ in body["functions"].items()]
        functions = {name: self._steps(f, 1) for name, f in body["functions"].items()}
        steps = list(self._steps(body["steps"], 1))
        code = body["code_bytes"].integer(0, self.target.tile_bytes, "IPU0507")
        return Program(self.target, buffers, steps, inputs, outputs, weights, functions, code, info)

    def _layout(self, f: Field) -> Layout:
        f.keys("shape", "cuts", "tiles", "itemsize", "grain_dim", "by_rows", "slots", "core")
        shape = _shape(f["shape"])
        tiles = self.tables.get(f["tiles"], "int32", len(shape) + 1, 0, self.target.tiles - 1)
        if tiles.size == 0:
            raise f["tiles"].wrong("no tile")
        cuts = self._cuts(f["cuts"], tiles.shape[:-1])
        core = None if f["core"].value is None else self._cuts(f["core"], tiles.shape[:-1])
        slots = None
        if f["slots"].value is not None:
            slots = self.tables.get(f["slots"], "int32", len(shape), 0, 1 << 24)
            if slots.shape != tiles.shape[:-1]:
                raise f["slots"].wrong("every cell needs a slot")
        grain = f["grain_dim"].integer(0, max(0, len(shape) - 1))
        itemsize = f["itemsize"].integer(1, 8)
        return Layout(shape, cuts, tiles, itemsize, grain, slots, f["by_rows"].boolean(), core)

    def _cuts(self, f: Field, grid: tuple[int, ...]) -> tuple[Cut, ...]:
        cuts: list[Cut] = []
        for cells, cut in zip(grid, f.elements(len(grid)), strict=True):
            lo, hi = (self.tables.get(x, "int32", low=-(1 << 30), high=1 << 30) for x in cut.elements(2))
            if lo.shape != hi.shape or lo.size != cells or (lo > hi).any():
                raise cut.wrong("a cut needs a first and a last index for every cell")
            cuts.append((lo, hi))
        return tuple(cuts)

    def _view(self, f: Field) -> View:
        f.keys("src", "dst", "groups")
        src, dst = _shape(f["src"]), _shape(f["dst"])
        groups = []
        for g in f["groups"].elements():
            a, b, table, size = g.elements(4)
            source, result = a.integers(0, len(src) - 1), b.integers(0, len(dst) - 1)
            count = size.integer(0, _MAX_SIZE)
            if count != prod(dst[d] for d in result):
                raise size.wrong("an index map needs one entry for every destination index")
            reach = prod(src[d] for d in source)
            if table.value is None:
                if count > min(reach, IDENTITY_LIMIT):
                    raise g.wrong("this is no identity")
                index = self._arange(count)
            else:
                index = self.tables.get(table, "int64", 1, -1, reach - 1)
                if index.size != count:
                    raise table.wrong(f"the index map has {index.size} entries instead of {count}")
            groups.append(Group(source, result, index))
        for shape, used in ((src, [d for g in groups for d in g.src]), (dst, [d for g in groups for d in g.dst])):
            if sorted(used) != list(range(len(shape))):
                raise f["groups"].wrong("every dimension belongs to exactly one group")
        return View(src, dst, tuple(groups))

    def _arange(self, count: int) -> NDArray[np.int64]:
        if count > self.identity.size:
            self.identity = np.arange(1 << (count - 1).bit_length())
        return self.identity[:count]

    def _track_product(self, f: Field) -> tuple[Track, ...]:
        out = []
        for t in f.elements():
            # Steps may go backwards; everything else counts from zero.
            lows = [-_MAX_SIZE if name.endswith("step") else 0 for name in Track.FIELDS]
            arrays = [self.tables.get(a, "int64", low=low) for a, low in zip(t.elements(8), lows, strict=True)]
            if any(a.size != arrays[0].size for a in arrays) or not arrays[0].size:
                raise t.wrong("the arrays of a track have one length")
            out.append(Track(*arrays))
        return tuple(out)

    def _cells(self, f: Field) -> Cells:
        f.keys("lo", "n", "sizes")
        # Halos begin before the tensor.
        lo = self._per_axis(f["lo"], -_MAX_SIZE)
        n = self._per_axis(f["n"], 0)
        if lo.keys() != n.keys() or len({a.size for a in (*lo.values(), *n.values())}) > 1:
            raise f.wrong("every axis needs a first index and an extent for every vertex")
        if f["sizes"].value is None:
            return Cells(lo, n)
        sizes = {a.text(): s.integer(0, _MAX_SIZE) for a, s in (x.elements(2) for x in f["sizes"].elements())}
        if sizes.keys() != n.keys():
            raise f["sizes"].wrong("every axis needs a size")
        return Cells(lo, n, sizes)

    def _per_axis(self, f: Field, low: int) -> dict[str, NDArray[np.int64]]:
        pairs = (x.elements(2) for x in f.elements())
        return {axis.text(): self.tables.get(table, "int64", low=low) for axis, table in pairs}

    def _buffer(self, f: Field) -> Buffer:
        f.keys("name", "dtype", "layout", "offset", "alias", "alias_offset")
        layout = _of(self.layouts, f["layout"])
        dtype = _dtype(f["dtype"])
        if STORAGE[dtype].itemsize != layout.itemsize:
            raise f["dtype"].wrong(f"the layout has items of {layout.itemsize} bytes")
        # Buffers that no step touches have no address.
        offset = f["offset"].integer(-1, self.target.tile_bytes, "IPU0507")
        return Buffer(f["name"].text(), dtype, layout, offset, f["alias"].integer(-1, self.count - 1, "IPU0507"),
                      f["alias_offset"].integer(0, self.target.tile_bytes, "IPU0507"))  # fmt: skip

    def _steps(self, f: Field, depth: int) -> tuple[Step, ...]:
        if depth > _MAX_DEPTH:
            raise f.wrong(f"steps are nested deeper than {_MAX_DEPTH}", "IPU0505")
        return tuple(self._step(s, depth) for s in f.elements())

    def _step(self, f: Field, depth: int) -> Step:
        kind = f["do"].text()
        if kind == "exchange":
            f.keys("do", "name", "moves", "fills", "order")
            moves = tuple(self._move(m) for m in f["moves"].elements())
            fills = (x.elements(2) for x in f["fills"].elements())
            try:
                order = Order.parse(f["order"].text())
            except ValueError as unknown:
                raise f["order"].wrong(str(unknown)) from None
            made = tuple(Fill(self._buffer_id(b), v.number()) for b, v in fills)
            return Exchange(f["name"].text(), moves, made, order)
        if kind == "compute":
            return self._compute(f)
        if kind in ("host_write", "host_read"):
            f.keys("do", "tensor", "buffer", "view", "fill")
            parts = f["tensor"].text(), self._buffer_id(f["buffer"]), _of(self.views, f["view"]), f["fill"].number()
            return HostWrite(*parts) if kind == "host_write" else HostRead(*parts)
        if kind == "repeat":
            f.keys("do", "count", "body", "strides", "names")
            count = f["count"].integer(0, _MAX_COUNT, "IPU0505")
            names = tuple(tuple(x.text() for x in row.elements()) for row in f["names"].elements())
            return Repeat(count, self._steps(f["body"], depth + 1), self._strides(f["strides"]), names)
        if kind == "while":
            f.keys("do", "name", "condition", "bound", "body", "strides")
            bound = None if f["bound"].value is None else f["bound"].integer(0, _MAX_COUNT, "IPU0505")
            body = self._steps(f["body"], depth + 1)
            return While(f["name"].text(), self._buffer_id(f["condition"]), body, bound, self._strides(f["strides"]))
        if kind == "if":
            f.keys("do", "name", "condition", "then", "otherwise")
            then, otherwise = (self._steps(f[key], depth + 1) for key in ("then", "otherwise"))
            return If(f["name"].text(), self._buffer_id(f["condition"]), then, otherwise)
        if kind == "call":
            f.keys("do", "function", "inputs", "outputs")
            if f["function"].text() not in self.functions:
                raise f["function"].wrong("no such function")
            return Call(f["function"].text(), self._copies(f["inputs"]), self._copies(f["outputs"]))
        raise f["do"].wrong(f"unknown kind of step {kind!r}")

    def _strides(self, f: Field) -> dict[int, int]:
        pairs = (pair.elements(2) for pair in f.elements())
        return {self._buffer_id(b): n.integer(-_MAX_SIZE, _MAX_SIZE, "IPU0507") for b, n in pairs}

    def _copies(self, f: Field) -> tuple[tuple[int, int], ...]:
        pairs = (x.elements(2) for x in f.elements())
        return tuple((self._buffer_id(a), self._buffer_id(b)) for a, b in pairs)

    def _move(self, f: Field) -> Move:
        src, dst, tracks, view, keeps = f.elements(5)
        ends = self._buffer_id(src), self._buffer_id(dst)
        return Move(*ends, _of(self.tracks, tracks), _of(self.views, view), keeps.boolean())

    def _compute(self, f: Field, beside: bool = False) -> Compute:
        f.keys("do", "name", "codelet", "tiles", "cells", "operands", "results", "macs", "workers", "beside")
        tiles = self.tables.get(f["tiles"], "int32", 1, 0, self.target.tiles - 1)
        cells = _of(self.cells, f["cells"])
        if any(n.size != tiles.size for n in cells.n.values()):
            raise f["cells"].wrong("every vertex needs a cell")
        operands = tuple(self._binding(b, tiles.size) for b in f["operands"].elements())
        results = tuple(self._binding(b, tiles.size) for b in f["results"].elements())
        macs = f["macs"].integer(0, 1 << 62)
        named = f["workers"].value is not None
        workers = self.tables.get(f["workers"], "int32", 1, 0, self.target.workers - 1) if named else None
        codelet = _of(self.codelets, f["codelet"])
        if beside and (f["do"].value != "compute" or f["beside"].elements()):
            raise f.wrong("beside a compute set stand vertices, and none beside those")
        more = tuple(self._compute(x, True) for x in f["beside"].elements())
        return Compute(f["name"].text(), codelet, tiles, cells, operands, results, macs, workers, more)

    def _binding(self, f: Field, vertices: int) -> Binding:
        buffer, table, fill = f.elements(3)
        cells = self.tables.get(table, "int32")
        if cells.size != vertices:
            raise table.wrong(f"{cells.size} cells for {vertices} vertices")
        return Binding(self._buffer_id(buffer), cells, fill.number())

    def _buffer_id(self, f: Field) -> int:
        return f.integer(0, self.count - 1, "IPU0507")


def _of(pool: list[T], f: Field) -> T:
    return pool[f.integer(0, len(pool) - 1)]


def _codelet(f: Field) -> Codelet:
    name = f["name"].text()
    try:
        kind = codelet_class(name)
    except KeyError as problem:
        raise error(
            "IPU0511",
            f"the program uses the codelet {name!r}, which is not registered in this process",
            where=f.where,
            help=[
                "on the command line: --load FILE.py, the file that registers it",
                "in Python: import the module that registers it (ipucc.builder.register) before ipucc.load",
            ],
        ) from problem
    given = typed_fields(kind, f, "name")
    try:
        return kind.from_json(given)
    except (ValueError, TypeError) as problem:
        raise f.wrong(f"parameters that do not fit: {problem}") from problem
