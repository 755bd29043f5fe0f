"""Rows that a loop reads or writes by the number of its trip: what moves by an address instead of by an index.

A trip that gathers rows `a x trip + c` of a tensor from outside reads a slice of those rows, laid out in the order of
the trips. A carried tensor of which every trip writes rows of its own, and reads no others, is what it was with the
rows of all trips in their place.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.frontend.affine import affine
from ipucc.frontend.bodies import typed, uses_of
from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none

__all__ = ["drop_unused", "hoist", "stepped_reads", "stepped_write"]

_VIEWS: Final = frozenset(("Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
                           "Unsqueeze"))  # fmt: skip
_CONTROL: Final = frozenset(("If", "Loop", "Scan"))
Places = NDArray[np.int64]


def hoist(node: ir.Node, body: ir.Graph) -> None:
    """Move what every trip would compute alike to before the loop. Views stay, unless something moves that reads them:
    they cost nothing where they are."""
    inner = set(body.inputs) | {v for n in body for v in n.outputs}
    moved: list[ir.Node] = []
    for n in body:
        if n.op_type not in _CONTROL and not any(v in inner for v in uses_of(n)):
            moved.append(n)
            inner -= set(n.outputs)
    read = {v for n in moved if not _is_view(n) for v in n.inputs}
    read |= {n.inputs[0] for n in body if n not in moved and n.op_type in ("Gather", "Slice")}
    for n in reversed(moved):
        if _is_view(n) and any(v in read for v in n.outputs):
            read |= set(n.inputs)
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    for n in moved:
        if not any(v.is_graph_output() for v in n.outputs) and (not _is_view(n) or any(v in read for v in n.outputs)):
            body.remove(n)
            graph.insert_before(node, n)


def _is_view(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in _VIEWS


def drop_unused(body: ir.Graph) -> None:
    """Remove what neither a node nor an output of a body reads."""
    for n in reversed(list(body)):
        if not any(v.uses() or v.is_graph_output() for v in n.outputs):
            body.remove(n, safe=True)


def stepped_reads(body: ir.Graph, trip: ir.Value, trips: int, e: Emitter) -> list[tuple[ir.Value, ir.Value]]:
    """Take the nodes out of a body that read rows of a tensor from outside by the number of the trip: (those of all
    trips in order, those of one trip)."""
    inner = set(body.inputs) | {v for n in body for v in n.outputs}
    found: list[tuple[ir.Value, ir.Value]] = []
    for node in list(body):
        data = operand(node, 0)
        if data is None or data in inner or data.dtype is None or node.outputs[0].is_graph_output():
            continue
        read = _read(node, trip, trips)
        if read is None:
            continue
        axis, places = read
        shape = shape_or_none(data) or ()
        rows = (*shape[:axis], *places.shape, *shape[axis + 1 :])
        whole = typed(e.op("Gather", data, e.constant(places), axis=axis), data.dtype, rows)
        if axis:
            order = [axis, *(d for d in range(len(rows)) if d != axis)]
            whole = typed(e.op("Transpose", whole, perm=order), data.dtype, [rows[d] for d in order])
        inside = ir.Value(name=f"{node.outputs[0].name}/row")
        node.outputs[0].replace_all_uses_with(inside)
        body.remove(node, safe=True)
        found.append((whole, inside))
    return found


def _read(node: ir.Node, trip: ir.Value, trips: int) -> tuple[int, Places] | None:
    """The axis along which a node reads rows by the number of the trip, and which [trips, ...]; no row twice."""
    shape = shape_or_none(operand(node, 0))
    if node.domain or shape is None:
        return None
    if node.op_type == "Gather":
        axis = node.attributes.get_int("axis", 0) % len(shape)
        inner = shape_or_none(node.inputs[1])
        places = _places(node.inputs[1], trip, trips, shape[axis])
        return None if places is None or inner is None else (axis, places.reshape(trips, *inner))
    if node.op_type == "Slice":
        given, by = constant_of(operand(node, 3)), constant_of(operand(node, 4))
        axes = np.zeros(1, np.int64) if operand(node, 3) is None else given
        starts, ends = affine(node.inputs[1]), affine(node.inputs[2])
        if axes is None or axes.size != 1 or starts is None or ends is None or len(starts) != 1 or len(ends) != 1:
            return None
        if operand(node, 4) is not None and (by is None or np.any(by != 1)):
            return None
        axis = int(axes.reshape(-1)[0]) % len(shape)
        length = ends[0].plus(starts[0], -1).known()
        first = _places(node.inputs[1], trip, trips, shape[axis])
        if length is None or length < 1 or first is None:
            return None
        places = first.reshape(trips, 1) + np.arange(length)
        return (axis, places) if _apart(places, shape[axis]) else None
    return None


def _places(index: ir.Value | None, trip: ir.Value, trips: int, size: int) -> Places | None:
    """The rows that an index means in every trip [trips, n], where they depend on the number of the trip alone, lie
    inside of `size`, and are others in every trip."""
    found = affine(index)
    factors = set() if found is None else {a.of(trip) for a in found}
    if found is None or len(factors) != 1 or not (factor := factors.pop()):
        return None
    places = np.arange(trips, dtype=np.int64)[:, None] * factor + np.array([a.constant for a in found], np.int64)
    return places if _apart(places, size) else None


def _apart(places: Places, size: int) -> bool:
    return places.min() >= 0 and places.max() < size and np.unique(places).size == places.size


def stepped_write(
    before: ir.Value, inside: ir.Value, after: ir.Value, trip: ir.Value, trips: int
) -> tuple[ir.Value, Places] | None:
    """Of a carried tensor the rows that a trip writes, [n, ...], and which rows of it they are in every trip [trips,
    n]; None where a trip reads others. What a trip reads of its own rows it then reads of `before`."""
    node, shape = after.producer(), shape_or_none(before)
    if node is None or node.domain or node.op_type != "ScatterND" or node.inputs[0] is not inside or not shape:
        return None
    index, update = node.inputs[1:3]
    depth = shape_or_none(index) or _drawn_shape(index)
    if after.uses() or update is None or update is inside or node.attributes.get_string("reduction", "none") != "none":
        return None
    if not depth or depth[-1] != 1:
        return None
    places = _places(index, trip, trips, shape[0])
    readers = [use.node for use in inside.uses() if use.node is not node]
    if places is None or not all(_reads_alike(n, inside, places, trip) for n in readers):
        return None
    for n in readers:
        n.replace_input_with(0, before)
    return update, places


def _drawn_shape(index: ir.Value | None) -> Sequence[int] | None:
    """The shape of an index that is reshaped to a constant."""
    node = index.producer() if index is not None else None
    known = constant_of(node.inputs[1]) if node is not None and node.op_type == "Reshape" else None
    return None if known is None else [int(n) for n in known]


def _reads_alike(node: ir.Node, inside: ir.Value, places: Places, trip: ir.Value) -> bool:
    """Whether a node reads of a carried tensor only the rows that the trip itself writes."""
    if node.op_type not in ("Gather", "Slice") or list(node.inputs).count(inside) != 1 or node.inputs[0] is not inside:
        return False
    read = _read(node, trip, len(places))
    return read is not None and read[0] == 0 and np.array_equal(read[1].reshape(len(places), -1), places)
