"""Inlining: the model's own functions, and ONNX ops that are defined by others and have no native form here."""

from collections.abc import Collection
from typing import Protocol, cast

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema, SchemaError
from onnx_ir.passes.common import InlinePass

from ipucc.diagnostics import error
from ipucc.frontend.native import NEVER_INLINED
from ipucc.frontend.origin import name_nodes

_INLINED_DOMAIN = "ipucc.inlined"
_DOMAINS = ("", "ai.onnx.preview")
"""Domains of ONNX with ops that are functions of others; those of the second import a version of their own."""


class _FunctionSchema(Protocol):
    """The part of onnx.defs.OpSchema that its type stubs leave out."""

    function_opset_versions: list[int]
    context_dependent_function_opset_versions: list[int]

    def get_function_with_opset_version(self, version: int, /) -> bytes: ...

    def get_context_dependent_function_with_opset_version(
        self, version: int, node: bytes, types: list[bytes], /
    ) -> bytes: ...


def inline_local_functions(model: ir.Model, where: str | None = None) -> None:
    """Replace every call of a model-local function by its body; the nodes keep the call's origin.

    Raises IPU0116 for recursion, wrong calls, and functions of another opset whose ops changed in between.
    """
    if not model.functions:
        return
    for function in model.functions.values():
        _align_opsets(model, function, where)
    _inline(model, where)
    model.functions.clear()
    name_nodes(model)


def inline_schema_functions(
    model: ir.Model, native: Collection[str], where: str | None = None, *, typed: bool = True
) -> int:
    """Replace ops outside `native` by the function that ONNX defines them as, repeatedly; the number replaced.

    ONNX builds the function of some ops from the types of the operands: they are left out if not `typed`, else types
    and shapes must have been inferred. A node whose function cannot be built (ONNX builds some from operands that
    may be absent) stays as it is.
    """
    opset = model.graph.opset_imports[""]
    failed: set[ir.Node] = set()
    count = 0
    while True:
        found = 0
        for node in model.graph.all_nodes():
            known = not node.domain and (node.op_type in native or node.op_type in NEVER_INLINED)
            if known or node in failed or node.domain not in _DOMAINS:
                continue
            captured = _captured(node)
            function = _schema_function(node, opset, typed)
            if function is None:
                failed.add(node)
                continue
            _pass_captured(node, function, captured)
            node.domain, node.overload = _INLINED_DOMAIN, str(count + found)
            body = ir.serde.deserialize_function(function)
            body.domain, body.name, body.overload = _INLINED_DOMAIN, node.op_type, node.overload
            body.opset_imports.clear()
            body.opset_imports[""] = opset
            model.functions[body.identifier()] = body
            found += 1
        if not found:
            break
        model.graph.opset_imports[_INLINED_DOMAIN] = 1
        _inline(model, where)
        model.functions.clear()
        del model.graph.opset_imports[_INLINED_DOMAIN]
        name_nodes(model)
        count += found
    return count


def _inline(model: ir.Model, where: str | None) -> None:
    try:
        InlinePass()(model)
    except Exception as cause:  # PreconditionError, ValueError, or PassError around either
        while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        raise error("IPU0116", f"a function of the model cannot be inlined: {cause}", where=where) from cause


def _align_opsets(model: ir.Model, function: ir.Function, where: str | None) -> None:
    """Let a function import the default domain at the model's version, if its ops mean the same there."""
    theirs, ours = function.opset_imports.get(""), model.graph.opset_imports[""]
    if theirs is not None and theirs != ours:
        for node in function.all_nodes():
            if node.domain == "" and _since(node.op_type, theirs) != _since(node.op_type, ours):
                raise error(
                    "IPU0116",
                    f'function "{function.domain}.{function.name}" uses {node.op_type} of opset {theirs}, '
                    f"which is another op in opset {ours} of the model",
                    where=where,
                    help=["export the model with one opset throughout"],
                )
        function.opset_imports[""] = ours
    for domain, version in function.opset_imports.items():
        model.graph.opset_imports.setdefault(domain, version)


def _since(op_type: str, opset: int) -> int | None:
    try:
        return int(onnx.defs.get_schema(op_type, opset).since_version)
    except SchemaError:
        return None


def has_body(node: ir.Node) -> bool:
    """Whether ONNX has a function body for a node's op, be it one that depends on the types of its operands."""
    graph = node.graph
    opset = graph.opset_imports.get("", 1) if isinstance(graph, ir.Graph) else 1
    try:
        schema = onnx.defs.get_schema(node.op_type, 1 if node.domain else opset, node.domain)
    except SchemaError:
        return False
    bodies = cast(_FunctionSchema, schema)
    return bool(bodies.function_opset_versions or bodies.context_dependent_function_opset_versions)


def _schema_function(node: ir.Node, opset: int, typed: bool) -> onnx.FunctionProto | None:
    try:
        schema = onnx.defs.get_schema(node.op_type, 1 if node.domain else opset, node.domain)
    except SchemaError:
        return None
    bodies = cast(_FunctionSchema, schema)
    function = onnx.FunctionProto()
    version = max((v for v in bodies.function_opset_versions if v <= opset), default=None)
    if version is not None:
        _fill_defaults(node, schema)
        function.ParseFromString(bodies.get_function_with_opset_version(version))
        return function
    version = max((v for v in bodies.context_dependent_function_opset_versions if v <= opset), default=None)
    if version is None or not typed:
        return None
    _fill_defaults(node, schema)
    types = [_type_proto(value).SerializeToString() for value in node.inputs]
    call = ir.to_proto(node).SerializeToString()
    try:
        body = bodies.get_context_dependent_function_with_opset_version(version, call, types)
    except Exception:  # the C++ builder asserts on absent operands; the op is then reported as unsupported
        return None
    function.ParseFromString(body)
    # Bodies that are operands of the op are part of what was built.
    for name in [name for name, a in node.attributes.items() if a.type == ir.AttributeType.GRAPH]:
        node.attributes.pop(name)
        function.attribute.remove(name)
    # A body without an optional result lists it all the same.
    del function.output[len(node.outputs) :]
    return function if function.node else None


def _captured(node: ir.Node) -> dict[str, ir.Value]:
    """What bodies that are operands of a node read from around it, constants above all, by name."""
    found: dict[str, ir.Value] = {}
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            inner = list(attribute.as_graph().all_nodes())
            made = {value for child in inner for value in child.outputs} | set(attribute.as_graph().inputs)
            read = [value for child in inner for value in child.inputs if value is not None and value not in made]
            found |= {str(value.name): value for value in read}
    return found


def _pass_captured(node: ir.Node, function: onnx.FunctionProto, captured: dict[str, ir.Value]) -> None:
    """Hand on to a function, as further operands, what its nodes read of those."""
    made = {name for child in function.node for name in child.output}
    free = dict.fromkeys(name for child in function.node for name in child.input if name in captured)
    wanted = [name for name in free if name not in made]
    if wanted:
        node.resize_inputs(len(function.input) + len(wanted))
        for i, name in enumerate(wanted, len(function.input)):
            node.replace_input_with(i, captured[name])
        function.input.extend(wanted)


def _fill_defaults(node: ir.Node, schema: OpSchema) -> None:
    """Write the default values of attributes down: bodies refer to them by name."""
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.name:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)


def _type_proto(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.dtype is None:
        return onnx.TypeProto()
    shape = [dim if isinstance(dim, int) else None for dim in value.shape] if value.shape is not None else None
    return onnx.helper.make_tensor_type_proto(value.dtype, shape)
