"""The pass `fuse-activation`: activations written in small ops become ONNX's own."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import onnx_ir as ir

from ipucc.graph.edit import AttrLike, scalar
from ipucc.graph.match import Match
from ipucc.graph.patterns import OpPattern, Pattern, Var, const, either, op
from ipucc.graph.rewrite import Builder, Rule, apply_rules, require, rewrite
from ipucc.pass_manager import Pass, PassContext

_ROUNDED: Final = 2e-4
"""Relative tolerance of literals that exporters round (0.7978846, 0.044715, 1.4142, and all of them in
float16)."""


def _times(x: Pattern, factor: float) -> Pattern:
    return either(x * const(factor, _ROUNDED), x / const(1 / factor, _ROUNDED))


def _with_half(x: Var, rest: Pattern) -> tuple[OpPattern, ...]:
    half = const(0.5)
    halved = either(x * half, x / const(2))
    doubly = rest * half
    return halved * rest, x * either(doubly, rest / const(2)), (x * rest) * half, (x * rest) / const(2)


def _gelu_erf(x: Var) -> tuple[OpPattern, ...]:
    return _with_half(x, op.Erf(_times(x, math.sqrt(0.5))) + 1)


@rewrite("gelu-erf", _gelu_erf)
def gelu_erf(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    """0.5 x (1 + erf(x / sqrt 2)) is Gelu."""
    return new.Gelu(x)


def _gelu_tanh(x: Var) -> tuple[OpPattern, ...]:
    cube = either(x ** const(3), x * (x * x), (x * x) * x)
    slope, bend = math.sqrt(2 / math.pi), const(0.044715, _ROUNDED)
    inner = _times(x + cube * bend, slope)
    factored = either(
        _times(x, slope) * (1 + (x * x) * bend),
        _times(x, slope) * (1 + (x * bend) * x),
        _times(x * (1 + (x * x) * bend), slope),
        _times(x + (x * bend) * (x * x), slope),
        _times(x + ((x * bend) * x) * x, slope),
        _times(x + (x * x * bend) * x, slope),
    )
    return _with_half(x, op.Tanh(either(inner, factored)) + 1)


@rewrite("gelu-tanh", _gelu_tanh)
def gelu_tanh(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) is Gelu with approximate=tanh."""
    return new.Gelu(x, approximate="tanh")


def _gelu_sigmoid(x: Var) -> OpPattern:
    return x * op.Sigmoid(x * const(1.702, _ROUNDED))


@rewrite("gelu-sigmoid", _gelu_sigmoid)
def gelu_sigmoid(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    """x sigmoid(1.702 x), an approximation of Gelu, is exactly Swish with alpha=1.702 (not ONNX's Gelu)."""
    return new.Swish(x, alpha=1.702)


def _silu(x: Var) -> tuple[OpPattern, ...]:
    return x * op.Sigmoid(x), x / (1 + op.Exp(op.Neg(x)))


@rewrite("silu", _silu)
def silu(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    """x sigmoid(x) is Swish."""
    return new.Swish(x)


def _sigmoid(x: Var) -> tuple[OpPattern, ...]:
    return 1 / (1 + op.Exp(op.Neg(x))), op.Reciprocal(1 + op.Exp(op.Neg(x)))


@rewrite("sigmoid", _sigmoid)
def sigmoid(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    """1 / (1 + exp(-x)) is Sigmoid."""
    return new.Sigmoid(x)


def _hard_sigmoid(x: Var) -> tuple[OpPattern, ...]:
    clipped = op.Clip(x + const(3), const(0), const(6))
    return clipped / const(6), clipped * const(1 / 6, _ROUNDED)


@rewrite("hard-sigmoid", _hard_sigmoid)
def hard_sigmoid(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    """clip(x + 3, 0, 6) / 6 is HardSigmoid with alpha=1/6 and beta=1/2."""
    return new.HardSigmoid(x, alpha=1 / 6, beta=0.5)


def _hard_swish(x: Var, alpha: Var, beta: Var) -> tuple[OpPattern, ...]:
    clipped = op.Clip(x + const(3), const(0), const(6))
    sixth = const(1 / 6, _ROUNDED)
    return (
        x * op.HardSigmoid(x, alpha=alpha, beta=beta),
        (x * clipped) / const(6),
        (x * clipped) * sixth,
        x * (clipped / const(6)),
        x * (clipped * sixth),
    )


@rewrite("hard-swish", _hard_swish)
def hard_swish(m: Match, new: Builder, x: ir.Value, alpha: AttrLike | None, beta: AttrLike | None) -> ir.Value:
    """x hardsigmoid(x) with alpha=1/6 and beta=1/2 is HardSwish."""
    for value, wanted in ((alpha, 1 / 6), (beta, 0.5)):
        close = value is None or (isinstance(value, float) and math.isclose(value, wanted, rel_tol=1e-5))
        require(close, "alpha and beta are not 1/6 and 1/2")
    return new.HardSwish(x)


def _softplus(x: Var) -> OpPattern:
    return op.Log(op.Exp(x) + 1)


@rewrite("softplus", _softplus)
def softplus(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    """log(exp(x) + 1) is Softplus."""
    return new.Softplus(x)


def _mish(x: Var) -> OpPattern:
    return x * op.Tanh(op.Softplus(x))


@rewrite("mish", _mish)
def mish(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    """x tanh(softplus(x)) is Mish."""
    return new.Mish(x)


def _relu(x: Var) -> tuple[OpPattern, ...]:
    return op.Max(x, const(0)), op.Clip(x, const(0))


@rewrite("relu", _relu)
def relu(m: Match, new: Builder, x: ir.Value) -> ir.Value | None:
    """max(x, 0) is Relu."""
    floating = x.dtype is not None and x.dtype.is_floating_point()
    return new.Relu(x) if floating and x.shape == m.output.shape else None


def _power(x: Var, n: Var) -> OpPattern:
    return x**n


@rewrite("power", _power)
def power(m: Match, new: Builder, x: ir.Value, n: ir.Value) -> ir.Value | None:
    """A Pow with a small constant exponent is a product, a root or a reciprocal: Pow itself is a long
    routine."""
    exponent = scalar(n)
    floating = x.dtype is not None and x.dtype.is_floating_point()
    if not floating or x.shape != m.output.shape or exponent is None:
        return None
    if exponent == 2:
        return new.Mul(x, x)
    if exponent == 3:
        return new.Mul(new.Mul(x, x), x)
    if exponent == 0.5:
        return new.Sqrt(x)
    if exponent == -0.5:
        return new.Reciprocal(new.Sqrt(x))
    return new.Reciprocal(x) if exponent == -1 else None


RULES: Final[tuple[Rule, ...]] = (
    gelu_erf,
    gelu_tanh,
    gelu_sigmoid,
    silu,
    sigmoid,
    hard_swish,
    hard_sigmoid,
    softplus,
    mish,
    relu,
    power,
)


@dataclass(frozen=True)
class FuseActivation(Pass):
    """Leaves activations as one node: Gelu (erf, tanh), Swish, HardSwish, HardSigmoid, Mish, Softplus, Relu.

    e = Erf (s)        with s = x / 1.41421
    o = Add (e, one)                          ->   y = Gelu (x)
    h = Mul (x, half)
    y = Mul (h, o)
    """

    name: ClassVar[str] = "fuse-activation"

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        return apply_rules(model, RULES, ctx) > 0
