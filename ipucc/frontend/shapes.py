"""Types and shapes of all values, and what to say about those that have none."""

import onnx
import onnx_ir as ir
from onnx.defs import SchemaError

from ipucc.diagnostics import Diagnostic
from ipucc.frontend.unsupported import nearest_rewrite
from ipucc.graph.bounded_schemas import TRIMMED
from ipucc.graph.edit import REFUSED, copy_type, describe
from ipucc.graph.onnx_api import run_inference

# Ops for which onnx infers nothing, and whose result has the type and shape of the first operand.
SHAPED_AS_FIRST = frozenset({"GroupNormalization"})
_TENSOR_KINDS = (ir.TensorType,)


def forget_shapes(model: ir.Model) -> None:
    """Drop the shapes of all results. Inference merges what it finds with what is there, symbols included."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None


def forget_symbols(model: ir.Model) -> None:
    """Drop the shapes that are not static, so that the next inference starts without their symbols."""
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None and not value.shape.is_static():
                value.shape = None


def infer_shapes(model: ir.Model, where: str | None = None) -> None:
    """Set type and shape of every value that onnx's inference (with data propagation) can tell, or SHAPED_AS_FIRST.

    Raises IPU0114 for every node whose operands contradict each other.
    """
    _infer(model, where)
    while _infer_own(model):
        _infer(model, where)


def _infer_own(model: ir.Model) -> int:
    count = 0
    for node in model.graph.all_nodes():
        if node.domain == "" and node.op_type in SHAPED_AS_FIRST:
            source, result = node.inputs[0], node.outputs[0]
            if source is not None and is_static(source) and not is_static(result):
                copy_type(source, result)
                count += 1
        elif node.domain == "" and node.op_type == "GatherND":
            count += _gather_nd(node)
    return count


def _gather_nd(node: ir.Node) -> int:
    """onnx leaves the shape of GatherND out where the result is a scalar."""
    data, index, result = node.inputs[0], node.inputs[1], node.outputs[0]
    if data is None or index is None or not is_static(data) or not is_static(index) or is_static(result):
        return 0
    assert data.shape is not None
    assert index.shape is not None
    batch = node.attributes.get_int("batch_dims", 0)
    depth = index.shape[-1]
    if not isinstance(depth, int):
        return 0
    result.shape = ir.Shape([*index.shape[:-1], *data.shape[batch + depth :]])
    result.type = data.type
    return 1


def _infer(model: ir.Model, where: str | None) -> None:
    _apply(model.graph, run_inference(model, where).graph)


def _apply(graph: ir.Graph, inferred: onnx.GraphProto) -> None:
    """Copy types and shapes from the inferred form of a graph, node by node."""
    types = {value.name: value.type for value in (*inferred.value_info, *inferred.output)}
    for node, twin in zip(graph, inferred.node, strict=True):
        for value in node.outputs:
            if value.name in types:
                _set_type(value, types[value.name])
        for attribute in twin.attribute:
            if attribute.HasField("g"):
                _apply(node.attributes[attribute.name].as_graph(), attribute.g)
            bodies = node.attributes[attribute.name].as_graphs() if attribute.graphs else ()
            for body, form in zip(bodies, attribute.graphs, strict=True):
                _apply(body, form)


def _set_type(value: ir.Value, form: onnx.TypeProto) -> None:
    kind = form.WhichOneof("value")
    if kind != "tensor_type":
        if kind is not None:
            value.type = ir.serde.deserialize_type_proto_for_type(form)
        return
    if form.tensor_type.elem_type:
        value.type = ir.TensorType(ir.DataType(form.tensor_type.elem_type))
    if form.tensor_type.HasField("shape"):
        value.shape = ir.Shape(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in form.tensor_type.shape.dim
        )


def check_static(model: ir.Model, where: str | None = None) -> list[Diagnostic]:
    """One diagnostic per node with a result that has no type or no static shape though its operands have.

    What follows from such a node is left out. Nodes of subgraphs are not looked at.
    """
    problems: list[Diagnostic] = []
    for node in model.graph:
        if node.op_type == TRIMMED:
            continue  # Of a known bound; an op that does not take it says so (ipucc.frontend.extents).
        operands = [value for value in node.inputs if value is not None]
        bad = [value for value in node.outputs if value.name and not is_static(value)]
        if bad and all(is_static(value) for value in operands):
            problems.append(_explain(node, bad[0], where))
    return problems


def is_static(value: ir.Value) -> bool:
    """Whether a value is a tensor of known type and size."""
    if value.const_value is not None:
        return True
    return isinstance(value.type, _TENSOR_KINDS) and value.shape is not None and value.shape.is_static()


def has_schema(node: ir.Node, opset: int) -> bool:
    """Whether onnx (or a registered domain) knows the op at this opset, and not as a deprecated one."""
    try:
        return not onnx.defs.get_schema(node.op_type, opset, node.domain).deprecated
    except SchemaError:
        return False


def _explain(node: ir.Node, value: ir.Value, where: str | None) -> Diagnostic:
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    graph = node.graph
    opset = graph.opset_imports.get(node.domain, 1) if isinstance(graph, ir.Graph) else 1
    id = "IPU0115"
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    if not has_schema(node, opset):
        id, message = "IPU0201", f"the op is not supported: neither ONNX opset {opset} nor ipucc defines it"
        if REFUSED in node.meta:
            message = f"unsupported: {node.meta[REFUSED]}"
        elif node.domain:
            message = "the op is not supported: ipucc does not know it"
    elif value.type is not None and not isinstance(value.type, _TENSOR_KINDS):
        id, message = "IPU0119", f'the result "{value.name}" is no tensor; only tensors are supported'
    elif REFUSED in node.meta:
        id, message = "IPU0206", str(node.meta[REFUSED])
    else:
        open_operands = [v.name for v in node.inputs if v is not None and v.const_value is None]
        shape = _shape_text(value)
        message = f'the result "{value.name}" has no static shape ({shape})'
        listed = ", ".join(f'"{name}"' for name in open_operands)
        notes = (f"operands that are not constant: {listed}",) if listed else ()
        helps = ("shapes, axes and counts must be constants of the model",)
        id = "IPU0206" if value.type is not None else "IPU0115"
    return Diagnostic(id, "error", message, describe(node), op, where, notes, nearest_rewrite(node) or helps)


def _shape_text(value: ir.Value) -> str:
    if value.shape is None:
        return "no shape"
    # The names of unknown sizes are inference's own.
    return f"[{','.join(str(size) if isinstance(size, int) else '?' for size in value.shape)}]"
