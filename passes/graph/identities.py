"""Rules of `clean-up`: nodes that compute what one of their operands already is."""

from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import constant_array, scalar, static_shape, value_dtype
from ipucc.graph.expr import ELEMENTWISE
from ipucc.graph.match import Match
from ipucc.graph.patterns import OpPattern, Var, const, maybe, op
from ipucc.graph.rewrite import Builder, Rule, rewrite
from ipucc.passes.graph.views import is_view_permutation, permutation

MASK_LIMIT: Final = 1 << 20
"""Constant masks of at most this many elements are read to see whether they are uniform."""


def _first_operand(x: Var, a: Var, b: Var, c: Var, d: Var) -> tuple[OpPattern, ...]:
    rest = [maybe(v) for v in (a, b, c, d)]
    return (
        op.Identity(x),
        op.Dropout(x, *rest[:2], any_attrs=True),
        op.Cast(x, any_attrs=True),
        op.Reshape(x, a, any_attrs=True),
        op.Transpose(x, any_attrs=True),
        op.Expand(x, a),
        op.Tile(x, a),
        op.Slice(x, a, b, maybe(c), maybe(d)),
        op.Pad(x, a, maybe(b), maybe(c), any_attrs=True),
        op.Concat(x, any_attrs=True),
        op.Split(x, maybe(a), any_attrs=True),
        *(getattr(op, name)(x) for name in ("Sum", "Mean", "Max", "Min", "Clip")),
    )


@rewrite("no-op", _first_operand)
def no_op(
    m: Match, new: Builder, x: ir.Value, a: ir.Value | None, b: ir.Value | None, d: ir.Value | None
) -> ir.Value | None:
    """A node of these ops whose result has the type and shape of its operand is that operand.

    The exceptions are looked at: a Transpose that permutes, a Slice backwards, a Dropout that trains, a Pad
    that cuts on one side what it adds on the other.
    """
    node = m.root
    if value_dtype(x) != m.output.dtype or x.shape != m.output.shape or static_shape(x) is None:
        return None
    same = True
    if node.op_type == "Transpose":
        same = is_view_permutation(static_shape(x) or (), permutation(node))
    elif node.op_type == "Slice":
        steps = constant_array(d)
        same = d is None or (steps is not None and all(int(step) > 0 for step in steps))
    elif node.op_type == "Dropout":
        same = b is None or scalar(b) is False
    elif node.op_type == "Pad":
        pads = constant_array(a)
        same = pads is not None and not pads.any()
    return x if same else None


def _neutral(x: Var) -> tuple[OpPattern, ...]:
    zero, one = const(0, rtol=0), const(1, rtol=0)
    return x + zero, x - zero, x * one, x / one, x**one


@rewrite("neutral-operand", _neutral)
def neutral_operand(m: Match, new: Builder, x: ir.Value) -> ir.Value | None:
    """x + 0, x - 0, x * 1, x / 1 and x ** 1 are x, unless the constant broadcasts it."""
    return x if x.shape == m.output.shape and x.dtype == m.output.dtype else None


def _involution(x: Var) -> tuple[OpPattern, ...]:
    return op.Neg(op.Neg(x)), op.Not(op.Not(x))


@rewrite("involution", _involution)
def involution(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    """Neg and Not, twice, are nothing."""
    return x


def _twice(x: Var, inner: Var) -> tuple[OpPattern, ...]:
    return tuple(
        getattr(op, name)(getattr(op, name)(x, out=inner)) for name in ("Relu", "Abs", "Ceil", "Floor", "Round")
    )


@rewrite("idempotent", _twice)
def idempotent(m: Match, new: Builder, inner: ir.Value) -> ir.Value:
    """Relu(Relu(x)) is Relu(x)."""
    return inner


def _casts(x: Var, to: Var, middle: Var) -> OpPattern:
    return op.Cast(op.Cast(x, any_attrs=True, out=middle), to=to)


@rewrite("cast-of-cast", _casts)
def cast_of_cast(m: Match, new: Builder, x: ir.Value, to: int, middle: ir.Value) -> ir.Value | None:
    """The first of two casts goes if it loses nothing."""
    source, between = value_dtype(x), value_dtype(middle)
    if not (_is_plain(source) and _is_plain(between)):
        return None
    return new.Cast(x, to=to) if np.can_cast(source.numpy(), between.numpy(), "safe") else None


def _is_plain(dtype: ir.DataType) -> bool:
    return dtype.numpy().kind in "biuf"


def _uniform(mask: Var, x: Var, y: Var) -> OpPattern:
    return op.Where(mask, x, y)


@rewrite("decided-where", _uniform)
def decided_where(m: Match, new: Builder, mask: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value | None:
    """A Where with a constant mask that is all true or all false is one of its branches."""
    decision = _uniform_mask(mask)
    if decision is None:
        return None
    chosen = x if decision else y
    return chosen if chosen.shape == m.output.shape else None


def _masks(mask: Var, x: Var) -> tuple[OpPattern, ...]:
    return op.And(mask, x), op.Or(mask, x)


@rewrite("decided-mask", _masks)
def decided_mask(m: Match, new: Builder, mask: ir.Value, x: ir.Value) -> ir.Value | None:
    """x and true is x; x or false is x."""
    for known, other in ((mask, x), (x, mask)):
        decision = _uniform_mask(known)
        neutral = m.root.op_type == "And"
        if decision is neutral and other.shape == m.output.shape:
            return other
    return None


def _uniform_mask(value: ir.Value) -> bool | None:
    array = constant_array(value, limit=MASK_LIMIT)
    if array is None or not array.size:
        return None
    return True if array.all() else False if not array.any() else None


def bypass_expands(model: ir.Model) -> int:
    """Lets elementwise ops, which broadcast by themselves, read what an Expand expands; the operands changed.

    Only where the result keeps its shape. The Expand stays behind for its other users, or as dead code.
    """
    count = 0
    for node in model.graph.all_nodes():
        if node.domain or node.op_type not in ELEMENTWISE:
            continue
        for i, value in enumerate(node.inputs):
            source = _expanded(value)
            # The first operand of PRelu is not broadcast: the result has its shape.
            if source is None or (node.op_type == "PRelu" and i == 0):
                continue
            shapes = [static_shape(source if j == i else v) for j, v in enumerate(node.inputs) if v is not None]
            known = [s for s in shapes if s is not None]
            if len(known) == len(shapes) and np.broadcast_shapes(*known) == static_shape(node.outputs[0]):
                node.replace_input_with(i, source)
                count += 1
    return count


def _expanded(value: ir.Value | None) -> ir.Value | None:
    producer = value.producer() if value is not None else None
    if producer is None or (producer.domain, producer.op_type) != ("", "Expand"):
        return None
    return producer.inputs[0]


IDENTITIES: Final[tuple[Rule, ...]] = (
    no_op,
    neutral_operand,
    involution,
    idempotent,
    cast_of_cast,
    decided_where,
    decided_mask,
)
