"""Dense matmul on the matrix unit or the vector unit, batched, with a fused epilogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Final

import numpy as np

from ipucc.codelets.amp import amp_1x1, amp_types
from ipucc.codelets.arithmetic import evaluate, parsed
from ipucc.codelets.base import Array, Cells, Codelet, Counts, Round, Streams, per_worker, register
from ipucc.codelets.elementwise import expression_cycles
from ipucc.codelets.macs import axpy, dot, transpose
from ipucc.dtypes import is_float, itemsize
from ipucc.target import Target

__all__ = [
    "METHODS", "MatMul", "MatMulRound", "adds_up", "epilogue_cycles", "finish", "product_cycles", "scratch_bytes",
    "streams_of", "weights_of",
]  # fmt: skip


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


def adds_up(round: Round | None) -> bool:
    """Whether a round adds to the sums of the one before; None is a product in one go. ValueError for another text."""
    if round not in (None, "first", "next", "last"):
        raise ValueError(f"there is no round {round!r}")
    return round in ("next", "last")


METHODS: Final = ("amp", "swapped", "dot", "axpy")
"""The ways to multiply. `amp` keeps the right operand in the matrix unit and streams the rows of the left one;
`swapped` keeps the left one there, streams the columns of the right one, and transposes what comes out; `dot` and
`axpy` take the vector unit."""


def product_cycles(
    method: str, groups: Counts, rows: Counts, k: Counts, n: Counts, dtype: str, partials: str, target: Target,
    round: Round | None = None,
) -> Counts:  # fmt: skip
    """Cycles of `groups` products [rows, k] x [k, n] by one of `METHODS`, in one go or in one of several rounds that
    add up k; KeyError for another method, ValueError for another round."""
    adds = adds_up(round)
    if method == "swapped":
        # The sums stay transposed from round to round.
        streamed = amp_1x1(groups, n, k, rows, dtype, partials, target, adds)
        return streamed + transpose(groups, n, rows, partials, target) if round in (None, "last") else streamed
    kernel = {"amp": amp_1x1, "dot": dot, "axpy": axpy}[method]
    return kernel(groups, rows, k, n, dtype, partials, target, adds)


def weights_of(method: str, dtype: str) -> tuple[int, ...]:
    """The operand that a product or a convolution keeps in the matrix unit; loads of types below 4 bytes can be
    wide."""
    if not is_float(dtype) or itemsize(dtype) > 2:
        return ()
    if method.startswith("amp"):
        return (1,)
    return (0,) if method == "swapped" else ()


def streams_of(method: str) -> Streams:
    """The operands and results of a product or a convolution that are reached in one issue: what streams through the
    unit and the sums that come out of it, or both operands of the vector unit. `swapped` sums up in its scratch.

    poplibs, the constraints of lib/poplin/codelets/ConvPartial{1x1Out,nx1,1xNSLIC,HorizontalMac,VerticalMac}.cpp.
    """
    if method == "swapped":
        return (1,), (-1,)
    return ((0, 1), ()) if method in ("dot", "vmac") else ((0,), (0,)) if method != "axpy" else ((), ())


def scratch_bytes(
    method: str, groups: Counts, rows: Counts, n: Counts, dtype: str, partials: str, target: Target,
    round: Round | None = None,
) -> Counts:  # fmt: skip
    """What a product holds besides operands and result: `swapped` the sums of one group, before they are transposed. In
    rounds the sums have a buffer of their own, and this is what the matrix unit writes beyond it: whole units."""
    if method != "swapped":
        return np.zeros_like(rows)
    units = target.amp.units(*amp_types(dtype, partials))
    whole = -(-rows // units) * units
    return n * itemsize(partials) * (whole if round is None else groups * (whole - rows))


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
        return self._cycles(n, target, None)

    def _cycles(self, n: Mapping[str, Counts], target: Target, round: Round | None) -> Counts:
        groups = self._groups(n)
        elements = groups * n["m"] * n["n"]
        if is_float(self.dtype):
            work = product_cycles(
                self.method, groups, n["m"], n["k"], n["n"], self.dtype, self.partials, target, round
            )  # fmt: skip
        else:
            # A sum that is there already is one more term.
            terms = n["k"] + (1 if adds_up(round) else 0)
            work = 20 + target.workers * per_worker(elements * terms, target)
        return work + epilogue_cycles(self.expr, elements, self.dtype, len(self.extras), target)

    def _groups(self, n: Mapping[str, Counts]) -> Counts:
        groups = np.ones_like(n["m"])
        for axis in self.batch:
            groups = groups * n[axis]
        return groups

    def temp_bytes(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return scratch_bytes(self.method, self._groups(n), n["m"], n["n"], self.dtype, self.partials, target)

    @property
    def has_scratch(self) -> bool:
        return self.method == "swapped"

    @property
    def wide(self) -> tuple[int, ...]:
        return weights_of(self.method, self.dtype)

    @property
    def streams(self) -> Streams:
        return streams_of(self.method) if is_float(self.dtype) else ((), ())

    def in_round(self, round: Round) -> "MatMulRound":
        return MatMulRound(**{f.name: getattr(self, f.name) for f in fields(MatMul)}, round=round)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        a, b, *others = operands
        return [self._finished(self._product(a, b, cells), others, cells)]

    def _product(self, a: Array, b: Array, cells: Cells) -> Array:
        return np.asarray(np.matmul(cells.cut(a, *self.batch, "m", "k"), cells.cut(b, *self.batch, "k", "n")))

    def _finished(self, x: Array, extras: Sequence[Array], cells: Cells) -> Array:
        extras = [cells.cut(e, *self.batch, "m", "n") for e in extras]
        return finish(self.expr, x, extras, self.dtype, self.extras)


@register
@dataclass(frozen=True)
class MatMulRound(MatMul):
    """One of several rounds of a product that add up k: x[b.., m, n] = sums + the product; in the last one `expr` over
    x. The first round has no sums; in the others they are the last operand, behind those of the epilogue."""

    round: Round = "first"

    name: ClassVar[str] = "matmul_round"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """As in one go, less the clearing of the output where sums are added to; `swapped` transposes once."""
        return self._cycles(n, target, self.round)

    def temp_bytes(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return scratch_bytes(
            self.method, self._groups(n), n["m"], n["n"], self.dtype, self.partials, target, self.round
        )  # fmt: skip

    @property
    def in_place(self) -> bool:
        return self.round == "next" or (self.round == "last" and self.method != "swapped")

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        a, b, *others = operands
        x = self._product(a, b, cells)
        if adds_up(self.round):
            # Partials have dimensions of one in front.
            x += cells.cut(others.pop(), *self.batch, "m", "n").reshape(x.shape)
        return [self._finished(x, others, cells)]
