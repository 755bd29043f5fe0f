"""Control flow that data decides: a model with it falls apart into straight parts, loops and branches.

A part is a model of its own, with static shapes and nothing to decide; values go from part to part by name. Loops and
branches (`ipucc.frontend.region`) say what is carried, and hold the parts of their bodies. What can be decided or
written out while compiling has been before (`ipucc.frontend.simplify`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none
from ipucc.frontend.region import Branch, Carried, Loop, Part, Region, Sliced, Stacked
from ipucc.frontend.shapes import infer_shapes
from ipucc.frontend.unroll import stays_true
from ipucc.graph.bounded_schemas import TRIMMED
from ipucc.graph.edit import EXTENTS, describe

__all__ = ["Signature", "cut", "first_control"]

CONTROL: Final = frozenset(("If", "Loop", "Scan"))
_UNBOUNDED: Final = 1 << 31


Signature = Mapping[str, tuple[ir.TypeProtocol, ir.Shape]]
Import = Callable[[ir.Model, frozenset[str]], tuple[Region, Signature]]
"""Imports a model whose inputs have types and shapes, some of them received; types and shapes of its outputs too."""


def first_control(model: ir.Model) -> ir.Node | None:
    """The first If, Loop or Scan of a model, in topological order."""
    return next((node for node in model.graph if node.domain == "" and node.op_type in CONTROL), None)


def cut(model: ir.Model, node: ir.Node, received: frozenset[str], load: Import) -> tuple[Region, Signature]:
    """The region of a model whose first control flow is `node`: what does not depend on it, the loop or branch, and
    what is left. `load` imports each of them.

    Raises IPU0330 to IPU0334 for what a program cannot do, CompileError of `load`.
    """
    graph = model.graph
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.type is not None and not isinstance(value.type, ir.TensorType):
            raise error("IPU0119", f'"{value.name}" is no tensor; only tensors are supported', node=describe(node),
                        op=node.op_type)  # fmt: skip
    made = {"If": _branch, "Loop": _loop, "Scan": _scan}[node.op_type](node, _Bodies(model, received, load))
    outputs = list(graph.outputs)
    late: set[ir.Value] = {*made.results, *node.outputs}
    for other in graph:
        if other is not node and (other.op_type in CONTROL or any(v in late for v in _uses(other))):
            late.update(other.outputs)
    first = [n for n in graph if n is not node and not any(v in late for v in n.outputs)]
    rest = [n for n in graph if n is not node and any(v in late for v in n.outputs)]
    graph.outputs.clear()
    graph.remove([*first, *rest, node])
    early = {v for n in first for v in n.outputs}
    read = {v for n in rest for v in _uses(n)}
    results = {v: made.signature[str(v.name)] for v in made.results}
    for value, (kind, shape) in results.items():
        value.type, value.shape = kind, shape.copy()
    names = {str(v.name) for v in made.results}
    wanted = [v for v in early if v in read or str(v.name) in made.needed]
    wanted.sort(key=lambda v: str(v.name))
    region: Region = []
    signature: dict[str, tuple[ir.TypeProtocol, ir.Shape]] = {}
    handed = frozenset(str(v.name) for v in wanted)
    ends = [v for v in outputs if v not in late]
    head = _model(model, first, [*wanted, *(v for v in ends if v not in wanted)], received)
    if head is not None:
        region, found = load(head, received)
        signature.update(found)
        _hand_on(region, handed)
    region.append(made.item)
    signature.update({name: made.signature[name] for name in names})
    for value in early:
        if str(value.name) in signature:
            value.type, value.shape = signature[str(value.name)][0], signature[str(value.name)][1].copy()
    behind = frozenset((*received, *names, *handed))
    tail = _model(model, rest, [v for v in outputs if v in late and v not in results], behind)
    if tail is not None:
        after, found = load(tail, behind)
        signature.update(found)
        region += after
    return region, signature


@dataclass(eq=False)
class _Made:
    """A loop or branch, the values outside that it results in, their types, and the names that it needs of outside."""

    item: Loop | Branch
    results: list[ir.Value]
    signature: Signature
    needed: frozenset[str]


@dataclass(eq=False)
class _Bodies:
    """How the bodies of one node are imported."""

    model: ir.Model
    received: frozenset[str]
    load: Import
    needed: set[str] = field(default_factory=set)

    def region(self, body: ir.Graph, given: Sequence[str]) -> tuple[Region, Signature]:
        """A body, whose own inputs `given` have types and shapes. What it reads of outside is received, unless it is an
        input or weight of the model."""
        nodes, outputs = list(body), list(body.outputs)
        inside = {v for n in nodes for v in n.outputs}
        outside = [v for n in nodes for v in _uses(n) if v not in inside]
        captured = {str(v.name) for v in outside if not v.is_initializer() and v not in set(body.inputs)}
        hosted = {str(v.name) for v in self.model.graph.inputs} - self.received
        states = frozenset(captured - hosted - set(given))
        self.needed |= states
        body.outputs.clear()
        body.remove(nodes)
        received = frozenset((*given, *states))
        made = _model(self.model, nodes, outputs, received)
        assert made is not None
        names = {str(v.name) for v in outputs}
        region, signature = self.load(made, received)
        _hand_on(region, names)
        return region, signature


def _hand_on(region: Region, names: AbstractSet[str]) -> None:
    """Let parts of a region hand on values to others. Raises IPU0324 for one of an extent that depends on data."""
    for part in region:
        if isinstance(part, Part):
            part.handed |= names & {str(v.name) for v in part.model.graph.outputs}
            trimmed = json.loads(part.model.graph.metadata_props.get(EXTENTS, "{}"))
            for name in sorted(part.handed & trimmed.keys()):
                raise error("IPU0324", f'the extent of "{name}" depends on data, which a loop or branch does not take',
                            help=["end the model there, or gather a fixed number of rows (TopK)"])  # fmt: skip


def _branch(node: ir.Node, bodies: _Bodies) -> _Made:
    e = Emitter(node)
    condition = _kept(e, _typed(e.op("Reshape", node.inputs[0], e.ints()), ir.DataType.BOOL, ()), bodies)
    regions, found = [], []
    for name in ("then_branch", "else_branch"):
        body = node.attributes[name].as_graph()
        _own_outputs(body, e, apart=True)
        names = [str(v.name) for v in body.outputs]
        region, signature = bodies.region(body, ())
        regions.append(region)
        found.append([(n, *signature[n]) for n in names])
    results: list[tuple[str, str, str]] = []
    types: dict[str, tuple[ir.TypeProtocol, ir.Shape]] = {}
    for i, (result, one, two) in enumerate(zip(node.outputs, *found, strict=True)):
        if one[1:] != two[1:]:
            raise error(
                "IPU0332", f"the branches give {result.name!r} as {_text(*one[1:])} and as {_text(*two[1:])}",
                node=describe(node), op="If", help=["both branches of an If must give results of one type and shape"],
            )  # fmt: skip
        result.name = result.name or f"{describe(node)}/unused{i}"
        results.append((str(result.name), one[0], two[0]))
        types[str(result.name)] = one[1:]
    item = Branch(describe(node), str(condition.name), tuple(results), *regions)
    return _Made(item, list(node.outputs), types, frozenset((*bodies.needed, str(condition.name))))


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


def _loop(node: ir.Node, bodies: _Bodies) -> _Made:
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
    changed = _changed(node, body, node.inputs[2:], body.inputs[2:], slice(1, 1 + states))
    _own_outputs(body, e)
    made.carried += [(b, inside, body.outputs[1 + i], r) for i, b, inside, r in changed]
    made.stacks = [(v, r, 0, False) for v, r in zip(body.outputs[1 + states :], node.outputs[states:], strict=True)]
    dynamic = made.count is None and limit is not None and trips is None
    after = ran
    if ran.uses() or dynamic or (rows and made.count is None):
        _typed(ran, ir.DataType.INT64, ())
        after = _appended(body, e, "Add", [ran, e.constant(np.int64(1))], ir.DataType.INT64)
        made.carried.append((e.constant(np.int64(0)), ran, after, None))
        made.ran = ran
    if made.count is not None:
        going.replace_all_uses_with(e.constant(np.bool_(True)), replace_graph_outputs=True)
        return _finished(node, e, bodies, body, made)
    now = [] if begins else [_typed(e.op("Reshape", condition, e.ints()), ir.DataType.BOOL, ())]
    later = [] if stays else [_appended(body, e, "Reshape", [body.outputs[0], e.ints()], ir.DataType.BOOL)]
    if dynamic:
        most = _typed(e.op("Reshape", limit, e.ints()), ir.DataType.INT64, ())
        now.append(_typed(e.op("Greater", most, e.constant(np.int64(0))), ir.DataType.BOOL, ()))
        later.append(_appended(body, e, "Less", [after, most], ir.DataType.BOOL))
    start = now[0] if now else e.constant(np.bool_(True))
    again = later[0] if later else _appended(body, e, "Identity", [e.constant(np.bool_(True))], ir.DataType.BOOL)
    if len(now) > 1:
        start = _typed(e.op("And", *now), ir.DataType.BOOL, ())
    if len(later) > 1:
        again = _appended(body, e, "And", later, ir.DataType.BOOL)
    made.condition = _typed(going, ir.DataType.BOOL, ())
    made.carried.append((start, going, again, None))
    return _finished(node, e, bodies, body, made)


def _scan(node: ir.Node, bodies: _Bodies) -> _Made:
    e, body = Emitter(node), node.attributes["body"].as_graph()
    scans = node.attributes.get_int("num_scan_inputs", 0)
    states, stacks = len(node.inputs) - scans, len(body.outputs) - len(node.inputs) + scans
    axes = node.attributes.get_ints("scan_input_axes", [0] * scans)
    backwards = node.attributes.get_ints("scan_input_directions", [0] * scans)
    places = node.attributes.get_ints("scan_output_axes", [0] * stacks)
    turned = node.attributes.get_ints("scan_output_directions", [0] * stacks)
    made = _Trips()
    for value, inside, axis, back in zip(node.inputs[states:], body.inputs[states:], axes, backwards, strict=True):
        shape = shape_or_none(value)
        if value is None or shape is None:
            raise error("IPU0206", "a sequence that is scanned has no static shape", node=describe(node), op="Scan")
        order = [axis % len(shape), *(d for d in range(len(shape)) if d != axis % len(shape))]
        if order != sorted(order):
            dtype = value.dtype
            value = _typed(e.op("Transpose", value, perm=order), dtype, [shape[d] for d in order])
        made.slices.append((value, inside, bool(back)))
        made.count = shape[order[0]]
    changed = _changed(node, body, node.inputs[:states], body.inputs[:states], slice(0, states))
    _own_outputs(body, e)
    made.carried += [(b, inside, body.outputs[i], r) for i, b, inside, r in changed]
    ends = zip(body.outputs[states:], node.outputs[states:], places, turned, strict=True)
    made.stacks = [(v, r, axis, bool(back)) for v, r, axis, back in ends]
    return _finished(node, e, bodies, body, made)


def _changed(
    node: ir.Node, body: ir.Graph, before: Sequence[ir.Value | None], inside: Sequence[ir.Value], at: slice
) -> list[tuple[int, ir.Value, ir.Value, ir.Value]]:
    """Carried values as (number, before, inside, result). One that no trip changes is read from outside instead."""
    kept = []
    for i, (b, v, after, result) in enumerate(zip(before, inside, body.outputs[at], node.outputs, strict=False)):
        if b is None or shape_or_none(b) is None or b.dtype is None:
            raise error("IPU0206", f"what {v.name!r} begins with has no static shape", node=describe(node),
                        op=node.op_type)  # fmt: skip
        if after is v and not result.is_graph_output():
            v.replace_all_uses_with(b, replace_graph_outputs=True)
            result.replace_all_uses_with(b)
        else:
            kept.append((i, b, v, result))
    return kept


def _finished(node: ir.Node, e: Emitter, bodies: _Bodies, body: ir.Graph, made: _Trips) -> _Made:
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
            whole = _typed(e.op("Reshape", whole, e.ints(*shape)), dtype, shape)
        _typed(value, dtype, shape[1:])
        sliced.append((_kept(e, whole, bodies), value, back))
    carried = [(_kept(e, before, bodies), inside, after, result) for before, inside, after, result in made.carried]
    for before, inside, _, _ in carried:
        _typed(inside, before.dtype, shape_or_none(before) or ())
    # What a trip adds to a stack is a tensor of one dimension at least, and may be what it carries on too.
    flat = [rank == 0 for rank in _ranks(bodies.model, body, [v for v, *_ in made.stacks])]
    rows = [
        _appended(body, e, "Reshape", [v, e.ints(1)], v.dtype) if single else v
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
            raise error(
                "IPU0333",
                f"a trip makes {_text(*types[name])} of {inside.name!r}, which is {_text(inside.type, inside.shape)}",
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
    return _Made(item, results, signature, frozenset(bodies.needed))


def _ranks(model: ir.Model, body: ir.Graph, values: Sequence[ir.Value]) -> list[int]:
    """How many dimensions values of a body have, whose inputs have types and shapes."""
    if any(v.shape is None for v in values):
        twin = body.clone(allow_outer_scope_values=True)
        order = {v: i for i, v in enumerate(body.outputs)}
        nodes, outputs = list(twin), list(twin.outputs)
        twin.outputs.clear()
        twin.remove(nodes)
        alone = _model(model, nodes, outputs, frozenset())
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


def _own_outputs(body: ir.Graph, e: Emitter, *, apart: bool = False) -> None:
    """Every output of a body is made by one of its nodes, and with `apart` each of them by itself."""
    inside, taken = {v for n in body for v in n.outputs}, set[ir.Value]()
    for i, value in enumerate(list(body.outputs)):
        source = value.producer()
        while not apart and source is not None and source.op_type == "Identity" and source.inputs[0] in inside:
            body.outputs[i] = value = source.inputs[0]
            source = value.producer()
        if value not in inside or (apart and value in taken):
            body.outputs[i] = _appended(body, e, "Identity", [value], value.dtype)
        taken.add(value)


def _appended(
    body: ir.Graph, e: Emitter, op_type: str, inputs: Sequence[ir.Value], dtype: ir.DataType | None
) -> ir.Value:
    """The result of a new node at the end of a body; without a shape."""
    e.count += 1
    name = f"{e.prefix}/trip/{op_type}_{e.count}"
    node = ir.node(op_type, list(inputs), name=name, metadata_props=dict(e.node.metadata_props))
    node.outputs[0].name = name
    if dtype is not None:
        node.outputs[0].type = ir.TensorType(dtype)
    body.append(node)
    return node.outputs[0]


def _typed(value: ir.Value, dtype: ir.DataType | None, shape: Sequence[int]) -> ir.Value:
    assert dtype is not None
    value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
    return value


def _kept(e: Emitter, value: ir.Value, bodies: _Bodies) -> ir.Value:
    """The value as the result of a node or of another part: a copy of an input or constant of the model."""
    if value.producer() is not None or str(value.name) in bodies.received:
        return value
    return _typed(e.op("Identity", value), value.dtype, shape_or_none(value) or ())


def _uses(node: ir.Node) -> Iterator[ir.Value]:
    """The values of outside that a node reads, in its bodies too."""
    yield from (v for v in node.inputs if v is not None)
    for body in _bodies(node):
        inside = {*body.inputs, *(v for n in body for v in n.outputs)}
        yield from (v for n in body for v in _uses(n) if v not in inside)
        yield from (v for v in body.outputs if v not in inside)


def _bodies(node: ir.Node) -> list[ir.Graph]:
    return [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]


def _model(
    model: ir.Model, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value], received: frozenset[str]
) -> ir.Model | None:
    """The nodes, which belong to no graph, as a model: what they read of outside are its inputs and weights."""
    if not nodes and not outputs:
        return None
    inside = {v for n in nodes for v in n.outputs}
    twins: dict[ir.Value, ir.Value] = {}
    for value in (v for n in nodes for v in _uses(n)):
        if value not in inside and value not in twins:
            shape = None if value.shape is None else value.shape.copy()
            twins[value] = ir.Value(name=value.name, shape=shape, type=value.type, const_value=value.const_value,
                                    metadata_props=dict(value.metadata_props))  # fmt: skip
    for node in nodes:
        _replace(node, twins)
    weights = [twin for twin in twins.values() if twin.const_value is not None]
    inputs = [twin for twin in twins.values() if twin.const_value is None]
    imports = dict(model.graph.opset_imports)
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=weights, opset_imports=imports, name=model.graph.name)
    return ir.Model(graph, ir_version=model.ir_version)


def _replace(node: ir.Node, twins: Mapping[ir.Value, ir.Value]) -> None:
    for i, value in enumerate(node.inputs):
        if value is not None and value in twins:
            node.replace_input_with(i, twins[value])
    for body in _bodies(node):
        for inner in body:
            _replace(inner, twins)
        for i, value in enumerate(body.outputs):
            if value in twins:
                body.outputs[i] = twins[value]


def _text(kind: ir.TypeProtocol, shape: ir.Shape) -> str:
    return f"{kind} {shape}"
