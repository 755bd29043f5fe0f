"""The pass `fuse-attention`: guards around a softmax that cannot fail, and rotary embeddings."""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import Array, constant_array, is_constant, static_shape, value_dtype
from ipucc.graph.match import Match
from ipucc.graph.patterns import OpPattern, Var, anything, const, maybe, op
from ipucc.graph.rewrite import Builder, Rule, apply_rules, present, require, rewrite
from ipucc.pass_manager import Pass, PassContext, option

_FINITE: Final = frozenset(
    ("MatMul", "Gemm", "Conv", "Softmax", "LayerNormalization", "RMSNormalization", "RotaryEmbedding")
)
"""Ops of floating-point activations. That these are finite is assumed: a compiler that doubts it can fuse
nothing."""

_KEEPS_FINITE: Final = frozenset(
    (
        *("Add", "Sub", "Mul", "Neg", "Reshape", "Transpose", "Expand", "Slice", "Concat", "Gather", "Split"),
        *("Where", "Relu", "Tanh", "Sigmoid", "Gelu", "Erf", "Squeeze", "Unsqueeze", "Identity", "Swish"),
    )
)
"""Ops that make finite results of finite operands (overflow apart, see _FINITE)."""

_CONSTANT_LIMIT: Final = 1 << 24


def all_finite(value: ir.Value) -> bool:
    """Whether no element can be infinite or NaN. Inputs of the graph may hold anything (masks do)."""
    stack, seen = [value], {value}
    while stack:
        sources = _finite_if(stack.pop())
        if sources is None:
            return False
        stack.extend(v for v in sources if v not in seen)
        seen.update(sources)
    return True


def _finite_if(value: ir.Value) -> list[ir.Value] | None:
    """The operands that must be finite for the value to be; None if it may not be finite."""
    if value.dtype is not None and not value.dtype.is_floating_point():
        return []
    if is_constant(value):
        array = constant_array(value, _CONSTANT_LIMIT)
        return [] if array is not None and np.isfinite(array.astype(np.float64)).all() else None
    producer = value.producer()
    if producer is None or producer.domain:
        return None
    operands = [v for v in producer.inputs if v is not None]
    if producer.op_type in _FINITE:
        return []
    if producer.op_type == "Cast":
        source = value_dtype(operands[0])
        widens = not source.is_floating_point() or source.itemsize <= value_dtype(value).itemsize
        return operands if widens else None
    if producer.op_type == "Div":
        divisor = constant_array(operands[1], _CONSTANT_LIMIT)
        return operands if divisor is not None and bool(divisor.astype(bool).all()) else None
    return operands if producer.op_type in _KEEPS_FINITE else None


def rows_are_open(value: ir.Value) -> bool:
    """Whether every row along the last axis has a finite element, and what is not finite is -inf.

    Softmax over such rows gives no NaN. Proved for sums of finite scores and one constant mask.
    """
    if all_finite(value):
        return True
    if is_constant(value):
        array = constant_array(value, _CONSTANT_LIMIT)
        if array is None or not array.ndim:
            return False
        numbers = array.astype(np.float64)
        masked = np.isneginf(numbers)
        return bool((masked | np.isfinite(numbers)).all() and not masked.all(axis=-1).any())
    producer = value.producer()
    if producer is None or producer.domain or any(v is None for v in producer.inputs):
        return False
    operands = [v for v in producer.inputs if v is not None]
    if producer.op_type == "Add":
        left, right = operands
        return (all_finite(left) and rows_are_open(right)) or (all_finite(right) and rows_are_open(left))
    if producer.op_type == "Where":
        mask = constant_array(operands[0], _CONSTANT_LIMIT)
        if mask is None or not mask.ndim:
            return False
        for branch, other, chosen in ((1, 2, mask), (2, 1, np.logical_not(mask))):
            fill = constant_array(operands[other], 1)
            negative = fill is not None and bool(np.isneginf(fill.astype(np.float64)).all())
            if negative and all_finite(operands[branch]) and bool(np.any(chosen, axis=-1).all()):
                return True
    return False


def _guard(s: Var, axis: Var) -> OpPattern:
    y = op.Softmax(s, axis=axis)
    return op.Where(op.IsNaN(y), const(0), y)


@rewrite("softmax-guard", _guard)
def softmax_guard_assumed(m: Match, new: Builder, s: ir.Value, axis: int) -> ir.Value:
    """Where(IsNaN(y), 0, y) behind y = Softmax(s) goes."""
    return new.Softmax(s, axis=axis)


