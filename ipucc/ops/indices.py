"""Ops about positions: Trilu, OneHot, ArgMax and ArgMin."""

import numpy as np
import onnx_ir as ir

from ipucc.codelets.positions import ArgExtreme
from ipucc.codelets.reduce import identity
from ipucc.ops.builder import Builder, dtype_of, lowering, shape_of
from ipucc.ops.elementwise import elementwise
from ipucc.ops.reduce import keep_dims
from ipucc.ops.spec import Along, Axis
from ipucc.tiles.view import View

__all__: list[str] = []


@lowering("Trilu")
def _trilu(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    k = 0
    if b.has(node, 1):
        value = b.constant(node, 1)
        if value is None:
            raise b.fail("IPU0204", "operand 'k' must be a constant")
        k = int(value.reshape(-1)[0])
    if x.gap != 0.0:
        x = b.copied(x, f"{b.name()}.x")
    shape = x.shape
    *lead, rows, columns = shape
    at = np.arange(rows * columns)
    above = at % columns - at // columns
    kept = above >= k if node.attributes.get_int("upper", 1) else above <= k
    flat = b.reshape(x, (*lead, rows * columns))
    b.define(node, b.reshape(b.view(flat, View.take(flat.shape, len(lead), np.where(kept, at, -1))), shape))


@lowering("OneHot")
def _one_hot(b: Builder, node: ir.Node) -> None:
    index, values = b.ref(node, 0), b.ref(node, 2)
    shape = shape_of(node.outputs[0])
    dim = node.attributes.get_int("axis", -1) % len(shape)
    depth = shape[dim]
    form = keep_dims(shape, (dim,))
    places = b.literal(f"{b.name()}.places", np.arange(depth, dtype=np.int32), "int32")
    places = b.reshape(places, tuple(depth if d == dim else 1 for d in range(len(shape))))
    off, on = (b.reshape(b.view(values, View.take(values.shape, 0, [i])), ()) for i in (0, 1))
    wanted = 'Cast(a0, to="int32")' if index.dtype != "int32" else "a0"
    expr = f"Where(Equal(Where(Less({wanted}, 0), Add({wanted}, {depth}), {wanted}), a1), a2, a3)"
    refs = [b.reshape(index, form), places, on, off]
    b.define(node, elementwise(b, expr, refs, shape, dtype_of(node.outputs[0])))


@lowering("ArgMax", "ArgMin")
def _arg(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    dim = node.attributes.get_int("axis", 0) % len(x.shape)
    names = tuple(f"d{i}" for i in range(len(x.shape)))
    axes = [Axis(a, n, "whole" if a == names[dim] else "parallel") for a, n in zip(names, x.shape, strict=True)]
    op = "max" if node.op_type == "ArgMax" else "min"
    operand = b.operand(x, [Along(a) for a in names], fill=identity(op, x.dtype))
    codelet = ArgExtreme(op, names, names[dim], bool(node.attributes.get_int("select_last_index", 0)), x.dtype)
    kept = tuple(a for a in names if a != names[dim])
    grain = operand.grain_dim - (operand.grain_dim > dim) if operand.grain_dim != dim else len(kept) - 1
    made = b.compute(node.op_type, axes, [operand], kept, "int64", codelet, max(0, grain))
    b.define(node, b.reshape(made, shape_of(node.outputs[0])))
