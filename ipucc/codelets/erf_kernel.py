"""The error function, element by element (numpy has none)."""

import math

import numba

__all__ = ["erf"]


@numba.vectorize(["float32(float32)", "float64(float64)"], cache=True)  # type: ignore[misc, no-untyped-call, untyped-decorator, unused-ignore]
def erf(x: float) -> float:
    """erf(x) in the precision of the platform's mathematical library."""
    return math.erf(x)
