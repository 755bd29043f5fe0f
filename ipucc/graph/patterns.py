"""Patterns of ONNX nodes, written as expressions: `x * op.Sigmoid(x)`.

The parameters of a pattern function are captures (`Var`); arithmetic operators and `op` build patterns of nodes, a
bare number stands for a constant. `ipucc.graph.match` finds them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ipucc.graph.edit import AttrLike

AttrPattern: TypeAlias = "AttrLike | Var"


class Pattern:
    """A pattern of a value. Arithmetic operators build patterns of the ONNX ops."""

    def __add__(self, other: "PatternLike") -> "OpPattern":
        return OpPattern("Add", (self, as_pattern(other)))

    def __radd__(self, other: "PatternLike") -> "OpPattern":
        return OpPattern("Add", (as_pattern(other), self))

    def __sub__(self, other: "PatternLike") -> "OpPattern":
        return OpPattern("Sub", (self, as_pattern(other)))

    def __rsub__(self, other: "PatternLike") -> "OpPattern":
        return OpPattern("Sub", (as_pattern(other), self))

    def __mul__(self, other: "PatternLike") -> "OpPattern":
        return OpPattern("Mul", (self, as_pattern(other)))

    def __rmul__(self, other: "PatternLike") -> "OpPattern":
        return OpPattern("Mul", (as_pattern(other), self))

    def __truediv__(self, other: "PatternLike") -> "OpPattern":
        return OpPattern("Div", (self, as_pattern(other)))

    def __rtruediv__(self, other: "PatternLike") -> "OpPattern":
        return OpPattern("Div", (as_pattern(other), self))

    def __pow__(self, other: "PatternLike") -> "OpPattern":
        return OpPattern("Pow", (self, as_pattern(other)))

    def __neg__(self) -> "OpPattern":
        return OpPattern("Neg", (self,))


PatternLike: TypeAlias = "Pattern | int | float"


@dataclass(frozen=True, eq=False)
class Var(Pattern):
    """Matches any value (as an attribute: any attribute) and captures it under the name."""

    name: str


@dataclass(frozen=True, eq=False)
class Anything(Pattern):
    """Matches any value without capturing it."""


@dataclass(frozen=True, eq=False)
class Literal(Pattern):
    """Matches a constant of one element that is close to the number."""

    value: float
    rtol: float


@dataclass(frozen=True, eq=False)
class Number(Pattern):
    """Matches any constant of one element with a known value and captures it."""

    var: Var


@dataclass(frozen=True, eq=False)
class Maybe(Pattern):
    """Matches an optional operand; captures None where it is absent."""

    pattern: Pattern


@dataclass(frozen=True, eq=False)
class Either(Pattern):
    """Matches where one of the patterns does; the first that leads to a match is taken."""

    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, eq=False)
class OpPattern(Pattern):
    """Matches a node. `out` captures its result; `any_attrs` accepts whatever attributes it has."""

    op_type: str
    args: tuple[Pattern, ...]
    attrs: Mapping[str, AttrPattern] = field(default_factory=dict)
    domain: str = ""
    any_attrs: bool = False
    out: Var | None = None


class Ops:
    """`op.Conv(x, w, maybe(b), group=1)`: patterns of nodes by op type.

    Keywords are attributes: a value that must be equal, or a parameter of the pattern function, which
    captures it (its default where absent). Two keywords are special: `any_attrs=True`, and `out=name` to
    capture the result.
    """

    def __init__(self, domain: str = "") -> None:
        self._domain = domain

    def __getattr__(self, op_type: str) -> Callable[..., OpPattern]:
        def build(
            *args: PatternLike, any_attrs: bool = False, out: Var | None = None, **attrs: AttrPattern
        ) -> OpPattern:
            patterns = tuple(as_pattern(a) for a in args)
            return OpPattern(op_type, patterns, attrs, self._domain, any_attrs, out)

        return build


op: Final = Ops()


def const(value: float, rtol: float = 1e-5) -> Literal:
    """A constant of one element within the relative tolerance. A bare number in a pattern is
    `const(number)`."""
    return Literal(float(value), rtol)


def number(var: Var) -> Number:
    """Any constant of one element, captured."""
    return Number(var)


def maybe(pattern: Pattern) -> Maybe:
    """An operand that may be absent."""
    return Maybe(pattern)


def anything() -> Anything:
    """Any operand, each one by itself."""
    return Anything()


def either(*patterns: Pattern) -> Either:
    """One of several forms of a sub-expression."""
    return Either(patterns)


def as_pattern(value: PatternLike) -> Pattern:
    """A number as the pattern of a constant; a pattern stays."""
    return value if isinstance(value, Pattern) else const(value)
