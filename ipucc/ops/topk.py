"""TopK: whole rows on a tile."""

import numpy as np
import onnx_ir as ir

from ipucc.codelets.topk import TopK
from ipucc.ops.builder import Builder, lowering
from ipucc.ops.spec import Along, Axis
from ipucc.tiles.view import View

__all__: list[str] = []


@lowering("TopK")
def _topk(b: Builder, node: ir.Node) -> None:
    x, count = b.ref(node, 0), b.constant(node, 1)
    if count is None:
        raise b.fail("IPU0204", "operand 'K' must be a constant")
    k, rank = int(count.reshape(-1)[0]), len(x.shape)
    dim = node.attributes.get_int("axis", -1) % rank
    if not 0 <= k <= x.shape[dim]:
        raise b.fail("IPU0120", f"{k} of {x.shape[dim]} elements are wanted")
    order = [*(d for d in range(rank) if d != dim), dim]
    back = [int(d) for d in np.argsort(order)]
    rows = b.view(x, View.transpose(x.shape, order))
    names = tuple(f"d{i}" for i in range(rank - 1))
    axes = (*(Axis(a, n) for a, n in zip(names, rows.shape, strict=False)),
            Axis("r", rows.shape[-1], "whole"), Axis("k", k, "whole"))  # fmt: skip
    for i, dtype in enumerate((x.dtype, "int64")):
        result = node.outputs[i]
        if not result.uses() and not result.is_graph_output():
            continue
        operand = b.operand(rows, [Along(a) for a in (*names, "r")])
        codelet = TopK(k, bool(node.attributes.get_int("largest", 1)), i == 1, names, x.dtype)
        made = b.compute("TopK", axes, [operand], (*names, "k"), dtype, codelet, operand.grain_dim)
        b.define(node, b.view(made, View.transpose(made.shape, back)), i)
