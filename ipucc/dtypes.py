"""Element types on a tile: what is stored, in how many bytes, and what codelets compute in."""

from typing import Final

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["STORAGE", "compute_type", "is_float", "itemsize", "storage_type", "to_storage"]

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
}
"""ONNX element type (lower-case name) -> type in tile memory."""

_FLOATS: Final = frozenset(("float32", "float64", "float16", "bfloat16"))


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
    """The type in which codelets see this type: float32 for every float, the stored type for the rest."""
    return np.float32 if name in _FLOATS else STORAGE[name]


def to_storage(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """`array` as it is stored, rounded once. OverflowError when an integer does not fit its 32 bits."""
    kind = STORAGE[name]
    if name in ("int64", "uint64") and array.size and array.dtype != kind:
        info = np.iinfo(np.int32 if name == "int64" else np.uint32)
        if int(array.max()) > info.max or int(array.min()) < info.min:
            raise OverflowError(f"a value of type {name} does not fit the 32 bits that a tile holds")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(kind, copy=False)
