"""Element types on a tile: what is stored, in how many bytes, and what codelets compute in."""

from typing import Final

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["HELD", "STORAGE", "compute_type", "integer_range", "is_float", "itemsize", "storage_type", "to_storage"]

STORAGE: Final[dict[str, np.dtype[np.generic]]] = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float32),  # no 64-bit arithmetic on the machine: held as float32
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype(np.int32),  # no 64-bit integers on the machine: held as int32 with a range check at the host
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint64": np.dtype(np.uint32),
    "uint32": np.dtype(np.uint32),
    "uint16": np.dtype(np.uint16),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
    "float4_e2m1fn": np.dtype(ml_dtypes.float4_e2m1fn),  # types below a byte are held in one each
    "int4": np.dtype(ml_dtypes.int4),
    "uint4": np.dtype(ml_dtypes.uint4),
    "int2": np.dtype(ml_dtypes.int2),
    "uint2": np.dtype(ml_dtypes.uint2),
}
"""Element type (name of the numpy type) -> type in tile memory."""

_BYTE: Final = "a byte for each element, computed with in {}"
HELD: Final[dict[str, str]] = {
    "int64": "int32; values are held against its range where they come from the host",
    "uint64": "uint32; values are held against its range where they come from the host",
    "float64": "float32; values are held against its range where they come from the host",
    **dict.fromkeys(("int4", "int2"), _BYTE.format("int8")),
    **dict.fromkeys(("uint4", "uint2"), _BYTE.format("uint8")),
    **dict.fromkeys(("float4_e2m1fn", "float8_e8m0fnu"), _BYTE.format("float32")),
    **dict.fromkeys(
        ("float8_e4m3fn", "float8_e5m2"),
        "a byte, and computed with in float32: the machine multiplies other 8-bit floats",
    ),
}
"""Element types that the machine does not have, and how tiles hold them."""

_FLOATS: Final = frozenset(name for name in STORAGE if "float" in name)
_SMALL_INTEGERS: Final = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8}


def storage_type(name: str) -> np.dtype[np.generic]:
    """The numpy type in which an element type lies in tile memory; KeyError for a type that no tile holds."""
    return STORAGE[name]


def itemsize(name: str) -> int:
    """Bytes of one element in tile memory."""
    return STORAGE[name].itemsize


def is_float(name: str) -> bool:
    """Whether codelets compute with this type in floating point."""
    return name in _FLOATS


def compute_type(name: str) -> DTypeLike:
    """The type in which codelets see this type: float32 for every float, a byte for the integers that are smaller than
    one, the stored type for the rest."""
    return np.float32 if name in _FLOATS else _SMALL_INTEGERS.get(name, STORAGE[name])


def integer_range(name: str) -> tuple[int, int]:
    """The least and the largest value of an integer type as a tile holds it."""
    info = ml_dtypes.iinfo(STORAGE[name])  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def to_storage(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """`array` as it is stored, rounded once. OverflowError when an integer does not fit its 32 bits."""
    kind = STORAGE[name]
    if name in ("int64", "uint64") and array.size and array.dtype != kind:
        info = np.iinfo(np.int32 if name == "int64" else np.uint32)
        if int(array.max()) > info.max or int(array.min()) < info.min:
            raise OverflowError(f"a value of type {name} does not fit the 32 bits that a tile holds")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(kind, copy=False)
