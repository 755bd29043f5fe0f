"""Selection of boxes: all boxes of a class on one tile."""

import onnx_ir as ir

from ipucc.codelets.boxes import SelectBoxes
from ipucc.ops.builder import Builder, lowering
from ipucc.ops.spec import Along, Axis, Everything

__all__: list[str] = []


@lowering("SelectBoxes", domain="ipucc")
def _select(b: Builder, node: ir.Node) -> None:
    boxes, scores = b.ref(node, 0), b.ref(node, 1)
    batch, classes, size = scores.shape
    if boxes.shape != (batch, size, 4):
        raise b.fail("IPU0120", f"boxes of shape {list(boxes.shape)} do not fit to scores of {list(scores.shape)}")
    count = node.attributes.get_int("count")
    axes = (Axis("b", batch), Axis("c", classes), Axis("s", size, "whole"), Axis("k", count, "whole"))
    operands = [
        b.operand(boxes, [Along("b"), Along("s"), Everything(4)]),
        b.operand(scores, [Along("b"), Along("c"), Along("s")]),
        *(b.operand(b.reshape(b.ref(node, i), (1,)), [Everything(1)]) for i in (2, 3)),
    ]
    codelet = SelectBoxes(count, bool(node.attributes.get_int("center", 0)))
    b.define(node, b.compute("SelectBoxes", axes, operands, ("b", "c", "k"), "int64", codelet, 2))
