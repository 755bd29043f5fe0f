"""Elementwise codelets: one fused expression over aligned operands, each broadcast along the axes it lacks.

Cycles per vector of each op come from poplibs (lib/popops/popopsCycleEstimators.hpp, lines 106-300, and
lib/popnn/popnnCycleEstimators.cpp), restated: a fused expression loads every operand and stores its result once and
spends the arithmetic of its ops in between, worker by worker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ipucc.codelets.arithmetic import evaluate, parsed
from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.dtypes import itemsize
from ipucc.graph.expr import calls
from ipucc.target import Target

__all__ = ["Elementwise", "expression_cycles"]

# (cycles per 64-bit vector of fp16, of fp32), arithmetic only: the memory accesses of poplibs' single-op loops (one
# per operand and result) are taken off, for a fused loop has them once.
_PER_VECTOR: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Neg", "Abs", "Relu", "Identity", "Not", "And", "Or", "Xor", "Sum"), (1, 1)),
    **dict.fromkeys(("Min", "Max", "Clip", "Cast", "Sign"), (2, 2)),
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN", "IsInf"), (6, 5)),
    **dict.fromkeys(("Floor", "Ceil", "Round"), (4, 4)),
    "Div": (19, 8),
    "Reciprocal": (13, 4),
    "Sqrt": (21, 8),
    "Exp": (2, 4),
    "Log": (2, 10),
    "Tanh": (2, 10),
    "Sigmoid": (4, 10),
    "Gelu": (15, 30),
    "Swish": (5, 11),
    "Erf": (52, 82),
    "Where": (18, 9),
    "Pow": (1300, 624),
    "Sin": (100, 4600),
    "Cos": (100, 4600),
    "Tan": (22800, 10200),
    "LeakyRelu": (3, 3),
    "PRelu": (3, 3),
    "HardSigmoid": (3, 3),
    "HardSwish": (4, 4),
    "Elu": (6, 8),
    "Selu": (6, 8),
    "Celu": (6, 8),
    "Softplus": (6, 18),
    "Mish": (9, 28),
    "Softsign": (21, 10),
    "ThresholdedRelu": (7, 6),
    "Mean": (2, 2),
    "Mod": (28, 14),
    "Asin": (408, 204),
}
# popnn's two forms of GELU: with the error function above, with a hyperbolic tangent here.
_GELU_TANH: Final = (5, 10)
# The dearest scalar function stands in for those that poplibs does not list.
_UNLISTED: Final = (408, 204)


def expression_cycles(expr: str, dtype: str) -> int:
    """Worker cycles of the arithmetic of an expression per 64-bit vector of `dtype`."""
    wide = 0 if itemsize(dtype) <= 2 else 1
    total = 0
    for call in calls(parsed(expr)):
        tanh = call.op == "Gelu" and call.attr("approximate") == "tanh"
        total += (_GELU_TANH if tanh else _PER_VECTOR.get(call.op, _UNLISTED))[wide]
    return total


@register
@dataclass(frozen=True)
class Elementwise(Codelet):
    """`expr` over operands a0, a1, ... of types `dtypes`, for every element of a cell of the axes `axes`."""

    expr: str
    dtypes: tuple[str, ...]
    dtype: str
    axes: tuple[str, ...]

    name: ClassVar[str] = "elementwise"
    code_bytes: ClassVar[int] = 512

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """Launch + workers x (loop set-up + vectors x (one access per operand and result + arithmetic))."""
        elements = np.ones(1, np.int64)
        for axis in self.axes:
            elements = elements * n[axis]
        widest = max((*self.dtypes, self.dtype), key=itemsize)
        vectors = -(-per_worker(elements, target) // target.vector_width(itemsize(widest)))
        each = len(self.dtypes) + 1 + expression_cycles(self.expr, widest)
        return 20 + target.workers * (26 + vectors * each)

    @property
    def in_place(self) -> bool:
        """Every element is read before it is written."""
        return True

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        env = {f"a{i}": (a, t) for i, (a, t) in enumerate(zip(operands, self.dtypes, strict=True))}
        return [evaluate(parsed(self.expr), env)]
