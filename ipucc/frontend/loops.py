"""ONNX's Loop and Scan as loops of the program."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.diagnostics import error
from ipucc.frontend.affine import RANGE
from ipucc.frontend.bodies import Bodies, Made, appended, kept_value, model_of, own_outputs, type_text, typed
from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none
from ipucc.frontend.extent_rules import is_trim
from ipucc.frontend.region import Carried, Loop, Sliced, Stacked
from ipucc.frontend.shapes import infer_shapes
from ipucc.frontend.stepped import drop_unused, hoist, stepped_reads, stepped_write
from ipucc.frontend.trips import Counter, counters_of
from ipucc.frontend.unroll import stays_true
from ipucc.graph.bounded_schemas import TRIMMED
from ipucc.graph.edit import describe

__all__ = ["loop", "scan"]

_UNBOUNDED: Final = 1 << 31


@dataclass(eq=False)
class _Trips:
    """What a Loop or Scan does, in values: carried ones as (before, inside, after, result), slices as (whole, inside,
    backwards), stacks as (made by a trip, result, dimension of the result, backwards)."""

    carried: list[tuple[ir.Value, ir.Value, ir.Value, ir.Value | None]] = field(default_factory=list)
    slices: list[tuple[ir.Value, ir.Value, bool]] = field(default_factory=list)
    stacks: list[tuple[ir.Value, ir.Value, int, bool]] = field(default_factory=list)
    count: int | None = None
    bound: int | None = None
    condition: ir.Value | None = None
    ran: ir.Value | None = None


def loop(node: ir.Node, bodies: Bodies) -> Made:
    e, body = Emitter(node), node.attributes["body"].as_graph()
    limit, condition = operand(node, 0), operand(node, 1)
    counts, first = constant_of(limit), constant_of(condition)
    stays = stays_true(body)
    begins = condition is None or (first is not None and bool(first.reshape(-1)[0]))
    if counts is not None and int(counts.reshape(-1)[0]) >= _UNBOUNDED:
        counts, limit = None, None
    trips = None if counts is None else int(counts.reshape(-1)[0])
    if stays and begins and limit is None:
        raise error("IPU0330", "the loop has neither a trip count nor a condition that changes: it never ends",
                    node=describe(node), op="Loop")  # fmt: skip
    if trips is not None and trips < 1:
        raise error("IPU0330", "the loop makes no trip, and has results of size 0", node=describe(node), op="Loop")
    states = len(node.inputs) - 2
    ran, going = body.inputs[:2]
    made = _Trips(count=trips if stays and begins else None, bound=None if stays and begins else trips)
    rows = len(body.outputs) - 1 - states
    if rows and made.count is None and made.bound is None:
        raise error(
            "IPU0331", "the size of a result is the number of trips, which has no bound", node=describe(node),
            op="Loop", help=["give the loop a constant trip count, as a bound (--bind NAME=N)"],
        )  # fmt: skip
    hoist(node, body)
    counters = counters_of(node, body)
    changed = _changed(node, body, node.inputs[2:], body.inputs[2:], slice(1, 1 + states))
    own_outputs(body, e)
    typed(ran, ir.DataType.INT64, ())
    most = trips if made.count is None else made.count
    ran.metadata_props[RANGE] = f"0 {_UNBOUNDED - 1 if most is None else most - 1}"
    again, *ends = body.outputs
    for i, b, inside, r in changed:
        if i in counters and (made.count is not None or not (r.uses() or r.is_graph_output())):
            _uncarried(e, body, ran, counters[i], b, inside, r, made.count)
        else:
            made.carried.append((b, inside, ends[i], r))
    made.stacks = [(v, r, 0, False) for v, r in zip(ends[states:], node.outputs[states:], strict=True)]
    _stepped(e, body, made, ran, most)
    _set_outputs(body, made, [] if stays else [again])
    dynamic = made.count is None and limit is not None and trips is None
    after = ran
    if ran.uses() or dynamic or (rows and made.count is None):
        after = appended(body, e, "Add", [ran, e.constant(np.int64(1))], ir.DataType.INT64)
        made.carried.append((e.constant(np.int64(0)), ran, after, None))
        made.ran = ran
    if made.count is not None:
        going.replace_all_uses_with(e.constant(np.bool_(True)), replace_graph_outputs=True)
        return _finished(node, e, bodies, body, made)
    now = [] if begins else [typed(e.op("Reshape", condition, e.ints()), ir.DataType.BOOL, ())]
    later = [] if stays else [appended(body, e, "Reshape", [again, e.ints()], ir.DataType.BOOL)]
    if dynamic:
        limit = typed(e.op("Reshape", limit, e.ints()), ir.DataType.INT64, ())
        now.append(typed(e.op("Greater", limit, e.constant(np.int64(0))), ir.DataType.BOOL, ()))
        later.append(appended(body, e, "Less", [after, limit], ir.DataType.BOOL))
    start = now[0] if now else e.constant(np.bool_(True))
    goes = later[0] if later else appended(body, e, "Identity", [e.constant(np.bool_(True))], ir.DataType.BOOL)
    if len(now) > 1:
        start = typed(e.op("And", *now), ir.DataType.BOOL, ())
    if len(later) > 1:
        goes = appended(body, e, "And", later, ir.DataType.BOOL)
    made.condition = typed(going, ir.DataType.BOOL, ())
    made.carried.append((start, going, goes, None))
    return _finished(node, e, bodies, body, made)


def _uncarried(
    e: Emitter, body: ir.Graph, trip: ir.Value, counter: Counter, before: ir.Value, inside: ir.Value, result: ir.Value,
    count: int | None,
) -> None:  # fmt: skip
    """A counter follows from the number of the trip, and is not carried."""
    shape, dtype = shape_or_none(before) or (), before.dtype
    if inside.uses() or inside.is_graph_output():
        at = body[0] if len(body) else None
        value = trip
        for op, operand_ in (("Mul", e.constant(np.int64(counter.step))), ("Add", e.constant(np.int64(counter.start))),
                             ("Reshape", e.ints(*shape))):  # fmt: skip
            value = _put(e, body, at, op, [value, operand_], {})
        if dtype != ir.DataType.INT64:
            value = _put(e, body, at, "Cast", [value], {"to": int(dtype or 0)})
        inside.replace_all_uses_with(value, replace_graph_outputs=True)
    if count is not None:
        last = e.constant(np.full(shape, counter.start + counter.step * count), dtype)
        _instead(result, ir.node("Identity", [last], name=f"{e.prefix}/{inside.name}/last"), e)


def _put(
    e: Emitter, body: ir.Graph, at: ir.Node | None, op: str, inputs: list[ir.Value], attributes: dict[str, int]
) -> ir.Value:
    """The result of a new node before another one of a body, at its end without one."""
    e.count += 1
    made = ir.node(op, inputs, attributes, name=f"{e.prefix}/trip/{op}_{e.count}",
                   metadata_props=dict(e.node.metadata_props))  # fmt: skip
    made.outputs[0].name = made.name
    if at is None:
        body.append(made)
    else:
        body.insert_before(at, made)
    return made.outputs[0]


def _instead(result: ir.Value, last: ir.Node, e: Emitter, *before: ir.Node) -> None:
    """The result of a loop is that of `last`, behind the loop and the nodes `before`."""
    if not (result.uses() or result.is_graph_output()):
        return
    new = last.outputs[0]
    new.name, result.name = result.name or last.name, None
    new.type = result.type
    result.replace_all_uses_with(new, replace_graph_outputs=True)
    for n in (*before, last):
        n.metadata_props.update(e.node.metadata_props)
    e.graph.insert_after(e.node, [*before, last])


def _stepped(e: Emitter, body: ir.Graph, made: _Trips, trip: ir.Value, most: int | None) -> None:
    """Rows that trips read or write by their number become slices and stacks."""
    if most is None:
        return
    for carried in list(made.carried if made.count is not None else ()):
        before, inside, after, result = carried
        write = stepped_write(before, inside, after, trip, most)
        if write is None or result is None:
            continue
        made.carried.remove(carried)
        row, places = write
        all_rows = ir.Value(name=f"{row.name}/rows")
        made.stacks.append((row, all_rows, 0, False))
        *others, last = _replaced_rows(e, before, all_rows, places)
        _instead(result, last, e, *others)
    made.slices += [(whole, inside, False) for whole, inside in stepped_reads(body, trip, most, e)]


def _replaced_rows(e: Emitter, before: ir.Value, rows: ir.Value, places: NDArray[np.int64]) -> list[ir.Node]:
    """The nodes, in order, that make a tensor with rows [trips, ...] in certain places of it."""
    size, *rest = shape_or_none(before) or ()
    flat = places.reshape(-1)
    index = np.arange(size)
    index[flat] = size + np.arange(flat.size)
    name = f"{rows.name}/placed"
    nodes = [ir.node("Reshape", [rows, e.ints(flat.size, *rest)], name=name)]
    nodes[0].outputs[0].name = name
    if flat.size < size:
        nodes.append(ir.node("Concat", [before, nodes[0].outputs[0]], {"axis": 0}, name=f"{name}/among"))
        nodes[-1].outputs[0].name = nodes[-1].name
    else:
        index -= size
    if np.any(index != np.arange(size)):
        nodes.append(ir.node("Gather", [nodes[-1].outputs[0], e.constant(index)], {"axis": 0}, name=f"{name}/rows"))
        nodes[-1].outputs[0].name = nodes[-1].name
    return nodes


def _set_outputs(body: ir.Graph, made: _Trips, more: Sequence[ir.Value]) -> None:
    """Let a body result in what is carried and stacked, and compute nothing else."""
    body.outputs.clear()
    body.outputs.extend(dict.fromkeys([*more, *(c[2] for c in made.carried), *(s[0] for s in made.stacks)]))
    drop_unused(body)


def scan(node: ir.Node, bodies: Bodies) -> Made:
    e, body = Emitter(node), node.attributes["body"].as_graph()
    scans = node.attributes.get_int("num_scan_inputs", 0)
    states, stacks = len(node.inputs) - scans, len(body.outputs) - len(node.inputs) + scans
    axes = node.attributes.get_ints("scan_input_axes", [0] * scans)
    backwards = node.attributes.get_ints("scan_input_directions", [0] * scans)
    places = node.attributes.get_ints("scan_output_axes", [0] * stacks)
    turned = node.attributes.get_ints("scan_output_directions", [0] * stacks)
    made = _Trips()
    hoist(node, body)
    for value, inside, axis, back in zip(node.inputs[states:], body.inputs[states:], axes, backwards, strict=True):
        shape = shape_or_none(_untrimmed(node, value))
        if value is None or shape is None:
            raise error("IPU0206", "a sequence that is scanned has no static shape", node=describe(node), op="Scan")
        order = [axis % len(shape), *(d for d in range(len(shape)) if d != axis % len(shape))]
        if order != sorted(order):
            dtype = value.dtype
            value = typed(e.op("Transpose", value, perm=order), dtype, [shape[d] for d in order])
        made.slices.append((value, inside, bool(back)))
        made.count = shape[order[0]]
    changed = _changed(node, body, node.inputs[:states], body.inputs[:states], slice(0, states))
    own_outputs(body, e)
    made.carried += [(b, inside, body.outputs[i], r) for i, b, inside, r in changed]
    ends = zip(body.outputs[states:], node.outputs[states:], places, turned, strict=True)
    made.stacks = [(v, r, axis, bool(back)) for v, r, axis, back in ends]
    return _finished(node, e, bodies, body, made)


def _untrimmed(node: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """The value. Raises IPU0324 for one of an extent that depends on data."""
    if value is not None and is_trim(value):
        raise error("IPU0324", f'the extent of "{value.name}" depends on data, which a loop does not carry or scan',
                    node=describe(node), op=node.op_type,
                    help=["gather a fixed number of rows (TopK), and carry how many of them count"])  # fmt: skip
    return value


def _changed(
    node: ir.Node, body: ir.Graph, before: Sequence[ir.Value | None], inside: Sequence[ir.Value], at: slice
) -> list[tuple[int, ir.Value, ir.Value, ir.Value]]:
    """Carried values as (number, before, inside, result). One that no trip changes is read from outside instead."""
    kept = []
    for i, (b, v, after, result) in enumerate(zip(before, inside, body.outputs[at], node.outputs, strict=False)):
        _untrimmed(node, b)
        if b is None or shape_or_none(b) is None or b.dtype is None:
            raise error("IPU0206", f"what {v.name!r} begins with has no static shape", node=describe(node),
                        op=node.op_type)  # fmt: skip
        if after is v and not result.is_graph_output():
            v.replace_all_uses_with(b, replace_graph_outputs=True)
            result.replace_all_uses_with(b)
        else:
            kept.append((i, b, v, result))
    return kept


def _finished(node: ir.Node, e: Emitter, bodies: Bodies, body: ir.Graph, made: _Trips) -> Made:
    """The loop of a Loop or Scan."""
    sliced: list[tuple[ir.Value, ir.Value, bool]] = []
    for whole, inside, back in made.slices:
        shape, dtype = shape_or_none(whole), whole.dtype
        assert shape is not None
        value = inside
        if len(shape) == 1:
            # Slices lie behind each other in memory, each of them a tensor of one dimension at least.
            value = ir.Value(name=f"{inside.name}/slice")
            element = ir.node("Reshape", [value, e.ints()], name=f"{inside.name}/element")
            element.outputs[0].name = element.name
            inside.replace_all_uses_with(element.outputs[0], replace_graph_outputs=True)
            if len(body):
                body.insert_before(body[0], element)
            else:
                body.append(element)
            shape = (*shape, 1)
            whole = typed(e.op("Reshape", whole, e.ints(*shape)), dtype, shape)
        typed(value, dtype, shape[1:])
        sliced.append((kept_value(e, whole, bodies), value, back))
    carried = [(kept_value(e, before, bodies), inside, after, result) for before, inside, after, result in made.carried]
    for before, inside, _, _ in carried:
        typed(inside, before.dtype, shape_or_none(before) or ())
    # What a trip adds to a stack is a tensor of one dimension at least, and may be what it carries on too.
    flat = [rank == 0 for rank in _ranks(bodies.model, body, [v for v, *_ in made.stacks])]
    rows = [
        appended(body, e, "Reshape", [v, e.ints(1)], v.dtype) if single else v
        for single, (v, *_) in zip(flat, made.stacks, strict=True)
    ]
    ends = [after for _, _, after, _ in carried] + rows
    body.outputs.clear()
    body.outputs.extend(dict.fromkeys(ends))
    bodies.needed |= {str(v.name) for v, *_ in carried} | {str(v.name) for v, *_ in sliced}
    given = [str(v.name) for _, v, *_ in carried] + [str(v.name) for _, v, _ in sliced]
    names = [str(v.name) for v in ends]
    region, types = bodies.region(body, given)
    signature: dict[str, tuple[ir.TypeProtocol, ir.Shape]] = {}
    results: list[ir.Value] = []
    kept, stacked = [], []
    for (before, inside, _, result), name in zip(carried, names, strict=False):
        assert inside.type is not None
        assert inside.shape is not None
        if types[name] != (inside.type, inside.shape):
            held, new = type_text(inside.type, inside.shape), type_text(*types[name])
            raise error(
                "IPU0333", f"a trip makes {new} of {inside.name!r}, which is {held}",
                node=describe(node), op=node.op_type,
                help=["carry a tensor of the largest size, and how much of it is used"],
            )  # fmt: skip
        behind = result if result is not None and result.name else ir.Value(name=f"{inside.name}/last")
        kept.append(Carried(str(before.name), str(inside.name), name, str(behind.name)))
        signature[str(behind.name)] = types[name]
        results.append(behind)
    # Where data decides on the trips, so many of the rows count.
    counter = None
    if made.count is None:
        counter = next((r for (_, inside, *_), r in zip(carried, results, strict=True) if inside is made.ran), None)
    for (_, result, axis, back), name, single in zip(made.stacks, names[len(carried) :], flat, strict=True):
        kind, made_shape = types[name]
        inner = [int(d) for d in made_shape.numpy()]
        trips = made.count or made.bound or 0
        whole = ir.Value(name=f"{result.name or name}/all")
        signature[str(whole.name)] = kind, ir.Shape((trips, *inner))
        results.append(whole)
        stacked.append(Stacked(name, str(whole.name), back))
        _placed(node, result, whole, [trips] if single else [trips, *inner], axis, counter)
    condition = None if made.condition is None else str(made.condition.name)
    slices = tuple(Sliced(str(w.name), str(v.name), back) for w, v, back in sliced)
    item = Loop(describe(node), made.count, made.bound, condition, tuple(kept), slices, tuple(stacked), region)
    return Made(item, results, signature, frozenset(bodies.needed))


def _ranks(model: ir.Model, body: ir.Graph, values: Sequence[ir.Value]) -> list[int]:
    """How many dimensions values of a body have, whose inputs have types and shapes."""
    if any(v.shape is None for v in values):
        twin = body.clone(allow_outer_scope_values=True)
        order = {v: i for i, v in enumerate(body.outputs)}
        nodes, outputs = list(twin), list(twin.outputs)
        twin.outputs.clear()
        twin.remove(nodes)
        alone = model_of(model, nodes, outputs, frozenset())
        assert alone is not None
        infer_shapes(alone)
        values = [outputs[order[v]] for v in values]
    return [-1 if v.shape is None else len(v.shape) for v in values]


def _placed(
    node: ir.Node, result: ir.Value, whole: ir.Value, shape: Sequence[int], axis: int, counter: ir.Value | None
) -> None:
    """Behind the loop: what all trips made, `shape` with trips first, as the result with trips in dimension `axis`; the
    first `counter` of them where it is given."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    sizes = ir.Value(name=f"{whole.name}/shape", const_value=ir.tensor(np.array(shape, np.int64)),
                     type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape((len(shape),)))  # fmt: skip
    graph.register_initializer(sizes)
    last = ir.node("Reshape", [whole, sizes], name=f"{whole.name}/rows", metadata_props=dict(node.metadata_props))
    nodes = [last]
    if axis % len(shape):
        axis %= len(shape)
        order = [*range(1, axis + 1), 0, *range(axis + 1, len(shape))]
        last.outputs[0].name = last.name
        last = ir.node("Transpose", [last.outputs[0]], {"perm": order}, name=f"{whole.name}/turned",
                       metadata_props=dict(node.metadata_props))  # fmt: skip
        nodes.append(last)
    if counter is not None:
        last.outputs[0].name = last.name
        graph.opset_imports.setdefault("ipucc", 1)
        last = ir.node(TRIMMED, [last.outputs[0], counter], {"axis": axis}, domain="ipucc", name=f"{whole.name}/trips",
                       metadata_props=dict(node.metadata_props))  # fmt: skip
        nodes.append(last)
    new = last.outputs[0]
    new.name, result.name = result.name or last.name, None
    result.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.insert_after(node, nodes)
