"""Elementwise ops, single or fused."""

import numpy as np
import onnx_ir as ir

from ipucc.codelets.elementwise import Elementwise
from ipucc.dtypes import itemsize
from ipucc.graph import expr as ex
from ipucc.graph.edit import dtype_name
from ipucc.ops.builder import Builder, dtype_of, lowering, shape_of
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Axis, DimMap, Everything

__all__ = ["broadcast_dims", "elementwise"]


def broadcast_dims(shape: tuple[int, ...], axes: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[DimMap, ...]:
    """How an operand of as many dimensions as there are axes follows them: dimensions of size 1 are broadcast."""
    return tuple(
        Everything(1) if n == 1 and size != 1 else Along(axis) for n, axis, size in zip(shape, axes, sizes, strict=True)
    )


def elementwise(b: Builder, expr: str, refs: list[Ref], shape: tuple[int, ...], dtype: str) -> Ref:
    """`expr` over a0, a1, ... = `refs`, numpy broadcasting to `shape`. A result without elements has no op."""
    axes = tuple(Axis(f"d{i}", n) for i, n in enumerate(shape))
    names = tuple(a.name for a in axes)
    operands = []
    grain_dim = max(0, len(shape) - 1)
    for ref in refs:
        full = b.reshape(ref, (1,) * (len(shape) - len(ref.shape)) + ref.shape)
        operands.append(b.operand(full, broadcast_dims(full.shape, names, shape)))
    for o in operands:
        # Results lie like the first full operand: nothing is re-ordered on the way through.
        if o.shape == shape and shape:
            grain_dim = o.grain_dim
            break
    codelet = Elementwise(expr, tuple(r.dtype for r in refs), dtype, names)
    return b.compute("Elementwise", axes, operands, names, dtype, codelet, grain_dim)


@lowering("FusedElementwise", domain="ipucc")
def _fused(b: Builder, node: ir.Node) -> None:
    refs = [b.ref(node, i) for i in range(len(node.inputs))]
    out = node.outputs[0]
    b.define(node, elementwise(b, node.attributes.get_string("expr"), refs, shape_of(out), dtype_of(out)))


@lowering(*sorted(set(ex.ELEMENTWISE) - {"Identity"}))
def _single(b: Builder, node: ir.Node) -> None:
    if (
        node.op_type == "BitCast"
        and itemsize(dtype_of(node.outputs[0])) != np.dtype(dtype_of(node.outputs[0])).itemsize
    ):
        raise b.fail("IPU0203", f"BitCast to {dtype_of(node.outputs[0])} is not supported: tiles hold 32 bits of it")
    attrs = {}
    for name in ex.ATTRIBUTES.get(node.op_type, {}):
        if name in node.attributes:
            value = node.attributes[name].value
            if node.op_type in ("Cast", "BitCast") and name == "to":
                value = dtype_name(ir.DataType(int(value)))
            attrs[name] = value.decode() if isinstance(value, bytes) else value
    given = [i for i in range(len(node.inputs)) if node.inputs[i] is not None]
    args: list[ex.Expr] = []
    refs: list[Ref] = []
    for i in given:
        args.append(ex.Operand(f"a{len(refs)}"))
        refs.append(b.ref(node, i))
    if node.op_type == "Clip" and given != list(range(len(given))):
        # Clip without a minimum is a Min.
        tree: ex.Expr = ex.call("Min", args)
    else:
        tree = ex.call(node.op_type, args, attrs)
    out = node.outputs[0]
    b.define(node, elementwise(b, ex.format(tree), refs, shape_of(out), dtype_of(out)))
