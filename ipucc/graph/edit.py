"""Helpers to read and change a graph of onnx_ir without breaking what onnx_ir does not check.

onnx_ir lets two values have one name, shares `ir.Shape` objects by reference and enforces no types. An
`Editor` gives fresh names, types every node it makes by ONNX's own inference, copies shapes, keeps the
names of graph outputs and merges provenance (`metadata_props["ipucc.origin"]`, the names of the ONNX nodes,
joined by commas).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ipucc.diagnostics import CompileError, error
from ipucc.graph.tensors import MissingTensor

Array: TypeAlias = npt.NDArray[np.generic]
AttrLike: TypeAlias = bool | int | float | str | Sequence[int] | Sequence[float]
InputLike: TypeAlias = ir.Value | Array | bool | int | float | None

ORIGIN: Final = "ipucc.origin"
REFUSED: Final = "ipucc.refused"
EXTENTS: Final = "ipucc.extents"

_DTYPES: Final[dict[str, ir.DataType]] = {
    d.numpy().name: d for d in ir.DataType if d not in (ir.DataType.UNDEFINED, ir.DataType.STRING)
}
_INFERENCE_DATA_LIMIT: Final = 1024
"""Constants of at most this many elements are shown to shape inference (shapes, axes, pads)."""


def dtype_name(dtype: ir.DataType) -> str:
    """The type as expressions and numpy spell it: `float16`, `bool`, `float8_e4m3fn`."""
    return dtype.numpy().name


def dtype_of(name: str) -> ir.DataType:
    """The inverse of dtype_name. Raises CompileError for an unknown name."""
    if name not in _DTYPES:
        raise error("IPU0120", f"unknown element type {name!r}")
    return _DTYPES[name]


def value_dtype(value: ir.Value) -> ir.DataType:
    """The element type of a value. Raises CompileError where it has none."""
    if value.dtype is None:
        raise error("IPU0115", f"value {value.name!r} has no element type")
    return value.dtype


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape if every dimension is known, else None."""
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(d) for d in value.shape.numpy())


def attribute(node: ir.Node, name: str, default: AttrLike | None = None) -> AttrLike | None:
    """The value of an attribute (number, text, tuple), or the default where the node does not have it."""
    found = node.attributes.get(name)
    if found is None or found.is_ref():
        return default
    if found.type is ir.AttributeType.INT:
        return found.as_int()
    if found.type is ir.AttributeType.FLOAT:
        return found.as_float()
    if found.type is ir.AttributeType.STRING:
        return found.as_string()
    if found.type is ir.AttributeType.INTS:
        return tuple(found.as_ints())
    if found.type is ir.AttributeType.FLOATS:
        return tuple(found.as_floats())
    return default


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or the default."""
    found = node.attributes.get(name)
    return default if found is None or found.is_ref() else found.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, or the default."""
    found = node.attributes.get(name)
    return default if found is None or found.is_ref() else found.as_float()