@rewrite("softmax-guard", _guard)
def softmax_guard(m: Match, new: Builder, s: ir.Value, axis: int) -> ir.Value:
    """Where(IsNaN(y), 0, y) behind y = Softmax(s) goes if no row of s can be masked as a whole."""
    require(axis in (-1, len(s.shape or ()) - 1), "the softmax is not over the last axis")
    require(rows_are_open(s), "a row of the scores may be masked as a whole, or a mask is an input")
    return new.Softmax(s, axis=axis)


def _rotary(
    x: Var, c: Var, s: Var, half1: Var, half2: Var, start1: Var, end1: Var, start2: Var, end2: Var
) -> OpPattern:
    # Axes and steps are read off the nodes: their operands may be absent.
    upper = op.Slice(x, start1, end1, maybe(anything()), maybe(anything()), out=half1)
    lower = op.Slice(x, start2, end2, maybe(anything()), maybe(anything()), out=half2)
    return x * c + op.Concat(op.Neg(upper), lower, axis=-1) * s


@rewrite("rotary-embedding", _rotary)
def rotary(m: Match, new: Builder, x: ir.Value, c: ir.Value, s: ir.Value, half1: ir.Value, half2: ir.Value) -> ir.Value:
    """x cos + rotate_half(x) sin is RotaryEmbedding, for constant cos and sin whose two halves are equal.

    rotate_half(x) is [-x2, x1] for x = [x1, x2] along the last axis; x is [batch, heads, sequence, head
    size].
    """
    shape = present(static_shape(x), "the shape is not known")
    require(len(shape) == 4 and shape[-1] % 2 == 0, "the operand is not [batch, heads, sequence, 2 n]")
    half = shape[-1] // 2
    for value, start in ((half1, half), (half2, 0)):
        require(_is_half(value, start, half), "the slices are not the two halves")
    caches = []
    for value in (c, s):
        own = present(static_shape(value), "the shape is not known")
        require(own in ((1, 1, shape[2], shape[3]), (1, shape[2], shape[3]), shape[2:]), "cos or sin vary by head")
        array = constant_array(value)
        if array is not None:
            require(np.array_equal(array[..., :half], array[..., half:]), "the halves of cos or sin differ")
        cache = new.editor.derived(
            (value,),
            lambda full: np.broadcast_to(full.reshape(1, shape[2], shape[3])[..., :half], (shape[0], shape[2], half)),
            *((shape[0], shape[2], half), value_dtype(value), value.name or "cache"),
        )
        caches.append(present(cache, "cos and sin are no constants"))
    return new.RotaryEmbedding(x, *caches)


def _is_half(value: ir.Value, start: int, size: int) -> bool:
    """Whether a Slice takes `size` elements of the last axis from `start` on, in steps of 1."""
    node = value.producer()
    if node is None or node.inputs[0] is None:
        return False
    shape, result = static_shape(node.inputs[0]), static_shape(value)
    numbers = [_single(v) for v in (*node.inputs[1:], None, None)[:4]]
    if shape is None or result is None or numbers[0] is None:
        return False
    axis, step = numbers[2], numbers[3]
    first = numbers[0] + shape[-1] if numbers[0] < 0 else numbers[0]
    last_axis = axis in (-1, len(shape) - 1)
    return last_axis and step in (None, 1) and first == start and result == (*shape[:-1], size)


def _single(value: ir.Value | None) -> int | None:
    array: Array | None = constant_array(value, 1)
    return int(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


RULES: Final[tuple[Rule, ...]] = (softmax_guard, rotary)
ASSUMING_RULES: Final[tuple[Rule, ...]] = (softmax_guard_assumed, rotary)


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Leaves no guard behind a softmax whose rows cannot be masked as a whole, and rotary embeddings as one
    node.

    Activations are taken to be finite: the guards are made for rows that a mask closes, not for overflow.

        y = Softmax (s)
        n = IsNaN (y)                     ->   z = Softmax (s)
        z = Where (n, zero, y)
    """

    name: ClassVar[str] = "fuse-attention"

    guards: str = option(
        "prove",
        "prove: remove a guard if no row can be masked as a whole; assume: remove all of them",
        choices=("prove", "assume"),
    )

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        return apply_rules(model, RULES if self.guards == "prove" else ASSUMING_RULES, ctx) > 0
