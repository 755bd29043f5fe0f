"""Dense matmul on the matrix unit or the vector unit, batched, with a fused epilogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ipucc.codelets.amp import amp_1x1, amp_types
from ipucc.codelets.arithmetic import evaluate, parsed
from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.codelets.elementwise import expression_cycles
from ipucc.codelets.macs import axpy, dot, transpose
from ipucc.dtypes import is_float, itemsize
from ipucc.target import Target

__all__ = ["METHODS", "MatMul", "epilogue_cycles", "finish", "product_cycles", "scratch_bytes"]


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


def _swapped(groups: Counts, rows: Counts, k: Counts, n: Counts, dtype: str, partials: str, target: Target) -> Counts:
    streamed = amp_1x1(groups, n, k, rows, dtype, partials, target)
    return streamed + transpose(groups, n, rows, partials, target)


METHODS: Final = {"amp": amp_1x1, "swapped": _swapped, "dot": dot, "axpy": axpy}
"""The ways to multiply. `amp` keeps the right operand in the matrix unit and streams the rows of the left one;
`swapped` keeps the left one there, streams the columns of the right one, and transposes what comes out; `dot` and
`axpy` take the vector unit."""


def product_cycles(
    method: str, groups: Counts, rows: Counts, k: Counts, n: Counts, dtype: str, partials: str, target: Target
) -> Counts:
    """Cycles of `groups` products [rows, k] x [k, n] by one of `METHODS`; KeyError for another one."""
    return METHODS[method](groups, rows, k, n, dtype, partials, target)


def scratch_bytes(method: str, rows: Counts, n: Counts, dtype: str, partials: str, target: Target) -> Counts:
    """What a product holds besides operands and result: `swapped` the sums of one group, before they are transposed."""
    if method != "swapped":
        return np.zeros_like(rows)
    units = target.amp.units(*amp_types(dtype, partials))
    return n * -(-rows // units) * units * itemsize(partials)


@register
@dataclass(frozen=True)
class MatMul(Codelet):
    """x[b.., m, n] = sum over k of A[b.., m, k] B[b.., k, n]; then `expr` over x and the epilogue's operands.

    `batch` names the axes in front, the others are m, k and n. `dtype` is the type of the operands, `partials` the
    type the matrix unit accumulates in, `extras` the types of the epilogue's operands. `method` is one of `METHODS`.
    """

    batch: tuple[str, ...]
    dtype: str
    partials: str
    expr: str = ""
    extras: tuple[str, ...] = ()
    method: str = "amp"

    name: ClassVar[str] = "matmul"
    code_bytes: ClassVar[int] = 1200

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """poplibs' estimate of the method for float types; integers take the vector unit at one MAC per issue."""
        groups = np.ones_like(n["m"])
        for axis in self.batch:
            groups = groups * n[axis]
        elements = groups * n["m"] * n["n"]
        if is_float(self.dtype):
            work = product_cycles(self.method, groups, n["m"], n["k"], n["n"], self.dtype, self.partials, target)
        else:
            work = 20 + target.workers * per_worker(elements * n["k"], target)
        return work + epilogue_cycles(self.expr, elements, self.dtype, len(self.extras), target)

    def temp_bytes(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return scratch_bytes(self.method, n["m"], n["n"], self.dtype, self.partials, target)

    @property
    def has_scratch(self) -> bool:
        return self.method == "swapped"

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        a, b, *extras = operands
        return [finish(self.expr, np.matmul(a, b), extras, self.dtype, self.extras)]
