"""Arrays in a file, in the safetensors form: eight bytes of header size, a JSON header, the data without holes.

Written and read here because the reader must hand out arrays mapped from inside of a zip, and must trust nothing.
Types: signed and unsigned integers, bool, float64, float32, float16, bfloat16, and those of less than a byte or two.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import BinaryIO, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ipucc.diagnostics import CompileError, error
from ipucc.program.container import Bytes, Writer
from ipucc.program.fields import Field, parse_json

__all__ = ["pack_tensors", "read_tensors"]

Array = NDArray[np.generic]

_TYPES: Final[dict[str, np.dtype[np.generic]]] = {
    "BOOL": np.dtype(np.bool_),
    "I8": np.dtype("<i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("<u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    # A byte an element, as in tile memory.
    "F4_E2M1": np.dtype(ml_dtypes.float4_e2m1fn),
    "I4": np.dtype(ml_dtypes.int4),
    "U4": np.dtype(ml_dtypes.uint4),
    "I2": np.dtype(ml_dtypes.int2),
    "U2": np.dtype(ml_dtypes.uint2),
}
_NAMES: Final = {kind: name for name, kind in _TYPES.items()}

_MAX_HEADER: Final = 1 << 25
_MAX_SIZE: Final = 1 << 48
_MAX_RANK: Final = 32
_CHUNK: Final = 1 << 24


def pack_tensors(arrays: Mapping[str, Array]) -> tuple[int, Writer]:
    """(size in bytes, function that writes them) of named arrays, without a second copy of all of them.

    Large items come first, so that every array is aligned to its items; equal items keep the order of the mapping.
    Raises TypeError for an element type that the form has no name for.
    """
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    header: dict[str, object] = {}
    at = 0
    for name in order:
        kind = arrays[name].dtype.newbyteorder("<")
        if kind not in _NAMES:
            raise TypeError(f"array {name!r} has the type {kind}, which a program file cannot hold")
        header[name] = {"dtype": _NAMES[kind], "shape": list(arrays[name].shape),
                        "data_offsets": [at, at + arrays[name].nbytes]}  # fmt: skip
        at += arrays[name].nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            array = arrays[name]
            flat = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(-1)
            raw = flat.view(np.uint8).data
            for start in range(0, len(raw), _CHUNK):
                file.write(raw[start : start + _CHUNK])

    return 8 + len(text) + at, write


def read_tensors(content: Bytes, what: str, where: str) -> dict[str, Array]:
    """The arrays of one entry (named `what` in messages), as read-only views of its bytes.

    Raises IPU0503 for damage, IPU0505 beyond a limit and IPU0506 for a header that lies.
    """

    def wrong(id: str, why: str) -> CompileError:
        return error(id, f"{what}: {why}", where=where)

    if content.size < 8:
        raise wrong("IPU0503", "too short for a header")
    size = int.from_bytes(content[:8].tobytes(), "little")
    if size > _MAX_HEADER:
        raise wrong("IPU0505", f"the header has {size:,} bytes, at most {_MAX_HEADER:,} are read")
    if 8 + size > content.size:
        raise wrong("IPU0503", "the header is longer than the entry")
    header = parse_json(content[8 : 8 + size].tobytes(), what, where)
    data = content[8 + size :]
    out: dict[str, Array] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        kind, shape, begin, end = _entry(entry)
        if prod(shape) * kind.itemsize != end - begin or end > data.size:
            raise entry.wrong("shape and offsets contradict each other")
        out[name] = data[begin:end].view(kind).reshape(shape)
        spans.append((begin, end))
    spans.sort()
    if [begin for begin, _ in spans] + [data.size] != [0, *(end for _, end in spans)]:
        raise wrong("IPU0506", "arrays overlap, or there are bytes between them")
    return out


def _entry(entry: Field) -> tuple[np.dtype[np.generic], tuple[int, ...], int, int]:
    entry.keys("dtype", "shape", "data_offsets")
    kind = entry["dtype"].text()
    if kind not in _TYPES:
        raise entry["dtype"].wrong(f"unknown type {kind!r}")
    shape = entry["shape"].integers(0, _MAX_SIZE)
    if len(shape) > _MAX_RANK or prod(max(1, n) for n in shape) > _MAX_SIZE:
        raise entry["shape"].wrong("absurd shape")
    begin, end = (f.integer(0, _MAX_SIZE) for f in entry["data_offsets"].elements(2))
    return _TYPES[kind], shape, begin, end
