"""Products of one left side by several constant right sides, which may also be computed as one product.

Query, key and value of an attention, or the two first projections of a gated feed-forward, read the same rows. As one
product they move these rows once and take one phase instead of several; apart, each may be cut as suits it. Both ways
are offered to placement, but of block-sparse products: apart, each gathers its own rows, which takes longer and more
code.
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
from ipucc.graph.schemas import DOMAIN
from ipucc.graph.tensors import is_missing
from ipucc.ops.builder import Builder, dtype_of, origin, shape_of
from ipucc.ops.graph import Ref
from ipucc.ops.matmul import matmul
from ipucc.ops.sparse import multiply, product_of
from ipucc.tiles.view import View

__all__ = ["Siblings", "combined_kinds", "find_siblings", "join"]

_KINDS: Final = 2
SPARSE: Final = "BlockSparseMatMul"


@dataclass(frozen=True)
class Siblings:
    """Matmul nodes that can be one, in the order of the graph. Groups of one `kind` are alike but for their names."""

    nodes: tuple[ir.Node, ...]
    kind: str

    @property
    def sparse(self) -> bool:
        """Whether they are block-sparse: these always become one. Apart, each gathers its own rows in its own phase."""
        return self.nodes[0].op_type == SPARSE


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
    for group in (g for g in find_siblings(graph) if not g.sparse):
        found[group.kind] += len(group.nodes)
    kinds = sorted(found, key=lambda kind: (-found[kind], kind))[:_KINDS]
    return [chosen for n in range(1, len(kinds) + 1) for chosen in combinations(kinds, n)]


def _key(node: ir.Node) -> str | None:
    """What products that become one must have alike, as text; None for a node that cannot be part of one."""
    known = (node.domain, node.op_type) in (("", "MatMul"), (DOMAIN, "FusedMatMul"), (DOMAIN, SPARSE))
    if not known or len(node.inputs) < 2:
        return None
    left, right, *extras = node.inputs
    if left is None or right is None or right.const_value is None or left.const_value is not None:
        return None
    sparse = _sparse_key(node, right)
    if node.op_type == SPARSE:
        k, n = node.attributes.get_ints("shape")
    elif right.shape is not None and len(right.shape) == 2:
        k, n = shape_of(right)
    else:
        return None
    dtype = dtype_of(right)
    if dtype not in ("float16", "float32") or n % 8 or sparse is None:
        return None
    for extra in extras:
        if extra is None or extra.const_value is None or dtype_of(extra) != dtype:
            return None
        if shape_of(extra)[-1:] != (n,) or prod(shape_of(extra)) != n:
            return None
    return f"{sparse}k={k} {dtype} {len(extras)} {node.attributes.get_string('expr', '')}"


def _sparse_key(node: ir.Node, values: ir.Value) -> str | None:
    """What block-sparse products must have alike besides, nothing for others; None for one that stays alone."""
    if node.op_type != SPARSE:
        return ""
    (bk, bn), (_, n) = node.attributes.get_ints("block"), node.attributes.get_ints("shape")
    pinned = node.attributes.get_string("distribution", "")
    alone = pinned or n % bn or values.const_value is None or is_missing(values.const_value)
    return None if alone else f"{bk}x{bn} blocks "


def join(b: Builder, group: Siblings) -> None:
    """Lowers one product for all nodes of a group; the result of each is a part of its last dimension."""
    first, start = group.nodes[0], len(b.graph.ops)
    b.begin(first)
    widths = [shape_of(node.outputs[0])[-1] for node in group.nodes]
    shape = (*shape_of(first.outputs[0])[:-1], sum(widths))
    if first.op_type == SPARSE:
        made = _sparse(b, group.nodes, shape)
    else:
        # Vectors as rows: an extra of shape [n] and one of [1, n] say the same.
        beside = [_beside(b, group.nodes, i) for i in range(1, len(first.inputs))]
        expr = first.attributes.get_string("expr", "")
        made = matmul(b, b.ref(first, 0), beside[0], beside[1:], "" if expr == "x" else expr, shape)
    title = "+".join(node.name or node.outputs[0].name or "" for node in group.nodes)
    nodes = tuple(name for node in group.nodes for name in origin(node))
    for i, op in enumerate(b.graph.ops[start:], start):
        name = title + op.name.removeprefix(b.name())
        forms = tuple(replace(form, name=name, origin=nodes) for form in op.forms)
        b.graph.ops[i] = replace(op, name=name, origin=nodes, forms=forms)
    begin = 0
    for node, n in zip(group.nodes, widths, strict=True):
        b.define(node, b.view(made, View.take(shape, len(shape) - 1, np.arange(begin, begin + n))))
        begin += n


def _sparse(b: Builder, nodes: Sequence[ir.Node], shape: tuple[int, ...]) -> Ref:
    """The product by the blocks of all nodes, their weights side by side."""
    products = [product_of(b, node) for node in nodes]
    first, columns, cols = products[0], 0, []
    for product in products:
        cols.append(product.cols + columns)
        columns += product.weight[1] // first.block[1]
    held = [
        np.asarray(v.const_value.numpy()) for n in nodes if (v := n.inputs[1]) is not None and v.const_value is not None
    ]
    count = sum(p.rows.size for p in products)
    name = "+".join(str(n.inputs[1].name) for n in nodes if n.inputs[1] is not None)
    values = b.literal(name, np.concatenate(held), first.values.dtype, (count, *first.block))
    joined = replace(
        first, values=values, rows=np.concatenate([p.rows for p in products]), cols=np.concatenate(cols),
        weight=(first.weight[0], shape[-1]), extras=[_beside(b, nodes, i) for i in range(2, len(nodes[0].inputs))],
        shape=shape,
    )  # fmt: skip
    return multiply(b, nodes[0], joined)


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
