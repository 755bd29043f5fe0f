"""Regions of elementwise nodes that become one expression, and the reading of a node as an expression."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import attribute, constant_array, dtype_name, static_shape
from ipucc.graph.expr import (
    ATTRIBUTES,
    BOOLEAN,
    COMMUTATIVE,
    ELEMENTWISE,
    AttrValue,
    Call,
    Const,
    Expr,
    Operand,
    call,
    constant_type,
    format,
    ops,
    substitute,
    value_group,
)
from ipucc.graph.schemas import DOMAIN, expression

X: Final = Operand("x")

_WIDE: Final = (ir.DataType.INT64, ir.DataType.UINT64, ir.DataType.DOUBLE)
"""Types of which a tile holds fewer bits than they have."""

CHEAP: Final = frozenset(("Add", "Sub", "Mul", "Neg", "Abs", "Max", "Min", "Clip", "Relu", "Cast", "And", "Or", "Not"))
"""Ops that cost less than the load and store of a result: an expression may hold them twice."""


def is_elementwise(node: ir.Node) -> bool:
    """Whether the node can be read as an expression: an elementwise op with types and static shapes, one
    result."""
    known = (node.domain == "" and node.op_type in ELEMENTWISE and node.op_type != "Identity") or (
        node.domain == DOMAIN and node.op_type == "FusedElementwise"
    )
    if not known or len(node.outputs) != 1 or node.inputs[0] is None:
        return False
    values = [*(v for v in node.inputs if v is not None), *node.outputs]
    if any(static_shape(v) is None or v.dtype is None or v.dtype is ir.DataType.STRING for v in values):
        return False
    if node.op_type == "BitCast" and node.outputs[0].dtype in _WIDE:
        return False
    return not (node.op_type in ("Cast", "BitCast") and "to" not in node.attributes)


def users(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, each once."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def inline_constant(value: ir.Value) -> Const | None:
    """A constant of one element as a literal: the shortest text that is the same float32 (float64) number."""
    array = constant_array(value, limit=1)
    if array is None or array.size != 1 or value.dtype is None:
        return None
    item = array.reshape(())
    if item.dtype.kind == "b":
        return Const(bool(item))
    if item.dtype.kind in "iu":
        return Const(int(item))
    if not value.dtype.is_floating_point():
        return None
    if item.dtype == np.float64:
        return Const(float(item))
    # Every narrower type is exact in float32, which expressions may be computed in.
    return Const(float(str(item.astype(np.float32)[()])))


@dataclass
class Region:
    """Nodes whose results are expressions of values outside. `values` maps their operand names to values."""

    exprs: dict[ir.Value, Expr] = field(default_factory=dict)
    values: dict[str, ir.Value] = field(default_factory=dict)
    nodes: list[ir.Node] = field(default_factory=list)

    def copy(self) -> "Region":
        """An independent copy, to try an extension on."""
        return Region(dict(self.exprs), dict(self.values), list(self.nodes))

    def absorb(self, node: ir.Node) -> None:
        """Adds an elementwise node; its operands become parts of the region, literals or operands."""
        result = static_shape(node.outputs[0])
        literals = [None if v is None or v in self.exprs else inline_constant(v) for v in node.inputs]
        shapes = [
            static_shape(v) or () for v, c in zip(node.inputs, literals, strict=True) if v is not None and c is None
        ]
        if not shapes or np.broadcast_shapes(*shapes) != result or _keeps_types(node):
            literals = [None] * len(node.inputs)
        args = [
            None if v is None else c if c is not None else self.operand(v)
            for v, c in zip(node.inputs, literals, strict=True)
        ]
        self.exprs[node.outputs[0]] = read(node, args)
        self.nodes.append(node)

    def operand(self, value: ir.Value) -> Expr:
        """The expression of a value of the region, or the operand that stands for a value outside."""
        if value in self.exprs:
            return self.exprs[value]
        for name, known in self.values.items():
            if known is value:
                return Operand(name)
        name = f"v{len(self.values)}"
        self.values[name] = value
        return Operand(name)

    def size(self, result: ir.Value) -> int:
        """The ops that computing the result takes."""
        return len(ops(self.exprs[result]))

    def repeats(self, result: ir.Value) -> tuple[str, ...]:
        """The costly ops that the expression computes more than once."""
        counted = Counter(c for c in _calls(self.exprs[result]) if c.op not in CHEAP)
        return tuple(c.op for c, n in counted.items() if n > 1)

    def finish(self, result: ir.Value) -> tuple[str, tuple[ir.Value, ...]]:
        """The text of the result's expression, and the operands a0, a1, ... in order."""
        expr = _structural_order(self.exprs[result])
        names = [n for n in _appearance(expr) if n != X.name]
        renamed = substitute(expr, {name: Operand(f"a{i}") for i, name in enumerate(names)})
        return format(renamed), tuple(self.values[name] for name in names)


