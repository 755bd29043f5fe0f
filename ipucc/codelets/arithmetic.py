"""What an elementwise expression computes: ONNX's ops on arrays, floats in float32."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, cast

import ml_dtypes
import numpy as np

from ipucc.codelets.base import Array
from ipucc.diagnostics import error
from ipucc.dtypes import STORAGE, compute_type, is_float
from ipucc.graph.expr import Call, Const, Expr, Operand, argument_type, parse

__all__ = ["evaluate", "parsed"]

Function = Callable[..., Array]


@lru_cache(maxsize=1024)
def parsed(text: str) -> Expr:
    """`ipucc.graph.expr.parse`, remembered."""
    return parse(text)


def evaluate(expr: Expr, env: Mapping[str, tuple[Array, str]]) -> Array:
    """The value of an expression; `env` gives every operand with its ONNX element type. Broadcasts as numpy does.

    Division by zero, overflow and invalid operations follow IEEE and raise nothing.
    """
    types = {name: kind for name, (_, kind) in env.items()}
    with np.errstate(all="ignore"):
        return _value(expr, {name: a for name, (a, _) in env.items()}, types, None)


def _value(expr: Expr, env: Mapping[str, Array], types: Mapping[str, str], wanted: str | None) -> Array:
    if isinstance(expr, Operand):
        return env[expr.name]
    if isinstance(expr, Const):
        kind = wanted or ("bool" if isinstance(expr.value, bool) else None)
        dtype = compute_type(kind) if kind else (np.int32 if isinstance(expr.value, int) else np.float32)
        return np.asarray(expr.value, dtype)
    kind = argument_type(expr, types)
    args = []
    for i, a in enumerate(expr.args):
        own = "bool" if expr.op == "Where" and i == 0 else kind
        args.append(_value(a, env, types, own))
    if expr.op == "Cast":
        return _cast(expr, args[0])
    if expr.op == "BitCast":
        to = str(expr.attr("to"))
        return args[0].astype(STORAGE[kind]).view(STORAGE[to]).astype(compute_type(to))
    out = _FUNCTIONS[expr.op](expr, *args)
    if expr.op in _COMPARE or kind == "bool":
        return out
    return out.astype(compute_type(kind), copy=False)


def _cast(call: Call, x: Array) -> Array:
    """ONNX Cast: floats to narrower floats round once, floats to integers truncate, anything to bool is x != 0. What
    lies outside an 8-bit float becomes its largest value with `saturate`."""
    to = str(call.attr("to"))
    if to not in STORAGE:
        raise error("IPU0203", f"Cast to {to} is not supported", op="Cast")
    if to == "bool":
        return np.asarray(x != 0)
    kind = STORAGE[to]
    if not is_float(to):
        # Through 64 bits: numpy leaves the wrap-around of a direct cast to the platform.
        wide = np.nan_to_num(x).astype(np.int64) if x.dtype.kind == "f" else x
        return wide.astype(kind).astype(compute_type(to), copy=False)
    if to == "float8_e8m0fnu":
        return _power_of_two(np.asarray(x, np.float32), bool(call.attr("saturate")), str(call.attr("round_mode")))
    if to.startswith("float8") and call.attr("saturate"):
        limits = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
        x = np.clip(np.asarray(x, np.float32), np.float32(limits.min), np.float32(limits.max))
    stored = x.astype(kind)
    return stored.astype(compute_type(to), copy=False)


def _power_of_two(x: Array, saturate: bool, round_mode: str) -> Array:
    """The exponent of a number alone, which is what float8e8m0 holds; the sign goes. `round_mode` is up, down or
    nearest; NaN stays, and without `saturate` so becomes what lies outside."""
    bits = np.abs(x).view(np.uint32)
    exponent, rest = (bits >> 23).astype(np.int64), bits & 0x7FFFFF
    if round_mode == "up":
        more = rest > 0
    elif round_mode == "nearest":
        more = (rest > 1 << 22) | ((rest == 1 << 22) & (exponent > 0))
    else:
        more = np.zeros(x.shape, bool)
    largest = 254
    special = exponent > largest
    exponent = exponent + more
    exponent = np.minimum(exponent, largest) if saturate else exponent
    found = np.ldexp(np.float32(1), np.minimum(exponent, largest) - 127)
    return np.where(special | (exponent > largest), np.float32(np.nan), found).astype(np.float32)


def _attr(call: Call, name: str) -> np.float32:
    return np.float32(cast(float, call.attr(name)))


def _erf(x: Array) -> Array:
    from ipucc.codelets.erf_kernel import erf  # numba: only where it runs

    return cast(Array, erf(np.asarray(x, np.float32)))


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, np.float32(0))


def _gelu(call: Call, x: Array) -> Array:
    if call.attr("approximate") == "tanh":
        inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)))
    return np.asarray(np.float32(0.5) * x * (1 + _erf(x * np.float32(np.sqrt(0.5)))))


def _div(x: Array, y: Array) -> Array:
    if x.dtype.kind in "iu":
        safe = np.where(y == 0, 1, y)
        quotient = np.abs(x.astype(np.int64)) // np.abs(safe.astype(np.int64))
        return np.where((x < 0) != (safe < 0), -quotient, quotient)
    return np.divide(x, y)


def _mod(call: Call, x: Array, y: Array) -> Array:
    if call.attr("fmod"):
        return np.fmod(x, y)
    return np.mod(x, np.where(y == 0, 1, y)) if x.dtype.kind in "iu" else np.mod(x, y)


def _pow(x: Array, y: Array) -> Array:
    if x.dtype.kind in "iu":
        return np.asarray(np.power(x.astype(np.float64), y), np.int64)
    return np.asarray(np.power(x, y.astype(x.dtype)))


def _clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    out = x if low is None else np.maximum(x, low)
    return out if high is None else np.minimum(out, high)


def _fold(function: Callable[[Array, Array], Array]) -> Function:
    def run(_: Call, first: Array, *rest: Array) -> Array:
        out = first
        for r in rest:
            out = function(out, r)
        return out

    return run


def _mean(_: Call, first: Array, *rest: Array) -> Array:
    return _fold(np.add)(_, first, *rest) / np.float32(1 + len(rest))


def _selu(c: Call, x: Array) -> Array:
    return _attr(c, "gamma") * np.where(x > 0, x, _attr(c, "alpha") * np.expm1(np.minimum(x, 0)))


def _isinf(c: Call, x: Array) -> Array:
    positive = np.isposinf(x) if c.attr("detect_positive") else np.zeros(x.shape, bool)
    negative = np.isneginf(x) if c.attr("detect_negative") else np.zeros(x.shape, bool)
    return positive | negative


def _shift(c: Call, x: Array, y: Array) -> Array:
    wide = y >= x.dtype.itemsize * 8
    y = np.where(wide, 0, y).astype(x.dtype)
    moved = np.left_shift(x, y) if c.attr("direction") == "LEFT" else np.right_shift(x, y)
    # What is shifted out of a number leaves its sign: an arithmetic shift.
    gone = np.where(x < 0, -1, 0) if c.attr("direction") != "LEFT" and x.dtype.kind == "i" else 0
    return np.where(wide, gone, moved).astype(x.dtype)


def _plain(function: Callable[..., Array]) -> Function:
    return lambda _, *args: function(*args)


_COMPARE: Final = frozenset(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN", "IsInf"))

_FUNCTIONS: Final[dict[str, Function]] = {
    "Add": _plain(np.add),
    "Sub": _plain(np.subtract),
    "Mul": _plain(np.multiply),
    "Div": _plain(_div),
    "Pow": _plain(_pow),
    "Mod": _mod,
    "Neg": _plain(np.negative),
    "Abs": _plain(np.abs),
    "Sqrt": _plain(np.sqrt),
    "Reciprocal": _plain(lambda x: 1 / x),
    "Exp": _plain(np.exp),
    "Log": _plain(np.log),
    "Erf": _plain(_erf),
    "Sign": _plain(np.sign),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Round": _plain(np.round),
    "Tanh": _plain(np.tanh),
    "Sigmoid": _plain(_sigmoid),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "LeakyRelu": lambda c, x: np.where(x >= 0, x, _attr(c, "alpha") * x),
    "PRelu": _plain(lambda x, slope: np.where(x >= 0, x, slope * x)),
    "Elu": lambda c, x: np.where(x > 0, x, _attr(c, "alpha") * np.expm1(np.minimum(x, 0))),
    "Selu": _selu,
    "Celu": lambda c, x: np.maximum(x, 0) + np.minimum(0, _attr(c, "alpha") * np.expm1(x / _attr(c, "alpha"))),
    "Gelu": _gelu,
    "HardSigmoid": lambda c, x: np.clip(_attr(c, "alpha") * x + _attr(c, "beta"), 0, 1),
    "HardSwish": _plain(lambda x: x * np.clip(x / np.float32(6) + np.float32(0.5), 0, 1)),
    "Swish": lambda c, x: x * _sigmoid(_attr(c, "alpha") * x),
    "Mish": _plain(lambda x: x * np.tanh(_softplus(x))),
    "Softplus": _plain(_softplus),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "ThresholdedRelu": lambda c, x: np.where(x > _attr(c, "alpha"), x, 0),
    "Sin": _plain(np.sin),
    "Cos": _plain(np.cos),
    "Tan": _plain(np.tan),
    "Asin": _plain(np.arcsin),
    "Acos": _plain(np.arccos),
    "Atan": _plain(np.arctan),
    "Sinh": _plain(np.sinh),
    "Cosh": _plain(np.cosh),
    "Asinh": _plain(np.arcsinh),
    "Acosh": _plain(np.arccosh),
    "Atanh": _plain(np.arctanh),
    "Not": _plain(np.logical_not),
    "And": _plain(np.logical_and),
    "Or": _plain(np.logical_or),
    "Xor": _plain(np.logical_xor),
    "Equal": _plain(np.equal),
    "Less": _plain(np.less),
    "LessOrEqual": _plain(np.less_equal),
    "Greater": _plain(np.greater),
    "GreaterOrEqual": _plain(np.greater_equal),
    "IsNaN": _plain(np.isnan),
    "IsInf": _isinf,
    "BitwiseAnd": _plain(np.bitwise_and),
    "BitwiseOr": _plain(np.bitwise_or),
    "BitwiseXor": _plain(np.bitwise_xor),
    "BitwiseNot": _plain(np.bitwise_not),
    "BitShift": _shift,
    "Where": _plain(np.where),
    "Clip": _plain(_clip),
    "Identity": _plain(lambda x: x),
    "Min": _fold(np.minimum),
    "Max": _fold(np.maximum),
    "Sum": _fold(np.add),
    "Mean": _mean,
}
