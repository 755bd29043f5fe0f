"""The ops of the ONNX domain `ipucc`, version 1: schemas, shape inference, and a function body for every
node.

    FusedElementwise(a0, ..., an) -> y            y = expr over a0..an, numpy broadcasting
    FusedMatMul(A, B, a0, ...) -> y               x = MatMul(A, B), y = expr over x, a0, ...
    FusedConv(X, W, a0, ...) -> y                 x = Conv(X, W), y = expr over x, a0, ...
    BlockSparseMatMul(A, values, a0, ...) -> y    x = MatMul(A, dense(values)), y = expr over x, a0, ...

Every op has the attribute `expr`, text of ipucc.graph.expr. Beside a contraction, y has the shape of x, and
the further operands broadcast to it (the bias of a convolution is [C, 1, 1]). FusedConv has the attributes
`pads`, `strides`, `dilations` and `group` of Conv, always present. BlockSparseMatMul has a weight of
`shape` [k, n] cut into blocks of `block` [bk, bn]: block i lies at block row rows[i] (along k) and block
column cols[i] (along n) and holds values[i] (bk x bn, zero outside the weight), all other blocks are zero,
no block is given twice.

A node's function body (`attach_functions`) says the same in ONNX's own ops: a model with these ops runs in
onnxruntime, and `oracle_model` inlines the bodies for evaluators that know no functions.

Importing this module registers the schemas with onnx.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema
from onnx_ir.passes.common import InlinePass

from ipucc.diagnostics import error
from ipucc.graph import expr as language
from ipucc.graph.edit import Array, all_graphs, describe, dtype_name, dtype_of, ints_attribute, value_dtype

DOMAIN: Final = "ipucc"
VERSION: Final = 1

CONTRACTIONS: Final = ("FusedMatMul", "FusedConv", "BlockSparseMatMul")
"""Ops whose first two operands are contracted to `x`; the operands after them are a0, a1, ..."""

_NUMERIC: Final = ("float16", "float", "double", "bfloat16", "int32", "int64", "uint32", "uint64")
_FLOAT8: Final = ("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz")
_NARROW: Final = ("bool", "int8", "uint8", "int16", "uint16", *_FLOAT8)

Shape = tuple[int, ...]
Context = onnx.shape_inference.InferenceContext


def expression(node: ir.Node) -> language.Expr:
    """The expression of a node of the domain `ipucc`. Raises CompileError if it is missing or malformed."""
    found = node.attributes.get("expr")
    if found is None:
        raise error("IPU0120", "the attribute 'expr' is missing", node=describe(node), op=node.op_type)
    return language.parse(found.as_string())


def extra_operands(node: ir.Node) -> tuple[ir.Value, ...]:
    """The operands a0, a1, ... of a node of the domain `ipucc`."""
    first = 2 if node.op_type in CONTRACTIONS else 0
    return tuple(v for v in node.inputs[first:] if v is not None)


def conv_shape(
    x: Shape, w: Shape, pads: Sequence[int], strides: Sequence[int], dilations: Sequence[int], group: int
) -> Shape:
    """Shape of the result of a convolution; pads are ONNX's (all begins, then all ends).

    Raises ValueError where operands and attributes contradict each other.
    """
    spatial = len(x) - 2
    if len(w) != len(x) or len(pads) != 2 * spatial or len(strides) != spatial or len(dilations) != spatial:
        raise ValueError(f"ranks of input {x}, weight {w}, pads, strides and dilations differ")
    if x[1] != w[1] * group or w[0] % group:
        raise ValueError(f"{x[1]} input channels, {group} groups and the weight {w} contradict each other")
    size = []
    for i in range(spatial):
        padded = x[2 + i] + pads[i] + pads[spatial + i]
        reach = (w[2 + i] - 1) * dilations[i] + 1
        if padded < reach:
            raise ValueError(f"the kernel reaches over {reach} of {padded} elements on spatial axis {i}")
        size.append((padded - reach) // strides[i] + 1)
    return (x[0], w[0], *size)


def matmul_shape(a: Shape, b: Shape) -> Shape:
    """Shape of numpy's matmul. Raises ValueError where the operands do not fit."""
    if not a or not b:
        raise ValueError("a scalar cannot be multiplied by MatMul")
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if left[-1] != right[-2]:
        raise ValueError(f"contracted dimensions of {a} and {b} differ")
    rows = left[-2:-1] if len(a) > 1 else ()
    cols = right[-1:] if len(b) > 1 else ()
    return (*broadcast(left[:-2], right[:-2]), *rows, *cols)


