"""Block-sparse ops of the domain `ipucc` whose pattern is an operand: shapes, and bodies in ONNX's own ops.

A weight of `shape` [k, n] is cut into blocks of `block` [bk, bn], the grid of blocks into cells of `cell` block rows
and block columns. values [bands, groups, capacity, bk, bn] and places [bands, groups, capacity, 2] are its blocks in
buckets, one per cell (`ipucc.sparsity.buckets`): slot s of a bucket holds the block at block row places[..., s, 0] and
block column places[..., s, 1], or is empty (places -1, values 0). A bucket holds blocks of its own cell, with `reach` 2
also of the next cell of its band, cyclically. No block is given twice; what lies elsewhere is undefined.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.graph.body import Body
from ipucc.graph.edit import int_attribute, ints_attribute, value_dtype
from ipucc.graph.shapes import Shape
from ipucc.sparsity.blocks import check_block
from ipucc.sparsity.buckets import Buckets

__all__ = [
    "ATTRIBUTES",
    "DYNAMIC_OPS",
    "INITIAL",
    "buckets_of",
    "product_body",
    "product_shape",
    "sampled_body",
    "sampled_shape",
]

DYNAMIC_OPS: Final = ("DynamicSparseMatMul", "SampledMatMul")
INITIAL: Final = "ipucc.initial"
"""Key of `ir.Value.meta` of a graph input: the array that a program holds for it until it is given another."""

ATTRIBUTES: Final = ("shape", "block", "cell")
"""Attributes of two numbers that every such op has, beside `reach`."""


def buckets_of(attrs: Mapping[str, Sequence[int]], reach: int, capacity: int) -> Buckets:
    """The buckets that attributes describe. Raises ValueError for attributes that describe none."""
    shape, block, cell = (tuple(int(v) for v in attrs.get(name, ())) for name in ATTRIBUTES)
    for name, found in zip(ATTRIBUTES, (shape, block, cell), strict=True):
        if len(found) != 2:
            raise ValueError(f"{name} {list(found)} must be two positive numbers")
    return Buckets((shape[0], shape[1]), check_block(block), (cell[0], cell[1]), capacity, reach)


def product_shape(
    a: Shape | None, values: Shape | None, places: Shape | None, attrs: Mapping[str, Sequence[int]], reach: int,
    transposed: bool,
) -> Shape | None:  # fmt: skip
    """The shape of a product, None while one of an operand is unknown. ValueError for operands that do not fit."""
    if a is None or values is None or places is None:
        return None
    buckets = _checked(places, attrs, reach)
    if values != (*places[:3], *buckets.block):
        raise ValueError(f"values of shape {values} are not buckets of {places[:3]} blocks of {buckets.block}")
    inner, outer = buckets.shape[::-1] if transposed else buckets.shape
    if not a or a[-1] != inner:
        raise ValueError(f"operand {a} does not fit to a weight of shape {buckets.shape}")
    return (*a[:-1], outer)


def sampled_shape(
    a: Shape | None, b: Shape | None, places: Shape | None, attrs: Mapping[str, Sequence[int]], reach: int
) -> Shape | None:
    """The shape of a sampled product, None while one of an operand is unknown. ValueError for operands that do not
    fit."""
    if a is None or b is None or places is None:
        return None
    buckets = _checked(places, attrs, reach)
    if a[:-1] != b[:-1] or (a[-1:], b[-1:]) != (buckets.shape[:1], buckets.shape[1:]):
        raise ValueError(f"operands {a} and {b} do not fit to a weight of shape {buckets.shape}")
    return (*places[:3], *buckets.block)


def _checked(places: Shape, attrs: Mapping[str, Sequence[int]], reach: int) -> Buckets:
    if len(places) != 4 or places[3] != 2:
        raise ValueError(f"places of shape {places} are not [bands, groups, capacity, 2]")
    buckets = buckets_of(attrs, reach, places[2])
    if places[:2] != buckets.grid:
        raise ValueError(f"places of shape {places} are for another grid than {buckets.grid[0]} x {buckets.grid[1]}")
    return buckets


def product_body(node: ir.Node, body: Body, a: ir.Value, values: ir.Value, places: ir.Value) -> ir.Value:
    """MatMul(A, W), transposed MatMul(A, W^T), with W of the blocks in buckets."""
    (bk, bn), (k, n) = ints_attribute(node, "block", ()), ints_attribute(node, "shape", ())
    rows, cols = -(-k // bk), -(-n // bn)
    # Empty slots lie at -1: a row and a column more than there are take what they hold.
    zero = ir.tensor(np.zeros(1, dtype=value_dtype(node.inputs[1]).numpy()))  # type: ignore[arg-type]
    sizes = body.constant(np.array([rows + 1, cols + 1, bk, bn], dtype=np.int64))
    zeros = body.add(ir.node("ConstantOfShape", [sizes], attributes={"value": zero}))
    grid = body.node("ScatterND", [zeros, _indices(body, places), values], {})
    rows_first = body.node("Transpose", [grid], {"perm": (0, 2, 1, 3)})
    padded = body.constant(np.array([(rows + 1) * bk, (cols + 1) * bn], dtype=np.int64))
    dense = body.node("Reshape", [rows_first, padded], {})
    bounds = [body.constant(np.array(b, dtype=np.int64)) for b in ([0, 0], [k, n], [0, 1])]
    weight = body.node("Slice", [dense, *bounds], {})
    if int_attribute(node, "transposed", 0):
        weight = body.node("Transpose", [weight], {"perm": (1, 0)})
    return body.node("MatMul", [a, weight], {})


def sampled_body(node: ir.Node, body: Body, a: ir.Value, b: ir.Value, places: ir.Value) -> ir.Value:
    """The blocks of A^T B at the places of buckets, zeros in empty slots."""
    (bk, bn), (k, n) = ints_attribute(node, "block", ()), ints_attribute(node, "shape", ())
    rows, cols = -(-k // bk), -(-n // bn)

    def ints(*values: int) -> ir.Value:
        return body.constant(np.array(values, dtype=np.int64))

    left = body.node("Transpose", [body.node("Reshape", [a, ints(-1, k)], {})], {"perm": (1, 0)})
    product = body.node("MatMul", [left, body.node("Reshape", [b, ints(-1, n)], {})], {})
    padded = body.node("Pad", [product, ints(0, 0, (rows + 1) * bk - k, (cols + 1) * bn - n)], {})
    grid = body.node("Reshape", [padded, ints(rows + 1, bk, cols + 1, bn)], {})
    blocks = body.node("Transpose", [grid], {"perm": (0, 2, 1, 3)})
    return body.node("GatherND", [blocks, _indices(body, places)], {})


def _indices(body: Body, places: ir.Value) -> ir.Value:
    return body.node("Cast", [places], {"to": int(ir.DataType.INT64)})
