"""The expression language of fused elementwise ops: `Relu(Add(x, a0))`, `Clip(Mul(a0, a1), 0.0, 6.0)`.

A name is an operand, a number (or `true`, `false`) is a constant, a call is an ONNX op of the default
domain at the working opset, and its keyword arguments are that op's attributes. Element types follow ONNX: a
constant takes the type of the operands beside it (`Where`: of the other branch), and where there is none it
is float32, int64 or bool, after its spelling; `Cast(1.0, to="float16")` says otherwise.

    expr := name | number | "true" | "false" | op "(" [arg ("," arg)*] ")"
    arg  := expr | name "=" (number | string | "[" number ("," number)* "]")

Importing this module loads neither onnx nor numpy. An expression is a tree of frozen dataclasses, compared by
value.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ipucc.diagnostics import CompileError, error

Scalar: TypeAlias = bool | int | float
AttrValue: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...]

MAX_DEPTH: Final = 100
"""Nesting that the parser accepts; fused expressions of real models stay below 20."""

_MANY: Final = 2**31 - 1

ELEMENTWISE: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(
        (
            *("Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Log", "Erf", "Sign", "Floor", "Ceil", "Round"),
            *("Tanh", "Sigmoid", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "HardSigmoid"),
            *("HardSwish", "Swish", "Mish", "Softplus", "Softsign", "ThresholdedRelu"),
            *("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"),
            *("Not", "IsNaN", "IsInf", "BitwiseNot", "Cast", "BitCast", "Identity"),
        ),
        (1, 1),
    ),
    **dict.fromkeys(
        (
            *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "PRelu", "And", "Or", "Xor"),
            *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
            *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"),
        ),
        (2, 2),
    ),
    "Where": (3, 3),
    "Clip": (1, 3),
    **dict.fromkeys(("Min", "Max", "Sum", "Mean"), (1, _MANY)),
}
"""Op type -> smallest and largest number of arguments."""

ATTRIBUTES: Final[dict[str, dict[str, AttrValue | None]]] = {
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "Selu": {"alpha": 1.6732632, "gamma": 1.050701},
    "Celu": {"alpha": 1.0},
    "Gelu": {"approximate": "none"},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Swish": {"alpha": 1.0},
    "ThresholdedRelu": {"alpha": 1.0},
    "Mod": {"fmod": 0},
    "IsInf": {"detect_negative": 1, "detect_positive": 1},
    "BitShift": {"direction": None},
    "Cast": {"to": None, "saturate": 1, "round_mode": "up"},
    "BitCast": {"to": None},
}
"""Op type -> attribute -> default (None where ONNX has none). Floats are the shortest text of the float32."""

COMMUTATIVE: Final = frozenset(
    ("Add", "Mul", "Min", "Max", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
)
"""Ops whose arguments may be exchanged without changing a bit of the result."""

BOOLEAN: Final = frozenset(
    (
        *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
        *("And", "Or", "Xor", "Not"),
        "IsNaN",
        "IsInf",
    )
)
"""Ops whose result is bool, whatever their operands are."""


@dataclass(frozen=True, slots=True)
class Operand:
    """An input of the fused op: `x` is the result of the contraction, `a0`, `a1`, ... are further inputs."""

    name: str


@dataclass(frozen=True, slots=True)
class Const:
    """A scalar constant; its element type follows from where it stands (see the module)."""

    value: Scalar

    # 1, 1.0 and true are different constants, and nan is the same constant as nan.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str]:
        return type(self.value).__name__, repr(self.value)


@dataclass(frozen=True, slots=True)
class Call:
    """An op over arguments. `attrs` is sorted by name and holds no attribute that equals its default."""

    op: str
    args: tuple["Expr", ...]
    attrs: tuple[tuple[str, AttrValue], ...] = ()

    def attr(self, name: str) -> AttrValue:
        """The attribute's value, or its default. Raises KeyError if the op has neither."""
        for key, value in self.attrs:
            if key == name:
                return value
        default = ATTRIBUTES[self.op][name]
        if default is None:
            raise KeyError(name)
        return default


Expr: TypeAlias = Operand | Const | Call


