"""Ops of the domain `ipucc` for results whose extent depends on data.

    SelectBoxes(boxes, scores, iou_threshold, score_threshold) -> y
    Trimmed(x, count) -> y

SelectBoxes is non-maximum suppression with a result of fixed size: of boxes [batch, n, 4] with scores [batch, classes,
n] the numbers of the first `count` that ONNX's NonMaxSuppression selects, [batch, classes, count] of int64, best
first, and -1 behind them. `center` is its attribute center_point_box.

Trimmed is the first `count` indices of `axis` of x. The import writes it where an extent becomes known at run time, and
moves it to the outputs of the model (`ipucc.frontend.extents`): no pass sees one.
"""

from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from ipucc.graph.body import Body
from ipucc.graph.edit import int_attribute

__all__ = ["SELECT", "TRIMMED", "register_bounded", "select_body"]

SELECT: Final = "SelectBoxes"
TRIMMED: Final = "Trimmed"

Context = onnx.shape_inference.InferenceContext


def register_bounded(domain: str, version: int, types: list[str]) -> None:
    """Makes the ops known to onnx; does nothing the second time."""
    if onnx.defs.has(SELECT, domain):
        return
    parameter, attribute, kind = OpSchema.FormalParameter, OpSchema.Attribute, OpSchema.AttrType
    floats = ("F", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"], "boxes and scores")
    whole = ("I", ["tensor(int64)"], "numbers of boxes, counts")
    operands = ("boxes", "scores", "iou_threshold", "score_threshold")
    select = OpSchema(
        SELECT, domain, version, doc=__doc__ or "", inputs=[parameter(name, "F") for name in operands],
        outputs=[parameter("y", "I")], type_constraints=[floats, whole],
        attributes=[attribute(name, kind.INT, required=True) for name in ("count", "center")],
    )  # fmt: skip
    select.set_type_and_shape_inference_function(_infer_select)
    trimmed = OpSchema(
        TRIMMED, domain, version, doc=__doc__ or "", inputs=[parameter("x", "T"), parameter("count", "I")],
        outputs=[parameter("y", "T")], type_constraints=[("T", types, "any element"), whole],
        attributes=[attribute("axis", kind.INT, required=True)],
    )  # fmt: skip
    trimmed.set_type_and_shape_inference_function(_infer_trimmed)
    for schema in (select, trimmed):
        onnx.defs.register_schema(schema)


def _infer_select(context: Context) -> None:
    attribute, scores = context.get_attribute("count"), context.get_input_type(1)
    if attribute is None or scores is None or not scores.tensor_type.HasField("shape"):
        return
    dims = [d.dim_value if d.HasField("dim_value") else None for d in scores.tensor_type.shape.dim]
    if len(dims) != 3:
        raise ValueError(f"scores of shape {dims} are not [batch, classes, boxes]")
    shape = (*dims[:2], int(attribute.i))
    context.set_output_type(0, onnx.helper.make_tensor_type_proto(onnx.TensorProto.INT64, shape))


def _infer_trimmed(context: Context) -> None:
    axis, x = context.get_attribute("axis"), context.get_input_type(0)
    if axis is None or x is None or not x.tensor_type.HasField("shape"):
        return
    dims = [d.dim_value if d.HasField("dim_value") else None for d in x.tensor_type.shape.dim]
    if not 0 <= axis.i < len(dims):
        raise ValueError(f"axis {axis.i} is none of {dims}")
    dims[axis.i] = None
    context.set_output_type(0, onnx.helper.make_tensor_type_proto(x.tensor_type.elem_type, dims))


def select_body(node: ir.Node, body: Body, operands: tuple[ir.Value, ...]) -> ir.Value:
    """ONNX's own op, and its rows [batch, class, box] scattered to the places that they have among their class."""
    count = int_attribute(node, "count", 0)
    scores = operands[1]

    def ints(*values: int) -> ir.Value:
        return body.constant(np.array(values, np.int64))

    number = body.constant(np.array(count, np.int64))
    boxes, scores, iou, least = (body.node("Cast", [v], {"to": int(ir.DataType.FLOAT)}) for v in operands)
    thresholds = [body.node("Reshape", [v, ints(1)], {}) for v in (iou, least)]
    center = {"center_point_box": int_attribute(node, "center", 0)}
    rows = body.node("NonMaxSuppression", [boxes, scores, body.node("Reshape", [number, ints(1)], {}), *thresholds],
                     dict(center))  # fmt: skip
    shape = body.node("Shape", [scores], {"start": 0, "end": 2})
    classes = body.node("Slice", [shape, ints(1), ints(2)], {})
    columns = [body.node("Slice", [rows, ints(k), ints(k + 1), ints(1)], {}) for k in range(3)]
    # Rows of one class stand together: those of earlier classes come before its first.
    which = body.node("Add", [body.node("Mul", [columns[0], classes], {}), columns[1]], {})
    turned = body.node("Transpose", [which], {"perm": (1, 0)})
    earlier = body.node("Cast", [body.node("Less", [turned, which], {})], {"to": int(ir.DataType.INT64)})
    before = body.node("ReduceSum", [earlier, ints(1)], {"keepdims": 1})
    ones = body.node("Add", [body.node("Mul", [which, ints(0)], {}), ints(1)], {})
    line = body.node("CumSum", [ones, body.constant(np.array(0, np.int64))], {"exclusive": 1})
    place = body.node("Concat", [which, body.node("Sub", [line, before], {})], {"axis": 1})
    total = body.node("ReduceProd", [shape, ints(0)], {"keepdims": 1})
    table = body.node("Expand", [ints(-1), body.node("Concat", [total, ints(count)], {"axis": 0})], {})
    taken = body.node("Reshape", [columns[2], ints(-1)], {})
    made = body.node("ScatterND", [table, place, taken], {})
    return body.node("Reshape", [made, body.node("Concat", [shape, ints(count)], {"axis": 0})], {})
