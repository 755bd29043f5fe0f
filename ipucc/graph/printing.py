"""The text of a graph: ONNX's own text syntax, one value or node per line, made for reading and for diffs.

    <
      ir_version: 10,
      opset_import: ["": 26]
    >
    mlp (
      float[1,4] x
    ) => (
      float[1,2] y
    )
    <
      float[4,2] w = {},  # sha256:64a20755744a
      float[2] b = {0.5, -1.0}
    >
    {
      [fc] h = MatMul (x, w)  # float[1,2]
      [fc_bias] y = Add (h, b)  # float[1,2]
    }

Attributes are sorted by name; constants of more than eight elements and lists of more than 32 numbers are elided with a
prefix of their SHA-256; a constant without data says `missing`. The text depends on nothing but the graph.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.graph.edit import Array, all_graphs
from ipucc.graph.tensors import MissingTensor, is_missing

ELIDED_ELEMENTS = 8
ELIDED_NUMBERS = 32
_HASH_DIGITS = 12
_HASH_KEY = "ipucc.sha256"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INDENT = "  "
# `float[2,3] "a name" = {1.0, 2.0},  # comment`: a constant in the text of print_graph.
_CONSTANT = re.compile(
    r'^\s*(?P<type>\w+)(?:\[(?P<dims>[\d,]*)\])? (?P<name>\w+|"(?:[^"\\]|\\.)*") = \{(?P<data>.*)\}(?P<comma>,?)'
    r"(?:  # (?P<comment>.*))?$"
)
# `[name] a, b = Op <...> (x)  # float[2,3], int64[1]`: the results and types of a node.
_RESULTS = re.compile(r"^\s*\[(?:\w+|\"(?:[^\"\\]|\\.)*\")\] (?P<results>.*?) = .*  # (?P<types>[\w\[\],? ]*)$")
_NAME = re.compile(r'\w+|"(?:[^"\\]|\\.)*"')
_TYPE = re.compile(r"(\w+)((?:\[[\d,]*\])?)|(\?)")
_ELIDED_ATTRIBUTE = "elided "


def print_graph(model: ir.Model, *, elide: bool = True) -> str:
    """The text of the model's graph and functions, with a final newline. `elide=False` writes constants out.

    Weights are read once for their hash.
    """
    printer = _Printer(elide)
    lines = [
        "<",
        f"  ir_version: {model.ir_version},",
        f"  opset_import: {_imports(model.opset_imports)}",
        ">",
    ]
    lines += printer.graph(model.graph, "")
    for function in sorted(model.functions.values(), key=lambda f: f.identifier()):
        lines += printer.function(function)
    return "\n".join(lines) + "\n"


def parse_graph(text: str) -> ir.Model:
    """The model of a text that print_graph wrote (or of ONNX text in general); meant for tests.

    Elided and missing constants become MissingTensors. Types of results come from the comments. Raises IPU0121 if
    the text is malformed or an attribute was elided.
    """
    constants: dict[str, ir.TensorProtocol] = {}
    types: dict[str, tuple[ir.DataType, ir.Shape]] = {}
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if _ELIDED_ATTRIBUTE in line.rpartition("  # ")[2]:
            raise error("IPU0121", f"line {number}: an attribute was elided, its numbers are lost")
        if found := _CONSTANT.match(line):
            name = _unquoted(found["name"])
            constants[name] = _read_constant(name, found, number)
            line = line.replace(f"{{{found['data']}}}", "{}", 1)
        elif found := _RESULTS.match(line):
            types.update(_read_types(found["results"], found["types"]))
        lines.append(line)
    try:
        model = ir.from_proto(onnx.parser.parse_model("\n".join(lines)))
    except Exception as cause:  # ParseError of onnx, or an error of onnx_ir
        raise error("IPU0121", f"the text of the graph cannot be read\n{cause}") from cause
    for graph in all_graphs(model):
        for name, value in graph.initializers.items():
            if name in constants:
                value.const_value = constants[name]
        for node in graph:
            for value in node.outputs:
                if value.name in types and value.type is None:
                    dtype, shape = types[value.name]
                    value.type, value.shape = ir.TensorType(dtype), shape
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    model.graph.inputs.clear()
    model.graph.inputs.extend(inputs)
    return model


class _Printer:
    def __init__(self, elide: bool) -> None:
        self.elide = elide

    def graph(self, graph: ir.Graph, indent: str) -> list[str]:
        inner = indent + _INDENT
        lines = [f"{indent}{_name(graph.name or 'graph')} ("]
        lines += _listed([f"{_typed(value)}" for value in graph.inputs], inner)
        lines.append(f"{indent}) => (")
        lines += _listed([f"{_typed(value)}" for value in graph.outputs], inner)
        lines.append(f"{indent})")
        constants = [value for value in graph.initializers.values() if not value.is_graph_input()]
        if constants:
            lines.append(f"{indent}<")
            for index, value in enumerate(constants):
                data, comment = self.tensor(value.const_value)
                comma = "," if index + 1 < len(constants) else ""
                lines.append(f"{inner}{_typed(value)} = {data}{comma}{_comment(comment)}")
            lines.append(f"{indent}>")
        return [*lines, f"{indent}{{", *self.nodes(graph, inner), f"{indent}}}"]

    def function(self, function: ir.Function) -> list[str]:
        overload = [f"  overload: {_quoted(function.overload)},"] if function.overload else []
        imports = f"  opset_import: {_imports(function.opset_imports)}"
        lines = ["<", f"  domain: {_quoted(function.domain)},", *overload, imports, ">"]
        attributes = f" <{', '.join(function.attributes)}>" if function.attributes else ""
        inputs = ", ".join(_value(value) for value in function.inputs)
        outputs = ", ".join(_value(value) for value in function.outputs)
        lines.append(f"{_name(function.name)}{attributes} ({inputs}) => ({outputs})")
        return [*lines, "{", *self.nodes(function, _INDENT), "}"]

    def nodes(self, nodes: Iterable[ir.Node], indent: str) -> Iterator[str]:
        for node in nodes:
            attributes, comments = self.attributes(node, indent)
            op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            overload = f":{node.overload}" if node.overload else ""
            label = f"[{_name(node.name)}] " if node.name else ""
            results = ", ".join(_value(value) for value in node.outputs)
            operands = ", ".join(_value(value) for value in node.inputs)
            types = ", ".join(_type(value) for value in node.outputs)
            comment = "; ".join([types, *comments])
            text = f"{indent}{label}{results} = {op}{overload}{attributes} ({operands}){_comment(comment)}"
            yield from text.split("\n")

    def attributes(self, node: ir.Node, indent: str) -> tuple[str, list[str]]:
        texts: list[str] = []
        comments: list[str] = []
        for name, attribute in sorted(node.attributes.items()):
            if attribute.is_ref():
                texts.append(f"{name}: {attribute.type.name.lower()} = @{attribute.ref_attr_name}")
                continue
            text, comment = self.attribute(attribute, indent)
            texts.append(f"{name}{text}")
            if comment:
                comments.append(f"{name} {comment}")
        return f" <{', '.join(texts)}>" if texts else "", comments

    def attribute(self, attribute: ir.Attr, indent: str) -> tuple[str, str]:
        """What stands behind the name of an attribute, and a comment on what was elided."""
        match attribute.type:
            case ir.AttributeType.INT:
                return f" = {attribute.as_int()}", ""
            case ir.AttributeType.FLOAT:
                return f" = {_number(np.float32(attribute.as_float()))}", ""
            case ir.AttributeType.STRING:
                return f" = {_quoted(attribute.as_string())}", ""
            case ir.AttributeType.INTS:
                return self.numbers("ints", np.array(attribute.as_ints(), np.int64))
            case ir.AttributeType.FLOATS:
                return self.numbers("floats", np.array(attribute.as_floats(), np.float32))
            case ir.AttributeType.STRINGS:
                return f": strings = [{', '.join(_quoted(text) for text in attribute.as_strings())}]", ""
            case ir.AttributeType.TENSOR:
                tensor = attribute.as_tensor()
                data, comment = self.tensor(tensor)
                kind = _kind(tensor.dtype, tensor.shape.numpy())
                return f": tensor = {kind} {data}", f"{_ELIDED_ATTRIBUTE}{comment}" if comment else ""
            case ir.AttributeType.GRAPH:
                body = "\n".join(self.graph(attribute.as_graph(), indent + _INDENT)).lstrip()
                return f": graph = {body}", ""
            case _:
                kind = attribute.type.name.lower()
                return f": {kind} = []", f"{_ELIDED_ATTRIBUTE}{kind}"

    def numbers(self, kind: str, array: Array) -> tuple[str, str]:
        if self.elide and array.size > ELIDED_NUMBERS:
            return (
                f": {kind} = []",
                f"{_ELIDED_ATTRIBUTE}{array.size} {kind} sha256:{_digest(array.tobytes())}",
            )
        return f": {kind} = [{', '.join(_number(number) for number in array)}]", ""

    def tensor(self, tensor: ir.TensorProtocol | None) -> tuple[str, str]:
        """The data of a constant in braces, and a comment if it was left out."""
        if tensor is None or is_missing(tensor):
            return "{}", "missing"
        if self.elide and tensor.size > ELIDED_ELEMENTS:
            return "{}", f"sha256:{_tensor_digest(tensor)}"
        array = np.asarray(tensor.numpy())
        return "{" + ", ".join(_number(number) for number in array.reshape(-1)) + "}", ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]


def _tensor_digest(tensor: ir.TensorProtocol) -> str:
    meta = getattr(tensor, "meta", None)
    if meta is None:
        return _digest(tensor.tobytes())
    if _HASH_KEY not in meta:
        meta[_HASH_KEY] = _digest(tensor.tobytes())
    return str(meta[_HASH_KEY])


def _number(number: np.generic) -> str:
    if isinstance(number, bytes | str | np.bytes_ | np.str_):
        return _quoted(number.decode(errors="replace") if isinstance(number, bytes) else str(number))
    if isinstance(number, np.bool_ | np.integer):
        return str(int(number))
    text = str(number)
    if number.dtype.name.startswith(("int", "uint")):  # of ml_dtypes, which are no np.integer
        return text
    return text if re.search(r"[.en]", text) else f"{text}.0"


def _imports(imports: dict[str, int]) -> str:
    return "[" + ", ".join(f"{_quoted(domain)}: {imports[domain]}" for domain in sorted(imports)) + "]"


def _listed(texts: Sequence[str], indent: str) -> list[str]:
    return [f"{indent}{text}{',' if index + 1 < len(texts) else ''}" for index, text in enumerate(texts)]


def _comment(text: str) -> str:
    return f"  # {text}" if text else ""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _name(text: str) -> str:
    return text if _IDENTIFIER.fullmatch(text) else _quoted(text)


def _value(value: ir.Value | None) -> str:
    return _name(value.name) if value is not None and value.name else '""'


def _kind(dtype: ir.DataType, dims: Iterable[int | ir.SymbolicDim]) -> str:
    sizes = ["?" if isinstance(dim, ir.SymbolicDim) and dim.value is None else str(dim) for dim in dims]
    return dtype.name.lower() + (f"[{','.join(sizes)}]" if sizes else "")


def _type(value: ir.Value) -> str:
    if value.dtype is None or value.shape is None:
        return "?"
    return _kind(value.dtype, value.shape)


def _typed(value: ir.Value) -> str:
    """Type and name, as a declaration needs them; a type without shape is written with empty brackets."""
    if value.dtype is None:
        return _value(value)
    if value.shape is None:
        return f"{value.dtype.name.lower()}[] {_value(value)}"
    return f"{_kind(value.dtype, value.shape)} {_value(value)}"


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _dtype(name: str, number: int | None = None) -> ir.DataType:
    if name.upper() not in ir.DataType.__members__:
        place = f"line {number}: " if number is not None else ""
        raise error("IPU0121", f'{place}unknown element type "{name}"')
    return ir.DataType[name.upper()]


def _read_constant(name: str, found: re.Match[str], line: int) -> ir.TensorProtocol:
    dtype = _dtype(found["type"], line)
    shape = [int(size) for size in (found["dims"] or "").split(",") if size]
    count = int(np.prod(shape, dtype=np.int64))
    texts = [text.strip() for text in found["data"].split(",") if text.strip()]
    if not texts and count:
        reason = f"the text of the graph does not hold them ({found['comment'] or 'elided'})"
        return MissingTensor(name, dtype, ir.Shape(shape), reason)
    if len(texts) != count:
        raise error("IPU0121", f'line {line}: constant "{name}" has {len(texts)} numbers, its shape needs {count}')
    try:
        if dtype == ir.DataType.STRING:
            return ir.StringTensor([_unquoted(t).encode() for t in texts], shape=ir.Shape(shape), name=name)
        integral = dtype.is_integer() or dtype == ir.DataType.BOOL
        numbers = [int(text) for text in texts] if integral else [float(text) for text in texts]
        array = np.array(numbers, dtype=np.object_ if integral else np.float64).astype(dtype.numpy())
    except (ValueError, OverflowError) as cause:
        raise error("IPU0121", f'line {line}: constant "{name}": {cause}') from cause
    return ir.tensor(array.reshape(shape), dtype, name=name)


def _read_types(results: str, types: str) -> Iterator[tuple[str, tuple[ir.DataType, ir.Shape]]]:
    names = [_unquoted(text) for text in _NAME.findall(results)]
    for name, (kind, dims, _) in zip(names, _TYPE.findall(types), strict=False):
        if kind and name:
            yield name, (_dtype(kind), ir.Shape([int(size) for size in dims[1:-1].split(",") if size]))
