"""Writing nodes in the place of another node."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import ORIGIN, describe
from ipucc.graph.tensors import is_missing

__all__ = ["BodyEmitter", "Emitter", "constant_of", "operand", "shape_or_none"]

Attribute = int | float | str | Sequence[int] | Sequence[float]


class Emitter:
    """Inserts nodes before `node`, with its origin, and lets their results take the place of its own."""

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        assert isinstance(node.graph, ir.Graph)
        self.graph = node.graph
        self.prefix = node.name or describe(node)
        self.count = 0

    def op(self, op_type: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Attribute) -> ir.Value:
        """The first result of a new node."""
        return self._node("", op_type, inputs, outputs, attributes)[0]

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """All results of a new node."""
        return self._node("", op_type, inputs, outputs, attributes)

    def own(self, op_type: str, *inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
        """The result of a new node of the domain `ipucc`."""
        self.graph.opset_imports.setdefault("ipucc", 1)
        return self._node("ipucc", op_type, inputs, 1, attributes)[0]

    def _node(
        self, domain: str, op_type: str, inputs: Sequence[ir.Value | None], outputs: int,
        attributes: Mapping[str, Attribute],
    ) -> Sequence[ir.Value]:  # fmt: skip
        self.count += 1
        name = f"{self.prefix}/{op_type}_{self.count}"
        origin = {ORIGIN: self.node.metadata_props.get(ORIGIN, describe(self.node))}
        made = ir.node(
            op_type, list(inputs), attributes, domain=domain, num_outputs=outputs, name=name, metadata_props=origin
        )
        for i, value in enumerate(made.outputs):
            value.name = name if not i else f"{name}.{i}"
        self._insert(made)
        return made.outputs

    def _insert(self, made: ir.Node) -> None:
        self.graph.insert_before(self.node, made)

    def constant(self, array: object, dtype: ir.DataType | None = None) -> ir.Value:
        """A constant; `dtype` decides its element type."""
        self.count += 1
        # Nodes that one node was written as have its name in common.
        while (name := f"{self.prefix}/constant_{self.count}") in self.graph.initializers:
            self.count += 1
        given = np.asarray(array)
        dtype = dtype or ir.DataType.from_numpy(given.dtype)
        tensor = ir.tensor(given.astype(dtype.numpy()), dtype, name=name)
        value = ir.Value(name=name, shape=ir.Shape(given.shape), type=ir.TensorType(dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def ints(self, *numbers: int) -> ir.Value:
        """A vector of int64."""
        return self.constant(np.array(numbers, np.int64))

    def cast(self, value: ir.Value, dtype: ir.DataType | int) -> ir.Value:
        """The value in another element type."""
        return self.op("Cast", value, to=int(dtype))

    def like(self, value: ir.Value) -> ir.DataType:
        """The element type of a value."""
        assert value.dtype is not None
        return value.dtype

    def finish(self, *results: ir.Value | None) -> None:
        """Results of the node, as far as they are given, come from elsewhere; the node goes."""
        for i, (old, new) in enumerate(zip(self.node.outputs, results, strict=False)):
            if new is None or not (old.uses() or old.is_graph_output()):
                continue
            if old.is_graph_output():
                # An Identity keeps the name of the output; it goes again where that is allowed.
                keep = ir.node("Identity", [new], metadata_props=dict(self.node.metadata_props),
                               name=f"{self.prefix}/output_{i}")  # fmt: skip
                keep.outputs[0].name, keep.outputs[0].type = old.name, old.type
                old.name = f"{old.name}.replaced"
                self.graph.insert_before(self.node, keep)
                new = keep.outputs[0]
                old.replace_all_uses_with(new, replace_graph_outputs=True)
            else:
                if new.type is None:
                    new.type = old.type
                old.replace_all_uses_with(new)
        self.graph.remove(self.node, safe=True)


class BodyEmitter(Emitter):
    """Appends nodes to the body of a loop that takes the place of `outer`'s node; constants belong to the graph around
    it."""

    def __init__(self, outer: Emitter, body: ir.Graph) -> None:
        super().__init__(outer.node)
        self.body = body
        self.prefix = f"{outer.prefix}/{body.name}"

    def _insert(self, made: ir.Node) -> None:
        self.body.append(made)


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Operand `index` of a node, None where it is not given."""
    return node.inputs[index] if index < len(node.inputs) else None


def shape_or_none(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value where it is static."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(d) for d in value.shape.numpy())


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant."""
    if value is None or value.const_value is None or is_missing(value.const_value):
        return None
    return np.asarray(value.const_value.numpy())
