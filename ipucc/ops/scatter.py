"""Scatters. Every cell of the table looks at all updates and takes those that fall into it."""

from dataclasses import replace
from math import prod

import numpy as np
import onnx_ir as ir

from ipucc.codelets.scatter import SCATTER_OPS, Scatter
from ipucc.ops.builder import Builder, lowering
from ipucc.ops.gather import position
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Axis
from ipucc.tiles.view import View

__all__ = ["scatter"]


def scatter(b: Builder, data: Ref, index: Ref, update: Ref, op: str) -> Ref:
    """data [b, v, q] with update [b, i, q] at index [b, i]."""
    batch, size, width = data.shape
    axes = (Axis("b", batch), Axis("v", size), Axis("q", width), Axis("i", index.shape[1], "whole"))
    table = b.operand(data, [Along("b"), Along("v"), Along("q")])
    places = b.operand(index, [Along("b"), Along("i")])
    rows = b.operand(update, [Along("b"), Along("i"), Along("q")])
    codelet = Scatter(op, ("q",), size, data.dtype)
    return b.compute("Scatter", axes, [table, places, rows], ("b", "v", "q"), data.dtype, codelet, table.grain_dim)


def _op(b: Builder, node: ir.Node) -> str:
    op = node.attributes.get_string("reduction", "none")
    if op not in SCATTER_OPS:
        raise b.fail("IPU0120", f"reduction is {op!r}")
    return op


@lowering("ScatterElements")
def _scatter_elements(b: Builder, node: ir.Node) -> None:
    data, index, update = (b.ref(node, i) for i in range(3))
    op, rank = _op(b, node), len(data.shape)
    dim = node.attributes.get_int("axis", 0) % rank
    order = [*(d for d in range(rank) if d != dim), dim]
    lead = [data.shape[d] for d in order[:-1]]
    count = index.shape[dim]
    outside = float(np.iinfo(np.int32).min)
    flat = []
    for ref, gap in ((index, outside), (update, 0.0)):
        moved = b.view(ref, View.transpose(ref.shape, order))
        if any(moved.shape[d] != n for d, n in enumerate(lead)):
            # Rows of the table without updates get places outside of it.
            moved = moved if b.is_hosted(moved) and moved.gap == 0.0 else b.copied(moved, b.name())
            for d, n in enumerate(lead):
                at = np.arange(n)
                moved = b.view(moved, View.take(moved.shape, d, np.where(at < moved.shape[d], at, -1)))
            moved = b.copied(replace(moved, gap=gap), b.name())
        flat.append(b.reshape(moved, (prod(lead), count)))
    table = b.reshape(b.view(data, View.transpose(data.shape, order)), (prod(lead), data.shape[dim], 1))
    made = scatter(b, table, flat[0], b.reshape(flat[1], (prod(lead), count, 1)), op)
    made = b.reshape(made, (*lead, data.shape[dim]))
    b.define(node, b.view(made, View.transpose(made.shape, [int(d) for d in np.argsort(order)])))


@lowering("ScatterND")
def _scatter_nd(b: Builder, node: ir.Node) -> None:
    data, index, update = (b.ref(node, i) for i in range(3))
    depth, count = index.shape[-1], prod(index.shape[:-1])
    sizes, width = data.shape[:depth], prod(data.shape[depth:])
    places = b.reshape(position(b, index, sizes), (1, count))
    table = b.reshape(data, (1, prod(sizes), width))
    b.define(node, b.reshape(scatter(b, table, places, b.reshape(update, (1, count, width)), _op(b, node)), data.shape))
