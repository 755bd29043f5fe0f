"""Matrix products: MatMul and its fused form."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.codelets.matmul import MatMul
from ipucc.codelets.reduce import Reduce
from ipucc.dtypes import is_float
from ipucc.ops.builder import Builder, Form, lowering, shape_of
from ipucc.ops.elementwise import broadcast_dims
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Axis, DimMap, Operand
from ipucc.tiles.view import View

__all__ = ["FEW_ROWS", "aligned", "matmul"]

FEW_ROWS: Final = 8
"""Up to so many rows a product may be faster on the vector unit, which multiplies no faster for more of them."""


def matmul(b: Builder, left: Ref, right: Ref, extras: list[Ref], expr: str, shape: tuple[int, ...]) -> Ref:
    """numpy's matmul of two refs, then the epilogue over `extras`, which broadcast to `shape`, the result's shape."""
    a = left if len(left.shape) > 1 else b.reshape(left, (1, *left.shape))
    w = right if len(right.shape) > 1 else b.reshape(right, (*right.shape, 1))
    m, k, n = a.shape[-2], a.shape[-1], w.shape[-1]
    batch = np.broadcast_shapes(a.shape[:-2], w.shape[:-2])
    full = (*batch, m, n)
    if prod(w.shape[:-2]) == 1:
        # One matrix on the right: all rows of the left side are rows of one product.
        w = b.reshape(w, (k, n))
        a = b.view(a, View.broadcast(a.shape, (*batch, m, k))) if a.shape[:-2] != batch else a
        a = b.reshape(a, (prod(batch) * m, k))
        folded: tuple[int, ...] = ()
        rows = prod(batch) * m
    else:
        a = b.reshape(a, (1,) * (len(batch) + 2 - len(a.shape)) + a.shape)
        w = b.reshape(w, (1,) * (len(batch) + 2 - len(w.shape)) + w.shape)
        folded, rows = batch, m
    names = tuple(f"b{i}" for i in range(len(folded)))
    reduce_grain = 16 if a.dtype == "float16" else b.grain(a.dtype)
    axes = (
        *(Axis(x, size) for x, size in zip(names, folded, strict=True)),
        Axis("m", rows),
        Axis("n", n),
        Axis("k", k, "reduce", reduce_grain),
    )
    lead = len(folded)
    dims_a: list[DimMap] = [*broadcast_dims(a.shape[:lead], names, folded), Along("m"), Along("k")]
    dims_w: list[DimMap] = [*broadcast_dims(w.shape[:lead], names, folded), Along("k"), Along("n")]
    operands = [b.operand(a, dims_a, want=lead + 1), b.operand(w, dims_w, want=lead)]
    sizes = (*folded, rows, n)
    for extra in extras:
        operands.append(b.operand(*aligned(b, extra, full, sizes, (*names, "m", "n")), epilogue=True))
    types = tuple(e.dtype for e in extras)
    partials = b.options.partials if a.dtype == "float16" else a.dtype
    dtype = a.dtype
    made = b.compute(
        "MatMul", axes, operands, (*names, "m", "n"), dtype, MatMul(names, dtype, partials, expr, types), lead + 1,
        partial=MatMul(names, dtype, partials), partial_dtype=partials if is_float(dtype) else dtype,
        combine=Reduce("sum", ("k",), (*names, "m", "n"), dtype, 1.0, expr, types),
        macs=prod(full) * k,
        forms=_forms(operands, rows, lead) if is_float(dtype) else (),
    )  # fmt: skip
    return b.reshape(made, shape)


def _forms(operands: Sequence[Operand], rows: int, lead: int) -> tuple[Form, ...]:
    """The other methods of a product."""
    forms = [Form("swapped", {"method": "swapped"})]
    if rows <= FEW_ROWS:
        forms.append(Form("dot", {"method": "dot"}))
        w = operands[1]
        if w.pack_dim is not None and w.grain_dim == lead + 1:
            # What arrives in grains of n is multiplied as it lies.
            taken = (operands[0], replace(w, pack_dim=None), *operands[2:])
            forms.append(Form("axpy", {"method": "axpy"}, taken))
    return tuple(forms)


def aligned(
    b: Builder, extra: Ref, full: tuple[int, ...], sizes: tuple[int, ...], names: tuple[str, ...]
) -> tuple[Ref, tuple[DimMap, ...]]:
    """An epilogue operand in the iteration space's dimensions; `full` is the result before batch axes were folded."""
    ref = b.reshape(extra, (1,) * (len(full) - len(extra.shape)) + extra.shape)
    if len(full) != len(sizes):
        lead, rest = ref.shape[:-1], ref.shape[-1]
        if prod(lead) == 1:
            ref = b.reshape(ref, (1, rest))
        else:
            ref = b.view(ref, View.broadcast(ref.shape, (*full[:-1], rest))) if lead != full[:-1] else ref
            ref = b.reshape(ref, (prod(full[:-1]), rest))
    return ref, broadcast_dims(ref.shape, names, sizes)


@lowering("MatMul")
def _matmul(b: Builder, node: ir.Node) -> None:
    b.define(node, matmul(b, b.ref(node, 0), b.ref(node, 1), [], "", shape_of(node.outputs[0])))


@lowering("FusedMatMul", domain="ipucc")
def _fused(b: Builder, node: ir.Node) -> None:
    extras = [b.ref(node, i) for i in range(2, len(node.inputs))]
    expr = node.attributes.get_string("expr")
    expr = "" if expr == "x" else expr
    b.define(node, matmul(b, b.ref(node, 0), b.ref(node, 1), extras, expr, shape_of(node.outputs[0])))
