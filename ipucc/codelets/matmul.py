"""Dense matmul on the matrix unit, batched, with a fused epilogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.amp import amp_1x1
from ipucc.codelets.arithmetic import evaluate, parsed
from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.codelets.elementwise import expression_cycles
from ipucc.dtypes import is_float, itemsize
from ipucc.target import Target

__all__ = ["MatMul", "epilogue_cycles", "finish"]


def finish(expr: str, result: Array, extras: Sequence[Array], dtype: str, types: Sequence[str]) -> Array:
    """The epilogue `expr` over `x`, the result of a contraction, and a0, a1, ...; `x` itself for the empty text."""
    if not expr:
        return result
    env = {"x": (result, dtype)} | {f"a{i}": (a, t) for i, (a, t) in enumerate(zip(extras, types, strict=True))}
    return evaluate(parsed(expr), env)


def epilogue_cycles(expr: str, elements: Counts, dtype: str, extras: int, target: Target) -> Counts:
    """Cycles of an epilogue over results already in memory: 0 for the empty text."""
    if not expr:
        return np.zeros_like(elements)
    vectors = -(-per_worker(elements, target) // target.vector_width(itemsize(dtype)))
    return target.launch_cycles + target.workers * (26 + vectors * (2 + extras + expression_cycles(expr, dtype)))


@register
@dataclass(frozen=True)
class MatMul(Codelet):
    """x[b.., m, n] = sum over k of A[b.., m, k] B[b.., k, n]; then `expr` over x and the epilogue's operands.

    `batch` names the axes in front, the others are m, k and n. `dtype` is the type of the operands, `partials` the
    type the matrix unit accumulates in, `extras` the types of the epilogue's operands.
    """

    batch: tuple[str, ...]
    dtype: str
    partials: str
    expr: str = ""
    extras: tuple[str, ...] = ()

    name: ClassVar[str] = "matmul"
    code_bytes: ClassVar[int] = 1200

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """poplibs' AMP 1x1 estimate for float types; integers take the vector unit at one MAC per worker issue."""
        groups = np.ones_like(n["m"])
        for axis in self.batch:
            groups = groups * n[axis]
        elements = groups * n["m"] * n["n"]
        if is_float(self.dtype):
            work = amp_1x1(groups, n["m"], n["k"], n["n"], self.dtype, self.partials, target)
        else:
            work = 20 + target.workers * per_worker(elements * n["k"], target)
        return work + epilogue_cycles(self.expr, elements, self.dtype, len(self.extras), target)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        a, b, *extras = operands
        return [finish(self.expr, np.matmul(a, b), extras, self.dtype, self.extras)]
