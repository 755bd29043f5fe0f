"""Conversion between fp16 and fp32, the simulator's commonest inner loop.

numpy converts element by element in software; LLVM's fpext and fptrunc become the processor's own instructions. Both
round to nearest even and keep infinities and NaN.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["narrow", "widen"]


@intrinsic  # type: ignore[misc, unused-ignore]
def _extend(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic  # type: ignore[misc, unused-ignore]
def _truncate(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _widen(source: NDArray[np.uint16], target: NDArray[np.float32]) -> None:
    for i in range(source.size):
        target[i] = _extend(source[i])  # type: ignore[call-arg, unused-ignore]


@numba.njit(  # type: ignore[misc, unused-ignore]
    numba.void(types.Array(types.float32, 1, "C", readonly=True), types.uint16[::1]), cache=True, nogil=True
)
def _narrow(source: NDArray[np.float32], target: NDArray[np.uint16]) -> None:
    for i in range(source.size):
        target[i] = _truncate(source[i])  # type: ignore[call-arg, unused-ignore]


def widen(halves: NDArray[Any]) -> NDArray[np.float32]:
    """The same values as float32."""
    flat = np.ascontiguousarray(halves).view(np.uint16).reshape(-1)
    out = np.empty(flat.size, np.float32)
    _widen(flat, out)
    return out.reshape(halves.shape)


def narrow(values: NDArray[Any]) -> NDArray[np.float16]:
    """The values rounded to float16, to the nearest and to even on a tie; too large ones become infinite."""
    flat = np.ascontiguousarray(values).reshape(-1)
    out = np.empty(flat.size, np.uint16)
    _narrow(flat, out)
    return out.view(np.float16).reshape(values.shape)
