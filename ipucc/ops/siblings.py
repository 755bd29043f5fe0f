"""Products of one left side by several constant right sides, which may also be computed as one product.

Query, key and value of an attention, or the two first projections of a gated feed-forward, read the same rows. As one
product they move these rows once and take one phase instead of several; apart, each may be cut as suits it. Both ways
are offered to placement.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.codelets.base import Array
from ipucc.graph.tensors import is_missing
from ipucc.ops.builder import Builder, dtype_of, origin, shape_of
from ipucc.ops.graph import Ref
from ipucc.ops.matmul import matmul
from ipucc.tiles.view import View

__all__ = ["Siblings", "combined_kinds", "find_siblings", "join"]

_KINDS: Final = 2


@dataclass(frozen=True)
class Siblings:
    """Matmul nodes that can be one, in the order of the graph. Groups of one `kind` are alike but for their names."""

    nodes: tuple[ir.Node, ...]
    kind: str


def find_siblings(graph: ir.Graph) -> list[Siblings]:
    """All groups of two and more products with the same left operand whose right sides and extra operands are
    constants, in types, expressions and widths that allow one product."""
    groups: dict[tuple[ir.Value, str], list[ir.Node]] = {}
    for node in graph:
        left, key = node.inputs[0] if node.inputs else None, _key(node)
        if left is not None and key is not None:
            groups.setdefault((left, key), []).append(node)
    return [
        Siblings(tuple(nodes), f"{shape_of(left)} {key} {[shape_of(n.outputs[0])[-1] for n in nodes]}")
        for (left, key), nodes in groups.items()
        if len(nodes) > 1
    ]


def combined_kinds(graph: ir.Graph) -> list[tuple[str, ...]]:
    """The combinations of kinds of siblings that are worth a tile graph of their own, beside the one without any: all
    of the two kinds that most products belong to."""
    found: Counter[str] = Counter()
    for group in find_siblings(graph):
        found[group.kind] += len(group.nodes)
    kinds = sorted(found, key=lambda kind: (-found[kind], kind))[:_KINDS]
    return [chosen for n in range(1, len(kinds) + 1) for chosen in combinations(kinds, n)]


def _key(node: ir.Node) -> str | None:
    """What products that become one must have alike, as text; None for a node that cannot be part of one."""
    if (node.domain, node.op_type) not in (("", "MatMul"), ("ipucc", "FusedMatMul")) or len(node.inputs) < 2:
        return None
    left, right, *extras = node.inputs
    if left is None or right is None or right.const_value is None or right.shape is None or len(right.shape) != 2:
        return None
    k, n = shape_of(right)
    dtype = dtype_of(right)
    if dtype not in ("float16", "float32") or n % 8 or left.const_value is not None:
        return None
    for extra in extras:
        if extra is None or extra.const_value is None or dtype_of(extra) != dtype:
            return None
        if shape_of(extra)[-1:] != (n,) or prod(shape_of(extra)) != n:
            return None
    return f"k={k} {dtype} {len(extras)} {node.attributes.get_string('expr', '')}"


def join(b: Builder, group: Siblings) -> None:
    """Lowers one product for all nodes of a group; the result of each is a part of its last dimension."""
    first = group.nodes[0]
    b.begin(first)
    widths = [shape_of(node.outputs[0])[-1] for node in group.nodes]
    # Vectors as rows: an extra of shape [n] and one of [1, n] say the same.
    beside = [_beside(b, group.nodes, i) for i in range(1, len(first.inputs))]
    shape = (*shape_of(first.outputs[0])[:-1], sum(widths))
    expr = first.attributes.get_string("expr", "")
    made = matmul(b, b.ref(first, 0), beside[0], beside[1:], "" if expr == "x" else expr, shape)
    op = b.graph.ops[-1]
    title = "+".join(node.name or node.outputs[0].name or "" for node in group.nodes)
    nodes = tuple(name for node in group.nodes for name in origin(node))
    forms = tuple(replace(form, name=title, origin=nodes) for form in op.forms)
    b.graph.ops[-1] = replace(op, name=title, origin=nodes, forms=forms)
    begin = 0
    for node, n in zip(group.nodes, widths, strict=True):
        b.define(node, b.view(made, View.take(shape, len(shape) - 1, np.arange(begin, begin + n))))
        begin += n


def _beside(b: Builder, nodes: Sequence[ir.Node], i: int) -> Ref:
    """Operand i of all nodes side by side, as one constant."""
    values = [value for node in nodes if (value := node.inputs[i]) is not None]
    rows = shape_of(values[0])[0] if i == 1 else 1
    shape = (rows, sum(shape_of(value)[-1] for value in values)) if i == 1 else (sum(shape_of(v)[-1] for v in values),)
    held: Array | None = None
    if not any(is_missing(value.const_value) for value in values if value.const_value is not None):
        parts = [np.asarray(value.const_value.numpy()) for value in values if value.const_value is not None]
        held = np.concatenate([p.reshape(rows, -1) for p in parts], axis=1).reshape(shape)
    return b.literal("+".join(str(value.name) for value in values), held, dtype_of(values[0]), shape)
