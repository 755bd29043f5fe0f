"""What one node makes of its operands, by two oracles: onnx's evaluator and onnxruntime.

The evaluator decides, but for its faults, which are listed here with their reasons; there onnxruntime decides. Where
the two part and neither list says why, nobody knows what is right, and that is an error of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

__all__ = ["EVALUATOR_FAULTS", "ONNXRUNTIME_FAULTS", "Parted", "Unknown", "computed", "difference", "why_parted"]

Array = NDArray[Any]
Attributes = Mapping[str, Any]


class Unknown(Exception):
    """Neither oracle computes this node, or the one that would has a fault."""


class Parted(AssertionError):
    """The oracles give different numbers, and no known fault of one of them is the reason."""


def _sequence_lens(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return len(node.input) > 4 and bool(node.input[4])


def _grouped(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return bool(attributes.get("group", 1) > 1)


def _stacks(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return len(node.output) > len(node.input) - 2


def _ceil(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return bool(attributes.get("ceil_mode", 0))


def _always(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return True


def _cubic(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return attributes.get("mode") == b"cubic"


def _nearest(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return attributes.get("mode", b"nearest") == b"nearest" and not _corners(node, attributes)


def _corners(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return attributes.get("coordinate_transformation_mode") == b"align_corners"


def _symmetric(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return attributes.get("coordinate_transformation_mode") == b"half_pixel_symmetric"


def _one_element(node: onnx.NodeProto, attributes: Attributes) -> bool:
    return attributes.get("coordinate_transformation_mode") == b"pytorch_half_pixel"


Faults = Mapping[str, Sequence[tuple[Callable[[onnx.NodeProto, Attributes], bool], str]]]
EVALUATOR_FAULTS: Final[Faults] = {
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), ((_always, "it adds the zero point before it rounds"),)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), ((_sequence_lens, "it ignores the lengths of the sequences"),)),
    "ConvTranspose": ((_grouped, "it gives groups the weights and the bias of others"),),
    "Loop": ((_stacks, "it joins what the trips make along their first dimension instead of stacking it"),),
    "LpPool": ((_ceil, "it takes the mean of the part of a window that there is times the size of a whole one"),),
    "Resize": (
        (_nearest, "where a point falls on an element or between two, it takes another one by rounding"),
        (_symmetric, "where a point falls on an element, it takes the weights of the next one by rounding"),
        (_one_element, "a result of one element has scale times size for it"),
    ),
    "LRN": ((_always, "it goes over as many channels as the batch has entries"),),
}
"""Ops that the evaluator computes wrongly: of which nodes, and how."""
ONNXRUNTIME_FAULTS: Final[Faults] = {
    "GridSample": ((_cubic, "it clamps the point before it takes its neighbours, not each neighbour"),),
    "Resize": ((_corners, "its corners are those of the rounded size, and not of scale times size"),),
}
"""Ops that onnxruntime computes otherwise: of which nodes, and how."""


def computed(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """The results of a model of one node; Unknown where neither oracle has them."""
    if _fault(EVALUATOR_FAULTS, model.graph.node[0]):
        found = _onnxruntime(model, feeds)
        if found is None:
            raise Unknown("a fault of the evaluator")
        return found
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(feeds))]
    except Exception as failure:  # it raises errors of many kinds
        raise Unknown(str(failure)) from failure


def why_parted(
    model: onnx.ModelProto, feeds: Mapping[str, Array], results: Sequence[Array], allowed: Sequence[float]
) -> str:
    """Why onnxruntime has other results for a model of one node than those given: a fault of one of the two, empty
    where it has the same or none. Raises Parted where the reason is not known."""
    node = model.graph.node[0]
    if reason := _fault(EVALUATOR_FAULTS, node):
        try:
            found = [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(feeds))]
        except Exception:  # it raises errors of many kinds
            return ""
        return f"{node.op_type}: the evaluator's fault, {reason}" if _differ(found, results, allowed) else ""
    other = _onnxruntime(model, feeds)
    if other is None or not (where := _differ(other, results, allowed)):
        return ""
    if reason := _fault(ONNXRUNTIME_FAULTS, node):
        return f"{node.op_type}: onnxruntime's fault, {reason}"
    raise Parted(f"{node.op_type} by onnxruntime: {where}\n{onnx.printer.to_text(model)}")


def difference(got: Array, wanted: Array, allowed: float) -> str:
    """Where two results differ by more than is allowed; the empty text where they do not."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{got.dtype}{got.shape} instead of {wanted.dtype}{wanted.shape}"
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    apart = np.abs(a - b)
    if not (apart <= allowed).all():
        at = np.unravel_index(int(np.nanargmax(np.where(np.isnan(apart), np.inf, apart))), apart.shape)
        return f"{got[at]} instead of {wanted[at]} at {list(map(int, at))}, {allowed:.3g} is allowed"
    return ""


def _differ(found: Sequence[Array], wanted: Sequence[Array], allowed: Sequence[float]) -> str:
    texts = (difference(a, b, bound) for a, b, bound in zip(found, wanted, allowed, strict=True))
    return next(filter(None, texts), "")


def _fault(faults: Faults, node: onnx.NodeProto) -> str:
    """What is wrong with an oracle's answer for a node; empty where nothing is."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return next((why for applies, why in faults.get(node.op_type, ()) if applies(node, attributes)), "")


def _onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array] | None:
    """The outputs by onnxruntime, None where it does not run the model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return [np.asarray(a) for a in session.run(None, dict(feeds))]
    except Exception:  # it has errors of many kinds for what it does not implement
        return None
