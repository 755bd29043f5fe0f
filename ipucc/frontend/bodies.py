"""Bodies of loops and branches: what they read of outside, and how they become models of their own."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.frontend.emit import Emitter, shape_or_none
from ipucc.frontend.extent_rules import is_trim
from ipucc.frontend.region import Branch, Loop, Part, Region
from ipucc.graph.edit import EXTENTS

__all__ = [
    "Bodies",
    "Import",
    "Made",
    "Signature",
    "appended",
    "hand_on",
    "kept_value",
    "model_of",
    "own_outputs",
    "own_trims",
    "type_text",
    "typed",
    "uses_of",
]

Signature = Mapping[str, tuple[ir.TypeProtocol, ir.Shape]]
Import = Callable[[ir.Model, frozenset[str]], tuple[Region, Signature]]
"""Imports a model whose inputs have types and shapes, some of them received; types and shapes of its outputs too."""


@dataclass(eq=False)
class Made:
    """A loop or branch, the values outside that it results in, their types, and the names that it needs of outside."""

    item: Loop | Branch
    results: list[ir.Value]
    signature: Signature
    needed: frozenset[str]


@dataclass(eq=False)
class Bodies:
    """How the bodies of one node are imported."""

    model: ir.Model
    received: frozenset[str]
    load: Import
    needed: set[str] = field(default_factory=set)

    def region(self, body: ir.Graph, given: Sequence[str]) -> tuple[Region, Signature]:
        """A body, whose own inputs `given` have types and shapes. What it reads of outside is received, unless it is an
        input or weight of the model."""
        nodes, outputs = list(body), list(body.outputs)
        body.outputs.clear()
        body.remove(nodes)
        nodes = own_trims(nodes, str(body.name))
        inside = {v for n in nodes for v in n.outputs}
        outside = [v for n in nodes for v in uses_of(n) if v not in inside]
        captured = {str(v.name) for v in outside if not v.is_initializer() and v not in set(body.inputs)}
        hosted = {str(v.name) for v in self.model.graph.inputs} - self.received
        states = frozenset(captured - hosted - set(given))
        self.needed |= states
        received = frozenset((*given, *states))
        made = model_of(self.model, nodes, outputs, received)
        assert made is not None
        names = {str(v.name) for v in outputs}
        region, signature = self.load(made, received)
        hand_on(region, names)
        return region, signature


def hand_on(region: Region, names: AbstractSet[str]) -> None:
    """Let parts of a region hand on values to others. Raises IPU0324 for one of an extent that depends on data."""
    for part in region:
        if isinstance(part, Part):
            part.handed |= names & {str(v.name) for v in part.model.graph.outputs}
            trimmed = json.loads(part.model.graph.metadata_props.get(EXTENTS, "{}"))
            for name in sorted(part.handed & trimmed.keys()):
                raise error("IPU0324", f'the extent of "{name}" depends on data, which a loop or branch does not take',
                            help=["end the model there, or gather a fixed number of rows (TopK)"])  # fmt: skip


def own_trims(nodes: Sequence[ir.Node], prefix: str) -> list[ir.Node]:
    """The nodes, with those before them that trim what they read of outside with an extent that depends on data: a part
    hands on what is computed and how much of it counts."""
    made: list[ir.Node] = []
    inside = {v for n in nodes for v in n.outputs}
    while True:
        outside = next((v for n in (*made, *nodes) for v in uses_of(n) if v not in inside and is_trim(v)), None)
        if outside is None:
            return [*made, *nodes]
        trim, name = outside.producer(), f"{prefix}/{outside.name}"
        assert trim is not None
        own = ir.node(trim.op_type, trim.inputs, {"axis": trim.attributes.get_int("axis")}, domain=trim.domain,
                      name=name, metadata_props=dict(trim.metadata_props))  # fmt: skip
        own.outputs[0].name, own.outputs[0].type = name, outside.type
        for n in (*made, *nodes):
            _replace(n, {outside: own.outputs[0]})
        made.insert(0, own)
        inside.add(own.outputs[0])


def own_outputs(body: ir.Graph, e: Emitter, *, apart: bool = False) -> None:
    """Every output of a body is made by one of its nodes, and with `apart` each of them by itself."""
    inside, taken = {v for n in body for v in n.outputs}, set[ir.Value]()
    for i, value in enumerate(list(body.outputs)):
        source = value.producer()
        while not apart and source is not None and source.op_type == "Identity" and source.inputs[0] in inside:
            body.outputs[i] = value = source.inputs[0]
            source = value.producer()
        if value not in inside or (apart and value in taken):
            body.outputs[i] = appended(body, e, "Identity", [value], value.dtype)
        taken.add(value)


def appended(
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


def typed(value: ir.Value, dtype: ir.DataType | None, shape: Sequence[int]) -> ir.Value:
    assert dtype is not None
    value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
    return value


def kept_value(e: Emitter, value: ir.Value, bodies: Bodies) -> ir.Value:
    """The value as the result of a node or of another part: a copy of an input or constant of the model."""
    if value.producer() is not None or str(value.name) in bodies.received:
        return value
    return typed(e.op("Identity", value), value.dtype, shape_or_none(value) or ())


def uses_of(node: ir.Node) -> Iterator[ir.Value]:
    """The values of outside that a node reads, in its bodies too."""
    yield from (v for v in node.inputs if v is not None)
    for body in _bodies(node):
        inside = {*body.inputs, *(v for n in body for v in n.outputs)}
        yield from (v for n in body for v in uses_of(n) if v not in inside)
        yield from (v for v in body.outputs if v not in inside)


def _bodies(node: ir.Node) -> list[ir.Graph]:
    return [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]


def model_of(
    model: ir.Model, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value], received: frozenset[str]
) -> ir.Model | None:
    """The nodes, which belong to no graph, as a model: what they read of outside are its inputs and weights. None for
    one without outputs."""
    if not outputs:
        return None
    inside = {v for n in nodes for v in n.outputs}
    twins: dict[ir.Value, ir.Value] = {}
    for value in (v for n in nodes for v in uses_of(n)):
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


def type_text(kind: ir.TypeProtocol, shape: ir.Shape) -> str:
    return f"{kind} {shape}"
