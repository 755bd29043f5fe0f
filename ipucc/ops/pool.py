"""Pooling over windows: MaxPool, AveragePool, LpPool. The global forms are reductions."""

import onnx_ir as ir

from ipucc.codelets.pool import Pool
from ipucc.codelets.reduce import identity
from ipucc.dtypes import is_float
from ipucc.ops.builder import Builder, lowering, shape_of
from ipucc.ops.spec import Along, Axis, DimMap
from ipucc.ops.window import Window, thinned, window_of

__all__: list[str] = []

_KINDS = {"MaxPool": "max", "AveragePool": "mean", "LpPool": "norm"}


@lowering(*_KINDS)
def _pool(b: Builder, node: ir.Node) -> None:
    kind = _KINDS[node.op_type]
    if len(node.outputs) > 1 and node.outputs[1].name and node.outputs[1].uses():
        raise b.fail("IPU0202", "the positions of the maxima (the second result) are not supported")
    x = b.ref(node, 0)
    if kind != "max" and not is_float(x.dtype):
        raise b.fail("IPU0203", f"{node.op_type} of {x.dtype} is not supported")
    shape = shape_of(node.outputs[0])
    sizes, out = x.shape[2:], shape[2:]
    given = node.attributes.get_ints("kernel_shape")
    if not given or len(given) != len(sizes):
        raise b.fail("IPU0120", f"attribute 'kernel_shape' must have {len(sizes)} values")
    x, window = thinned(b, x, window_of(b, node, sizes, tuple(int(k) for k in given)))
    sizes = x.shape[2:]
    padding = bool(node.attributes.get_int("count_include_pad", 0))
    # A window that ceil_mode lets run past the padding does not count what lies behind.
    spans = tuple(
        (-lo, n + hi) if padding else (0, n) for n, lo, hi in zip(sizes, window.begins, window.ends, strict=True)
    )
    axes = (Axis("n", shape[0]), Axis("c", shape[1]), *(Axis(f"o{d}", n) for d, n in enumerate(out)))
    dims: list[DimMap] = [Along("n"), Along("c"), *(window.span(d, n) for d, n in enumerate(out))]
    operand = b.operand(x, dims, fill=identity("max", x.dtype) if kind == "max" else 0.0)
    codelet = Pool(
        kind, window.kernel, window.strides, window.dilations, window.begins, Window.grains(operand, 2), spans,
        x.dtype, node.attributes.get_int("p", 2),
    )  # fmt: skip
    names = [a.name for a in axes]
    b.define(node, b.compute(node.op_type, axes, [operand], names, x.dtype, codelet, operand.grain_dim))
