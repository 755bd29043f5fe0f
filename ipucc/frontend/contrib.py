"""Ops of onnxruntime's domain com.microsoft in ops of ONNX: what its optimiser and its quantiser write into models.

The semantics are those of onnxruntime's documentation of contrib operators.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, operand, shape_or_none
from ipucc.frontend.quantise import centred, dequantised, quantised, scaled_back

__all__ = ["RULES"]

Rule = Callable[[ir.Node], bool | str]
_FLOAT = ir.DataType.FLOAT


def same_op(node: ir.Node) -> bool:
    """ONNX has the op under the same name with the same meaning."""
    e = Emitter(node)
    e.finish(e.op(node.op_type, *node.inputs, **_attributes(node)))
    return True


def bias_gelu(node: ir.Node) -> bool:
    """Gelu(x + bias)."""
    e = Emitter(node)
    e.finish(e.op("Gelu", e.op("Add", *node.inputs)))
    return True


def fast_gelu(node: ir.Node) -> bool:
    """The tanh form of Gelu, of x or x + bias."""
    e = Emitter(node)
    x = node.inputs[0] if operand(node, 1) is None else e.op("Add", *node.inputs)
    e.finish(e.op("Gelu", x, approximate="tanh"))
    return True


def quick_gelu(node: ir.Node) -> bool:
    """x sigmoid(alpha x)."""
    e = Emitter(node)
    e.finish(e.op("Swish", node.inputs[0], alpha=node.attributes.get_float("alpha", 1.702)))
    return True


def skip_normalization(node: ir.Node) -> bool | str:
    """A normalisation of x + skip (+ bias), and that sum as the fourth result."""
    e = Emitter(node)
    simplified = "Simplified" in node.op_type
    x, skip, scale = node.inputs[:3]
    beta, bias = (None, operand(node, 3)) if simplified else (operand(node, 3), operand(node, 4))
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:3]):
        return "the mean and the deviation of a SkipLayerNormalization are not given"
    total = e.op("Add", x, skip)
    if bias is not None:
        total = e.op("Add", total, bias)
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    if simplified:
        made = e.op("RMSNormalization", total, scale, axis=-1, epsilon=epsilon)
    else:
        made = e.op("LayerNormalization", total, scale, beta, axis=-1, epsilon=epsilon)
    e.finish(made, None, None, total)
    return True


def fused_matmul(node: ir.Node) -> bool | str:
    """alpha times the product of operands that may be transposed in their last two dimensions."""
    if node.attributes.get_int("transBatchA", 0) or node.attributes.get_int("transBatchB", 0):
        return "a FusedMatMul that turns batch dimensions is not taken"
    e = Emitter(node)
    sides = [
        _turned(e, value, value) if node.attributes.get_int(name, 0) else value
        for value, name in zip(node.inputs, ("transA", "transB"), strict=True)
    ]
    made = e.op("MatMul", *sides)
    e.finish(_times(e, made, node.attributes.get_float("alpha", 1.0), node.inputs[0]))
    return True


def fused_conv(node: ir.Node) -> bool | str:
    """A convolution, with something to add, and an activation."""
    e = Emitter(node)
    attributes = _attributes(node)
    activation, params = str(attributes.pop("activation", "")), attributes.pop("activation_params", None)
    values = list(params) if params is not None else []
    if reason := _not_taken(activation, values):
        return reason
    made = e.op("Conv", *node.inputs[:3], **attributes)
    if operand(node, 3) is not None:
        made = e.op("Add", made, operand(node, 3))
    return _activated(e, made, activation, values)


def fused_gemm(node: ir.Node) -> bool | str:
    """A Gemm and an activation."""
    e = Emitter(node)
    attributes = _attributes(node)
    activation = str(attributes.pop("activation", ""))
    given = {name: attributes.pop(name) for name in list(attributes) if name.startswith("activation_")}
    params = [given[f"activation_{name}"] for name in ("alpha", "beta", "gamma") if f"activation_{name}" in given]
    if reason := _not_taken(activation, params):
        return reason
    return _activated(e, e.op("Gemm", *node.inputs, **attributes), activation, params)


def qgemm(node: ir.Node) -> bool:
    """alpha a b + c of 8-bit matrices, c in units of alpha times both scales; quantised again if there is a scale for
    it, else in float32. b may have a scale and a zero point per column."""
    e = Emitter(node)
    a, a_scale, a_zero, b, b_scale, b_zero = node.inputs[:6]
    assert a is not None
    assert a_scale is not None
    assert b_scale is not None
    c, y_scale, y_zero = (operand(node, i) for i in (6, 7, 8))
    sides = []
    for value, zero, name in ((a, a_zero, "transA"), (b, b_zero, "transB")):
        turned = bool(node.attributes.get_int(name, 0))
        wide = centred(e, value, zero, rows=turned)
        sides.append(_turned(e, wide, value) if turned else wide)
    product = e.op("MatMul", *sides)
    if c is not None:
        product = e.op("Add", product, c)
    scale = e.op("Mul", e.cast(a_scale, _FLOAT), e.cast(b_scale, _FLOAT))
    scale = _times(e, scale, node.attributes.get_float("alpha", 1.0), scale)
    if y_scale is None:
        e.finish(e.op("Mul", e.cast(product, _FLOAT), scale))
        return True
    e.finish(scaled_back(e, e.cast(product, _FLOAT), e.op("Div", scale, y_scale), y_zero, e.like(a)))
    return True


def qlinear_binary(node: ir.Node) -> bool:
    """The sum or product of two quantised tensors, quantised again."""
    e = Emitter(node)
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale = node.inputs[:7]
    assert a is not None
    op = node.op_type.removeprefix("QLinear")
    made = e.op(op, dequantised(e, a, a_scale, a_zero), dequantised(e, b, b_scale, b_zero))
    e.finish(quantised(e, made, y_scale, operand(node, 7), e.like(a)))
    return True


def qlinear_unary(node: ir.Node) -> bool | str:
    """An op of ONNX on a quantised tensor, quantised again."""
    e = Emitter(node)
    x, x_scale, x_zero, y_scale = node.inputs[:4]
    assert x is not None
    attributes = _attributes(node)
    if attributes.pop("channels_last", 0):
        return "a quantised pool of channels that come last is not taken"
    attributes.pop("opset", None)
    made = e.op(node.op_type.removeprefix("QLinear"), dequantised(e, x, x_scale, x_zero), **attributes)
    e.finish(quantised(e, made, y_scale, operand(node, 4), e.like(x)))
    return True


def qlinear_concat(node: ir.Node) -> bool:
    """Quantised tensors behind each other, in one scale."""
    e = Emitter(node)
    y_scale, y_zero, *parts = node.inputs
    assert parts[0] is not None
    wide = [dequantised(e, *parts[i : i + 3]) for i in range(0, len(parts), 3)]
    joined = e.op("Concat", *wide, axis=node.attributes.get_int("axis", 0))
    e.finish(quantised(e, joined, y_scale, y_zero, e.like(parts[0])))
    return True


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {name: a.value for name, a in node.attributes.items() if a.value is not None}


def _turned(e: Emitter, value: ir.Value | None, like: ir.Value | None) -> ir.Value:
    rank = len(shape_or_none(like) or ())
    return e.op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _times(e: Emitter, value: ir.Value, factor: float, like: ir.Value | None) -> ir.Value:
    assert like is not None
    return value if factor == 1.0 else e.op("Mul", value, e.constant(np.float64(factor), like.dtype or _FLOAT))


_ACTIVATIONS = {
    "": (), "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
    "Elu": ("alpha",), "Softplus": (), "Clip": ("low", "high"),
}  # fmt: skip
"""Activations of fused ops, with the names of their parameters in order."""


def _not_taken(activation: str, params: list[float]) -> str:
    """Why an activation is not taken; empty if it is."""
    names = _ACTIVATIONS.get(activation)
    return "" if names is not None and len(params) <= len(names) else f"the activation {activation!r} is not taken"


def _activated(e: Emitter, value: ir.Value, activation: str, params: list[float]) -> bool:
    given: dict[str, Any] = dict(zip(_ACTIVATIONS[activation], params, strict=False))
    if activation == "Clip":
        kind = e.node.inputs[0].dtype if e.node.inputs[0] is not None else _FLOAT
        e.finish(e.op("Clip", value, *(e.constant(np.float64(v), kind) for v in given.values())))
    else:
        e.finish(e.op(activation, value, **given) if activation else value)
    return True


RULES: dict[str, Rule] = {
    "BiasGelu": bias_gelu,
    "FastGelu": fast_gelu,
    "FusedConv": fused_conv,
    "FusedGemm": fused_gemm,
    "FusedMatMul": fused_matmul,
    "Gelu": same_op,
    "QGemm": qgemm,
    "QLinearAdd": qlinear_binary,
    "QLinearAveragePool": qlinear_unary,
    "QLinearConcat": qlinear_concat,
    "QLinearGlobalAveragePool": qlinear_unary,
    "QLinearLeakyRelu": qlinear_unary,
    "QLinearMul": qlinear_binary,
    "QLinearSigmoid": qlinear_unary,
    "QLinearSoftmax": qlinear_unary,
    "QuickGelu": quick_gelu,
    "SkipLayerNormalization": skip_normalization,
    "SkipSimplifiedLayerNormalization": skip_normalization,
}
"""By op type."""
