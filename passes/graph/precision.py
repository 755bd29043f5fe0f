"""The pass `precision`: float32 values and weights become float16."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx
import onnx_ir as ir

from ipucc.graph.edit import Array, Editor, all_graphs, constant_array, dtype_name, prune
from ipucc.graph.expr import Call, Const, Expr, call, canonical, constant_type, format, transform, value_group
from ipucc.graph.schemas import DOMAIN, attach_functions, expression
from ipucc.graph.tensors import MissingTensor
from ipucc.pass_manager import Pass, PassContext, option
from ipucc.passes.graph.integer_products import integer_products

IO_DTYPE: Final = "ipucc.io_dtype"
"""Metadata of an input or output of the graph: the element type that the model's users give and expect."""

LIMIT: Final = 65504.0
"""The largest finite float16."""

SMALLEST: Final = 2.0**-24
"""The smallest float16 above zero (subnormal)."""

KEEP: Final = "ipucc.keep_float32"
"""Mark, in onnx_ir's unserialised `meta`, of what this pass leaves in float32."""

UNCONVERTED: Final = "ipucc.unconverted"
"""Key in onnx_ir's unserialised `meta` of a weight that is converted when somebody reads it: the tensor that it was,
for who needs no more than that."""

_LAZY: Final = 1 << 20
"""Weights of more elements are converted when somebody reads them."""

_TYPES: Final = {"fp16": ir.DataType.FLOAT16}


@dataclass(frozen=True)
class Precision(Pass):
    """Leaves no float32 (or float64) value: weights, results, inputs and outputs are of the chosen type. Products of
    integers, as quantised models have them, stay in float32, since float16 does not hold their sums.

    Integer and bool values stay, and so do Casts from and to them. Finite constants beyond +-65504 (masks
    often hold -3.4e38) are clamped to that, infinities stay, and an epsilon does not become zero. Inputs
    and outputs keep their former type in the metadata `ipucc.io_dtype`, so that a runtime can convert at
    the border.
    """

    name: ClassVar[str] = "precision"

    to: str = option("fp16", "the new type of floating-point values", choices=("fp16",))

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        target = _TYPES[self.to]
        for value in (*model.graph.inputs, *model.graph.outputs):
            if _converts(value.dtype):
                assert value.dtype is not None
                value.metadata_props.setdefault(IO_DTYPE, dtype_name(value.dtype))
        changed = _protect_integer_products(model) | _protect_float32_operands(model)
        for graph in all_graphs(model):
            for value in graph.inputs:
                changed |= _retype(value, target)
            for value in list(graph.initializers.values()):
                if KEEP not in value.meta:
                    changed |= _convert_constant(value, target, ctx)
            for node in graph:
                if KEEP in node.meta:
                    continue
                changed |= _convert_attributes(node, target)
                for value in node.outputs:
                    changed |= _retype(value, target)
        if changed:
            prune(model)
            attach_functions(model)
        return changed


def _protect_integer_products(model: ir.Model) -> bool:
    """Leaves products of integers in float32, and what scales their sums back: what else these read is cast for them,
    and what others read of them is cast back."""
    kept = integer_products(model)
    editor = Editor(model)
    for node in kept:
        node.meta[KEEP] = True
    for node in [n for n in model.graph if n in kept]:
        for i, value in enumerate(node.inputs):
            if value is None or not _converts(value.dtype) or value.producer() in kept or KEEP in value.meta:
                continue
            array = constant_array(value)
            if array is None:
                cast = editor.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, before=node)
                cast.meta[KEEP] = True
                own = cast.outputs[0]
            else:
                own = editor.constant(array.copy(), name=f"{value.name}_float")
            own.meta[KEEP] = True
            node.replace_input_with(i, own)
        for value in node.outputs:
            others = [use for use in value.uses() if use.node not in kept] if _converts(value.dtype) else []
            if others:
                back = editor.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, before=others[0].node)
                _move_behind(back, node)
                for use in others:
                    use.node.replace_input_with(use.idx, back.outputs[0])
    return bool(kept)


def _move_behind(node: ir.Node, other: ir.Node) -> None:
    graph = other.graph
    assert isinstance(graph, ir.Graph)
    graph.remove(node)
    graph.insert_after(other, node)


def _protect_float32_operands(model: ir.Model) -> bool:
    """Gives operands that ONNX wants in float32 (the scales of Resize) a copy or a Cast that stays
    float32."""
    editor, changed = Editor(model), False
    for node in list(model.graph.all_nodes()):
        if node.domain or not onnx.defs.has(node.op_type):
            continue
        formal = onnx.defs.get_schema(node.op_type, editor.opset()).inputs
        for i, value in enumerate(node.inputs):
            allowed = formal[min(i, len(formal) - 1)].types if formal else set()
            if value is None or not _converts(value.dtype) or "tensor(float16)" in allowed or KEEP in value.meta:
                continue
            array = constant_array(value)
            if array is not None:
                kept = editor.constant(array.copy(), name=f"{value.name}_float")
            else:
                # Of float16 by then, and cast back: what the op reads is rounded like every other value.
                cast = editor.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, before=node)
                cast.meta[KEEP] = True
                kept = cast.outputs[0]
            kept.meta[KEEP] = True
            node.replace_input_with(i, kept)
            changed = True
    return changed


