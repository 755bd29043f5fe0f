"""What is kept on disk between compilations: compiled programs, and the plans of ops and costs of edges.

A model that was compiled before, for the same machine with the same options by the same ipucc, is read instead. Of
every other model, ops and edges that were priced before are not priced again. Entries are named by a digest of
everything that they depend on. The cache is used where its folder is named: by the caller, or by the environment
variable IPUCC_CACHE_DIR. What has not been used for longest goes where the folder becomes too large.

An entry appears under its name only once it is complete, so that processes may share a folder; an entry that is damaged
is none, and is written again. A folder that cannot be written to keeps nothing: that is no error.
"""

import hashlib
import json
import mmap
import os
import re
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import onnx_ir as ir

from ipucc import __version__
from ipucc.code_digest import foreign_code, own_code
from ipucc.diagnostics import CompileError, Diagnostic, error
from ipucc.program.file import load_program, save_program
from ipucc.program.model import Program
from ipucc.target import Target, load_target

if TYPE_CHECKING:
    from ipucc.compiler import CompileOptions

__all__ = [
    "Entry",
    "PlanStore",
    "cache_folder",
    "compilation_digest",
    "find_entry",
    "model_digest",
    "plan_store",
    "unusable",
    "write_whole",
]

_VARIABLE: Final = "IPUCC_CACHE_DIR"
_LIMIT: Final = "IPUCC_CACHE_BYTES"
_LIBRARIES: Final = ("numba", "numpy", "onnx", "onnx-ir", "ortools")
_FORMAT: Final = "ipucc.cache/2"
_PLANS: Final = "plans"
_PROGRAM_BYTES: Final = 5 << 30
_PLAN_BYTES: Final = 64 << 20
_PIECE: Final = 1 << 26
_CHUNK: Final = 1 << 20
_STALE_SECONDS: Final = 3600
"""Nothing takes so long to write: a draft of this age was left behind by a process that is no more."""
_NAME: Final = re.compile(r"[0-9a-f]{64}\.(ipux|json|plan)")
_DRAFT: Final = re.compile(r"\.[0-9a-f]{64}\.(ipux|json|plan)\.[0-9a-f]{8}\.tmp")


def cache_folder(named: str | Path | None = None) -> Path | None:
    """The folder of the cache: the one that is named, else that of IPUCC_CACHE_DIR, else None, and nothing is kept.

    Raises CompileError IPU0614 where IPUCC_CACHE_BYTES is no number.
    """
    text = str(named) if named is not None else os.environ.get(_VARIABLE, "")
    _program_bytes()
    return Path(text) if text else None