def call(op: str, args: Sequence[Expr], attrs: Mapping[str, AttrValue] | None = None) -> Call:
    """A checked call; attributes equal to their default are left out.

    Raises CompileError for an op that is not in ELEMENTWISE, a wrong number of arguments, and an unknown or
    missing attribute.
    """
    if op not in ELEMENTWISE:
        raise error("IPU0121", f"{op!r} is no elementwise op of the expression language")
    low, high = ELEMENTWISE[op]
    if not low <= len(args) <= high:
        wanted = str(low) if low == high else f"{low} or more" if high == _MANY else f"{low} to {high}"
        raise error("IPU0120", f"{op} takes {wanted} arguments, not {len(args)}", op=op)
    known = ATTRIBUTES.get(op, {})
    kept: list[tuple[str, AttrValue]] = []
    for name in sorted(attrs or {}):
        value = (attrs or {})[name]
        if name not in known:
            raise error("IPU0120", f"{op} has no attribute {name!r}", op=op)
        default = known[name]
        if isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if default is not None and type(value) is not type(default):
            raise error("IPU0120", f"attribute {name!r} of {op} takes a {type(default).__name__}", op=op)
        if value != default:
            kept.append((name, value))
    for name, default in known.items():
        if default is None and name not in (attrs or {}):
            raise error("IPU0120", f"{op} needs the attribute {name!r}", op=op)
    return Call(op, tuple(args), tuple(kept))


def operands(expr: Expr) -> tuple[str, ...]:
    """Names of the operands, each once, in the order of first appearance."""
    seen: dict[str, None] = {}
    for node in _walk(expr):
        if isinstance(node, Operand):
            seen.setdefault(node.name)
    return tuple(seen)


def ops(expr: Expr) -> tuple[str, ...]:
    """Op types in the order of evaluation (arguments before the call, left to right), with repetitions."""
    return tuple(call.op for call in calls(expr))


def calls(expr: Expr) -> tuple[Call, ...]:
    """All calls in the order of evaluation, with repetitions."""
    return tuple(node for node in _walk(expr) if isinstance(node, Call))


def substitute(expr: Expr, mapping: Mapping[str, Expr]) -> Expr:
    """The expression with every operand named in the mapping replaced; other operands stay."""
    if isinstance(expr, Operand):
        return mapping.get(expr.name, expr)
    if isinstance(expr, Call):
        return Call(expr.op, tuple(substitute(a, mapping) for a in expr.args), expr.attrs)
    return expr


def transform(expr: Expr, function: Callable[[Expr], Expr]) -> Expr:
    """Applies the function to every node, arguments before their call."""
    if isinstance(expr, Call):
        expr = Call(expr.op, tuple(transform(a, function) for a in expr.args), expr.attrs)
    return function(expr)


def canonical(expr: Expr) -> Expr:
    """The same expression with the arguments of commutative ops in one fixed order.

    Calls come first, then `x`, the other operands by number, then constants. The value keeps every bit.
    """
    if not isinstance(expr, Call):
        return expr
    args = tuple(canonical(a) for a in expr.args)
    if expr.op in COMMUTATIVE:
        args = tuple(sorted(args, key=_order))
    return Call(expr.op, args, expr.attrs)


def format(expr: Expr) -> str:
    """Canonical text; `parse(format(e)) == canonical(e)` for every expression."""
    return _text(canonical(expr))


def value_group(op: str, args: Sequence[Expr]) -> range:
    """Positions of the arguments that share one element type with the constants among them."""
    return range(1, 3) if op == "Where" else range(len(args))


def result_type(expr: Expr, types: Mapping[str, str]) -> str:
    """Element type of the result, as numpy spells it (`float16`, `bool`), from those of the operands.

    Raises CompileError where operands of one op differ in type, and KeyError for an operand without a type.
    """
    if isinstance(expr, Operand):
        return types[expr.name]
    if isinstance(expr, Const):
        return constant_type(expr.value)
    group = argument_type(expr, types)
    if expr.op in ("Cast", "BitCast"):
        return str(expr.attr("to"))
    return "bool" if expr.op in BOOLEAN else group


def argument_type(expr: Call, types: Mapping[str, str]) -> str:
    """Element type that the arguments of the call have, and with it the constants among them.

    For Where, the type of the branches; for Pow and BitShift, the type of the first argument.
    """
    found: str | None = None
    for i in value_group(expr.op, expr.args):
        arg = expr.args[i]
        if isinstance(arg, Const):
            continue
        this = result_type(arg, types)
        if found is None:
            found = this
        elif this != found and expr.op != "Pow":
            raise error("IPU0120", f"{expr.op} mixes {found} and {this} in {format(expr)}", op=expr.op)
    if expr.op == "Where" and not isinstance(expr.args[0], Const):
        condition = result_type(expr.args[0], types)
        if condition != "bool":
            raise error("IPU0120", f"the condition of Where is {condition}, not bool", op="Where")
    if found is None:
        spelled = {constant_type(a.value) for a in expr.args if isinstance(a, Const)}
        found = "float32" if "float32" in spelled else "int64" if "int64" in spelled else "bool"
    return found


