"""The pass `fuse-conv`: normalisations and pads into the convolution beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ipucc.graph.edit import (
    Array,
    AttrLike,
    attribute,
    constant_array,
    int_attribute,
    ints_attribute,
    scalar,
    static_shape,
    value_dtype,
)
from ipucc.graph.match import Match
from ipucc.graph.patterns import OpPattern, Var, maybe, op
from ipucc.graph.rewrite import Builder, Rule, apply_rules, present, require, rewrite
from ipucc.graph.weight_names import carry_name
from ipucc.pass_manager import Pass, PassContext

Doubles: TypeAlias = npt.NDArray[np.float64]


def _affine(statistics: Sequence[Array], eps: float) -> tuple[Doubles, Doubles]:
    """BatchNormalization in inference (ONNX, training_mode=0) as y = x * factor + shift, per channel."""
    scale, bias, mean, var = (np.asarray(s, dtype=np.float64) for s in statistics)
    factor = scale / np.sqrt(var + eps)
    return factor, bias - mean * factor


def _conv_bn(
    x: Var, w: Var, b: Var, conv: Var, s: Var, t: Var, mu: Var, var: Var, eps: Var, momentum: Var
) -> tuple[OpPattern, ...]:
    return tuple(
        op.BatchNormalization(
            getattr(op, kind)(x, w, maybe(b), any_attrs=True, out=conv),
            *(s, t, mu, var),
            epsilon=eps,
            training_mode=0,
            momentum=momentum,
        )
        for kind in ("Conv", "ConvTranspose")
    )


@rewrite("conv-batchnorm", _conv_bn)
def conv_batchnorm(
    m: Match,
    new: Builder,
    x: ir.Value,
    w: ir.Value,
    b: ir.Value | None,
    conv: ir.Value,
    s: ir.Value,
    t: ir.Value,
    mu: ir.Value,
    var: ir.Value,
    eps: float,
) -> ir.Value:
    """BatchNormalization(Conv(x, w, b)) is Conv(x, w', b'): the factor scales the output channels of the
    weight."""
    node = present(conv.producer(), "the convolution is an input")
    shape = present(static_shape(w), "the shape of the weight is not known")
    channels = present(static_shape(s), "the number of channels is not known")
    statistics, dtype = (s, t, mu, var), value_dtype(w)

    def weight(array: Array, *stats: Array) -> Array:
        factor = _over_outputs(_affine(stats, eps)[0], array.shape, node)
        return np.asarray(array.astype(np.float64) * factor)

    def bias(*arrays: Array) -> Array:
        factor, shift = _affine(arrays[:4], eps)
        own = np.asarray(arrays[4], dtype=np.float64) if len(arrays) == 5 else np.zeros(())
        return np.asarray(own * factor + shift)

    sources = (*statistics, b) if b is not None else statistics
    name = (b or t).name
    constants = (
        new.editor.derived((w, *statistics), weight, shape, dtype, f"{w.name}_bn"),
        new.editor.derived(sources, bias, channels, dtype, f"{name}_bn"),
    )
    require(None not in constants, "weight, bias and statistics are not all constants")
    carry_name(w, constants[0])
    return getattr(new, node.op_type)(x, *constants, **_attributes(node))  # type: ignore[no-any-return]


def _over_outputs(factor: Doubles, shape: tuple[int, ...], node: ir.Node) -> Doubles:
    """The factor per output channel, shaped to multiply a weight of the given shape."""
    ones = (1,) * (len(shape) - 2)
    if node.op_type == "Conv":
        return factor.reshape(-1, 1, *ones)
    # The weight of ConvTranspose is [C_in, C_out / group, ...]; input channels are grouped in order.
    group = int_attribute(node, "group", 1)
    per_group = factor.reshape(group, 1, -1)
    spread = np.broadcast_to(per_group, (group, shape[0] // group, shape[1]))
    return spread.reshape(shape[0], shape[1], *ones)


def _attributes(node: ir.Node) -> dict[str, AttrLike]:
    values = {name: attribute(node, name) for name in node.attributes}
    return {name: value for name, value in values.items() if value is not None}


def _batchnorm(x: Var, s: Var, t: Var, mu: Var, var: Var, eps: Var, momentum: Var) -> OpPattern:
    return op.BatchNormalization(x, s, t, mu, var, epsilon=eps, training_mode=0, momentum=momentum)


@rewrite("batchnorm", _batchnorm)
def batchnorm(
    m: Match, new: Builder, x: ir.Value, s: ir.Value, t: ir.Value, mu: ir.Value, var: ir.Value, eps: float
) -> ir.Value:
    """BatchNormalization alone is a multiplication and an addition per channel."""
    shape, channels = static_shape(x), static_shape(s)
    present(shape, "the shape is not known")
    rank = len(shape or ())
    per_channel = (*(channels or ()), *(1,) * max(0, rank - 2))
    terms = []
    for part, source in enumerate((s, t)):
        term = new.editor.derived(
            (s, t, mu, var),
            lambda *stats, part=part: _affine(stats, eps)[part],
            *(per_channel, value_dtype(x), f"{source.name}_bn"),
        )
        terms.append(present(term, "the statistics are not constants"))
    return new.Add(new.Mul(x, terms[0]), terms[1])


def _padded(x: Var, pads: Var, value: Var, axes: Var, w: Var, b: Var) -> tuple[OpPattern, ...]:
    pad = op.Pad(x, pads, maybe(value), maybe(axes), mode="constant")
    return op.Conv(pad, w, maybe(b), any_attrs=True), op.AveragePool(pad, any_attrs=True)


@rewrite("pad-into-conv", _padded)
def pad_into_conv(
    m: Match,
    new: Builder,
    x: ir.Value,
    pads: ir.Value,
    value: ir.Value | None,
    axes: ir.Value | None,
    w: ir.Value | None,
    b: ir.Value | None,
) -> ir.Value:
    """Zeros added before a convolution are the convolution's own pads."""
    node = m.root
    rank = len(present(static_shape(x), "the shape is not known"))
    require(node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET", "pads of the window are not explicit")
    amounts = present(constant_array(pads), "the pads are not constants")
    filling = 0 if value is None else scalar(value)
    require(filling is not None and filling == 0, "the pads are not zero")
    given = present(np.arange(rank) if axes is None else constant_array(axes), "the axes are not constants")
    listed = [int(axis) % rank for axis in given]
    total = [0] * 2 * rank
    for i, axis in enumerate(listed):
        total[axis], total[rank + axis] = int(amounts[i]), int(amounts[len(listed) + i])
    require(min(total) >= 0, "a pad is negative")
    require(not any(total[:2] + total[rank : rank + 2]), "batch or channels are padded")
    own = ints_attribute(node, "pads", (0,) * 2 * (rank - 2))
    merged = [o + t for o, t in zip(own, total[2:rank] + total[rank + 2 :], strict=True)]
    attrs = {**_attributes(node), "pads": merged}
    if node.op_type == "AveragePool":
        # The zeros of the Pad are counted by the average, the pool's own pads only with this attribute.
        require(not any(own) and not int_attribute(node, "ceil_mode", 0), "the pool pads by itself")
        return new.AveragePool(x, **{**attrs, "count_include_pad": 1})
    return new.Conv(x, w, b, **attrs)


RULES: Final[tuple[Rule, ...]] = (conv_batchnorm, batchnorm, pad_into_conv)


@dataclass(frozen=True)
class FuseConv(Pass):
    """Leaves no BatchNormalization with constant statistics, and no zero Pad in front of a convolution.

    p = Pad (x, pads)
    c = Conv (p, w)                              ->   y = Conv <pads = [1, 1, 1, 1]> (x, w_bn, b_bn)
    y = BatchNormalization (c, s, b, mean, var)
    """

    name: ClassVar[str] = "fuse-conv"

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        return apply_rules(model, RULES, ctx) > 0