def read(node: ir.Node, args: Sequence[Expr | None]) -> Expr:
    """The node as an expression over the given arguments (None: an optional operand that is absent).

    Raises CompileError if the op has an attribute that the language does not know.
    """
    given = [a for a in args if a is not None]
    if node.domain == DOMAIN:
        return substitute(expression(node), {f"a{i}": arg for i, arg in enumerate(given)})
    if node.op_type == "Clip":
        return _clip(args)
    attrs: dict[str, AttrValue] = {}
    for name in node.attributes:
        value = attribute(node, name)
        if node.op_type in ("Cast", "BitCast") and name == "to" and isinstance(value, int):
            value = dtype_name(ir.DataType(value))
        if isinstance(value, float):
            value = float(str(np.float32(value)))
        if isinstance(value, int | float | str):
            attrs[name] = value
    if node.op_type not in BOOLEAN:
        given = _typed(node, given)
    return call(node.op_type, given, {k: v for k, v in attrs.items() if k in ATTRIBUTES.get(node.op_type, {})})


def _clip(args: Sequence[Expr | None]) -> Expr:
    x, low, high = [*args, None, None][:3]
    assert x is not None  # the first operand of Clip is not optional
    if low is not None and high is not None:
        return call("Clip", (x, low, high))
    if low is not None:
        return call("Max", (x, low))
    return call("Min", (x, high)) if high is not None else x


def _typed(node: ir.Node, args: list[Expr]) -> list[Expr]:
    """Wraps the first literal in a Cast where only literals say the type and they would say another one."""
    group = value_group(node.op_type, args)
    literals = [args[i] for i in group]
    dtype = node.inputs[group[0]]
    if not all(isinstance(a, Const) for a in literals) or dtype is None or dtype.dtype is None:
        return args
    first = literals[0]
    name = dtype_name(dtype.dtype)
    if isinstance(first, Const) and {constant_type(a.value) for a in literals if isinstance(a, Const)} != {name}:
        args[group[0]] = call("Cast", (first,), {"to": name})
    return args


def _keeps_types(node: ir.Node) -> bool:
    """Whether a literal would lose the type of its operand: the exponent of an integer power."""
    base = node.inputs[0]
    return node.op_type == "Pow" and base is not None and base.dtype is not None and base.dtype.is_integer()


def _calls(expr: Expr) -> Iterator[Call]:
    if isinstance(expr, Call):
        for arg in expr.args:
            yield from _calls(arg)
        yield expr


def _appearance(expr: Expr) -> list[str]:
    if isinstance(expr, Operand):
        return [expr.name]
    if isinstance(expr, Call):
        return list(dict.fromkeys(name for arg in expr.args for name in _appearance(arg)))
    return []


def _structural_order(expr: Expr) -> Expr:
    """Orders the arguments of commutative ops by structure alone, so that a + b and b + a give one text."""
    if not isinstance(expr, Call):
        return expr
    args = tuple(_structural_order(a) for a in expr.args)
    if expr.op in COMMUTATIVE:
        args = tuple(sorted(args, key=_structure))
    return Call(expr.op, args, expr.attrs)


def _structure(expr: Expr) -> tuple[int, str]:
    if isinstance(expr, Call):
        erased: Mapping[str, Expr] = {n: Operand("a") for n in _appearance(expr) if n != X.name}
        return 0, format(substitute(expr, erased))
    return (1, "") if expr == X else (2, "") if isinstance(expr, Operand) else (3, format(expr))
