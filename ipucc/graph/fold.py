"""Constant folding on the graph level: nodes whose operands are constant become constants.

Ops are named in a list (shape, movement, elementwise, small reductions); everything else stays, whatever its
operands: the reference evaluator of onnx, which computes the values, has known bugs elsewhere. Random ops, control
flow and quantisation are never folded.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from ipucc.graph.tensors import MissingTensor, is_missing
from ipucc.graph.weight_names import carry_name

# Largest operand and result, in elements, whose values are computed at once.
MAX_ELEMENTS = 1 << 24
# Movements of constants above this size are computed when somebody asks for the values.
LAZY_ELEMENTS = 1 << 20
# Constants above this size are not folded into a second form while another op uses the first.
SHARED_ELEMENTS = 1 << 16

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


_MOVEMENT = _ops(
    "Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Pad Reshape ReverseSequence "
    "ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze Where"
)
_CREATION = _ops("ConstantOfShape EyeLike MelWeightMatrix NonZero OneHot Range")
_ELEMENTWISE = _ops(
    "Abs Add And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Cos Div Equal Erf "
    "Exp Floor Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Log Max Min Mod Mul Neg Not Or Pow Reciprocal "
    "Relu Round Sigmoid Sign Sin Sqrt Sub Sum Tanh Xor"
)
_REDUCTION = _ops("ArgMax ArgMin CumSum MatMul ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum")
FOLDED_OPS = _MOVEMENT | _CREATION | _ELEMENTWISE | _REDUCTION


def fold_constants(
    model: ir.Model, *, max_input_elements: int = MAX_ELEMENTS, max_output_elements: int = MAX_ELEMENTS
) -> int:
    """Replace nodes with constant results by initializers, in place; the number of nodes that went.

    Guaranteed: types and shapes of results stay; weights without data become results without data, where shape
    and type of the result are known; an output of the graph keeps its name, and is an Identity of a constant then.
    Weights are read only where an operand of at most `max_input_elements` is needed. Constants stay behind if
    unused; remove dead code afterwards.
    """
    folder = _Folder(model, max_input_elements, max_output_elements)
    count = 0
    for node in model.graph.all_nodes():
        count += folder.fold(node)
    return count


def lift_constants(model: ir.Model) -> int:
    """Turn Constant nodes into initializers of their graph, in place; the number of nodes that went.

    Left are Constants that are outputs of a graph, and those of strings and sparse tensors.
    """
    count = 0
    for node in model.graph.all_nodes():
        if node.op_type != "Constant" or node.domain or node.outputs[0].is_graph_output():
            continue
        tensors = _constant(node)
        if tensors is not None:
            _substitute(node, tensors)
            count += 1
    return count


class _Folder:
    def __init__(self, model: ir.Model, max_input: int, max_output: int) -> None:
        self.opset = model.graph.opset_imports.get("", 1)
        self.max_input = max_input
        self.max_output = max_output

    def fold(self, node: ir.Node) -> bool:
        results = [value for value in node.outputs if value.name]
        if node.domain != "" or (node.op_type == "Identity" and node.outputs[0].is_graph_output()):
            return False
        tensors: Sequence[ir.TensorProtocol] | None = None
        if node.op_type == "Constant":
            tensors = _constant(node)
        elif node.op_type in ("Shape", "Size"):
            tensors = _shape(node)
        elif node.op_type == "EyeLike":
            tensors = _eye(node)
        elif _is_foldable(node):
            tensors = self.compute(node)
        if tensors is None:
            return False
        for value, tensor in zip(results, tensors, strict=True):
            if value.is_graph_output():
                _keep_output(node, value)
                tensor.name = value.name
        _substitute(node, tensors)
        return True

    def compute(self, node: ir.Node) -> Sequence[ir.TensorProtocol] | None:
        operands = [value.const_value for value in node.inputs if value is not None]
        known = [tensor for tensor in operands if tensor is not None]
        results = [value for value in node.outputs if value.name]
        if any(tensor.dtype == ir.DataType.STRING for tensor in known):
            return None
        if _is_shared(node):
            return None
        if any(is_missing(tensor) for tensor in known):
            return _missing(node, known)
        if (lazy := _lazily(node)) is not None:
            return [lazy]
        if any(tensor.size > self.max_input for tensor in known):
            return None
        for value in results:
            size = _elements(value) if node.op_type != "Range" else _range_elements(node)
            # NonZero gives at most one column per element of its operand.
            if size is None and node.op_type == "NonZero":
                continue
            if size is None or size > self.max_output:
                return None
        arrays = _evaluate(node, self.opset)
        if arrays is None:
            return None
        for value, array in zip(results, arrays, strict=True):
            if array.size > self.max_output or not _agrees(value, array):
                return None
        return [
            ir.tensor(array, dtype=value.dtype, name=value.name) for value, array in zip(results, arrays, strict=True)
        ]


def _keep_output(node: ir.Node, value: ir.Value) -> None:
    """Let an Identity of a result take its name and its place among the outputs of the graph."""
    graph = node.graph
    assert graph is not None  # the node was found in one
    keep = ir.node("Identity", [value], metadata_props=dict(node.metadata_props))
    result = keep.outputs[0]
    result.name, result.type, result.shape = value.name, value.type, value.shape
    for i, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[i] = result
    graph.insert_after(node, keep)
    value.name = f"{value.name}.constant"


def _eye(node: ir.Node) -> Sequence[ir.TensorProtocol] | None:
    value = node.outputs[0]
    if value.dtype is None or value.shape is None or not value.shape.is_static() or len(value.shape) != 2:
        return None
    rows, columns = value.shape.numpy()
    array = np.eye(rows, columns, node.attributes.get_int("k", 0))
    return [ir.tensor(array.astype(value.dtype.numpy()), dtype=value.dtype, name=value.name)]


def _is_foldable(node: ir.Node) -> bool:
    constant = all(value is None or value.const_value is not None for value in node.inputs)
    return constant and node.domain == "" and node.op_type in FOLDED_OPS


def _substitute(node: ir.Node, tensors: Sequence[ir.TensorProtocol]) -> None:
    """Let constants take the place of the results of a node, and remove the node."""
    for value, tensor in zip([v for v in node.outputs if v.name], tensors, strict=True):
        _replace(node, value, tensor)
    graph = node.graph
    assert graph is not None  # the node was found in one
    graph.remove(node, safe=True)


def _replace(node: ir.Node, value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Let an initializer of the same name, in the same graph, take the place of a result."""
    name = value.name
    constant = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
        metadata_props=dict(value.metadata_props),
    )
    if node.op_type in ("Cast", "Identity", "Transpose") and (node.op_type != "Transpose" or len(tensor.shape) == 2):
        turned = node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", (1, 0))) == (1, 0)
        carry_name(node.inputs[0], constant, turned)
    value.replace_all_uses_with(constant)
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    value.name = None
    graph.register_initializer(constant)


