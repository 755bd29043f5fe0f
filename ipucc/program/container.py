"""The container of a program file: a zip whose entries are all stored, none compressed.

Stored entries can be mapped, read in constant time and never grow larger than the file, so that a zip bomb cannot be
written in this form. The writer leaves no trace of time or machine; the reader checks every byte of the structure that
it relies on, and knows nothing of what the entries mean.
"""

import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from ipucc.diagnostics import CompileError, error

__all__ = ["Bytes", "Writer", "read_archive", "write_archive"]

Bytes = NDArray[np.uint8]
Writer = Callable[[BinaryIO], None]

_ALIGN: Final = 64
"""Data of every entry starts on a multiple of this, so that mapped arrays are aligned."""

# The tag that Android's zipalign uses for the same padding; readers skip extra fields that they do not know.
_PADDING_TAG: Final = 0xD935
_ZIP64_FROM: Final = 1 << 31
_MAX_ENTRIES: Final = 16
_MAX_DIRECTORY: Final = 1 << 16
_MAX_NAME: Final = 64
_UTF8: Final = 0x800

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s4B4H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")


def write_archive(path: Path, entries: Iterable[tuple[str, int, Writer]]) -> None:
    """Write (name, size in bytes, function that writes them) as a stored zip, whole or not at all.

    The file appears under its name only once it is complete. Raises IPU0508 where it cannot be written.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise error("IPU0508", "the result must be a plain file", where=str(path))
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, size, write in entries:
                    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                    info.create_system = 3
                    info.external_attr = 0o644 << 16
                    info.file_size = size
                    big = size >= _ZIP64_FROM
                    head = file.tell() + _LOCAL.size + len(name) + 4 + (20 if big else 0)
                    info.extra = struct.pack("<HH", _PADDING_TAG, -head % _ALIGN) + bytes(-head % _ALIGN)
                    with archive.open(info, "w", force_zip64=big) as entry:
                        write(entry)  # type: ignore[arg-type]
            os.replace(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise error("IPU0508", f"the result cannot be written: {reason}", where=str(path)) from problem


def read_archive(path: Path, limits: Mapping[str, int], marker: str) -> dict[str, Bytes]:
    """The entries of a stored zip as read-only arrays mapped from the file, their checksums verified.

    `limits` gives the names that may occur and the largest size of each; a zip without an entry `marker` is of another
    format. Raises IPU0501 for a file that cannot be
    opened, IPU0502 for another format, IPU0503 for damage and IPU0505 for what the reader does not take.
    """
    where = str(path)
    try:
        if path.exists() and not path.is_file():
            raise error("IPU0501", "a program is a plain file", where=where)
        content: Bytes = np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.zeros(0, np.uint8)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error("IPU0501", f"the program cannot be opened: {reason}", where=where) from problem
    if content[:4].tobytes() != b"PK\x03\x04":
        help = [f"a model is compiled first: ipucc compile {where} -o FILE.ipux"] if path.suffix == ".onnx" else []
        raise error("IPU0502", "the file is no ipucc program (no zip file)", where=where, help=help)
    return _Reader(content, where, limits).entries(marker)


class _Reader:
    """One pass over the structure of a zip file that is at hand as bytes."""

    def __init__(self, content: Bytes, where: str, limits: Mapping[str, int]) -> None:
        self.content = content
        self.where = where
        self.limits = limits

    def entries(self, marker: str) -> dict[str, Bytes]:
        count, start, size = self._directory()
        if marker.encode() not in self.content[start : start + min(size, _MAX_DIRECTORY)].tobytes():
            raise error("IPU0502", f"the file is no ipucc program (it has no {marker})", where=self.where)
        found: dict[str, Bytes] = {}
        taken: list[tuple[int, int]] = []
        at = start
        for _ in range(count):
            name, begin, first, data, checksum, at = self._entry(at, start + size)
            if name in found:
                raise self._damaged(f"two entries named {name!r}")
            if zlib.crc32(data.data) != checksum:
                raise self._damaged(f"the checksum of {name!r} does not fit")
            taken.append((begin, first + data.size))
            found[name] = data
        if at != start + size:
            raise self._damaged("the directory is longer than its entries")
        taken.sort()
        ends = [0, *(end for _, end in taken)]
        if [begin for begin, _ in taken] + [start] != ends:
            raise self._damaged("entries overlap, or there are bytes between them")
        return found

    def _damaged(self, why: str) -> CompileError:
        help = ["compile the model again"]
        return error("IPU0503", f"the program file is damaged: {why}", where=self.where, help=help)

    def _refused(self, why: str) -> CompileError:
        return error("IPU0505", why, where=self.where)

    def _unpack(self, form: struct.Struct, at: int, what: str) -> tuple[int, ...]:
        """The fields behind a four-byte signature; `what` is "SIGNATURE name"."""
        signature, name = what.split(" ", 1)
        if at < 0 or at + form.size > self.content.size:
            raise self._damaged(f"no {name}, the file may be truncated")
        found, *fields = form.unpack(self.content[at : at + form.size].tobytes())
        if found != b"PK" + bytes.fromhex(signature):
            raise self._damaged(f"no {name}, the file may be truncated")
        return tuple(fields)

    def _directory(self) -> tuple[int, int, int]:
        """(number of entries, start, size) of the directory, which ends where the end record begins."""
        end = self.content.size - _END.size
        disk, first_disk, here, count, size, start, comment = self._unpack(_END, end, "0506 end record")
        behind = end
        if 0xFFFFFFFF in (size, start) or count == 0xFFFF:
            behind = end - _LOCATOR.size
            _, behind, _ = self._unpack(_LOCATOR, behind, "0607 locator of the end record")
            fields = self._unpack(_END64, behind, "0606 large end record")
            _, _, _, disk, first_disk, here, count, size, start = fields
        if disk or first_disk or here != count or comment or start + size != behind:
            raise self._damaged("the end record contradicts itself")
        if not 0 < count <= _MAX_ENTRIES:
            raise self._refused(f"the file has {count} entries, at most {_MAX_ENTRIES} are read")
        return count, start, size

    def _entry(self, at: int, stop: int) -> tuple[str, int, int, Bytes, int, int]:
        """(name, start of its header, start and bytes of its data, checksum, next place in the directory)."""
        fields = self._unpack(_CENTRAL, at, "0102 entry of the directory")
        flags, method, checksum, packed, size = fields[4], fields[5], fields[8], fields[9], fields[10]
        name_size, extra_size, comment, disk, begin = fields[11], fields[12], fields[13], fields[14], fields[17]
        behind = at + _CENTRAL.size + name_size + extra_size
        if comment or disk or behind > stop or name_size > _MAX_NAME:
            raise self._damaged("an entry of the directory contradicts itself")
        raw = self.content[at + _CENTRAL.size : at + _CENTRAL.size + name_size].tobytes()
        name = raw.decode("ascii", "backslashreplace")
        if name not in self.limits:
            raise self._refused(f"unexpected entry {name!r}, known: {', '.join(sorted(self.limits))}")
        if flags & ~_UTF8:
            raise self._refused(f"entry {name!r} is encrypted or streamed, which is not read")
        if method:
            raise self._refused(f"entry {name!r} is compressed, only stored entries are read")
        extra = self.content[behind - extra_size : behind].tobytes()
        size, packed, begin = self._wide(extra, size, packed, begin)
        if size != packed:
            raise self._damaged(f"entry {name!r} is stored and has two sizes")
        if size > self.limits[name]:
            raise self._refused(f"entry {name!r} has {size:,} bytes, at most {self.limits[name]:,} are read")
        local = self._unpack(_LOCAL, begin, "0304 header of an entry")
        first = begin + _LOCAL.size + local[8] + local[9]
        named = self.content[begin + _LOCAL.size : begin + _LOCAL.size + local[8]].tobytes()
        if named != raw or local[1] != flags or local[2] or local[5] != checksum or first + size > self.content.size:
            raise self._damaged(f"header and directory differ about entry {name!r}")
        return name, begin, first, self.content[first : first + size], checksum, behind

    def _wide(self, extra: bytes, size: int, packed: int, begin: int) -> tuple[int, int, int]:
        """The three numbers with those taken from the 64-bit extra field that do not fit in 32 bits."""
        values = [size, packed, begin]
        at = 0
        while at + 4 <= len(extra):
            tag, length = struct.unpack_from("<HH", extra, at)
            if tag == 1:
                wide = [i for i, value in enumerate(values) if value == 0xFFFFFFFF]
                if length < 8 * len(wide) or at + 4 + 8 * len(wide) > len(extra):
                    raise self._damaged("a 64-bit size is missing")
                for i, value in zip(wide, struct.unpack_from(f"<{len(wide)}Q", extra, at + 4), strict=True):
                    values[i] = value
            at += 4 + length
        return values[0], values[1], values[2]