def ints_attribute(node: ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """A list of integers, or the default."""
    found = node.attributes.get(name)
    return tuple(default) if found is None or found.is_ref() else tuple(found.as_ints())


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is an initializer that is no graph input, or the result of a Constant node."""
    if value is None or value.is_graph_input():
        return False
    if value.is_initializer():
        return value.const_value is not None
    producer = value.producer()
    return producer is not None and producer.domain == "" and producer.op_type == "Constant"


def constant_array(value: ir.Value | None, limit: int | None = None) -> Array | None:
    """The numbers of a constant, or None.

    None stands for: no constant, more than `limit` elements, or data that is absent (shape-only models). A
    scalar stays 0-d. The array must not be written to: it may be the weight itself.
    """
    if value is None or not is_constant(value):
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype is ir.DataType.STRING or (limit is not None and tensor.size > limit):
        return None
    try:
        return np.asarray(tensor.numpy())
    except (CompileError, OSError):
        return None


def scalar(value: ir.Value | None) -> float | int | bool | None:
    """The number in a constant of one element (of any rank), or None."""
    array = constant_array(value, limit=1)
    if array is None or array.size != 1:
        return None
    item = array.reshape(()).astype(np.float64) if array.dtype.kind in "fV" else array.reshape(())
    number = item.item()
    return number if isinstance(number, bool | int | float) else None


def all_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, then those inside its nodes, outer ones first."""
    yield model.graph
    yield from model.graph.subgraphs()


def merge_origin(target: ir.Node, sources: Iterable[ir.Node]) -> None:
    """Adds the provenance of the sources to the target's, each name once, in the order given."""
    names: dict[str, None] = {}
    for node in (target, *sources):
        for name in node.metadata_props.get(ORIGIN, "").split(","):
            if name:
                names.setdefault(name)
    if names:
        target.metadata_props[ORIGIN] = ",".join(names)


def describe(node: ir.Node) -> str:
    """The name that users know the node by: its ONNX origin, its name, or that of its first result."""
    return node.metadata_props.get(ORIGIN) or node.name or (node.outputs[0].name or "" if node.outputs else "")


def copy_type(source: ir.Value, target: ir.Value) -> None:
    """Gives the target the type and a copy of the shape of the source."""
    target.type = source.type
    target.shape = None if source.shape is None else ir.Shape(list(source.shape))


def same_type(a: ir.Value, b: ir.Value) -> bool:
    """Whether both have the same element type and the same static shape."""
    return a.dtype == b.dtype and a.shape is not None and b.shape is not None and a.shape == b.shape


def prune(model: ir.Model) -> bool:
    """Removes nodes and initializers that nothing uses; whether there were any."""
    return bool(RemoveUnusedNodesPass()(model).modified)


class Editor:
    """Changes one model. Names are collected once, so make one editor per pass, not per rewrite."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._names: set[str] = set()
        self._counters: dict[str, int] = {}
        self._scalars: dict[tuple[int, str, bytes], ir.Value] = {}
        for graph in all_graphs(model):
            self._names.update(v.name for v in graph.inputs if v.name)
            self._names.update(graph.initializers)
            for node in graph:
                self._names.update(v.name for v in node.outputs if v.name)
                if node.name:
                    self._names.add(node.name)

    def opset(self, domain: str = "") -> int:
        """The version of a domain that the model imports; a missing import of `ipucc` is added."""
        if domain == "ipucc":
            self.model.opset_imports.setdefault(domain, 1)
        return self.model.opset_imports[domain]

    def fresh(self, base: str) -> str:
        """A name that no value and no node of the model has."""
        name = base
        while name in self._names:
            self._counters[base] = self._counters.get(base, 0) + 1
            name = f"{base}_{self._counters[base]}"
        self._names.add(name)
        return name

    def constant(self, array: Array, graph: ir.Graph | None = None, name: str = "const") -> ir.Value:
        """A new initializer (of the main graph by default). Equal scalars made by this editor are shared."""
        graph = graph or self.model.graph
        key = (id(graph), f"{array.dtype}{array.shape}", array.tobytes() if array.size == 1 else b"")
        if array.size == 1 and key in self._scalars:
            return self._scalars[key]
        fresh = self.fresh(name)
        tensor = ir.tensor(array, name=fresh)
        value = ir.Value(name=fresh, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
        if array.size == 1:
            self._scalars[key] = value
        return value

    def derived(
        self,
        sources: Sequence[ir.Value],
        compute: Callable[..., Array],
        shape: Sequence[int],
        dtype: ir.DataType,
        name: str = "const",
    ) -> ir.Value | None:
        """A new initializer computed from the arrays of constants; None if one of the sources is no constant.

        Where the data of a source is absent (shape-only models), so is that of the result.
        """
        if not all(is_constant(value) for value in sources):
            return None
        tensors = [ir.convenience.get_const_tensor(value) for value in sources]
        absent = next((t for t in tensors if isinstance(t, MissingTensor)), None)
        if absent is None:
            arrays = [constant_array(value) for value in sources]
            if any(array is None for array in arrays):
                return None
            return self.constant(np.asarray(compute(*arrays)).astype(dtype.numpy()).reshape(shape), name=name)
        return self.absent(shape, dtype, name, absent.reason)

    def absent(
        self, shape: Sequence[int], dtype: ir.DataType, name: str = "const", reason: str = "only its shape matters"
    ) -> ir.Value:
        """A new initializer without values."""
        fresh = self.fresh(name)
        tensor = MissingTensor(fresh, dtype, ir.Shape(shape), reason)
        value = ir.Value(name=fresh, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[InputLike],
        attrs: Mapping[str, AttrLike] | None = None,
        *,
        before: ir.Node,
        domain: str = "",
        outputs: int = 1,
        like: ir.DataType | None = None,
        name: str | None = None,
    ) -> ir.Node:
        """Inserts a typed node before another one.

        Numbers and arrays among the inputs become constants; a number gets the type `like`, by default that
        of the first value among the inputs. Raises CompileError if ONNX's inference refuses the node.
        """
        graph = _graph_of(before)
        if like is None:
            like = next((v.dtype for v in inputs if isinstance(v, ir.Value) and v.dtype is not None), None)
        values = [self._operand(v, graph, like) for v in inputs]
        node = ir.node(
            op,
            values,
            attributes=dict(attrs or {}),
            domain=domain,
            num_outputs=outputs,
            name=self.fresh(name or before.name or op),
        )
        for i, value in enumerate(node.outputs):
            value.name = self.fresh(f"{node.name}_out" if i == 0 else f"{node.name}_out{i}")
        graph.insert_before(before, node)
        self.infer(node)
        return node

    def infer(self, node: ir.Node) -> None:
        """Types the results of a node by the inference function of its schema.

        Raises CompileError where the schema refuses the operands.
        """
        version = self.opset(node.domain)
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for value in node.inputs:
            if value is None:
                continue
            if value.name is None or value.type is None:
                raise error("IPU0115", f"value {value.name!r} has no type", node=describe(node), op=node.op_type)
            types[value.name] = _type_proto(value)
            array = constant_array(value, limit=_INFERENCE_DATA_LIMIT)
            if array is not None:
                data[value.name] = ir.serde.serialize_tensor(ir.tensor(array))
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, ir.serde.serialize_node(node), types, data, opset_imports=_imports(self.model)
            )
        except (onnx.shape_inference.InferenceError, ValueError) as failure:
            raise error(
                "IPU0311", f"the new node is refused: {failure}", node=describe(node), op=node.op_type
            ) from failure
        for value in node.outputs:
            proto = found.get(value.name or "")
            if proto is not None:
                value.type = ir.serde.deserialize_type_proto_for_type(proto)
                value.shape = ir.serde.deserialize_type_proto_for_shape(proto)

    def replace(self, old: ir.Value, new: ir.Value) -> bool:
        """Lets every use of `old` read `new`; a graph output keeps its name and metadata.

        Returns False, and changes nothing, where a graph output cannot be replaced because `new` is an
        input, a constant, a value of another graph or an output already.
        """
        producer, old_producer = new.producer(), old.producer()
        here = producer is not None and old_producer is not None and producer.graph is old_producer.graph
        if old.is_graph_output():
            if not here or new.is_graph_output():
                return False
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            copy_type(old, new)
            new.metadata_props.update(old.metadata_props)
            self._move_name(old, new)
            return True
        old.replace_all_uses_with(new)
        return True

    def _move_name(self, old: ir.Value, new: ir.Value) -> None:
        name = old.name
        old.name = self.fresh(f"{name}_old")
        new.name = name

    def remove_dead(self, start: Iterable[ir.Node]) -> int:
        """Removes the given nodes, and then their producers, as far as nothing uses their results."""
        count = 0
        stack = list(start)
        while stack:
            node = stack.pop()
            if node.graph is None or any(v.uses() or v.is_graph_output() for v in node.outputs):
                continue
            sources = [v for v in node.inputs if v is not None]
            _graph_of(node).remove(node, safe=True)
            count += 1
            for value in sources:
                producer = value.producer()
                if producer is not None:
                    stack.append(producer)
        return count

    def _operand(self, value: InputLike, graph: ir.Graph, like: ir.DataType | None) -> ir.Value | None:
        if value is None or isinstance(value, ir.Value):
            return value
        if isinstance(value, np.ndarray):
            return self.constant(value, graph)
        return self.constant(np.array(value, dtype=(like or ir.DataType.FLOAT).numpy()), graph)


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise error("IPU0902", f"node {node.name!r} is in no graph", op=node.op_type)
    return graph


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    shape = static_shape(value)
    if shape is not None and value.dtype is not None:
        return onnx.helper.make_tensor_type_proto(value.dtype.value, shape)
    return ir.serde.serialize_value(value).type


def _imports(model: ir.Model) -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