def _constant(node: ir.Node) -> Sequence[ir.TensorProtocol] | None:
    name, attribute = next(iter(node.attributes.items()), ("", None))
    if attribute is None or attribute.is_ref() or len(node.attributes) != 1:
        return None
    match name:
        case "value":
            tensor = attribute.as_tensor()
        case "value_int":
            tensor = ir.tensor(attribute.as_int(), ir.DataType.INT64)
        case "value_ints":
            tensor = ir.tensor(np.array(attribute.as_ints(), np.int64))
        case "value_float":
            tensor = ir.tensor(attribute.as_float(), ir.DataType.FLOAT)
        case "value_floats":
            tensor = ir.tensor(np.array(attribute.as_floats(), np.float32))
        case _:
            return None
    if not is_missing(tensor):
        tensor.name = node.outputs[0].name
    return [tensor]


def _shape(node: ir.Node) -> Sequence[ir.TensorProtocol] | None:
    value = node.inputs[0]
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    sizes = value.shape.numpy()
    name = node.outputs[0].name
    if node.op_type == "Size":
        return [ir.tensor(np.asarray(int(np.prod(sizes, dtype=np.int64)), np.int64), name=name)]
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", len(sizes))
    return [ir.tensor(np.asarray(sizes[slice(start, end)], np.int64), name=name)]


