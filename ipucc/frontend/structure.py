"""Checks on the protobuf form of a model: names, order, cycles, types and sizes of tensors.

They run before anything else reads the graph, because the libraries behind answer such faults with silence,
assertions or wrong results.
"""

import math
from collections.abc import Iterable, Mapping

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import TensorProto

from ipucc.diagnostics import CompileError, Diagnostic, error

# Names of values that are visible in a scope, outer scopes included.
_Scope = frozenset[str]

_FIELDS: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.STRING: "string_data",
}
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
# Bits per element in raw_data; every other type of the enumeration is listed by onnx with a numpy type.
_SUB_BYTE_BITS: Mapping[str, int] = {
    "UINT4": 4,
    "INT4": 4,
    "FLOAT4E2M1": 4,
    "UINT2": 2,
    "INT2": 2,
    "FLOAT6E2M3": 6,
    "FLOAT6E3M2": 6,
}


def check_structure(model: onnx.ModelProto, where: str | None) -> None:
    """Raise one CompileError with every fault found: IPU0103, 0104, 0105, 0117 to 0120."""
    if bad := _undecodable(model):
        raise error("IPU0118", f"the model has text that is not UTF-8: {bad!r}", where=where)
    problems: list[Diagnostic] = []
    _Checker(problems, where).graph(model.graph, frozenset(), is_main=True)
    for function in model.functions:
        checker = _Checker(problems, where, f'function "{function.domain}.{function.name}"')
        checker.scope(function.node, function.input, function.output, frozenset())
    if problems:
        raise CompileError(problems)


