"""Writes the function body of an op of the domain `ipucc`, in ONNX's own ops."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ipucc.graph import expr as language
from ipucc.graph.edit import Array, dtype_of

__all__ = ["Body"]


class Body:
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
        if expr.op in ("Cast", "BitCast"):
            attrs["to"] = int(dtype_of(str(attrs["to"])))
        return self.node(expr.op, values, attrs)

    def _scalar(self, constant: language.Const, dtype: str) -> ir.Value:
        return self.constant(np.array(constant.value, dtype=dtype_of(dtype).numpy()))