def _converts(dtype: ir.DataType | None) -> bool:
    return dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def _retype(value: ir.Value, target: ir.DataType) -> bool:
    if not _converts(value.dtype):
        return False
    value.type = ir.TensorType(target)
    return True


def _convert_constant(value: ir.Value, target: ir.DataType, ctx: PassContext) -> bool:
    tensor = value.const_value
    if tensor is None or not _converts(tensor.dtype):
        return False
    shape = ir.Shape(tensor.shape.numpy())
    if isinstance(tensor, MissingTensor):
        value.const_value = MissingTensor(value.name, target, shape, tensor.reason)
    elif tensor.size > _LAZY:
        value.meta[UNCONVERTED] = tensor
        value.const_value = ir.LazyTensor(
            lambda: ir.tensor(clamped(np.asarray(tensor.numpy()), target)[0]), target, shape, name=value.name
        )
    else:
        array, count = clamped(np.asarray(tensor.numpy()), target)
        value.const_value = ir.tensor(array, name=value.name)
        if count:
            _report(value, count, ctx)
    value.type = ir.TensorType(target)
    return True


def clamped(array: Array, target: ir.DataType) -> tuple[Array, int]:
    """The array in the new type with finite numbers clamped to its range, and how many were.

    A single number that is not zero does not become zero: it is an epsilon that something divides by.
    """
    if target == ir.DataType.FLOAT16 and array.dtype == np.float32 and array.size > 1 and np.abs(array).max() <= LIMIT:
        from ipucc.halves import narrow  # numba: imported only where weights are rounded

        return narrow(array), 0
    numbers = array.astype(np.float64)
    beyond = np.isfinite(numbers) & (np.abs(numbers) > LIMIT)
    limited = np.where(beyond, np.copysign(LIMIT, numbers), numbers)
    if limited.size == 1:
        limited = np.where((limited != 0) & (np.abs(limited) < SMALLEST), np.copysign(SMALLEST, limited), limited)
    return np.asarray(limited.astype(target.numpy())), int(beyond.sum())


def _report(value: ir.Value, count: int, ctx: PassContext) -> None:
    users = [use.node for use in value.uses()]
    if users:
        ctx.analysis(users[0], f"{count} elements of {value.name} were clamped to +-65504", id="IPU0412", count=count)


def _convert_attributes(node: ir.Node, target: ir.DataType) -> bool:
    """Rewrites the types and tensors that a node names in its attributes."""
    changed = False
    if node.domain == DOMAIN:
        before = expression(node)
        after = retyped(before, dtype_name(target))
        if after != canonical(before):
            node.attributes["expr"] = ir.AttrString("expr", format(after))
            changed = True
        return changed
    for name, attribute in list(node.attributes.items()):
        if name in ("to", "dtype") and attribute.type is ir.AttributeType.INT:
            if _converts(ir.DataType(attribute.as_int())):
                node.attributes[name] = ir.AttrInt64(name, target.value)
                changed = True
        elif node.op_type == "Constant" and name in ("value_float", "value_floats"):
            number = attribute.as_float() if name == "value_float" else attribute.as_floats()
            array, _ = clamped(np.asarray(number), target)
            del node.attributes[name]
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
            changed = True
        elif attribute.type is ir.AttributeType.TENSOR and _converts(attribute.as_tensor().dtype):
            array, _ = clamped(np.asarray(attribute.as_tensor().numpy()), target)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
            changed = True
    return changed


def retyped(expr: Expr, target: str) -> Expr:
    """The expression for operands that became `target`: casts go there, literals are clamped.

    A group of literals alone would be float32; its first one is cast.
    """

    def change(node: Expr) -> Expr:
        if isinstance(node, Const) and isinstance(node.value, float) and math.isfinite(node.value):
            size = abs(node.value)
            limited = size if size == 0 else min(max(size, SMALLEST), LIMIT)
            return node if limited == size else Const(math.copysign(limited, node.value))
        if not isinstance(node, Call):
            return node
        if node.op == "Cast" and str(node.attr("to")) in ("float32", "float64"):
            attrs = {name: value for name, value in node.attrs if name != "to"}
            return call("Cast", node.args, {**attrs, "to": target})
        group = value_group(node.op, node.args)
        literals = [a for i in group if isinstance(a := node.args[i], Const)]
        floats = any(constant_type(c.value) == "float32" for c in literals)
        if node.op != "Cast" and floats and len(literals) == len(group):
            args = list(node.args)
            args[group[0]] = call("Cast", (args[group[0]],), {"to": target})
            return Call(node.op, tuple(args), node.attrs)
        return node

    return canonical(transform(expr, change))