def _is_shared(node: ir.Node) -> bool:
    """Whether folding would leave a large weight in memory twice: as it is, and moved or converted."""
    for value in node.inputs:
        if value is None or value.const_value is None or value.const_value.size <= SHARED_ELEMENTS:
            continue
        if not all(_is_foldable(use.node) for use in value.uses()):
            return True
    return False


def _missing(node: ir.Node, operands: Sequence[ir.TensorProtocol]) -> Sequence[ir.TensorProtocol] | None:
    reason = next(tensor.reason for tensor in operands if isinstance(tensor, MissingTensor))
    tensors: list[ir.TensorProtocol] = []
    for value in node.outputs:
        if not value.name:
            continue
        if value.dtype is None or value.shape is None or not value.shape.is_static():
            return None
        tensors.append(MissingTensor(value.name, value.dtype, value.shape, reason))
    return tensors


def _lazily(node: ir.Node) -> ir.TensorProtocol | None:
    """A movement of a large constant, or a large constant of one repeated number, as a recipe."""
    value = node.outputs[0]
    if value.dtype is None or value.shape is None or not value.shape.is_static():
        return None
    shape = value.shape.numpy()
    if (_elements(value) or 0) <= LAZY_ELEMENTS:
        return None
    recipe = _recipe(node, shape)
    if recipe is None:
        return None
    name, dtype = value.name, value.dtype

    def tensor() -> ir.TensorProtocol:
        return ir.tensor(recipe(), dtype=dtype, name=name)

    return ir.LazyTensor(tensor, dtype, ir.Shape(shape, frozen=True), name=name)


def _recipe(node: ir.Node, shape: tuple[int, ...]) -> Callable[[], Array] | None:
    source = node.inputs[0]
    tensor = source.const_value if source is not None else None
    if tensor is None:
        return None
    match node.op_type:
        case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity":
            return lambda: np.asarray(tensor.numpy()).reshape(shape)
        case "Transpose":
            axes = node.attributes.get_ints("perm", list(reversed(range(len(shape)))))
            return lambda: np.asarray(tensor.numpy()).transpose(axes)
        case "Expand":
            return lambda: np.broadcast_to(np.asarray(tensor.numpy()), shape)
        case "ConstantOfShape":
            fill = node.attributes.get_tensor("value")
            number = np.float32(0) if fill is None else np.asarray(fill.numpy()).reshape(())
            return lambda: np.broadcast_to(number, shape)
        case _:
            return None


def _range_elements(node: ir.Node) -> int | None:
    """The length of a Range: inference knows it for some element types only."""
    operands = [value.const_value for value in node.inputs if value is not None]
    numbers = [float(np.asarray(t.numpy()).reshape(())) for t in operands if t is not None and t.size == 1]
    if len(numbers) != 3 or not np.isfinite(numbers).all() or numbers[2] == 0:
        return None
    start, limit, delta = numbers
    return max(int(np.ceil((limit - start) / delta)), 0)


def _elements(value: ir.Value) -> int | None:
    if value.shape is None or not value.shape.is_static():
        return None
    return int(np.prod(value.shape.numpy(), dtype=np.int64))


def _agrees(value: ir.Value, array: Array) -> bool:
    """Whether a computed array has the type and shape that inference gave, as far as it gave them."""
    if value.dtype is not None and array.dtype != value.dtype.numpy():
        return False
    if value.shape is None or not value.shape.is_static():
        return True
    return array.shape == value.shape.numpy()


def _evaluate(node: ir.Node, opset: int) -> list[Array] | None:
    """Run one node on its constants. Results that it does not name are left out; None if it cannot be run.

    Such a node stays, and whoever lowers it says what is wrong with it, if anything is.
    """
    proto = ir.to_proto(node)
    feeds: Mapping[str, Array] = {
        value.name or "": np.asarray(value.const_value.numpy())
        for value in node.inputs
        if value is not None and value.const_value is not None
    }
    inputs = [onnx.ValueInfoProto(name=name) for name in feeds]
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "fold", inputs, outputs)
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(graph, opsets={"": opset}).run(None, dict(feeds))
    except Exception:  # forms that the evaluator lacks (negative pads), or operands that make no sense
        return None
    return [np.asarray(array) for array in found]
