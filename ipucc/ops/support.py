"""Which ONNX ops can be lowered to the tile graph."""

import onnx_ir as ir

from ipucc.graph.bounded_schemas import TRIMMED
from ipucc.graph.edit import REFUSED
from ipucc.ops.all import load_all
from ipucc.ops.builder import lowerings

__all__ = ["supported", "supported_ops"]

_REASONS = {
    "ConstantOfShape": "the shape of its result depends on data",
    "Range": "its bounds depend on data",
    "Shape": "the shape of its operand depends on data",
    "Size": "the shape of its operand depends on data",
}
"""Ops that the import computes where it can; what is left of them cannot be compiled."""


def supported(node: ir.Node) -> str | None:
    """None if there is a lowering for the node's op, else the reason why there is none."""
    load_all()
    if (node.domain, node.op_type) in lowerings() or node.op_type == TRIMMED:
        return None
    if REFUSED in node.meta:
        return str(node.meta[REFUSED])
    if not node.domain and node.op_type in _REASONS:
        return _REASONS[node.op_type]
    where = f" of the domain {node.domain!r}" if node.domain else ""
    return f"no lowering for {node.op_type}{where}"


def supported_ops() -> list[tuple[str, str]]:
    """All ops with a lowering as (domain, op type), ascending."""
    load_all()
    return sorted(lowerings())