def broadcast(*shapes: Shape) -> Shape:
    """Numpy broadcasting of shapes. Raises ValueError where they do not broadcast."""
    rank = max((len(s) for s in shapes), default=0)
    out = []
    for axis in range(-rank, 0):
        sizes = {s[axis] for s in shapes if len(s) >= -axis} - {1}
        if len(sizes) > 1:
            raise ValueError(f"shapes {', '.join(map(str, shapes))} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


def register() -> None:
    """Makes the ops known to onnx's checker and shape inference; does nothing the second time."""
    attribute = OpSchema.Attribute
    kind = OpSchema.AttrType
    expr = attribute("expr", kind.STRING, "y as an expression over x and a0, a1, ...", required=True)
    ints = [attribute(n, kind.INTS, required=True) for n in ("pads", "strides", "dilations")]
    blocks = [attribute(n, kind.INTS, required=True) for n in ("rows", "cols", "block", "shape")]
    group = attribute("group", kind.INT, required=True)
    for name, fixed, attributes, infer in (
        ("FusedElementwise", (), [expr], _infer_elementwise),
        ("FusedMatMul", ("A", "B"), [expr], _infer_matmul),
        ("FusedConv", ("X", "W"), [expr, *ints, group], _infer_conv),
        ("BlockSparseMatMul", ("A", "values"), [expr, *blocks], _infer_block_sparse),
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
                *(parameter(p, "T") for p in fixed),
                parameter(
                    "a",
                    "V",
                    param_option=OpSchema.FormalParameterOption.Variadic,
                    is_homogeneous=False,
                    min_arity=0 if fixed else 1,
                ),
            ],
            outputs=[parameter("y", "R")],
            type_constraints=[
                ("T", [f"tensor({t})" for t in _NUMERIC], "what is contracted"),
                ("V", [f"tensor({t})" for t in (*_NUMERIC, *_NARROW)], "operands of the expression"),
                ("R", [f"tensor({t})" for t in (*_NUMERIC, *_NARROW)], "result of the expression"),
            ],
            attributes=attributes,
        )
        schema.set_type_and_shape_inference_function(infer)
        onnx.defs.register_schema(schema)


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


def _set_result(context: Context, shape: Shape | None, contraction: bool) -> None:
    """Types the result; `shape` is that of x (None if unknown) or, without a contraction, is not used."""
    operands = _types(context, 2 if contraction else 0)
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
    _set_result(context, None, contraction=False)


def _infer_matmul(context: Context) -> None:
    a, b = _shape(context, 0), _shape(context, 1)
    _set_result(context, None if a is None or b is None else matmul_shape(a, b), contraction=True)


def _infer_conv(context: Context) -> None:
    x, w = _shape(context, 0), _shape(context, 1)
    shape = None
    if x is not None and w is not None:
        pads, strides, dilations = (_ints(context, n) for n in ("pads", "strides", "dilations"))
        shape = conv_shape(x, w, pads, strides, dilations, _ints(context, "group")[0])
    _set_result(context, shape, contraction=True)