def unusable(folder: Path) -> str:
    """Why nothing can be kept in a folder, the empty text if something can; it is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        return "it is no folder" if folder.exists() else problem.strerror or str(problem)
    return "" if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else "it cannot be written"


@dataclass(frozen=True)
class Entry:
    """Where one compiled program is kept, whether it is there or not."""

    program: Path
    remarks: Path

    def load(self) -> tuple[Program, tuple[Diagnostic, ...]] | None:
        """The program and the remarks of its compilation; None where there is none, or where it is damaged."""
        try:
            found = json.loads(self.remarks.read_text(encoding="utf-8"))
            remarks = tuple(Diagnostic(**{**x, "notes": tuple(x["notes"]), "help": tuple(x["help"])}) for x in found)
            program = load_program(self.program)
        except (OSError, ValueError, TypeError, KeyError, CompileError):
            return None
        _used(self.program)
        return program, remarks

    def store(self, program: Program, remarks: Sequence[Diagnostic]) -> None:
        """Keeps a program."""
        try:
            self.program.parent.mkdir(parents=True, exist_ok=True)
            save_program(program, self.program)
            # Written last: an entry without remarks is none.
            write_whole(self.remarks, json.dumps([asdict(r) for r in remarks]).encode())
        except (OSError, CompileError):
            return
        _trim(self.program.parent, _program_bytes())


@dataclass(eq=False)
class PlanStore:
    """Documents of plans and edges by key; `salt` stands for the machine, ipucc and what it is made of."""

    folder: Path
    salt: bytes
    _wrote: bool = False

    def read(self, key: Sequence[str]) -> object:
        """The document under a key as it was written; None where there is none, or where it is damaged."""
        path = self._path(key)
        try:
            digest, _, content = path.read_bytes().partition(b"\n")
            if digest.decode() != hashlib.sha256(content).hexdigest():
                return None
            document: object = json.loads(content)
        except (OSError, ValueError):
            return None
        _used(path)
        return document

    def write(self, key: Sequence[str], document: object) -> None:
        """Keeps a document of plain JSON values, or does not where the folder cannot be written to."""
        content = json.dumps(document, separators=(",", ":")).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(key), hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        except OSError:
            return
        self._wrote = True

    def trim(self) -> None:
        """Ends a compilation: if it wrote anything, what has not been used for longest goes where there is too much."""
        if self._wrote:
            _trim(self.folder, _PLAN_BYTES)

    def _path(self, key: Sequence[str]) -> Path:
        digest = hashlib.blake2b(self.salt, digest_size=32)
        digest.update(json.dumps(key).encode())
        return self.folder / f"{digest.hexdigest()}.plan"


def plan_store(target: Target, folder: Path | None) -> PlanStore | None:
    """Where plans for a machine are kept; None without a folder."""
    if folder is None:
        return None
    return PlanStore(folder / _PLANS, hashlib.blake2b(_origin(target), digest_size=32).digest())


def find_entry(
    source: str | Path | onnx.ModelProto | ir.Model, options: "CompileOptions", folder: Path | None
) -> Entry | None:
    """The entry of a model and options; None without a folder, and for models that only exist in memory as onnx_ir."""
    if folder is None or isinstance(source, ir.Model):
        return None
    try:
        name = compilation_digest(model_digest(source), options)
    except (OSError, ValueError, CompileError):
        # The compilation will say what is wrong with it.
        return None
    return Entry(folder / f"{name}.ipux", folder / f"{name}.json")


def compilation_digest(model: bytes, options: "CompileOptions") -> str:
    """A digest of everything that a program depends on: the model, by its digest, the options with the files that they
    name, the machine, ipucc and its libraries. Raises OSError, ValueError or CompileError where options are wrong."""
    digest = hashlib.blake2b(_origin(load_target(options.target)), digest_size=32)
    digest.update(json.dumps({**asdict(options), "target": ""}, sort_keys=True, default=_plain).encode())
    digest.update(json.dumps(_additions()).encode())
    for path in options.load:
        digest.update(Path(path).read_bytes())
    for name in _files_of_passes(options):
        digest.update(_content(Path(name)))
    digest.update(model)
    return digest.hexdigest()


def _plain(value: object) -> object:
    """What JSON does not know: an array by all of its elements, anything else by its text."""
    return [str(value.dtype), value.tolist()] if isinstance(value, np.ndarray | np.generic) else str(value)


def model_digest(source: str | Path | onnx.ModelProto) -> bytes:
    """A digest of a model, of the name of its file and its external weights too. Raises OSError for a file that cannot
    be read."""
    # BLAKE2 reads a gigabyte in a second or two where SHA-256 has no help from the processor.
    digest = hashlib.blake2b(digest_size=32)
    if isinstance(source, onnx.ModelProto):
        digest.update(source.SerializeToString(deterministic=True))
        return digest.digest()
    # The name is in the manifest of the program.
    digest.update(Path(source).name.encode())
    digest.update(_content(Path(source)))
    for beside in _external_data(Path(source)):
        digest.update(beside.name.encode())
        digest.update(_content(beside))
    return digest.digest()


def _files_of_passes(options: "CompileOptions") -> list[str]:
    """Files that the passes of a compilation read."""
    from ipucc.optimise import graph_pipeline
    from ipucc.pass_manager import default_registry, parse_pipeline

    text = graph_pipeline(options)
    if "npz" not in text and not options.load:
        return []
    registry = default_registry()
    for path in options.load:
        registry.load_file(path)
    return [name for step in parse_pipeline(text, registry).passes() for name in step.files()]


def _program_bytes() -> int:
    """How much compiled programs may take of a folder: IPUCC_CACHE_BYTES, or 5 GiB. Raises CompileError IPU0614."""
    text = os.environ.get(_LIMIT, "")
    if not text:
        return _PROGRAM_BYTES
    if not text.isascii() or not text.isdigit():
        raise error("IPU0614", f"{_LIMIT} is {text!r}, and should be a number of bytes")
    return int(text)


def _origin(target: Target) -> bytes:
    """What all entries depend on: ipucc, the libraries that it computes with, and the machine."""
    parts = [_FORMAT, __version__, *(f"{name} {version(name)}" for name in _LIBRARIES)]
    parts += [json.dumps(asdict(target), sort_keys=True, default=str)]
    return "\n".join(parts).encode() + own_code()


def _additions() -> list[str]:
    """Lowerings, codelets and passes that are not ipucc's own."""
    from ipucc.codelets.base import codelets
    from ipucc.ops.builder import lowerings
    from ipucc.pass_manager.registry import ENTRY_POINT_GROUP

    found = [f"{domain} {op} {code}" for (domain, op), f in lowerings().items() if (code := foreign_code(f))]
    found += [f"{name} {code}" for name, cls in codelets().items() if (code := foreign_code(cls.cycles))]
    for point in entry_points(group=ENTRY_POINT_GROUP):
        package = f"{point.dist.name} {point.dist.version}" if point.dist is not None else ""
        found.append(f"{point.name} {point.value} {package}")
    return sorted(found)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears with all of its content or not at all. Raises OSError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(draft, "xb") as file:
            file.write(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _used(path: Path) -> None:
    """Remembers that an entry was of use."""
    try:
        os.utime(path)
    except OSError:
        return  # Somebody else's folder: what is read there is not ours to keep.


def _trim(folder: Path, most: int) -> None:
    """Deletes entries that have not been used for longest, until the rest takes at most so many bytes, and drafts that
    nobody will finish. What is not of the cache stays."""
    entries: dict[str, list[tuple[float, int, Path]]] = {}
    try:
        with os.scandir(folder) as found:
            for file in found:
                if not file.is_file(follow_symlinks=False):
                    continue
                said = file.stat()
                if _NAME.fullmatch(file.name):
                    entries.setdefault(file.name[:64], []).append((said.st_mtime, said.st_size, Path(file.path)))
                elif _DRAFT.fullmatch(file.name) and time.time() - said.st_mtime > _STALE_SECONDS:
                    os.unlink(file.path)
        total = sum(size for files in entries.values() for _, size, _ in files)
        for files in sorted(entries.values(), key=lambda files: max(when for when, _, _ in files)):
            if total <= most:
                return
            for _, size, path in files:
                path.unlink(missing_ok=True)
                total -= size
    except OSError:
        return  # Another process trims, or the folder is not ours.


def _content(path: Path) -> bytes:
    """A digest of a file: of the digests of its pieces, which two threads make, as gigabytes take seconds."""
    with open(path, "rb") as file:
        pieces = range(0, os.fstat(file.fileno()).st_size, _PIECE)

        def piece(begin: int) -> bytes:
            digest = hashlib.blake2b(digest_size=32)
            for at in range(begin, begin + _PIECE, _CHUNK):
                digest.update(os.pread(file.fileno(), _CHUNK, at))
            return digest.digest()

        with ThreadPoolExecutor(2) as pool:
            return hashlib.blake2b(b"".join(pool.map(piece, pieces)), digest_size=32).digest()


def _external_data(model: Path) -> list[Path]:
    """Files beside the model that hold its weights. A model without the word for it in its bytes has none."""
    with open(model, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(b"location") < 0:
                return []
    tensors = [value.const_value for graph in ir.load(model).graphs() for value in graph.initializers.values()]
    return [
        model.parent / name for name in sorted({str(t.location) for t in tensors if isinstance(t, ir.ExternalTensor)})
    ]
