"""The ops of the ONNX domain `ipucc`, version 1: schemas, shape inference, and a function body for every
node.

    FusedElementwise(a0, ..., an) -> y            y = expr over a0..an, numpy broadcasting
    FusedMatMul(A, B, a0, ...) -> y               x = MatMul(A, B), y = expr over x, a0, ...
    FusedConv(X, W, a0, ...) -> y                 x = Conv(X, W), y = expr over x, a0, ...
    BlockSparseMatMul(A, values, a0, ...) -> y    x = MatMul(A, dense(values)), y = expr over x, a0, ...
    BlockSparseConv(X, values, a0, ...) -> y      x = Conv(X, dense(values)), y = expr over x, a0, ...
    DynamicSparseMatMul(A, values, places, a0, ...) -> y
                                                  x = MatMul(A, W), or MatMul(A, W^T) with `transposed`
    SampledMatMul(A, B, places) -> values         the blocks of MatMul(A^T, B), rows of A and B flattened, at places

Every op but the last has the attribute `expr`, text of ipucc.graph.expr. Beside a contraction, y has the
shape of x, and the further operands broadcast to it (the bias of a convolution is [C, 1, 1]). FusedConv has
the attributes `pads`, `strides`, `dilations` and `group` of Conv, always present. BlockSparseMatMul has a
weight of `shape` [k, n] cut into blocks of `block` [bk, bn]: block i lies at block row rows[i] (along k) and
block column cols[i] (along n) and holds values[i] (bk x bn, zero outside the weight), all other blocks are
zero, no block is given twice. BlockSparseConv has the attributes of FusedConv but `group`, which is 1, and a
weight of `shape` [output channels, input channels, kernel...]: block i holds the weights of the kernel
position taps[i] (counted row by row) from the input channels of block row rows[i] to the output channels of
block column cols[i]. `distribution` (`banded BxA`, `grid BxA`, `plain BxA`, see ipucc.ops.distribution) says how the
blocks of either are dealt to the tiles; without it placement chooses. For the last two, whose
pattern is an operand, see `ipucc.graph.dynamic_schemas`; for ops of results whose extent depends on data
`ipucc.graph.bounded_schemas`.

A node's function body (`attach_functions`) says the same in ONNX's own ops: a model with these ops runs in
onnxruntime, and `oracle_model` inlines the bodies for evaluators that know no functions.

Importing this module registers the schemas with onnx.
"""

import hashlib
from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema
from onnx_ir.passes.common import InlinePass

from ipucc.diagnostics import error
from ipucc.graph import expr as language
from ipucc.graph.body import Body
from ipucc.graph.bounded_schemas import SELECT, register_bounded, select_body
from ipucc.graph.dynamic_schemas import ATTRIBUTES, product_body, product_shape, sampled_body, sampled_shape
from ipucc.graph.edit import all_graphs, describe, dtype_name, dtype_of, ints_attribute, value_dtype
from ipucc.graph.shapes import Shape, broadcast, conv_shape, matmul_shape

DOMAIN: Final = "ipucc"
VERSION: Final = 1

CONTRACTIONS: Final = {
    "FusedMatMul": 2, "FusedConv": 2, "BlockSparseMatMul": 2, "BlockSparseConv": 2, "DynamicSparseMatMul": 3,
}  # fmt: skip
"""Ops whose first operands, so many, are contracted to `x`; the operands after them are a0, a1, ..."""

_WITHOUT_EXPRESSION: Final = ("SampledMatMul", SELECT)

_NUMERIC: Final = ("float16", "float", "double", "bfloat16", "int32", "int64", "uint32", "uint64")
_FLOAT8: Final = ("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz")
_NARROW: Final = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    *_FLOAT8,
    "float8e8m0",
    "float4e2m1",
    "int4",
    "uint4",
    "int2",
    "uint2",
)

Context = onnx.shape_inference.InferenceContext


def expression(node: ir.Node) -> language.Expr:
    """The expression of a node of the domain `ipucc`. Raises CompileError if it is missing or malformed."""
    if node.op_type in _WITHOUT_EXPRESSION:
        return language.Operand("x")  # They have no attribute, and are what their bodies compute.
    found = node.attributes.get("expr")
    if found is None:
        raise error("IPU0120", "the attribute 'expr' is missing", node=describe(node), op=node.op_type)
    return language.parse(found.as_string())