class _Checker:
    def __init__(self, problems: list[Diagnostic], where: str | None, scope_name: str | None = None) -> None:
        self.problems = problems
        self.where = ": ".join(part for part in (where, scope_name) if part) or None

    def report(self, id: str, message: str, node: onnx.NodeProto | None = None) -> None:
        name, op = (label(node), node.op_type) if node is not None else (None, None)
        self.problems.append(Diagnostic(id, "error", message, node=name, op=op, where=self.where))

    def graph(self, graph: onnx.GraphProto, outer: _Scope, is_main: bool = False) -> None:
        if graph.sparse_initializer:
            self.report("IPU0119", "sparse initializers are not supported; store the weights densely")
        constants = [tensor.name for tensor in graph.initializer]
        for tensor in graph.initializer:
            self.tensor(tensor, f'weight "{tensor.name}"')
        self.repeated("weight", constants)
        inputs = [value.name for value in graph.input]
        if is_main:
            for value in graph.input:
                self.input_type(value)
        produced = {name for node in graph.node for name in node.output}
        outputs = [value.name for value in graph.output]
        if is_main and not graph.output:
            self.report("IPU0103", "the graph has no outputs")
        elif is_main and not graph.node and not set(outputs) <= {*inputs, *constants}:
            self.report("IPU0103", "the graph is empty: it has no nodes, and its outputs are no inputs")
            return
        if is_main:
            self.repeated("output", outputs)
        for name in sorted(produced & set(constants)):
            self.report("IPU0105", f'value "{name}" is both a weight and the result of a node')
        self.scope(graph.node, inputs, outputs, outer | frozenset(constants))

    def scope(
        self, nodes: Iterable[onnx.NodeProto], inputs: Iterable[str], outputs: Iterable[str], outer: _Scope
    ) -> None:
        nodes, inputs = list(nodes), list(inputs)
        self.repeated("input", inputs)
        producer: dict[str, onnx.NodeProto] = {}
        for node in nodes:
            for name in node.output:
                if not name:
                    continue
                if name in producer:
                    first = f'also by node "{label(producer[name])}"'
                    self.report("IPU0105", f'value "{name}" is produced twice, {first}', node)
                elif name in inputs:
                    self.report("IPU0105", f'value "{name}" is an input and also the result of a node', node)
                producer[name] = node
        visible = outer | frozenset(inputs) | frozenset(producer)
        for node in nodes:
            for name in dict.fromkeys(node.input):
                if name and name not in visible:
                    self.report("IPU0117", f'operand "{name}" is defined nowhere', node)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
                    self.report("IPU0120", f'attribute "{attribute.name}" has no type', node)
                if any(not _is_utf8(text) for text in (attribute.s, *attribute.strings)):
                    self.report("IPU0120", f'attribute "{attribute.name}" is no UTF-8 text', node)
                if attribute.type == onnx.AttributeProto.TENSOR:
                    self.tensor(attribute.t, f'attribute "{attribute.name}" of node "{label(node)}"')
                for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                    self.graph(body, visible)
        for name in outputs:
            if name not in visible:
                self.report("IPU0117", f'the output "{name}" is produced by no node')
        if cycle := find_cycle(nodes):
            path = " -> ".join(f'"{label(node)}"' for node in [*cycle, cycle[0]])
            self.report("IPU0104", f"the graph has a cycle: {path}", cycle[0])

    def repeated(self, what: str, names: list[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                self.report("IPU0105", f'{what} "{name}" is listed twice')
            seen.add(name)

    def input_type(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.WhichOneof("value")
        if kind is None:
            self.report("IPU0115", f'input "{value.name}" has no type')
        elif kind != "tensor_type":
            text = kind.removesuffix("_type").replace("_", " ")
            self.report("IPU0119", f'input "{value.name}" is a {text}; only tensors are supported')
        elif value.type.tensor_type.elem_type == TensorProto.UNDEFINED:
            self.report("IPU0115", f'input "{value.name}" has no element type')

    def tensor(self, tensor: TensorProto, what: str) -> None:
        """The element type is known, no dimension is negative, and the data is as long as they say."""
        if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
            self.report("IPU0118", f"{what} has the unknown element type {tensor.data_type}")
            return
        if any(size < 0 for size in tensor.dims):
            self.report("IPU0118", f"{what} has a negative dimension: {list(tensor.dims)}")
            return
        if tensor.data_location == TensorProto.EXTERNAL:
            return
        count = math.prod(tensor.dims)
        name = TensorProto.DataType.Name(tensor.data_type)
        if tensor.HasField("raw_data"):
            bits = _SUB_BYTE_BITS.get(name) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            found, wanted, unit = len(tensor.raw_data), -(-count * bits // 8), "bytes"
        else:
            found, unit = len(getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data"))), "numbers"
            wanted = 2 * count if tensor.data_type in _COMPLEX else count
            if name in _SUB_BYTE_BITS and found < wanted:
                wanted = -(-count * _SUB_BYTE_BITS[name] // 8)
        if found != wanted:
            self.report("IPU0118", f"{what} holds {found} {unit}, its shape and type need {wanted}")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _undecodable(message: Message) -> bytes | None:
    """A text of the message that is not UTF-8, which protobuf then gives as bytes; None if there is none."""
    for field, content in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            for text in [content] if isinstance(content, str | bytes) else content:
                if isinstance(text, bytes):
                    return text
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in [content] if isinstance(content, Message) else content:
                if (bad := _undecodable(inner)) is not None:
                    return bad
    return None


def find_cycle(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes of one cycle in order, or nothing. Values captured by subgraphs count as operands."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    operands = [sorted({producer[name] for name in _reads(node) if name in producer}) for node in nodes]
    state = [0] * len(nodes)  # 0 new, 1 on the path, 2 done
    for start in range(len(nodes)):
        if state[start]:
            continue
        path, todo = [start], [iter(operands[start])]
        state[start] = 1
        while todo:
            following = next(todo[-1], None)
            if following is None:
                todo.pop()
                state[path.pop()] = 2
            elif state[following] == 1:
                return [nodes[index] for index in reversed(path[path.index(following) :])]
            elif state[following] == 0:
                state[following] = 1
                path.append(following)
                todo.append(iter(operands[following]))
    return []


def label(node: onnx.NodeProto) -> str:
    """The name of a node for messages: its own, else that of its first result."""
    return node.name or next((name for name in node.output if name), f"unnamed {node.op_type}")


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            local = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
            inner = {name for child in body.node for name in _reads(child)} | {v.name for v in body.output}
            names |= inner - local - {name for child in body.node for name in child.output}
    return names
