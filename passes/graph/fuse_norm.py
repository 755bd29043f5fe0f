"""The pass `fuse-norm`: LayerNormalization and RMSNormalization out of means, squares and roots."""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import constant_array, scalar, static_shape, value_dtype
from ipucc.graph.match import Match
from ipucc.graph.patterns import OpPattern, Pattern, Var, const, either, op
from ipucc.graph.rewrite import Builder, Rule, apply_rules, present, require, rewrite
from ipucc.pass_manager import Pass, PassContext


def _mean(x: Pattern, axes: Var) -> Pattern:
    return op.ReduceMean(x, axes, keepdims=1)


def _square(x: Pattern) -> Pattern:
    return either(x ** const(2), x * x)


def _normalised(x: Pattern, variance: Pattern, eps: Var) -> Pattern:
    """x divided by the root of variance + eps, in the spellings of the exporters."""
    root = op.Sqrt(variance + eps)
    return either(x / root, x * op.Reciprocal(root), x * (1 / root))


def _layer_norm(x: Var, a: Var, b: Var, eps: Var, g: Var, t: Var) -> tuple[OpPattern, ...]:
    centred = x - _mean(x, a)
    plain = _normalised(centred, _mean(_square(centred), b), eps)
    # Some exporters compute x - mean(x) twice.
    again = x - _mean(x, a)
    split = _normalised(centred, _mean(_square(again), b), eps)
    return plain * g + t, split * g + t, plain * g, split * g


@rewrite("layer-norm", _layer_norm)
def layer_norm(
    m: Match,
    new: Builder,
    x: ir.Value,
    a: ir.Value,
    b: ir.Value,
    eps: ir.Value,
    g: ir.Value,
    t: ir.Value | None,
) -> ir.Value:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * g + t is LayerNormalization."""
    axis = _normalised_axis(x, a, b)
    scale = _parameter(new, x, axis, g)
    shift = None if t is None else _parameter(new, x, axis, t)
    return new.LayerNormalization(x, scale, shift, axis=axis, epsilon=_epsilon(eps))


def _rms_norm(x: Var, a: Var, eps: Var, g: Var) -> OpPattern:
    return _normalised(x, _mean(_square(x), a), eps) * g


@rewrite("rms-norm", _rms_norm)
def rms_norm(m: Match, new: Builder, x: ir.Value, a: ir.Value, eps: ir.Value, g: ir.Value) -> ir.Value:
    """x / sqrt(mean(x^2) + eps) * g is RMSNormalization."""
    axis = _normalised_axis(x, a)
    return new.RMSNormalization(x, _parameter(new, x, axis, g), axis=axis, epsilon=_epsilon(eps))


def _rms_norm_bare(x: Var, a: Var, eps: Var) -> tuple[OpPattern, ...]:
    variance = op.ReduceMean(_square(x), a, keepdims=1)
    root = op.Sqrt(variance + eps)
    return x / root, x * op.Reciprocal(root)


@rewrite("rms-norm-unscaled", _rms_norm_bare)
def rms_norm_bare(m: Match, new: Builder, x: ir.Value, a: ir.Value, eps: ir.Value) -> ir.Value:
    """x / sqrt(mean(x^2) + eps) is RMSNormalization with a scale of ones."""
    axis = _normalised_axis(x, a)
    shape = present(static_shape(x), "the shape is not known")
    ones = np.ones(shape[axis:], dtype=value_dtype(x).numpy())
    return new.RMSNormalization(x, ones, axis=axis, epsilon=_epsilon(eps))


def _normalised_axis(x: ir.Value, *axes: ir.Value) -> int:
    """The first of the trailing axes that all these reductions go over, counted from the back."""
    shape = present(static_shape(x), "the shape is not known")
    found = []
    for value in axes:
        array = present(constant_array(value), "the axes are no constants")
        found.append(sorted(int(a) % len(shape) for a in array.reshape(-1)))
    trailing = list(range(len(shape) - len(found[0]), len(shape)))
    require(bool(trailing) and all(f == trailing for f in found), "the mean is not over the last axes")
    return -len(trailing)


def _epsilon(value: ir.Value) -> float:
    return float(present(scalar(value), "epsilon is no constant"))


def _parameter(new: Builder, x: ir.Value, axis: int, value: ir.Value) -> ir.Value:
    """A scale or shift in the shape of the normalised axes; constants that broadcast to it are expanded."""
    shape = present(static_shape(x), "the shape is not known")
    own = present(static_shape(value), "the shape is not known")
    wanted = shape[axis:]
    if own == wanted:
        return value
    trimmed = own[max(0, len(own) - len(wanted)) :]
    require(own[: len(own) - len(trimmed)] == (1,) * (len(own) - len(trimmed)), "a parameter has outer axes")
    expanded = new.editor.derived(
        (value,),
        lambda array: np.broadcast_to(array.reshape(trimmed), wanted),
        *(wanted, value_dtype(value), value.name or "scale"),
    )
    return present(expanded, "a parameter is not of the normalised shape")


RULES: Final[tuple[Rule, ...]] = (layer_norm, rms_norm, rms_norm_bare)


@dataclass(frozen=True)
class FuseNorm(Pass):
    """Leaves decomposed layer and RMS normalisations over the last axes as one node.

    s = Pow (x, two)
    v = ReduceMean (s, axes)
    e = Add (v, eps)                  ->   y = RMSNormalization <axis = -1, epsilon = 1e-6> (x, g)
    r = Reciprocal (Sqrt (e))
    n = Mul (x, r)
    y = Mul (n, g)
    """

    name: ClassVar[str] = "fuse-norm"

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        return apply_rules(model, RULES, ctx) > 0