def extra_operands(node: ir.Node) -> tuple[ir.Value, ...]:
    """The operands a0, a1, ... of a node of the domain `ipucc`."""
    first = CONTRACTIONS.get(node.op_type, 0)
    # Without an expression there are no operands of one.
    return () if node.op_type in _WITHOUT_EXPRESSION else tuple(v for v in node.inputs[first:] if v is not None)


def register() -> None:
    """Makes the ops known to onnx's checker and shape inference; does nothing the second time."""
    attribute = OpSchema.Attribute
    kind = OpSchema.AttrType
    expr = attribute("expr", kind.STRING, "y as an expression over x and a0, a1, ...", required=True)
    ints = [attribute(n, kind.INTS, required=True) for n in ("pads", "strides", "dilations")]
    blocks = [attribute(n, kind.INTS, required=True) for n in ("rows", "cols", "block", "shape")]
    group = attribute("group", kind.INT, required=True)
    dealt = attribute("distribution", kind.STRING, "how the blocks are dealt to the tiles", required=False)
    taps = attribute("taps", kind.INTS, required=True)
    buckets = [attribute(n, kind.INTS, required=True) for n in ATTRIBUTES]
    buckets.append(attribute("reach", kind.INT, "groups of columns of which a bucket holds blocks", required=True))
    transposed = attribute("transposed", kind.INT, "whether A is multiplied by the transpose of W", required=True)
    for name, fixed, attributes, infer in (
        ("FusedElementwise", (), [expr], _infer_elementwise),
        ("FusedMatMul", ("A", "B"), [expr], _infer_matmul),
        ("FusedConv", ("X", "W"), [expr, *ints, group], _infer_conv),
        ("BlockSparseMatMul", ("A", "values"), [expr, *blocks, dealt], _infer_block_sparse),
        ("BlockSparseConv", ("X", "values"), [expr, taps, *blocks, dealt, *ints], _infer_block_sparse_conv),
        ("DynamicSparseMatMul", ("A", "values", "places"), [expr, transposed, *buckets], _infer_dynamic_sparse),
        ("SampledMatMul", ("A", "B", "places"), buckets, _infer_sampled),
    ):
        if onnx.defs.has(name, DOMAIN):
            continue
        parameter = OpSchema.FormalParameter
        schema = OpSchema(
            name,
            DOMAIN,
            VERSION,
            doc=(__doc__ or "").split("\n\n")[1],
            inputs=[
                *(parameter(p, "P" if p == "places" else "T") for p in fixed),
                *(
                    [
                        parameter(
                            "a",
                            "V",
                            param_option=OpSchema.FormalParameterOption.Variadic,
                            is_homogeneous=False,
                            min_arity=0 if fixed else 1,
                        )
                    ]
                    if expr in attributes
                    else []
                ),
            ],
            outputs=[parameter("y", "R")],
            type_constraints=[
                ("T", [f"tensor({t})" for t in _NUMERIC], "what is contracted"),
                ("P", ["tensor(int16)"], "places of blocks"),
                ("V", [f"tensor({t})" for t in (*_NUMERIC, *_NARROW)], "operands of the expression"),
                ("R", [f"tensor({t})" for t in (*_NUMERIC, *_NARROW)], "result of the expression"),
            ],
            attributes=attributes,
        )
        schema.set_type_and_shape_inference_function(infer)
        onnx.defs.register_schema(schema)
    register_bounded(DOMAIN, VERSION, [f"tensor({t})" for t in (*_NUMERIC, *_NARROW)])


def _types(context: Context, first: int) -> tuple[dict[str, str], list[Shape | None]] | None:
    """Element types by operand name and shapes of a0, a1, ..., or None while an operand has no type."""
    types: dict[str, str] = {}
    shapes: list[Shape | None] = []
    for i in range(context.get_num_inputs()):
        proto = context.get_input_type(i)
        if proto is None or not proto.tensor_type.elem_type:
            return None
        if i >= first:
            types[f"a{i - first}"] = dtype_name(ir.DataType(proto.tensor_type.elem_type))
            shapes.append(_shape(context, i))
    return types, shapes


