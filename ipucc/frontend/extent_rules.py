"""How an extent that depends on data goes through an op: one rule per kind of op.

A rule takes a node and what its operands are trimmed from. It writes the node on those, its results trimmed, and
finishes it; or leaves it as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none
from ipucc.graph.bounded_schemas import TRIMMED
from ipucc.graph.expr import ELEMENTWISE

__all__ = ["RULES", "Trim", "is_trim", "is_trimmed"]

_REDUCTIONS: Final = {
    "ReduceSum": 0.0, "ReduceL1": 0.0, "ReduceL2": 0.0, "ReduceSumSquare": 0.0, "ReduceProd": 1.0,
    "ReduceMax": -np.inf, "ReduceMin": np.inf,
}  # fmt: skip
"""Reductions and what changes nothing about their results."""


@dataclass(frozen=True, eq=False)
class Trim:
    """An operand of a node: which, the dimension that is trimmed, how much of it counts, and the shape as computed."""

    index: int
    axis: int
    count: ir.Value
    shape: tuple[int, ...]


def is_trimmed(node: ir.Node) -> bool:
    """Whether a node is a Trimmed."""
    return node.op_type == TRIMMED and node.domain == "ipucc"


def is_trim(value: ir.Value | None) -> bool:
    """Whether a value is the result of a Trimmed."""
    producer = value.producer() if value is not None else None
    return producer is not None and is_trimmed(producer)


Rule = Callable[[ir.Node, Sequence[Trim]], bool]


def _source(node: ir.Node, trim: Trim) -> ir.Value:
    value = node.inputs[trim.index]
    producer = value.producer() if value is not None else None
    assert producer is not None
    assert producer.inputs[0] is not None
    return producer.inputs[0]


def _again(node: ir.Node, trims: Sequence[Trim], axis: int, changed: Mapping[int, ir.Value] | None = None) -> bool:
    """The node on what its operands are trimmed from, its results trimmed along `axis`."""
    e = Emitter(node)
    inputs = list(node.inputs)
    for trim in trims:
        inputs[trim.index] = _source(node, trim)
    for i, value in (changed or {}).items():
        inputs[i] = value
    attributes = {name: a.value for name, a in node.attributes.items()}
    made = e.ops(node.op_type, *inputs, outputs=len(node.outputs), **attributes)
    e.finish(*(e.own(TRIMMED, value, trims[0].count, axis=axis) for value in made))
    return True


def _alike(trims: Sequence[Trim]) -> bool:
    return all(_same(trim.count, trims[0].count) for trim in trims)


def _same(a: ir.Value | None, b: ir.Value | None, depth: int = 16) -> bool:
    """Whether two values are computed alike from the same ones, by chains of no more nodes than `depth`."""
    if a is b:
        return True
    if a is None or b is None or depth == 0:
        return False
    one, other = constant_of(a), constant_of(b)
    if one is not None or other is not None:
        return one is not None and other is not None and one.dtype == other.dtype and np.array_equal(one, other)
    m, n = a.producer(), b.producer()
    if m is None or n is None or (m.domain, m.op_type) != (n.domain, n.op_type) or a.index() != b.index():
        return False
    if len(m.inputs) != len(n.inputs) or m.attributes.keys() != n.attributes.keys():
        return False
    if any(m.attributes[k].value != n.attributes[k].value for k in m.attributes):
        return False
    return all(_same(v, w, depth - 1) for v, w in zip(m.inputs, n.inputs, strict=True))


def _elementwise(node: ir.Node, trims: Sequence[Trim]) -> bool:
    """Trimmed operands that broadcast against each other are trimmed alike; others have one index there."""
    ends = {len(trim.shape) - trim.axis for trim in trims}
    sizes = {trim.shape[trim.axis] for trim in trims}
    if len(ends) != 1 or len(sizes) != 1 or not _alike(trims):
        return False
    (end,) = ends
    ranks = [len(trim.shape) for trim in trims]
    for i, value in enumerate(node.inputs):
        if value is None or any(trim.index == i for trim in trims):
            continue
        shape = shape_or_none(value)
        if shape is None or (len(shape) >= end and shape[-end] != 1):
            return False
        ranks.append(len(shape))
    return _again(node, trims, max(ranks) - end)


def _transpose(node: ir.Node, trims: Sequence[Trim]) -> bool:
    rank = len(trims[0].shape)
    perm = list(node.attributes.get_ints("perm") or range(rank)[::-1])
    return _again(node, trims, perm.index(trims[0].axis))


def _squeeze(node: ir.Node, trims: Sequence[Trim]) -> bool:
    (trim,) = trims
    axes = constant_of(operand(node, 1))
    rank = len(trim.shape)
    gone = (
        [d for d, n in enumerate(trim.shape) if n == 1] if axes is None else [int(a) % rank for a in axes.reshape(-1)]
    )
    if trim.axis in gone or (operand(node, 1) is not None and axes is None):
        return False
    given = Emitter(node).ints(*gone)
    node.resize_inputs(2)
    return _again(node, trims, trim.axis - sum(d < trim.axis for d in gone), {1: given})


def _unsqueeze(node: ir.Node, trims: Sequence[Trim]) -> bool:
    (trim,) = trims
    axes = constant_of(operand(node, 1))
    if axes is None or trim.index != 0:
        return False
    rank = len(trim.shape) + axes.size
    new = {int(a) % rank for a in axes.reshape(-1)}
    return _again(node, trims, [d for d in range(rank) if d not in new][trim.axis])


def _reshape(node: ir.Node, trims: Sequence[Trim]) -> bool:
    """A shape with the trimmed dimension left open, what lies before and behind it as it was."""
    (trim,) = trims
    wanted = constant_of(operand(node, 1))
    if wanted is None or trim.index != 0 or node.attributes.get_int("allowzero", 0) != 0:
        return False
    shape = [trim.shape[i] if n == 0 and i != trim.axis else int(n) for i, n in enumerate(wanted.reshape(-1))]
    if -1 not in shape:
        return False
    at = shape.index(-1)
    before, behind = prod(trim.shape[: trim.axis]), prod(trim.shape[trim.axis + 1 :])
    if 0 in shape or prod(shape[:at]) != before or prod(shape[at + 1 :]) != behind:
        return False
    shape[at] = trim.shape[trim.axis]
    return _again(node, trims, at, {1: Emitter(node).ints(*shape)})


def _gather(node: ir.Node, trims: Sequence[Trim]) -> bool:
    data, index = (shape_or_none(_untrimmed(value)) for value in node.inputs)
    if data is None or index is None:
        return False
    (trim,) = trims
    axis = node.attributes.get_int("axis", 0) % len(data)
    if trim.index == 1:
        return _again(node, trims, axis + trim.axis)
    return trim.axis != axis and _again(node, trims, trim.axis if trim.axis < axis else trim.axis - 1 + len(index))


def _gather_nd(node: ir.Node, trims: Sequence[Trim]) -> bool:
    (trim,) = trims
    if trim.index != 1 or trim.axis == len(trim.shape) - 1:
        return False
    return trim.axis >= node.attributes.get_int("batch_dims", 0) and _again(node, trims, trim.axis)


def _gather_elements(node: ir.Node, trims: Sequence[Trim]) -> bool:
    return trims[0].index == 1 and _again(node, trims, trims[0].axis)


def _slice(node: ir.Node, trims: Sequence[Trim]) -> bool:
    """Along other dimensions as it is; along the trimmed one from its begin on, which leaves fewer that count."""
    (trim,) = trims
    known = [constant_of(operand(node, i)) for i in range(1, 5)]
    given = [operand(node, i) is not None for i in range(1, 5)]
    if trim.index != 0 or any(k is None for k, g in zip(known, given, strict=True) if g) or not all(given[:2]):
        return False
    starts, ends = ([int(v) for v in k.reshape(-1)] for k in known[:2] if k is not None)
    rank = len(trim.shape)
    axes = [int(a) % rank for a in known[2].reshape(-1)] if known[2] is not None else list(range(len(starts)))
    steps = [int(v) for v in known[3].reshape(-1)] if known[3] is not None else [1] * len(starts)
    if trim.axis not in axes:
        return _again(node, trims, trim.axis)
    i = axes.index(trim.axis)
    if starts[i] or steps[i] != 1 or ends[i] < 0:
        return False
    e = Emitter(node)
    fewer = e.op("Min", trim.count, e.constant(np.int64(min(ends[i], trim.shape[trim.axis]))))
    cut = e.op("Slice", _source(node, trim), *node.inputs[1:])
    e.finish(e.own(TRIMMED, cut, fewer, axis=trim.axis))
    return True


def _concat(node: ir.Node, trims: Sequence[Trim]) -> bool:
    axis = node.attributes.get_int("axis", 0) % len(trims[0].shape)
    same = len(trims) == len(node.inputs) and len({trim.axis for trim in trims}) == 1 and _alike(trims)
    return same and trims[0].axis != axis and _again(node, trims, trims[0].axis)


def _scatter_nd(node: ir.Node, trims: Sequence[Trim]) -> bool:
    """What does not count goes to a row of its own behind the table."""
    shape = shape_or_none(node.inputs[0])
    if [trim.index for trim in trims] != [1, 2] or not _alike(trims) or any(trim.axis for trim in trims) or not shape:
        return False
    index, updates = (_source(node, trim) for trim in trims)
    data = node.inputs[0]
    if data is None or data.dtype is None or index.dtype is None or len(trims[0].shape) < 2:
        return False
    e = Emitter(node)
    count, *rest = trims[0].shape
    size, last = e.constant(np.int64(shape[0])), e.ints(len(rest))
    first = e.op("Slice", index, e.ints(0), e.ints(1), last)
    others = e.op("Slice", index, e.ints(1), e.ints(rest[-1]), last)
    first = e.op("Where", e.op("Less", first, e.ints(0)), e.op("Add", first, size), first)
    counts = e.op("Less", e.constant(np.arange(count).reshape(-1, *(1 for _ in rest))), trims[0].count)
    places = e.op("Concat", e.op("Where", counts, first, size), others, axis=len(rest))
    table = e.op("Concat", data, e.op("Expand", e.constant(0, data.dtype), e.ints(1, *shape[1:])), axis=0)
    reduction = node.attributes.get_string("reduction", "none")
    made = e.op("ScatterND", table, places, updates, reduction=reduction)
    e.finish(e.op("Slice", made, e.ints(0), e.ints(shape[0]), e.ints(0)))
    return True


def _product(node: ir.Node, trims: Sequence[Trim]) -> bool:
    """Rows of the left operand or columns of the right one; or what both are summed over, zeros beyond what counts."""
    shapes = [shape_or_none(_untrimmed(value)) for value in node.inputs[:2]]
    if any(shape is None or len(shape) < 2 for shape in shapes):
        return False
    if len(trims) == 2:
        return _contraction(node, trims)
    (trim,) = trims
    if trim.index > 1 or trim.axis != len(trim.shape) - (2 if trim.index == 0 else 1):
        return False
    if node.op_type == "Gemm":
        turned = node.attributes.get_int("transA" if trim.index == 0 else "transB", 0)
        bias = shape_or_none(operand(node, 2))
        if turned or (operand(node, 2) is not None and (bias is None or len(bias) > 1 or trim.index == 1)):
            return False
    rank = max(len(shape or ()) for shape in shapes)
    return _again(node, trims, rank - (2 if trim.index == 0 else 1))


def _contraction(node: ir.Node, trims: Sequence[Trim]) -> bool:
    left, right = trims
    ends = left.axis == len(left.shape) - 1 and right.axis == len(right.shape) - 2
    if node.op_type != "MatMul" or not ends or not _alike(trims) or left.shape[-1] != right.shape[-2]:
        return False
    e = Emitter(node)
    e.finish(e.op("MatMul", *(_filled(e, _source(node, trim), trim, 0) for trim in trims)))
    return True


def _filled(e: Emitter, x: ir.Value, trim: Trim, value: float) -> ir.Value:
    """What is trimmed, with a value in the place of what does not count."""
    assert x.dtype is not None
    form = [-1 if d == trim.axis else 1 for d in range(len(trim.shape))]
    counts = e.op("Less", e.constant(np.arange(trim.shape[trim.axis]).reshape(form)), trim.count)
    return e.op("Where", counts, x, e.constant(value, x.dtype))


def _rows(node: ir.Node, trims: Sequence[Trim]) -> bool:
    """Ops over rows along an axis (or from it on): the trimmed dimension is none of theirs; or a Softmax over it, where
    what does not count is infinitely small."""
    (trim,) = trims
    if trim.index != 0:
        return False
    axis = node.attributes.get_int("axis", -1) % len(trim.shape)
    x = _source(node, trim)
    if node.op_type in ("Softmax", "LogSoftmax") and axis == trim.axis and x.dtype is not None:
        e = Emitter(node)
        made = e.op(node.op_type, _filled(e, x, trim, -np.inf), axis=axis)
        e.finish(e.own(TRIMMED, made, trim.count, axis=axis))
        return True
    over = range(axis, len(trim.shape)) if node.op_type in ("LayerNormalization", "RMSNormalization") else [axis]
    return trim.axis not in over and _again(node, trims, trim.axis)


def _extreme(node: ir.Node, trims: Sequence[Trim]) -> bool:
    (trim,) = trims
    axis = node.attributes.get_int("axis", 0) % len(trim.shape)
    less = int(axis < trim.axis and not node.attributes.get_int("keepdims", 1))
    return trim.axis != axis and _again(node, trims, trim.axis - less)


def _reduce(node: ir.Node, trims: Sequence[Trim]) -> bool:
    """Along other dimensions as it is; along the trimmed one with what changes nothing in the place of the rest."""
    (trim,) = trims
    axes = constant_of(operand(node, 1))
    if trim.index != 0 or (operand(node, 1) is not None and axes is None):
        return False
    rank = len(trim.shape)
    if (axes is None or not axes.size) and node.attributes.get_int("noop_with_empty_axes", 0) != 0:
        return False
    over = [int(a) % rank for a in axes.reshape(-1)] if axes is not None and axes.size else list(range(rank))
    if trim.axis not in over:
        less = 0 if node.attributes.get_int("keepdims", 1) else sum(d < trim.axis for d in over)
        return _again(node, trims, trim.axis - less)
    x = _source(node, trim)
    neutral = _REDUCTIONS.get(node.op_type)
    if neutral is None or x.dtype is None:
        return False
    if np.isinf(neutral) and not x.dtype.is_floating_point():
        limits = np.iinfo(x.dtype.numpy())
        neutral = limits.min if neutral < 0 else limits.max
    e = Emitter(node)
    kept = _filled(e, x, trim, neutral)
    attributes = {name: a.value for name, a in node.attributes.items()}
    e.finish(e.op(node.op_type, kept, *node.inputs[1:], **attributes))
    return True


def _shape(node: ir.Node, trims: Sequence[Trim]) -> bool:
    """The shape as it is at run time."""
    (trim,) = trims
    rank = len(trim.shape)
    first, last = node.attributes.get_int("start", 0), node.attributes.get_int("end", rank)
    e = Emitter(node)
    parts = [e.op("Reshape", trim.count, e.ints(1)) if d == trim.axis else e.ints(n) for d, n in enumerate(trim.shape)][
        first:last
    ]
    if not parts:
        return False
    e.finish(e.op("Concat", *parts, axis=0))
    return True


def _untrimmed(value: ir.Value | None) -> ir.Value | None:
    """What a value is trimmed from, else the value."""
    producer = value.producer() if value is not None else None
    return producer.inputs[0] if producer is not None and is_trimmed(producer) else value


def _of_one(rule: Rule) -> Rule:
    """A rule for nodes with one such operand."""
    return lambda node, trims: len(trims) == 1 and rule(node, trims)


_OF_ONE: Final[dict[str, Rule]] = {
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("ReduceMean", "ReduceLogSum", "ReduceLogSumExp"), _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _extreme),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization"), _rows),
    "Gemm": _product,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
RULES: Final[dict[str, Rule]] = {
    **{op: _of_one(rule) for op, rule in _OF_ONE.items()},
    **dict.fromkeys((*ELEMENTWISE, "CastLike"), _elementwise),
    "Concat": _concat,
    "MatMul": _product,
    "ScatterND": _scatter_nd,
}
"""How a Trimmed passes an op: the node is replaced, or stays where it does not."""
