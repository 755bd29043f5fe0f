"""Compiled programs kept on disk: a model that was compiled before, for the same machine with the same options by the
same ipucc, is read instead.

An entry is a program file and what the passes remarked, named by a digest of everything that they depend on. The cache
is used where its folder is named: by the caller, or by the environment variable IPUCC_CACHE_DIR.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx
import onnx_ir as ir

from ipucc import __version__
from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.program.file import load_program, save_program
from ipucc.program.model import Program
from ipucc.target import load_target

if TYPE_CHECKING:
    from ipucc.compiler import CompileOptions

__all__ = ["Entry", "cache_folder", "find_entry"]

_VARIABLE: Final = "IPUCC_CACHE_DIR"
_LIBRARIES: Final = ("numpy", "onnx", "onnx-ir", "ortools")
_FORMAT: Final = "ipucc.cache/1"


def cache_folder(named: str | Path | None = None) -> Path | None:
    """The folder of the cache: the one that is named, else that of IPUCC_CACHE_DIR, else None, and nothing is kept."""
    text = str(named) if named is not None else os.environ.get(_VARIABLE, "")
    return Path(text) if text else None


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
            return load_program(self.program), remarks
        except (OSError, ValueError, TypeError, KeyError, CompileError):
            return None

    def store(self, program: Program, remarks: Sequence[Diagnostic]) -> None:
        """Keeps a program. A folder that cannot be written to keeps nothing: the compilation has succeeded without."""
        try:
            self.program.parent.mkdir(parents=True, exist_ok=True)
            save_program(program, self.program)
            # Written last: an entry without remarks is none.
            made = self.remarks.with_suffix(f".{os.getpid()}")
            made.write_text(json.dumps([asdict(r) for r in remarks]), encoding="utf-8")
            os.replace(made, self.remarks)
        except (OSError, CompileError):
            return


def find_entry(
    source: str | Path | onnx.ModelProto | ir.Model, options: "CompileOptions", folder: Path | None
) -> Entry | None:
    """The entry of a model and options; None without a folder, and for models that only exist in memory as onnx_ir."""
    if folder is None or isinstance(source, ir.Model):
        return None
    try:
        # BLAKE2 reads a gigabyte in a second or two where SHA-256 has no help from the processor.
        digest = hashlib.blake2b(digest_size=32)
        parts: list[object] = [_FORMAT, __version__, *(f"{name} {version(name)}" for name in _LIBRARIES)]
        parts += [json.dumps(asdict(load_target(options.target)), sort_keys=True, default=str)]
        parts += [json.dumps({**asdict(options), "target": ""}, sort_keys=True, default=str)]
        digest.update("\n".join(map(str, parts)).encode())
        digest.update(_own_code())
        for path in options.load:
            digest.update(Path(path).read_bytes())
        if isinstance(source, onnx.ModelProto):
            digest.update(source.SerializeToString(deterministic=True))
        else:
            # The name is in the manifest of the program.
            digest.update(Path(source).name.encode())
            _add_file(digest.update, Path(source))
            for beside in _external_data(Path(source)):
                digest.update(beside.name.encode())
                _add_file(digest.update, beside)
    except (OSError, ValueError, CompileError):
        # The compilation will say what is wrong with it.
        return None
    name = digest.hexdigest()
    return Entry(folder / f"{name}.ipux", folder / f"{name}.json")


@cache
def _own_code() -> bytes:
    """A digest of ipucc's own source, so that no change of the compiler meets an entry of the one before."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    from ipucc import passes, runtime

    roots = [here, *(Path(str(m.__file__)).parent for m in (passes, runtime))]
    files = {p.resolve() for root in roots for p in root.rglob("*") if p.suffix in (".py", ".toml")}
    for path in sorted(files):
        digest.update(str(path.name).encode() + path.read_bytes())
    return digest.digest()


def _add_file(update: Callable[[memoryview], object], path: Path) -> None:
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            update(memoryview(chunk))


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
