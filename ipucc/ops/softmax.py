"""Softmax, LogSoftmax and Hardmax. A row may be cut over tiles."""

from typing import Final

import onnx_ir as ir

from ipucc.codelets.rows import STATISTIC
from ipucc.codelets.softmax import Peaks, Softmax, SoftmaxParts
from ipucc.ops.builder import Builder, lowering
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Axis

__all__ = ["softmax"]

_KINDS = {"Softmax": "softmax", "LogSoftmax": "log", "Hardmax": "hard"}
# Statistics are float32, and so is the index of a maximum in a row.
_EXACT: Final = 1 << 24


def softmax(b: Builder, x: Ref, dim: int, kind: str) -> Ref:
    """`kind` (softmax, log, hard) over one dimension; the result has the type and shape of `x`."""
    names = tuple(f"d{i}" for i in range(len(x.shape)))
    rest = tuple(a for a in names if a != names[dim])
    row = Axis(names[dim], x.shape[dim], "row" if kind != "hard" or x.shape[dim] <= _EXACT else "whole")
    axes = [row if i == dim else Axis(a, n) for i, (a, n) in enumerate(zip(names, x.shape, strict=True))]
    operand = b.operand(x, [Along(a) for a in names], fill=-float("inf"))
    form = (kind, names, names[dim], x.dtype)
    return b.compute(
        "Softmax", [*axes, Axis(STATISTIC, 2, "whole")], [operand], names, x.dtype, Softmax(*form), operand.grain_dim,
        partial=Peaks(*form), combine=SoftmaxParts(*form), statistics=(*rest, STATISTIC),
    )  # fmt: skip


@lowering(*_KINDS)
def _softmax(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    dim = node.attributes.get_int("axis", -1) % len(x.shape)
    b.define(node, softmax(b, x, dim, _KINDS[node.op_type]))