def _infer_block_sparse(context: Context) -> None:
    a, values = _shape(context, 0), _shape(context, 1)
    rows, cols, block, size = (_ints(context, n) for n in ("rows", "cols", "block", "shape"))
    if len(block) != 2 or len(size) != 2 or min((*block, *size)) < 1:
        raise ValueError(f"block {block} and shape {size} must be two positive numbers each")
    if len(rows) != len(cols) or len(set(zip(rows, cols, strict=True))) != len(rows):
        raise ValueError("rows and cols must list every block once")
    for name, found, limit in (
        ("rows", rows, -(-size[0] // block[0])),
        ("cols", cols, -(-size[1] // block[1])),
    ):
        if found and not (min(found) >= 0 and max(found) < limit):
            raise ValueError(f"{name} must lie in 0..{limit - 1}")
    if values is not None and values != (len(rows), *block):
        raise ValueError(f"values of shape {values} are not {len(rows)} blocks of {block}")
    if a is not None and (not a or a[-1] != size[0]):
        raise ValueError(f"operand {a} does not fit to a weight of shape {size}")
    _set_result(context, None if a is None else (*a[:-1], size[1]), contraction=True)


class _Body:
    """Nodes of a function body, with names that depend only on what is emitted."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []

    def node(self, op: str, inputs: Sequence[ir.Value], attrs: dict[str, language.AttrValue]) -> ir.Value:
        node = ir.node(op, inputs, attributes=attrs)
        return self.add(node)

    def add(self, node: ir.Node) -> ir.Value:
        node.name = f"n{len(self.nodes)}"
        node.outputs[0].name = f"v{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: Array) -> ir.Value:
        return self.add(ir.node("Constant", [], attributes={"value": ir.tensor(array)}))

    def reference(self, name: str) -> ir.Value:
        attribute = ir.RefAttr("value_ints", name, ir.AttributeType.INTS)
        return self.add(ir.Node("", "Constant", [], [attribute]))

    def expression(self, expr: language.Expr, env: dict[str, ir.Value], types: dict[str, str]) -> ir.Value:
        if isinstance(expr, language.Operand):
            return env[expr.name]
        if isinstance(expr, language.Const):
            return self._scalar(expr, language.constant_type(expr.value))
        group = language.argument_type(expr, types)
        values = []
        for i, arg in enumerate(expr.args):
            if isinstance(arg, language.Const):
                own = i in language.value_group(expr.op, expr.args)
                values.append(self._scalar(arg, group if own else language.constant_type(arg.value)))
            else:
                values.append(self.expression(arg, env, types))
        if expr.op == "Swish":
            # onnxruntime has no kernel for Swish, and does not expand the function that defines it.
            value = expr.attr("alpha")
            assert isinstance(value, float)
            alpha = self._scalar(language.Const(value), group)
            return self.node("Mul", [*values, self.node("Sigmoid", [self.node("Mul", [*values, alpha], {})], {})], {})
        attrs = dict(expr.attrs)
        if expr.op == "Cast":
            attrs["to"] = int(dtype_of(str(attrs["to"])))
        return self.node(expr.op, values, attrs)

    def _scalar(self, constant: language.Const, dtype: str) -> ir.Value:
        return self.constant(np.array(constant.value, dtype=dtype_of(dtype).numpy()))


def function_for(node: ir.Node, opset: int) -> ir.Function:
    """The function body of a node of the domain `ipucc`, in ops of the default domain at the given version.

    Its overload is a hash of the body, so equal bodies are one function. The operands must have element
    types. Raises CompileError for an op that the domain does not have and for a malformed expression.
    """
    contraction = node.op_type in CONTRACTIONS
    schema = onnx.defs.get_schema(node.op_type, DOMAIN)
    fixed = [p.name for p in schema.inputs[:2]] if contraction else []
    names = [*fixed, *(f"a{i}" for i in range(len(extra_operands(node))))]
    inputs = [ir.Value(name=name) for name in names]
    operands = [v for v in node.inputs if v is not None]
    env = dict(zip(names, inputs, strict=True))
    types = {n: dtype_name(value_dtype(v)) for n, v in zip(names, operands, strict=True)}
    body = _Body()
    if contraction:
        env["x"] = _contraction(node, body, inputs[0], inputs[1])
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


def _contraction(node: ir.Node, body: _Body, left: ir.Value, right: ir.Value) -> ir.Value:
    if node.op_type == "FusedMatMul":
        return body.node("MatMul", [left, right], {})
    if node.op_type == "FusedConv":
        names = ("dilations", "pads", "strides")
        attrs: dict[str, language.AttrValue] = {n: ints_attribute(node, n, ()) for n in names}
        return body.node("Conv", [left, right], {**attrs, "group": node.attributes["group"].as_int()})
    (bk, bn), (k, n) = ints_attribute(node, "block", ()), ints_attribute(node, "shape", ())
    grid = (-(-k // bk), -(-n // bn))
    # The dense weight: blocks scattered over the grid of blocks, then grid and block axes brought together.
    zero = ir.tensor(np.zeros(1, dtype=value_dtype(node.inputs[1]).numpy()))  # type: ignore[arg-type]
    shape = body.constant(np.array([*grid, bk, bn], dtype=np.int64))
    zeros = body.add(ir.node("ConstantOfShape", [shape], attributes={"value": zero}))
    last = body.constant(np.array([-1], dtype=np.int64))
    columns = [body.node("Unsqueeze", [body.reference(name), last], {}) for name in ("rows", "cols")]
    indices = body.node("Concat", columns, {"axis": 1})
    grid_of_blocks = body.node("ScatterND", [zeros, indices, right], {})
    rows_first = body.node("Transpose", [grid_of_blocks], {"perm": (0, 2, 1, 3)})
    padded = body.constant(np.array([grid[0] * bk, grid[1] * bn], dtype=np.int64))
    dense = body.node("Reshape", [rows_first, padded], {})
    bounds = [body.constant(np.array(b, dtype=np.int64)) for b in ([0, 0], [k, n], [0, 1])]
    return body.node("MatMul", [left, body.node("Slice", [dense, *bounds], {})], {})


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
