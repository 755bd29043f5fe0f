"""What a Loop counts: carried counters, and the number of trips that a condition on one of them says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ipucc.frontend.affine import Affine, affine
from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none
from ipucc.frontend.unroll import stays_true

__all__ = ["Counter", "count_trips", "counters_of"]


@dataclass(frozen=True)
class Counter:
    """A carried number that is `start` in the first trip and `step` more in every further one."""

    start: int
    step: int


def counters_of(node: ir.Node, body: ir.Graph) -> dict[int, Counter]:
    """Which of the carried values of a Loop are counters, by their number."""
    found = {}
    for i, (before, inside, after) in enumerate(zip(node.inputs[2:], body.inputs[2:], body.outputs[1:], strict=False)):
        first = constant_of(before)
        if first is None or first.size != 1 or first.dtype.kind != "i":
            continue
        own = Affine(0, frozenset({((inside, 0), 1)}))
        made = affine(after, {inside: own})
        step = None if made is None or len(made) != 1 else made[0].plus(own, -1).known()
        if step is not None:
            found[i] = Counter(int(first.reshape(-1)[0]), step)
    return found


def count_trips(model: ir.Model) -> int:
    """Give Loops whose condition compares a counter with a constant the number of trips that this makes; how many."""
    return sum(_counted(node) for node in list(model.graph) if node.domain == "" and node.op_type == "Loop")


def _counted(node: ir.Node) -> bool:
    body = node.attributes["body"].as_graph()
    if stays_true(body):
        return False
    trip = body.inputs[0]
    now = Affine(0, frozenset({((trip, 0), 1)}))
    known = {trip: now}
    for i, counter in counters_of(node, body).items():
        known[body.inputs[2 + i]] = Affine(counter.start).plus(now, counter.step)
    parts = _conjuncts(body.outputs[0])
    limits = {part: _trips(part, trip, known) for part in parts}
    if all(limit is None for limit in limits.values()):
        return False
    e = Emitter(node)
    most = min(limit for limit in limits.values() if limit is not None)
    if not math.isinf(most):
        _limit(node, e, int(most))
    # What is left of the condition is the rest of its parts.
    rest = [part for part in parts if limits[part] is None]
    going = rest[0] if rest else body.inputs[1]
    for part in rest[1:]:
        both = ir.node("And", [going, part], name=f"{e.prefix}/going_{part.name}")
        both.outputs[0].name, both.outputs[0].type = both.name, ir.TensorType(ir.DataType.BOOL)
        body.append(both)
        going = both.outputs[0]
    body.outputs[0] = going
    return True


def _limit(node: ir.Node, e: Emitter, most: int) -> None:
    """Let the loop make no more trips than that."""
    given, number = operand(node, 0), constant_of(operand(node, 0))
    if given is None or number is not None:
        least = most if number is None else min(most, int(number.reshape(-1)[0]))
        node.replace_input_with(0, e.constant(np.int64(least)))
    else:
        node.replace_input_with(0, e.op("Min", given, e.constant(np.int64(most))))


def _conjuncts(value: ir.Value) -> list[ir.Value]:
    """The parts of a condition all of which must hold."""
    producer = value.producer()
    if producer is not None and producer.domain == "":
        if producer.op_type == "And" and all(v is not None and _size(v) == 1 for v in producer.inputs):
            return list(dict.fromkeys(part for v in producer.inputs if v is not None for part in _conjuncts(v)))
        if producer.op_type in ("Identity", "Reshape", "Squeeze", "Unsqueeze") and producer.inputs[0] is not None:
            return _conjuncts(producer.inputs[0])
    return [value]


def _size(value: ir.Value) -> int | None:
    shape = shape_or_none(value)
    return None if shape is None else math.prod(shape)


def _trips(part: ir.Value, trip: ir.Value, known: Mapping[ir.Value, Affine]) -> float | None:
    """After how many trips a part of a condition first fails, infinite where it never does; None where data says."""
    node, negated = part.producer(), False
    while node is not None and node.domain == "" and node.op_type == "Not":
        negated = not negated
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.domain or node.op_type not in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        return None
    left, right = (affine(v, known) for v in node.inputs)
    if left is None or right is None or len(left) != 1 or len(right) != 1:
        return None
    # It holds in trip t as long as factor x t + constant < 0.
    strict, turned = "OrEqual" not in node.op_type, node.op_type.startswith("Greater")
    if negated:
        strict, turned = not strict, not turned
    less, more = (right[0], left[0]) if turned else (left[0], right[0])
    distance = less.plus(more, -1)
    factor = distance.of(trip)
    if factor is None:
        return None
    constant = distance.constant - (0 if strict else 1)
    if constant >= 0:
        return 1
    return math.inf if factor <= 0 else 1 + -(constant // factor)
