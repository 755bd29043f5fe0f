"""Det: every matrix on one tile."""

from math import prod

import onnx_ir as ir

from ipucc.codelets.determinant import Determinant
from ipucc.dtypes import is_float
from ipucc.ops.builder import Builder, lowering
from ipucc.ops.spec import Along, Axis, Everything

__all__: list[str] = []


@lowering("Det")
def _det(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    if not is_float(x.dtype):
        raise b.fail("IPU0203", f"Det of {x.dtype} is not supported")
    *batch, size, _ = x.shape
    count = prod(batch)
    operand = b.operand(b.reshape(x, (count, size, size)), [Along("b"), Everything(size), Everything(size)])
    made = b.compute("Det", [Axis("b", count)], [operand], ["b"], x.dtype, Determinant(size), 0)
    b.define(node, b.reshape(made, tuple(batch)))