def constant_type(value: Scalar) -> str:
    """Element type of a constant that stands beside no operand."""
    return "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"


def parse(text: str) -> Expr:
    """Reads an expression.

    Raises CompileError with the position marked by a caret for malformed text, unknown ops and attributes,
    and nesting deeper than MAX_DEPTH.
    """
    parser = _Parser(text)
    expr = parser.expression(0)
    parser.end()
    return expr


def _walk(expr: Expr) -> Iterator[Expr]:
    if isinstance(expr, Call):
        for arg in expr.args:
            yield from _walk(arg)
    yield expr


_NUMBERED: Final = re.compile(r"([A-Za-z_]+)(\d+)")


def _order(expr: Expr) -> tuple[int, str, int, str]:
    if isinstance(expr, Call):
        return 0, "", 0, _text(expr)
    if isinstance(expr, Operand):
        if expr.name == "x":
            return 1, "", 0, ""
        numbered = _NUMBERED.fullmatch(expr.name)
        return (2, numbered[1], int(numbered[2]), "") if numbered else (2, expr.name, -1, "")
    return 3, "", 0, _number(expr.value)


def _text(expr: Expr) -> str:
    if isinstance(expr, Operand):
        return expr.name
    if isinstance(expr, Const):
        return _number(expr.value)
    parts = [_text(a) for a in expr.args] + [f"{name}={_attribute(value)}" for name, value in expr.attrs]
    return f"{expr.op}({', '.join(parts)})"


def _number(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _attribute(value: AttrValue) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(repr, value)) + "]"
    return repr(value)


_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:inf\b|nan\b|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<mark>[(),=\[\]]))""",
    re.VERBOSE,
)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.kind = ""
        self.token = ""
        self.start = 0
        self._next()

    def _next(self) -> None:
        rest = self.text[self.position :]
        if not rest.strip():
            self.kind, self.token, self.start = "end", "", len(self.text)
            return
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            self.start = self.position + len(rest) - len(rest.lstrip())
            raise self._error("unexpected character")
        self.kind = match.lastgroup or ""
        self.token = match[self.kind]
        self.start = match.start(self.kind)
        self.position = match.end()

    def _error(self, message: str) -> CompileError:
        return error("IPU0121", f"{message} in an expression\n{self.text}\n{' ' * self.start}^")

    def _take(self, mark: str) -> bool:
        if self.kind == "mark" and self.token == mark:
            self._next()
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._error(f"expected {mark!r}")

    def end(self) -> None:
        if self.kind != "end":
            raise self._error("unexpected text after the end")

    def expression(self, depth: int) -> Expr:
        if depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} nested calls")
        if self.kind == "number":
            return Const(self._scalar())
        if self.kind != "name":
            raise self._error("expected an operand, a number or a call")
        name, start = self.token, self.start
        self._next()
        if self._take("("):
            return self._call(name, start, depth)
        return Const(name == "true") if name in ("true", "false") else Operand(name)

    def _call(self, op: str, start: int, depth: int) -> Call:
        args: list[Expr] = []
        attrs: dict[str, AttrValue] = {}
        while not self._take(")"):
            if args or attrs:
                self._expect(",")
            item = self.expression(depth + 1)
            if isinstance(item, Operand) and self._take("="):
                if item.name in attrs:
                    raise self._error(f"attribute {item.name!r} given twice")
                attrs[item.name] = self._attribute()
            elif attrs:
                raise self._error("an argument after an attribute")
            else:
                args.append(item)
        try:
            return call(op, args, attrs)
        except CompileError as failure:
            self.start = start
            raise self._error(failure.diagnostics[0].message) from None

    def _attribute(self) -> AttrValue:
        if self.kind == "string":
            text = re.sub(r"\\(.)", r"\1", self.token[1:-1])
            self._next()
            return text
        if not self._take("["):
            return self._scalar()
        values: list[int | float] = []
        while not self._take("]"):
            if values:
                self._expect(",")
            values.append(self._scalar())
        if all(isinstance(v, int) for v in values):
            return tuple(int(v) for v in values)
        return tuple(float(v) for v in values)

    def _scalar(self) -> int | float:
        if self.kind != "number":
            raise self._error("expected a number")
        token = self.token
        value: int | float = int(token) if re.fullmatch(r"[+-]?\d+", token) else float(token)
        if isinstance(value, float) and math.isinf(value) and "inf" not in token:
            raise self._error("the number is too large")
        self._next()
        return value