def _shape(context: Context, index: int) -> Shape | None:
    tensor = context.get_input_type(index).tensor_type
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def _ints(context: Context, name: str) -> tuple[int, ...]:
    attribute = context.get_attribute(name)
    if attribute is None:
        raise ValueError(f"the attribute {name!r} is missing")
    return tuple(attribute.ints) if attribute.type == onnx.AttributeProto.INTS else (int(attribute.i),)


def _set_result(context: Context, shape: Shape | None, contraction: int) -> None:
    """Types the result of a contraction of so many operands; `shape` is that of x (None if unknown) or, without a
    contraction, is not used."""
    operands = _types(context, contraction)
    text = context.get_attribute("expr")
    if operands is None or text is None:
        return
    types, shapes = operands
    if contraction:
        types["x"] = dtype_name(ir.DataType(context.get_input_type(0).tensor_type.elem_type))
    expr = language.parse(text.s.decode())
    named = language.operands(expr)
    for one, other, what in (
        (named, types, "is no operand"),
        (types, named, "does not appear in the expression"),
    ):
        if missing := [n for n in one if n not in other]:
            raise ValueError(f"{', '.join(missing)} {what}")
    known = [s for s in shapes if s is not None]
    complete = len(known) == len(shapes) and (shape is not None or not contraction)
    if complete and contraction:
        assert shape is not None
        if broadcast(shape, *known) != shape:
            raise ValueError(f"operands of shape {known} do not broadcast to the result {shape}")
    elif complete:
        shape = broadcast(*known)
    dtype = dtype_of(language.result_type(expr, types))
    context.set_output_type(0, onnx.helper.make_tensor_type_proto(int(dtype), shape if complete else None))


def _infer_elementwise(context: Context) -> None:
    _set_result(context, None, 0)


def _infer_matmul(context: Context) -> None:
    a, b = _shape(context, 0), _shape(context, 1)
    _set_result(context, None if a is None or b is None else matmul_shape(a, b), 2)


def _infer_conv(context: Context) -> None:
    x, w = _shape(context, 0), _shape(context, 1)
    shape = None
    if x is not None and w is not None:
        pads, strides, dilations = (_ints(context, n) for n in ("pads", "strides", "dilations"))
        shape = conv_shape(x, w, pads, strides, dilations, _ints(context, "group")[0])
    _set_result(context, shape, 2)


def _infer_block_sparse(context: Context) -> None:
    a = _shape(context, 0)
    rows, cols, block, size = (_ints(context, n) for n in ("rows", "cols", "block", "shape"))
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"shape {size} must be two positive numbers")
    _check_blocks(context, {"rows": (rows, size[0]), "cols": (cols, size[1])}, block)
    if a is not None and (not a or a[-1] != size[0]):
        raise ValueError(f"operand {a} does not fit to a weight of shape {size}")
    _set_result(context, None if a is None else (*a[:-1], size[1]), 2)


def _infer_block_sparse_conv(context: Context) -> None:
    x = _shape(context, 0)
    taps, rows, cols, block, size = (_ints(context, n) for n in ("taps", "rows", "cols", "block", "shape"))
    if len(size) < 3 or min(size) < 1:
        raise ValueError(f"shape {size} must be three or more positive numbers")
    axes = {"rows": (rows, size[1]), "cols": (cols, size[0]), "taps": (taps, prod(size[2:]))}
    _check_blocks(context, axes, block)
    shape = None
    if x is not None:
        pads, strides, dilations = (_ints(context, n) for n in ("pads", "strides", "dilations"))
        shape = conv_shape(x, size, pads, strides, dilations, 1)
    _set_result(context, shape, 2)


def _buckets(context: Context) -> tuple[dict[str, tuple[int, ...]], int]:
    """The attributes that describe buckets, and their reach."""
    return {name: _ints(context, name) for name in ATTRIBUTES}, _ints(context, "reach")[0]


