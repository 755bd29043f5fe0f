"""The verifier of the graph level: a table of rules, run after the import and between passes.

onnx_ir checks next to nothing on mutation (names, order, types), so a pass that breaks a graph is found here.
"""

from collections.abc import Callable, Iterator, Mapping

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema, SchemaError

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.graph.edit import all_graphs, describe
from ipucc.graph.onnx_api import run_inference

Rule = Callable[[ir.Model], Iterator[Diagnostic]]

_KINDS: Mapping[OpSchema.AttrType, ir.AttributeType] = {
    OpSchema.AttrType.FLOAT: ir.AttributeType.FLOAT,
    OpSchema.AttrType.FLOATS: ir.AttributeType.FLOATS,
    OpSchema.AttrType.GRAPH: ir.AttributeType.GRAPH,
    OpSchema.AttrType.GRAPHS: ir.AttributeType.GRAPHS,
    OpSchema.AttrType.INT: ir.AttributeType.INT,
    OpSchema.AttrType.INTS: ir.AttributeType.INTS,
    OpSchema.AttrType.SPARSE_TENSOR: ir.AttributeType.SPARSE_TENSOR,
    OpSchema.AttrType.SPARSE_TENSORS: ir.AttributeType.SPARSE_TENSORS,
    OpSchema.AttrType.STRING: ir.AttributeType.STRING,
    OpSchema.AttrType.STRINGS: ir.AttributeType.STRINGS,
    OpSchema.AttrType.TENSOR: ir.AttributeType.TENSOR,
    OpSchema.AttrType.TENSORS: ir.AttributeType.TENSORS,
    OpSchema.AttrType.TYPE_PROTO: ir.AttributeType.TYPE_PROTO,
    OpSchema.AttrType.TYPE_PROTOS: ir.AttributeType.TYPE_PROTOS,
}


def verify_structure(model: ir.Model) -> None:
    """Names, definitions and order only; for models that have not been imported yet. Raises like verify_graph."""
    _run(model, STRUCTURE_RULES)


def verify_graph(model: ir.Model) -> None:
    """Return if the graph obeys every rule of RULES; else raise one CompileError with every breach.

    The rules of a group build on those before it, so the first group with a breach ends the search: names and
    order (IPU0104, 0105, 0117, 0118); operands and attributes (IPU0120, 0201) and types (IPU0115, 0119);
    agreement of each node's results with what inference gives (IPU0114).
    """
    for rules in RULES:
        _run(model, rules)


def _run(model: ir.Model, rules: tuple[Rule, ...]) -> None:
    problems = [problem for rule in rules for problem in rule(model)]
    if problems:
        raise CompileError(problems)


def _problem(id: str, message: str, node: ir.Node | None = None) -> Diagnostic:
    if node is None:
        return Diagnostic(id, "error", message)
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return Diagnostic(id, "error", message, describe(node), op)


def _scopes(graph: ir.Graph, outer: frozenset[str]) -> Iterator[tuple[ir.Graph, frozenset[str]]]:
    """Every graph with the names that are visible in it from outside."""
    yield graph, outer
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _scopes(attribute.as_graph(), outer | _names(graph))
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    yield from _scopes(body, outer | _names(graph))


def _names(graph: ir.Graph) -> frozenset[str]:
    return frozenset(value.name for value in _definitions(graph) if value.name)


def _definitions(graph: ir.Graph) -> Iterator[ir.Value]:
    """Inputs, constants and results of a graph, each once."""
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from node.outputs


def names_are_unique(model: ir.Model) -> Iterator[Diagnostic]:
    """Every value that is an input, a constant or a used result has a name, and no two visible ones share it."""
    for graph, outer in _scopes(model.graph, frozenset()):
        seen = set(outer)
        for value in _definitions(graph):
            producer = value.producer()
            if not value.name:
                if value.uses() or value.is_graph_output() or value.is_graph_input():
                    yield _problem("IPU0118", "a value that is used has no name", producer)
                continue
            if value.name in seen:
                yield _problem("IPU0105", f'the name "{value.name}" is defined twice', producer)
            seen.add(value.name)
        for name, value in graph.initializers.items():
            if value.name != name:
                yield _problem("IPU0118", f'the constant "{value.name}" is registered as "{name}"')


def operands_are_defined_before(model: ir.Model) -> Iterator[Diagnostic]:
    """Every operand is an input, a constant, a value of an outer graph, or the result of an earlier node."""
    yield from _check_order(model.graph, set())


def _check_order(graph: ir.Graph, outer: set[ir.Value]) -> Iterator[Diagnostic]:
    defined = outer | set(graph.inputs) | set(graph.initializers.values())
    for node in graph:
        for value in node.inputs:
            if value is None or value in defined:
                continue
            producer = value.producer()
            if producer is not None and producer.graph is graph:
                yield _problem("IPU0104", f'operand "{value.name}" is used before it is computed', node)
            else:
                yield _problem("IPU0117", f'operand "{value.name}" is defined nowhere', node)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _check_order(attribute.as_graph(), defined)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    yield from _check_order(body, defined)
        defined.update(node.outputs)
    for value in graph.outputs:
        if value not in defined:
            yield _problem("IPU0117", f'the output "{value.name}" is produced by no node')


