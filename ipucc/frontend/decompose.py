"""Ops that are written in others where ONNX has no function body for them, or one that is not for tiles.

A rule takes a node whose operands have static shapes, inserts nodes before it and finishes it, or leaves it as it is:
with False, then whoever lowers it says what is not supported, or with the reason, which is said where there is no
lowering.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.frontend import bounded, contrib, placing, quantise, sampling, spectral, training, windowed
from ipucc.frontend.einsum import einsum
from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none
from ipucc.frontend.functions import has_body
from ipucc.frontend.recurrent import recurrent
from ipucc.frontend.slicing import range_by_data, slice_by_data
from ipucc.graph.edit import REFUSED

__all__ = ["decompose", "waits"]

Rule = Callable[[ir.Node], bool | str]


def decompose(model: ir.Model) -> int:
    """Replace every node that a rule takes; the number replaced."""
    count = 0
    for node in list(model.graph):
        rule = RULES.get((node.domain, node.op_type))
        if rule is not None and _known(node):
            done = rule(node)
            if isinstance(done, str):
                node.meta[REFUSED] = done
            count += done is True
    return count


def waits(node: ir.Node) -> bool:
    """Whether a node would be written in others if the shapes of its operands were known."""
    if _known(node):
        return False
    return (node.domain, node.op_type) in RULES or has_body(node)


def _known(node: ir.Node) -> bool:
    return all(v is None or (shape_or_none(v) is not None and v.dtype is not None) for v in node.inputs)


def wanted(node: ir.Node, index: int) -> bool:
    """Whether somebody reads a result."""
    return index < len(node.outputs) and bool(node.outputs[index].uses() or node.outputs[index].is_graph_output())


def layer_statistics(node: ir.Node) -> bool:
    """Mean and inverse deviation of a LayerNormalization, beside the op itself."""
    if not (wanted(node, 1) or wanted(node, 2)):
        return False
    e = Emitter(node)
    x = node.inputs[0]
    shape = shape_or_none(x)
    assert x is not None
    assert shape is not None
    axis, epsilon = node.attributes.get_int("axis", -1), node.attributes.get_float("epsilon", 1e-5)
    stash = node.attributes.get_int("stash_type", 1)
    y = e.op("LayerNormalization", *node.inputs, axis=axis, epsilon=epsilon, stash_type=stash)
    wide = e.cast(x, stash)
    axes = e.ints(*range(axis % len(shape), len(shape)))
    mean = e.op("ReduceMean", wide, axes, keepdims=1)
    less = e.op("Sub", wide, mean)
    variance = e.op("ReduceMean", e.op("Mul", less, less), axes, keepdims=1)
    deviation = e.op("Sqrt", e.op("Add", variance, e.constant(epsilon, ir.DataType(stash))))
    e.finish(y, mean, e.op("Reciprocal", deviation))
    return True


def dropout_mask(node: ir.Node) -> bool:
    """The mask of a Dropout that drops nothing."""
    training, ratio = constant_of(operand(node, 2)), constant_of(operand(node, 1))
    random = operand(node, 2) is not None and (training is None or bool(training.reshape(-1)[0]))
    if random and (ratio is None or float(ratio.reshape(-1)[0]) != 0.0):
        return False
    e = Emitter(node)
    shape = shape_or_none(node.inputs[0]) or ()
    mask = e.op("Expand", e.constant(True), e.ints(*shape)) if wanted(node, 1) else None
    e.finish(e.op("Identity", node.inputs[0]), mask)
    return True


def pad_with_data(node: ir.Node) -> bool:
    """Pad with a value that is computed: padded with zeros, and the value where padding is."""
    value = operand(node, 2)
    if value is None or constant_of(value) is not None or constant_of(operand(node, 1)) is None:
        return False
    x = node.inputs[0]
    if node.attributes.get_string("mode", "constant") != "constant" or x is None or x.dtype is None:
        return False
    e = Emitter(node)
    inside = e.op("Expand", e.constant(1, ir.DataType.FLOAT), e.ints(*(shape_or_none(x) or ())))
    axes = [operand(node, 3)] if operand(node, 3) is not None else []
    placed = e.op("Cast", e.op("Pad", inside, node.inputs[1], None, *axes), to=int(ir.DataType.BOOL))
    padded = e.op("Pad", x, node.inputs[1], None, *axes)
    e.finish(e.op("Where", placed, padded, e.op("Reshape", value, e.ints())))
    return True


def group_normalization(node: ir.Node) -> bool:
    """A GroupNormalization of opset 18, with a scale and a bias for every group instead of every channel."""
    x, groups = node.inputs[0], node.attributes.get_int("num_groups", 1)
    shape = shape_or_none(x) or ()
    channels = int(shape[1])
    if channels == groups or any(shape_or_none(v) != (groups,) for v in node.inputs[1:]):
        return False
    e = Emitter(node)
    repeated = []
    for value in node.inputs[1:]:
        grouped = e.op("Expand", e.op("Reshape", value, e.ints(groups, 1)), e.ints(groups, channels // groups))
        repeated.append(e.op("Reshape", grouped, e.ints(channels)))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    e.finish(e.op("GroupNormalization", x, *repeated, epsilon=epsilon, num_groups=groups))
    return True


def get_element(node: ir.Node) -> bool:
    """The element of an optional that is a tensor."""
    if not isinstance(node.inputs[0].type if node.inputs[0] is not None else None, ir.TensorType):
        return False
    Emitter(node).finish(node.inputs[0])
    return True


def has_element(node: ir.Node) -> bool:
    """Whether there is an operand, where that is a tensor if anything."""
    given = operand(node, 0)
    if given is not None and not isinstance(given.type, ir.TensorType):
        return False
    e = Emitter(node)
    e.finish(e.constant(np.bool_(given is not None)))
    return True


def binarizer(node: ir.Node) -> bool:
    """1 above a threshold, else 0."""
    e = Emitter(node)
    x = node.inputs[0]
    assert x is not None
    threshold = e.constant(node.attributes.get_float("threshold", 0.0), e.like(x))
    e.finish(e.op("Cast", e.op("Greater", x, threshold), to=int(e.like(x))))
    return True


def feature_extractor(node: ir.Node) -> bool:
    """Elements of the last dimension; those of a vector as a row."""
    e = Emitter(node)
    x, index = node.inputs
    shape = shape_or_none(x)
    if x is None or index is None or not shape:
        return False
    found = e.op("Gather", x, e.op("Reshape", index, e.ints(-1)), axis=len(shape) - 1)
    e.finish(e.op("Unsqueeze", found, e.ints(0)) if len(shape) == 1 else found)
    return True


_RULES: Final[dict[str, Rule]] = {
    "AffineGrid": sampling.affine_grid,
    "BatchNormalization": training.batch_statistics,
    "Col2Im": windowed.col2im,
    "Compress": bounded.compress,
    "ConvInteger": quantise.conv_integer,
    "DFT": spectral.dft,
    "DeformConv": sampling.deform_conv,
    "DequantizeLinear": quantise.dequantize_linear,
    "Dropout": dropout_mask,
    "Einsum": einsum,
    "GRU": recurrent,
    "GroupNormalization": group_normalization,
    "GridSample": sampling.grid_sample,
    "LSTM": recurrent,
    "LayerNormalization": layer_statistics,
    "MatMulInteger": quantise.matmul_integer,
    "MaxPool": windowed.max_pool_positions,
    "MaxUnpool": windowed.max_unpool,
    "NonMaxSuppression": bounded.non_max_suppression,
    "NonZero": bounded.non_zero,
    "OptionalGetElement": get_element,
    "OptionalHasElement": has_element,
    "Pad": pad_with_data,
    "QLinearConv": quantise.qlinear_conv,
    "QLinearMatMul": quantise.qlinear_matmul,
    "QuantizeLinear": quantise.quantize_linear,
    "RNN": recurrent,
    "Range": range_by_data,
    "ReverseSequence": placing.reverse_sequence,
    "RoiAlign": sampling.roi_align,
    "STFT": spectral.stft,
    "Slice": slice_by_data,
    "TensorScatter": placing.tensor_scatter,
    "Unique": bounded.unique,
}
_ML: Final[dict[str, Rule]] = {"ArrayFeatureExtractor": feature_extractor, "Binarizer": binarizer}
_TRAINING: Final[dict[str, Rule]] = {
    "Adagrad": training.adagrad,
    "Adam": training.adam,
    "Momentum": training.momentum,
}
RULES: Final[dict[tuple[str, str], Rule]] = {
    **{("", op): rule for op, rule in _RULES.items()},
    **{("com.microsoft", op): rule for op, rule in contrib.RULES.items()},
    **{("ai.onnx.ml", op): rule for op, rule in _ML.items()},
    **{("ai.onnx.preview.training", op): rule for op, rule in _TRAINING.items()},
}
"""By domain and op."""
