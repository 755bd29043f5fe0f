"""A model with control flow as one ONNX model again: the parts behind the passes, in the bodies of Loops and Ifs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ipucc.frontend.importer import Module
from ipucc.frontend.region import Branch, Loop, Part, Region, parts_of
from ipucc.graph.edit import EXTENTS, ORIGIN, dtype_of

__all__ = ["joined"]

Names = dict[str, ir.Value]


def joined(module: Module) -> ir.Model:
    """One model of all parts, which onnxruntime runs: a straight model is its only part itself. Outputs that count how
    much of others counts stand behind the model's own, as in a part."""
    if all(isinstance(item, Part) for item in module.region):
        (part,) = parts_of(module.region)
        return part.model
    return _Joiner(module).run()


@dataclass(eq=False)
class _Joiner:
    module: Module
    inputs: Names = field(default_factory=dict)
    weights: list[ir.Value] = field(default_factory=list)
    sources: dict[str, tuple[ir.TensorProtocol, ir.Value]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    extents: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def run(self) -> ir.Model:
        parts = list(parts_of(self.module.region))
        first = parts[0].model
        for name, kind, shape in self.module.inputs:
            self.inputs[name] = _value(name, ir.TensorType(dtype_of(kind)), shape)
            self.taken.add(name)
        for part in parts:
            self.extents.update(json.loads(part.model.graph.metadata_props.get(EXTENTS, "{}")))
        counters = dict.fromkeys(counter for cuts in self.extents.values() for _, counter in cuts)
        wanted = [*(name for name, _, _ in self.module.outputs), *counters]
        self.taken |= set(wanted)
        nodes: list[ir.Node] = []
        known: Names = {}
        self.region(self.module.region, known, nodes)
        outputs = [self.named(known[name], name, nodes) for name in wanted]
        imports = {domain: version for part in parts for domain, version in part.model.graph.opset_imports.items()}
        metadata = {EXTENTS: json.dumps(self.extents, sort_keys=True)} if self.extents else {}
        graph = ir.Graph(list(self.inputs.values()), outputs, nodes=nodes, initializers=self.weights,
                         opset_imports=imports, name=self.module.name, metadata_props=metadata)  # fmt: skip
        return ir.Model(graph, ir_version=first.ir_version)

    def region(self, region: Region, known: Names, nodes: list[ir.Node]) -> None:
        for item in region:
            if isinstance(item, Part):
                self.part(item, known, nodes)
            elif isinstance(item, Loop):
                self.loop(item, known, nodes)
            else:
                self.branch(item, known, nodes)

    def part(self, part: Part, known: Names, nodes: list[ir.Node]) -> None:
        """The nodes of a part; what it hands on and results in becomes known by name."""
        graph = part.model.graph.clone()
        names = [str(v.name) for v in graph.outputs]
        results = list(graph.outputs)
        graph.outputs.clear()
        for value in list(graph.inputs):
            name = str(value.name)
            if name not in part.received:
                # The passes may have given it another type than callers use.
                self.inputs[name].type = value.type
                self.inputs[name].metadata_props.update(value.metadata_props)
            self.replaced(value, known[name] if name in part.received else self.inputs[name], results)
        for value in list(graph.initializers.values()):
            self.replaced(value, self.weight(value), results)
        inner = list(graph)
        graph.remove(inner)
        for node in inner:
            node.name = self.fresh(str(node.name), self.nodes)
            for value in (v for v in node.outputs if v.name):
                value.name = self.fresh(str(value.name))
        nodes += inner
        known.update(zip(names, results, strict=True))

    def replaced(self, value: ir.Value, new: ir.Value, results: list[ir.Value]) -> None:
        value.replace_all_uses_with(new)
        results[:] = [new if v is value else v for v in results]

    def weight(self, value: ir.Value) -> ir.Value:
        """The weight of a part, one of several that have the name and the tensor."""
        name = str(value.name)
        tensor, held = self.sources.get(name, (None, value))
        if tensor is None or tensor is not value.const_value:
            assert value.const_value is not None
            assert value.shape is not None
            held = ir.Value(name=self.fresh(name), type=value.type, shape=value.shape.copy(),
                            const_value=value.const_value)  # fmt: skip
            self.sources[name] = value.const_value, held
            self.weights.append(held)
        return held

    def loop(self, loop: Loop, known: Names, nodes: list[ir.Node]) -> None:
        trips = loop.count if loop.count is not None else loop.bound
        carried = [c for c in loop.carried if c.inside != loop.condition]
        trip = _value(self.fresh(f"{loop.name}/trip"), ir.TensorType(ir.DataType.INT64), ())
        goes = _value(self.fresh(f"{loop.name}/goes"), ir.TensorType(ir.DataType.BOOL), ())
        inner, body = dict(known), list[ir.Node]()
        formal = []
        for c in carried:
            inner[c.inside] = _like(self.fresh(c.inside), known[c.before])
            formal.append(inner[c.inside])
        begins, again = None, goes
        for c in loop.carried:
            if c.inside == loop.condition:
                inner[c.inside], begins = goes, known[c.before]
        for s in loop.sliced:
            at = trip
            if s.backwards:
                at = self.made(body, "Sub", [self.ints((trips or 0) - 1, scalar=True), trip], trip.type, ())
            whole = known[s.whole]
            inner[s.inside] = self.made(body, "Gather", [whole, at], whole.type, _dims(whole)[1:], axis=0)
        self.region(loop.body, inner, body)
        for c in loop.carried:
            if c.inside == loop.condition:
                again = inner[c.after]
        ends = [again, *(inner[c.after] for c in carried), *(inner[t.inside] for t in loop.stacked)]
        graph = self.body(loop.name, [trip, goes, *formal], ends, body)
        limit = None if trips is None else self.ints(trips, scalar=True)
        node = ir.node("Loop", [limit, begins, *(known[c.before] for c in carried)], {"body": graph},
                       num_outputs=len(ends) - 1, name=self.fresh(loop.name, self.nodes),
                       metadata_props={ORIGIN: loop.name})  # fmt: skip
        nodes.append(node)
        for c, value in zip(carried, node.outputs, strict=False):
            known[c.result] = self.typed(value, c.result, known[c.before].type, _dims(known[c.before]))
        for t, value in zip(loop.stacked, node.outputs[len(carried) :], strict=True):
            row = inner[t.inside]
            dims = [trips or 0, *_dims(row)]
            found = self.typed(value, f"{t.whole}/rows", row.type, [loop.count, *dims[1:]])
            if loop.count is None:
                # Trips that are not made leave nothing.
                zeros = self.constant(f"{t.whole}/none", np.zeros(dims, row.dtype.numpy()))  # type: ignore[union-attr]
                longer = self.made(nodes, "Concat", [found, zeros], row.type, [None, *dims[1:]], axis=0)
                found = self.made(nodes, "Slice", [longer, self.ints(0), self.ints(dims[0])], row.type, dims)
            if t.backwards:
                turned = self.ints(*range(dims[0])[::-1])
                found = self.made(nodes, "Gather", [found, turned], row.type, dims, axis=0)
            known[t.whole] = found

    def branch(self, branch: Branch, known: Names, nodes: list[ir.Node]) -> None:
        graphs, types = {}, []
        for side, region, at in (("then_branch", branch.then, 1), ("else_branch", branch.otherwise, 2)):
            inner, body = dict(known), list[ir.Node]()
            self.region(region, inner, body)
            types = [inner[result[at]] for result in branch.results]
            graphs[side] = self.body(f"{branch.name}/{side}", [], types, body)
        node = ir.node("If", [known[branch.condition]], graphs, num_outputs=len(branch.results),
                       name=self.fresh(branch.name, self.nodes), metadata_props={ORIGIN: branch.name})  # fmt: skip
        nodes.append(node)
        for (name, _, _), value, like in zip(branch.results, node.outputs, types, strict=True):
            known[name] = self.typed(value, name, like.type, _dims(like))

    def body(
        self, name: str, inputs: Sequence[ir.Value], ends: Iterable[ir.Value], nodes: list[ir.Node]
    ) -> ir.Graph:  # fmt: skip
        """A graph in which every output is made by a node of its own."""
        outputs: list[ir.Value] = []
        inside = {v for n in nodes for v in n.outputs}
        for value in ends:
            own = value in inside and value not in outputs
            outputs.append(value if own else self.made(nodes, "Identity", [value], value.type, _dims(value)))
        return ir.Graph(inputs, outputs, nodes=nodes, name=name)

    def named(self, value: ir.Value, name: str, nodes: list[ir.Node]) -> ir.Value:
        """The value as an output of the model."""
        made = self.made(nodes, "Identity", [value], value.type, _dims(value))
        made.name = name
        made.metadata_props.update(value.metadata_props)
        return made

    def made(
        self, nodes: list[ir.Node], op: str, inputs: Sequence[ir.Value], kind: ir.TypeProtocol | None,
        dims: Sequence[int | None], **attributes: int,
    ) -> ir.Value:  # fmt: skip
        """The result of a new node at the end of a list."""
        name = self.fresh(f"{inputs[0].name}/{op.lower()}")
        node = ir.node(op, list(inputs), attributes, name=self.fresh(name, self.nodes))
        nodes.append(node)
        value = node.outputs[0]
        value.name, value.type, value.shape = name, kind, ir.Shape(dims)
        return value

    def typed(
        self, value: ir.Value, name: str, kind: ir.TypeProtocol | None, dims: Sequence[int | None]
    ) -> ir.Value:  # fmt: skip
        value.name, value.type, value.shape = self.fresh(name), kind, ir.Shape(dims)
        return value

    def ints(self, *numbers: int, scalar: bool = False) -> ir.Value:
        array = np.array(numbers[0] if scalar else numbers, np.int64)
        return self.constant("/".join(map(str, ("whole", *numbers[:1], *numbers[-1:]))), array)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        value = ir.Value(name=self.fresh(name), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                         shape=ir.Shape(array.shape), const_value=ir.tensor(array))  # fmt: skip
        self.weights.append(value)
        return value

    def fresh(self, name: str, taken: set[str] | None = None) -> str:
        """A name that no other value has, or none of `taken`."""
        taken = self.taken if taken is None else taken
        fresh, number = name, 1
        while fresh in taken:
            number += 1
            fresh = f"{name}#{number}"
        taken.add(fresh)
        return fresh


def _value(name: str, kind: ir.TypeProtocol, dims: Sequence[int]) -> ir.Value:
    return ir.Value(name=name, type=kind, shape=ir.Shape(dims))


def _like(name: str, value: ir.Value) -> ir.Value:
    assert value.type is not None
    return _value(name, value.type, _dims(value))


def _dims(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [int(d) for d in value.shape.numpy()]