def _infer_dynamic_sparse(context: Context) -> None:
    a, values, places = (_shape(context, i) for i in range(3))
    attrs, reach = _buckets(context)
    turned = bool(_ints(context, "transposed")[0])
    _set_result(context, product_shape(a, values, places, attrs, reach, turned), 3)


def _infer_sampled(context: Context) -> None:
    a, b, places = (_shape(context, i) for i in range(3))
    attrs, reach = _buckets(context)
    shape = sampled_shape(a, b, places, attrs, reach)
    kind = context.get_input_type(0).tensor_type.elem_type
    context.set_output_type(0, onnx.helper.make_tensor_type_proto(kind, shape))


def _check_blocks(context: Context, axes: Mapping[str, tuple[tuple[int, ...], int]], block: tuple[int, ...]) -> None:
    """Raises ValueError unless `axes` (indices, and the size they cut) place the blocks of operand 1, each once."""
    if len(block) != 2 or min(block) < 1:
        raise ValueError(f"block {block} must be two positive numbers")
    # Single elements are millions: arrays, not tuples.
    listed = [np.asarray(found, np.int64) for found, _ in axes.values()]
    limits = [-(-size // side) for (_, size), side in zip(axes.values(), (*block, 1), strict=False)]
    for name, found, limit in zip(axes, listed, limits, strict=True):
        if found.size and not (found.min() >= 0 and found.max() < limit):
            raise ValueError(f"{name} must lie in 0..{limit - 1}")
    count = listed[0].size
    alike = len({found.size for found in listed}) == 1
    if not alike or np.unique(np.ravel_multi_index(tuple(listed), tuple(limits))).size != count:
        raise ValueError(f"{', '.join(axes)} must list every block once")
    values = _shape(context, 1)
    if values is not None and values != (count, *block):
        raise ValueError(f"values of shape {values} are not {count} blocks of {block}")


def function_for(node: ir.Node, opset: int) -> ir.Function:
    """The function body of a node of the domain `ipucc`, in ops of the default domain at the given version.

    Its overload is a hash of the body, so equal bodies are one function. The operands must have element
    types. Raises CompileError for an op that the domain does not have and for a malformed expression.
    """
    schema = onnx.defs.get_schema(node.op_type, DOMAIN)
    fixed = [p.name for p in schema.inputs if p.option != OpSchema.FormalParameterOption.Variadic]
    names = [*fixed, *(f"a{i}" for i in range(len(extra_operands(node))))]
    inputs = [ir.Value(name=name) for name in names]
    operands = [v for v in node.inputs if v is not None]
    env = dict(zip(names, inputs, strict=True))
    types = {n: dtype_name(value_dtype(v)) for n, v in zip(names, operands, strict=True)}
    body = Body()
    if fixed:
        env["x"] = _contraction(node, body, inputs[: len(fixed)])
        types["x"] = types[names[0]]
    result = body.expression(language.canonical(expression(node)), env, types)
    if result.producer() is None:
        result = body.node("Identity", [result], {})
    graph = ir.Graph(inputs, [result], nodes=body.nodes, opset_imports={"": opset}, name="body")
    attrs = [ir.Attr(n, ir.AttributeType.UNDEFINED, None) for n in sorted(node.attributes)]
    function = ir.Function(DOMAIN, node.op_type, "", graph=graph, attributes=attrs)
    text = ir.serde.serialize_function(function).SerializeToString(deterministic=True)
    function.overload = hashlib.sha256(text).hexdigest()[:16]
    return function


def _contraction(node: ir.Node, body: Body, operands: Sequence[ir.Value]) -> ir.Value:
    if node.op_type == SELECT:
        return select_body(node, body, tuple(operands))
    left, right, *places = operands
    if node.op_type == "FusedMatMul":
        return body.node("MatMul", [left, right], {})
    if node.op_type == "BlockSparseMatMul":
        return body.node("MatMul", [left, _dense(node, body, right)], {})
    if node.op_type == "DynamicSparseMatMul":
        return product_body(node, body, left, right, *places)
    if node.op_type == "SampledMatMul":
        return sampled_body(node, body, left, right, *places)
    names = ("dilations", "pads", "strides")
    attrs: dict[str, language.AttrValue] = {n: ints_attribute(node, n, ()) for n in names}
    if node.op_type == "BlockSparseConv":
        return body.node("Conv", [left, _dense_conv(node, body, right)], attrs)
    return body.node("Conv", [left, right], {**attrs, "group": node.attributes["group"].as_int()})


def _dense(node: ir.Node, body: Body, values: ir.Value) -> ir.Value:
    """The weight [k, n]: blocks scattered over the grid of blocks, then grid and block axes brought together."""
    (bk, bn), (k, n) = ints_attribute(node, "block", ()), ints_attribute(node, "shape", ())
    grid = _scatter(node, body, ("rows", "cols"), (-(-k // bk), -(-n // bn), bk, bn), values)
    rows_first = body.node("Transpose", [grid], {"perm": (0, 2, 1, 3)})
    padded = body.constant(np.array([-(-k // bk) * bk, -(-n // bn) * bn], dtype=np.int64))
    dense = body.node("Reshape", [rows_first, padded], {})
    bounds = [body.constant(np.array(b, dtype=np.int64)) for b in ([0, 0], [k, n], [0, 1])]
    return body.node("Slice", [dense, *bounds], {})


def _dense_conv(node: ir.Node, body: Body, values: ir.Value) -> ir.Value:
    """The weight [output channels, input channels, kernel...]."""
    (bk, bn), (n, k, *kernel) = ints_attribute(node, "block", ()), ints_attribute(node, "shape", ())
    shape = (prod(kernel), -(-k // bk), -(-n // bn), bk, bn)
    grid = _scatter(node, body, ("taps", "rows", "cols"), shape, values)
    outputs_first = body.node("Transpose", [grid], {"perm": (2, 4, 1, 3, 0)})
    padded = body.constant(np.array([shape[2] * bn, shape[1] * bk, *kernel], dtype=np.int64))
    dense = body.node("Reshape", [outputs_first, padded], {})
    bounds = [body.constant(np.array(b, dtype=np.int64)) for b in ([0, 0], [n, k], [0, 1])]
    return body.node("Slice", [dense, *bounds], {})


def _scatter(node: ir.Node, body: Body, places: Sequence[str], shape: Sequence[int], values: ir.Value) -> ir.Value:
    """Zeros of a shape, with the blocks at the places that the attributes name."""
    zero = ir.tensor(np.zeros(1, dtype=value_dtype(node.inputs[1]).numpy()))  # type: ignore[arg-type]
    sizes = body.constant(np.array(shape, dtype=np.int64))
    zeros = body.add(ir.node("ConstantOfShape", [sizes], attributes={"value": zero}))
    last = body.constant(np.array([-1], dtype=np.int64))
    columns = [body.node("Unsqueeze", [body.reference(name), last], {}) for name in places]
    indices = body.node("Concat", columns, {"axis": 1})
    return body.node("ScatterND", [zeros, indices, values], {})


def attach_functions(model: ir.Model) -> None:
    """Gives every node of the domain `ipucc` its function body, and removes bodies that no node calls.

    Passes call this after they made or changed such nodes; calling it again changes nothing.
    """
    used: dict[tuple[str, str, str], ir.Function] = {}
    for graph in all_graphs(model):
        for node in graph:
            if node.domain == DOMAIN:
                function = function_for(node, model.opset_imports[""])
                node.overload = function.overload
                used[function.identifier()] = function
    for identifier in [i for i in model.functions if i[0] == DOMAIN and i not in used]:
        del model.functions[identifier]
    model.functions.update((i, f) for i, f in used.items() if i not in model.functions)
    if used:
        model.opset_imports[DOMAIN] = VERSION


def oracle_model(model: ir.Model) -> onnx.ModelProto:
    """A copy of the model without ops of the domain `ipucc`: what reference evaluators run. The model
    stays."""
    copy = model.clone()
    attach_functions(copy)
    InlinePass(criteria=lambda function: function.domain == DOMAIN)(copy)
    copy.opset_imports.pop(DOMAIN, None)
    proto: onnx.ModelProto = ir.to_proto(copy)
    return proto


register()