def outputs_are_listed_once(model: ir.Model) -> Iterator[Diagnostic]:
    """There is an output, and no output is listed twice."""
    if not model.graph.outputs:
        yield _problem("IPU0103", "the graph has no outputs")
    seen: set[ir.Value] = set()
    for value in model.graph.outputs:
        if value in seen:
            yield _problem("IPU0105", f'output "{value.name}" is listed twice')
        seen.add(value)


def values_are_typed(model: ir.Model) -> Iterator[Diagnostic]:
    """Every value of the main graph is a tensor of known element type and static shape."""
    for value in _definitions(model.graph):
        if not value.name:
            continue
        node = value.producer()
        if value.type is None or value.dtype is None:
            yield _problem("IPU0115", f'value "{value.name}" has no type', node)
        elif not isinstance(value.type, ir.TensorType):
            yield _problem("IPU0119", f'value "{value.name}" is no tensor', node)
        elif value.shape is None or not value.shape.is_static():
            yield _problem("IPU0115", f'value "{value.name}" has no static shape ({value.shape})', node)
        elif any(isinstance(size, int) and size < 0 for size in value.shape):
            yield _problem("IPU0115", f'value "{value.name}" has a negative dimension ({value.shape})', node)


def constants_have_their_type(model: ir.Model) -> Iterator[Diagnostic]:
    """Every constant has a tensor, of the type and shape of its value."""
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                yield _problem("IPU0118", f'constant "{value.name}" has no tensor')
            elif value.dtype is not None and value.dtype != tensor.dtype:
                yield _problem("IPU0118", f'constant "{value.name}" is {value.dtype}, its tensor {tensor.dtype}')
            elif value.shape is not None and tuple(value.shape) != tensor.shape.numpy():
                yield _problem("IPU0118", f'constant "{value.name}" has shape {value.shape}, its tensor {tensor.shape}')


def nodes_follow_their_schema(model: ir.Model) -> Iterator[Diagnostic]:
    """Every op has a schema or a function body; counts of operands and results and attributes agree with it."""
    imports = model.graph.opset_imports
    for node in model.graph.all_nodes():
        if node.domain not in imports:
            yield _problem("IPU0118", f'the domain "{node.domain}" is not imported', node)
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, imports[node.domain], node.domain)
        except SchemaError:
            if node.op_identifier() not in model.functions:
                version = imports[node.domain]
                yield _problem("IPU0201", f"the op is unknown in opset {version} of its domain", node)
            continue
        if schema.deprecated:
            yield _problem("IPU0201", "the op is deprecated in this opset", node)
        yield from _check_counts(node, schema)
        yield from _check_attributes(node, schema)


def _check_counts(node: ir.Node, schema: OpSchema) -> Iterator[Diagnostic]:
    for what, count, low, high in (
        ("operands", len(node.inputs), schema.min_input, schema.max_input),
        ("results", len(node.outputs), schema.min_output, schema.max_output),
    ):
        if not low <= count <= high:
            wanted = f"{low}" if low == high else f"{low} to {high}" if high < 2**31 - 1 else f"at least {low}"
            yield _problem("IPU0120", f"the node has {count} {what}, the op needs {wanted}", node)
    for formal, value in zip(schema.inputs, node.inputs, strict=False):
        if value is None and formal.option == OpSchema.FormalParameterOption.Single:
            yield _problem("IPU0120", f'the operand "{formal.name}" is missing', node)


def _check_attributes(node: ir.Node, schema: OpSchema) -> Iterator[Diagnostic]:
    for name, attribute in node.attributes.items():
        formal = schema.attributes.get(name)
        if formal is None:
            yield _problem("IPU0120", f'the op has no attribute "{name}"', node)
        elif attribute.type != _KINDS[formal.type]:
            wanted = _KINDS[formal.type].name.lower()
            yield _problem("IPU0120", f'attribute "{name}" is {attribute.type.name.lower()}, not {wanted}', node)
    for name, formal in schema.attributes.items():
        if formal.required and name not in node.attributes:
            yield _problem("IPU0120", f'the attribute "{name}" is missing', node)


def results_agree_with_inference(model: ir.Model) -> Iterator[Diagnostic]:
    """Inference from the operands gives no other type or shape than the one a result has."""
    try:
        run_inference(model)
    except CompileError as failure:
        yield from failure.diagnostics


STRUCTURE_RULES: tuple[Rule, ...] = (names_are_unique, operands_are_defined_before, outputs_are_listed_once)
RULES: tuple[tuple[Rule, ...], ...] = (
    STRUCTURE_RULES,
    (nodes_follow_their_schema, values_are_typed, constants_have_their_type),
    (results_agree_with_inference,),
)
