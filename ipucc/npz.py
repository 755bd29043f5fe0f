"""Reading numpy's files from anywhere: what a header promises is judged before its data is read, and nothing in a file
is executed.

`open_npz` and `Npz` raise CompileError with the id that they were given for a file that cannot be read.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from ipucc.diagnostics import CompileError, error
from ipucc.values import Array

__all__ = ["Header", "Npz", "open_npz", "read_array", "read_header", "unreadable"]


@dataclass(frozen=True)
class Header:
    """What an array in numpy's format says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return self.dtype.itemsize * prod(self.shape)


@dataclass(frozen=True)
class Npz:
    """An open .npz: arrays by name. `id` is that of the errors."""

    archive: zipfile.ZipFile
    members: dict[str, str]
    where: str
    id: str

    def header(self, name: str) -> Header:
        """The header of an array; its data is not read."""
        with self._open(name) as file:
            return read_header(file, f"{self.where}: {name}", self.id)

    def read(self, name: str) -> Array:
        """An array, however large its header says it is."""
        with self._open(name) as file:
            where = f"{self.where}: {name}"
            return read_array(file, read_header(file, where, self.id), where, self.id)

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with self.archive.open(self.members[name]) as file:
                yield file
        except (RuntimeError, NotImplementedError, zipfile.BadZipFile, OSError) as failure:
            # Encrypted, or packed in a way that zipfile does not know, or damaged.
            raise unreadable(self.where, failure, self.id) from failure


@contextmanager
def open_npz(path: str | Path, id: str) -> Iterator[Npz]:
    """Opens an .npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            yield Npz(archive, members, str(path), id)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as failure:
        raise unreadable(str(path), failure, id) from failure


def read_header(file: IO[bytes], where: str, id: str) -> Header:
    """The header at the beginning of an array in numpy's format."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    except Exception as failure:  # the header is an expression; what a hostile one raises is anyone's guess
        raise unreadable(where, failure, id) from failure
    return Header(tuple(shape), dtype, fortran)


def read_array(file: IO[bytes], header: Header, where: str, id: str) -> Array:
    """The data behind a header. Python objects are refused."""
    if header.dtype.hasobject:
        raise error(id, f"{where} holds Python objects, which are not read", help=[_HELP])
    try:
        data = file.read(header.size)
    except Exception as failure:  # zlib.error and its kin, for damaged data
        raise unreadable(where, failure, id) from failure
    if len(data) != header.size:
        raise error(id, f"{where} ends after {len(data):,} of {header.size:,} bytes")
    return np.frombuffer(data, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


_HELP = "numpy.save and numpy.savez write such files"


def unreadable(where: str, failure: Exception, id: str) -> CompileError:
    """The error for a file that is none of numpy's, or damaged."""
    reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure)
    text = f"{where} cannot be read as numpy data: {reason.splitlines()[0][:200] if reason else type(failure).__name__}"
    return error(id, text, help=[_HELP])
