"""Loops whose trips are known while compiling, written out one trip after another."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none

__all__ = ["stays_true", "unroll_loops"]

_MAX_NODES: Final = 128
"""Loops that would make more nodes than this stay: they become loops of the program."""


def unroll_loops(model: ir.Model) -> int:
    """Write out every Scan over a dimension of known size, and every Loop with a constant number of trips whose
    condition stays true; the number replaced. Bodies within bodies follow in the next call."""
    count = 0
    for node in list(model.graph):
        if node.domain == "" and node.op_type in ("Scan", "Loop"):
            count += _scan(node) if node.op_type == "Scan" else _loop(node)
    return count


def _scan(node: ir.Node) -> bool:
    body = node.attributes["body"].as_graph()
    scans = node.attributes.get_int("num_scan_inputs", 0)
    states = len(node.inputs) - scans
    shapes = [shape_or_none(value) for value in node.inputs[states:]]
    if any(shape is None for shape in shapes):
        return False
    axes = [axis % len(shape or ()) for axis, shape in
            zip(node.attributes.get_ints("scan_input_axes", [0] * scans), shapes, strict=True)]  # fmt: skip
    backwards = node.attributes.get_ints("scan_input_directions", [0] * scans)
    lengths = {(shape or ())[axis] for axis, shape in zip(axes, shapes, strict=True)}
    if len(lengths) != 1 or (trips := lengths.pop()) * _size(body) > _MAX_NODES or trips < 1:
        return False
    e = Emitter(node)
    carried = [value for value in node.inputs[:states] if value is not None]
    stacked: list[list[ir.Value]] = [[] for _ in body.outputs[states:]]
    for trip in range(trips):
        slices = []
        for value, axis, back in zip(node.inputs[states:], axes, backwards, strict=True):
            at = e.constant(np.int64(trips - 1 - trip if back else trip))
            slices.append(e.op("Gather", value, at, axis=axis))
        results = _trip(e, body, [*carried, *slices], trip)
        carried = results[:states]
        for found, value in zip(stacked, results[states:], strict=True):
            found.append(value)
    outputs = len(stacked)
    places = node.attributes.get_ints("scan_output_axes", [0] * outputs)
    turned = node.attributes.get_ints("scan_output_directions", [0] * outputs)
    joined = [
        _stack(e, found[::-1] if back else found, axis, inner)
        for found, axis, back, inner in zip(stacked, places, turned, body.outputs[states:], strict=True)
    ]
    e.finish(*carried, *joined)
    return True


def _loop(node: ir.Node) -> bool:
    body = node.attributes["body"].as_graph()
    count, condition = constant_of(operand(node, 0)), operand(node, 1)
    first = constant_of(condition)
    if count is None or (condition is not None and first is None):
        return False
    trips = int(count.reshape(-1)[0])
    if first is not None and not bool(first.reshape(-1)[0]):
        trips = 0
    stays = stays_true(body)
    if not stays or trips * _size(body) > _MAX_NODES or (trips < 1 and len(body.outputs) > len(node.inputs) - 1):
        return False
    e = Emitter(node)
    carried = [value for value in node.inputs[2:] if value is not None]
    states = len(carried)
    stacked: list[list[ir.Value]] = [[] for _ in body.outputs[1 + states :]]
    true = e.constant(np.bool_(True))
    for trip in range(trips):
        results = _trip(e, body, [e.constant(np.int64(trip)), true, *carried], trip)[1:]
        carried = results[:states]
        for found, value in zip(stacked, results[states:], strict=True):
            found.append(value)
    joined = [_stack(e, found, 0, inner) for found, inner in zip(stacked, body.outputs[1 + states :], strict=True)]
    e.finish(*carried, *joined)
    return True


def _size(body: ir.Graph) -> int:
    """The nodes of a body, those of bodies within it included."""
    return sum(1 for _ in body.all_nodes())


def stays_true(body: ir.Graph) -> bool:
    """Whether a loop goes on whatever its body computes: it hands its condition through, or a constant that is true."""
    value: ir.Value | None = body.outputs[0]
    while value is not None:
        if value is body.inputs[1]:
            return True
        known = constant_of(value)
        if known is not None:
            return bool(known.reshape(-1)[0])
        producer = value.producer()
        if producer is None or producer.op_type not in ("Identity", "Cast", "Constant"):
            return False
        if producer.op_type == "Constant":
            tensor = producer.attributes.get("value")
            return tensor is not None and bool(tensor.as_tensor().numpy().reshape(-1)[0])
        value = producer.inputs[0]
    return False


def _trip(e: Emitter, body: ir.Graph, given: Sequence[ir.Value], trip: int) -> list[ir.Value]:
    """A copy of the body before the loop, its inputs replaced; its results."""
    copy = body.clone(allow_outer_scope_values=True)
    # A value that is no node's belongs to one graph, so that it cannot be an output of this one in between.
    results, known = list(copy.outputs), dict(zip(copy.inputs, given, strict=True))
    results = [known.get(value, value) for value in results]
    copy.outputs.clear()
    for value, new in known.items():
        value.replace_all_uses_with(new)
    for value in list(copy.initializers.values()):
        name = str(value.name)
        del copy.initializers[name]
        value.name = f"{e.prefix}/{trip}/{name}"
        e.graph.register_initializer(value)
    inner = list(copy)
    copy.remove(inner)
    for node in inner:
        node.name = f"{e.prefix}/{trip}/{node.name}"
        for value in node.outputs:
            if value.name:
                value.name = f"{e.prefix}/{trip}/{value.name}"
    e.graph.insert_before(e.node, inner)
    return results


def _stack(e: Emitter, values: Sequence[ir.Value], axis: int, inner: ir.Value) -> ir.Value:
    """What every trip computed, along a new dimension."""
    if axis < 0:
        axis += 1 + (len(inner.shape) if inner.shape is not None else 0)
    return e.op("Concat", *(e.op("Unsqueeze", value, e.ints(axis)) for value in values), axis=axis)
