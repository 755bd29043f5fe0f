"""Reductions: over the elements of a cell, and over the partials of several tiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Final

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, register
from ipucc.codelets.elementwise import expression_cycles
from ipucc.codelets.matmul import finish
from ipucc.dtypes import integer_range, is_float, itemsize
from ipucc.target import Target

__all__ = ["IDENTITY", "Reduce", "identity"]

IDENTITY: Final[dict[str, float]] = {
    "sum": 0.0,
    "sumsq": 0.0,
    "abssum": 0.0,
    "max": -np.inf,
    "min": np.inf,
    "prod": 1.0,
    "or": 0.0,
}
"""What an element outside a cell's extent must be, so that it does not count (floats; see `identity`)."""


def identity(op: str, dtype: str) -> float:
    """`IDENTITY` in an element type: integers have no infinities, their least and largest values stand in."""
    if is_float(dtype) or np.isfinite(IDENTITY[op]):
        return IDENTITY[op]
    if dtype == "bool":
        return float(op == "min")
    low, high = integer_range(dtype)
    return float(low if op == "max" else high)


@register
@dataclass(frozen=True)
class Reduce(Codelet):
    """Reduces the leading axes `over` of an operand whose other axes are `axes`, then applies the epilogue `expr`.

    `scale` multiplies the result (a mean is a sum scaled by the inverse of the count). Cells of the reduced axes that
    are not full hold the identity of `op`.
    """

    op: str
    over: tuple[str, ...]
    axes: tuple[str, ...]
    dtype: str
    scale: float = 1.0
    expr: str = ""
    extras: tuple[str, ...] = ()

    name: ClassVar[str] = "reduce"
    code_bytes: ClassVar[int] = 700

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """poplibs, conv ReduceAdd (PerformanceEstimation.hpp, line 1560), single-input form: workers x (20 + (2 D + o)
        per accumulator of 4 (fp32) or 8 (fp16) outputs) + 33, D = depth of the reduction, o = 8 (fp32) or 9 (fp16).

        With no axes left, what is reduced lies in a row: it is loaded by the vector, and 12 cycles join the lanes of an
        accumulator (popops, reduction/CycleEstimationFunctions.cpp, contiguous regions: 12 + D / vector an output).

        The epilogue works on the accumulators before they are stored: per vector its arithmetic and a load of each of
        its operands, as in a fused elementwise loop. Inferred: poplibs has a vertex of its own for each.
        """
        depth, outputs = np.ones(1, np.int64), np.ones(1, np.int64)
        for axis in self.over:
            depth = depth * n[axis]
        for axis in self.axes:
            outputs = outputs * n[axis]
        width = 8 if itemsize(self.dtype) <= 2 else 4
        loads = max(1, width * itemsize(self.dtype) // target.vector_bytes)
        # Few outputs leave workers idle: then a worker reduces a share of the depth and six results are joined.
        blocks = -(-outputs // width)
        shared = np.maximum(1, target.workers // np.maximum(blocks, 1))
        rounds = -(-blocks // target.workers)
        stored = 9 if itemsize(self.dtype) <= 2 else 8
        late = loads * (len(self.extras) + expression_cycles(self.expr, self.dtype)) if self.expr else 0
        steps, lanes = (depth, 0) if self.axes else (-(-depth // width), 12)
        each = loads * -(-steps // shared) + lanes + stored + np.where(shared > 1, 2 * shared, 0) + late
        return np.asarray(33 + target.workers * (20 + each * rounds), np.int64)

    def joining(self, dtype: str) -> "Reduce":
        return replace(self, dtype=dtype, scale=1.0, expr="", extras=())

    @property
    def identity(self) -> float:
        return identity(self.op, self.dtype)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        x, *extras = operands
        where = tuple(range(1, 1 + len(self.over)))
        shape = x.shape[1 + len(self.over) :]
        if self.op == "sumsq":
            x = x * x
        elif self.op == "abssum":
            x = np.abs(x)
        if prod(x.shape) == 0:
            out: Array = np.full((x.shape[0], *shape), IDENTITY[self.op], x.dtype)
        elif self.op in ("sum", "sumsq", "abssum"):
            out = x.sum(axis=where, dtype=x.dtype)
        elif self.op == "max":
            out = x.max(axis=where)
        elif self.op == "min":
            out = x.min(axis=where)
        elif self.op == "or":
            out = np.asarray(x.any(axis=where))
        else:
            out = x.prod(axis=where, dtype=x.dtype)
        if self.scale != 1.0:
            out = (out * np.float32(self.scale)).astype(x.dtype)
        return [finish(self.expr, out, extras, self.dtype, self.extras)]
