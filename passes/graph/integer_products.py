"""Which nodes compute on sums of products of integers: half precision holds neither their size nor their digits.

A quantised product multiplies integers, in float32 or int32, and scales their sums back. As float16, integers of 8 bits
are exact, and of sums of their products those beyond 2,048 are not; beyond 65,504 they are infinite. The pass
`precision` therefore leaves such products, and what scales their sums back, in float32.
"""

from typing import Final, Literal

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import constant_array
from ipucc.graph.expr import ELEMENTWISE, Call, Const, Expr, Operand
from ipucc.graph.schemas import CONTRACTIONS, DOMAIN, expression, extra_operands

__all__ = ["integer_products"]

Kind = Literal["integer", "whole", "sum", "other"]
"""Numbers of 8 bits, constants that happen to be small integers, sums of products of these, and all else."""

_LARGEST: Final = 2048
"""The largest integer up to which float16 has all of them."""
_PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_VIEWS: Final = frozenset(
    "Concat Expand Flatten Gather MaxPool Pad Reshape Slice Split Squeeze Tile Transpose Unsqueeze".split()  # noqa: SIM905
)
_SMALL: Final = frozenset({"int8", "uint8", "int4", "uint4", "int2", "uint2"})
_CLOSED: Final = frozenset({"Abs", "Add", "Clip", "Identity", "Max", "Min", "Neg", "Relu", "Sub"})
"""Ops that make integers of integers, of about their size."""


def integer_products(model: ir.Model) -> set[ir.Node]:
    """The nodes of the main graph to be left in float32: products of numbers of 8 bits, or of these with integer
    constants, and elementwise nodes that read their sums."""
    found: set[ir.Node] = set()
    kinds: dict[ir.Value, Kind] = {}
    for node in model.graph:
        operands = [_kind(value, kinds) for value in node.inputs]
        made: Kind = "other"
        if _contracts(node):
            if "integer" in operands[:2] and "other" not in operands[:2]:
                found.add(node)
                made = "sum"
            if node.domain == DOMAIN:
                made = _result(expression(node), {"x": made, **_extras(node, kinds)})
        elif node.domain == DOMAIN or (not node.domain and node.op_type in ELEMENTWISE):
            known = _extras(node, kinds) if node.domain else {f"a{i}": kind for i, kind in enumerate(operands)}
            made = _result(expression(node) if node.domain else _call(node), known)
            if "sum" in known.values():
                found.add(node)
        elif not node.domain and node.op_type in _VIEWS and operands:
            made = operands[0] if node.op_type != "Concat" or len(set(operands)) == 1 else "other"
        for value in node.outputs:
            kinds[value] = "integer" if _small(value) else made
    return found


def _contracts(node: ir.Node) -> bool:
    return node.op_type in CONTRACTIONS if node.domain == DOMAIN else not node.domain and node.op_type in _PRODUCTS


def _extras(node: ir.Node, kinds: dict[ir.Value, Kind]) -> dict[str, Kind]:
    return {f"a{i}": _kind(value, kinds) for i, value in enumerate(extra_operands(node))}


def _call(node: ir.Node) -> Expr:
    """An elementwise node as an expression of its operands; its attributes do not matter but for where a Cast leads."""
    to = node.attributes.get("to")
    attrs = (("to", ir.DataType(to.as_int()).numpy().name),) if to is not None else ()
    return Call(node.op_type, tuple(Operand(f"a{i}") for i in range(len(node.inputs))), attrs)


def _kind(value: ir.Value | None, kinds: dict[ir.Value, Kind]) -> Kind:
    if value is None:
        return "whole"
    if value in kinds:
        return kinds[value]
    array = constant_array(value)
    if array is None:
        return "integer" if _small(value) else "other"
    if array.dtype.kind not in "iuf" or not array.size:
        return "other"
    numbers = np.asarray(array, np.float64)
    return "whole" if np.abs(numbers).max() <= _LARGEST and (numbers == np.rint(numbers)).all() else "other"


def _small(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.numpy().name in _SMALL


def _result(expr: Expr, known: dict[str, Kind]) -> Kind:
    """What an expression makes of operands."""
    if isinstance(expr, Operand):
        return known.get(expr.name, "other")
    if isinstance(expr, Const):
        whole = float(expr.value).is_integer() and abs(expr.value) <= _LARGEST
        return "whole" if whole and not isinstance(expr.value, bool) else "other"
    if expr.op == "Cast":
        return "integer" if dict(expr.attrs).get("to") in _SMALL else _result(expr.args[0], known)
    parts = {_result(arg, known) for arg in expr.args}
    if expr.op not in _CLOSED or "other" in parts:
        return "other"
    return "sum" if "sum" in parts else "integer" if "integer" in parts else "whole"
