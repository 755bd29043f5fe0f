"""What ops over whole rows share: when a row is worked on by one tile, and sums in a wider type."""

from collections.abc import Sequence
from math import prod
from typing import Final

from ipucc.ops.builder import Builder
from ipucc.ops.graph import Ref
from ipucc.ops.reduce import statistics_type

__all__ = ["fits_a_row", "narrow", "wide"]

# From here on one tile takes longer for the smallest set of rows that can be cut off than the four supersteps of the
# staged form take on many tiles.
_ROW_ELEMENTS: Final = 8192


def fits_a_row(b: Builder, x: Ref, dims: Sequence[int]) -> bool:
    """Whether rows over `dims` are short enough for one tile each (a grain of rows where those come in grains)."""
    length = prod(x.shape[d] for d in dims)
    together = 1 if b.arrival(x) in dims else b.grain(x.dtype)
    rows = prod(n for d, n in enumerate(x.shape) if d not in dims)
    return length * min(together, rows) < _ROW_ELEMENTS


def wide(expr: str, dtype: str) -> str:
    """The text of an expression of type `dtype`, in the type that statistics are kept in."""
    return expr if statistics_type(dtype) == dtype else f'Cast({expr}, to="{statistics_type(dtype)}")'


def narrow(expr: str, dtype: str) -> str:
    """The text of an expression in the type of statistics, in `dtype`."""
    return expr if statistics_type(dtype) == dtype else f'Cast({expr}, to="{dtype}")'
