"""Rewrites as expressions: a pattern function and a replacement function.

    def _pattern(x):                                   # its parameters are captures; built once
        return x * op.Sigmoid(x), op.Swish(x)          # one pattern, or alternatives

    @rewrite("silu", _pattern)
    def silu(m, new, x):                               # the captures it needs, by name
        require(x.dtype == ir.DataType.FLOAT, "not float32")
        return new.Swish(x)

`apply_rules` walks from the outputs to the inputs, so that the largest pattern wins, until nothing matches.
A pattern matches only where the replacement is safe: inner nodes are used inside the match alone and are no
graph outputs, attributes that the pattern does not name have their defaults, results beyond the first are
unused. The operands of commutative ops match in either order. A sub-pattern used twice must be the same
node. The replacement has the type, shape and names of what it replaces, and carries its provenance.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, TypeVar

import onnx
import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.graph.edit import (
    AttrLike,
    Editor,
    InputLike,
    all_graphs,
    attribute,
    constant_array,
    describe,
    merge_origin,
    prune,
    same_type,
    scalar,
)
from ipucc.graph.expr import COMMUTATIVE

T = TypeVar("T")
Captured: TypeAlias = "ir.Value | AttrLike | None"
AttrPattern: TypeAlias = "AttrLike | Var"

MAX_SWEEPS: Final = 50
_SAME_CONSTANT_LIMIT: Final = 64


class Remarks(Protocol):
    """Where rewrites are reported; a PassContext is one."""

    def passed(self, node: ir.Node, message: str) -> None:
        """A rule was applied."""

    def missed(self, node: ir.Node, message: str) -> None:
        """A pattern was found, but the rule does not apply."""


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


class _Missed(Exception):
    """Ends a replacement function that does not apply."""


def require(condition: bool, reason: str) -> None:
    """Ends the replacement unless the condition holds; the reason becomes a `missed` remark at the node."""
    if not condition:
        raise _Missed(reason)


def present(value: T | None, reason: str) -> T:
    """The value, if there is one; None ends the replacement as `require` does."""
    if value is None:
        raise _Missed(reason)
    return value


@dataclass(frozen=True, slots=True)
class Match:
    """Where a pattern was found: the root, all matched nodes (root first), and the captures."""

    root: ir.Node
    nodes: tuple[ir.Node, ...]
    captures: Mapping[str, Captured]

    @property
    def output(self) -> ir.Value:
        """The value that the replacement takes the place of."""
        return self.root.outputs[0]


class Builder:
    """`new.Mul(x, 2.0, axis=1)`: typed nodes before the root of the match.

    Numbers among the operands become constants of the type of the first value, arrays constants of their
    own. The keyword `domain` chooses another domain. Returns the first result.
    """

    def __init__(self, editor: Editor, root: ir.Node) -> None:
        self.editor = editor
        self.root = root
        self.nodes: list[ir.Node] = []

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        def build(*inputs: InputLike, domain: str = "", **attrs: AttrLike) -> ir.Value:
            node = self.editor.node(op_type, inputs, attrs, before=self.root, domain=domain)
            self.nodes.append(node)
            return node.outputs[0]

        return build


Replacement: TypeAlias = Callable[..., "ir.Value | None"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A named rewrite: alternatives of one pattern, and what replaces the root's result (None: leave it)."""

    name: str
    patterns: tuple[OpPattern, ...]
    replacement: Replacement
    wanted: tuple[str, ...]
    captures: tuple[str, ...]


def rewrite(name: str, pattern: Callable[..., OpPattern | tuple[OpPattern, ...]]) -> Callable[[Replacement], Rule]:
    """Makes a Rule of the replacement function below it (see the module).

    Raises ValueError if the function asks for a capture that the pattern function does not have.
    """
    names = tuple(inspect.signature(pattern).parameters)
    built = pattern(*(Var(n) for n in names))
    alternatives = built if isinstance(built, tuple) else (built,)

    def decorate(replacement: Replacement) -> Rule:
        wanted = tuple(inspect.signature(replacement).parameters)[2:]
        if unknown := [w for w in wanted if w not in names]:
            raise ValueError(f"rule {name!r}: {', '.join(unknown)} is no capture of its pattern")
        return Rule(name, alternatives, replacement, wanted, names)

    return decorate


def apply_rules(model: ir.Model, rules: Sequence[Rule], remarks: Remarks | None = None) -> int:
    """Applies the rules everywhere until none matches, and removes what became unused.

    Rules earlier in the list win at one root. Returns the number of rewrites. Raises CompileError (IPU0311)
    if a replacement has another type than what it replaces.
    """
    by_root: dict[tuple[str, str], list[tuple[Rule, OpPattern]]] = {}
    for rule in rules:
        for pattern in rule.patterns:
            by_root.setdefault((pattern.domain, pattern.op_type), []).append((rule, pattern))
    editor = Editor(model)
    total = 0
    for _ in range(MAX_SWEEPS):
        count = 0
        for graph in all_graphs(model):
            for node in list(reversed(graph)):
                if node.graph is not None:
                    count += _rewrite_at(node, by_root.get((node.domain, node.op_type), ()), editor, remarks)
        total += count
        if not count:
            break
    if total:
        prune(model)
    return total


def find(pattern: OpPattern, root: ir.Node) -> Match | None:
    """The first safe match of a pattern at a node."""
    for state in _match_node(pattern, root, _State({}, {}), root):
        nodes = tuple(dict.fromkeys(state.nodes.values()))
        if _is_closed(root, nodes):
            others = tuple(n for n in nodes if n is not root)
            return Match(root, (root, *others), state.captures)
    return None


def _rewrite_at(
    node: ir.Node, candidates: Iterable[tuple[Rule, OpPattern]], editor: Editor, remarks: Remarks | None
) -> int:
    for rule, pattern in candidates:
        match = find(pattern, node)
        if match is None:
            continue
        builder = Builder(editor, node)
        try:
            result = rule.replacement(match, builder, **{n: match.captures.get(n) for n in rule.wanted})
            if result is None:
                editor.remove_dead(reversed(builder.nodes))
                continue
            _check_type(rule, match, result)
            if not editor.replace(match.output, result):
                raise _Missed("the result is an output of the graph and its replacement is none of its nodes")
        except _Missed as missed:
            editor.remove_dead(reversed(builder.nodes))
            if remarks is not None:
                remarks.missed(node, f"{rule.name}: {missed}")
            continue
        for made in builder.nodes:
            merge_origin(made, reversed(match.nodes))
        if remarks is not None:
            remarks.passed(node, rule.name)
        node_name, value_name, kept = node.name, match.output.name, result.is_graph_output()
        editor.remove_dead([node])
        producer = result.producer()
        if producer is not None and producer in builder.nodes:
            producer.name = node_name
            result.name = result.name if kept else value_name
        return 1
    return 0


def _check_type(rule: Rule, match: Match, result: ir.Value) -> None:
    if not same_type(result, match.output):
        raise error(
            "IPU0311",
            f"rule {rule.name!r} replaces {_type_text(match.output)} by {_type_text(result)}",
            node=describe(match.root),
            op=match.root.op_type,
        )


def _type_text(value: ir.Value) -> str:
    return f"{value.dtype}{'' if value.shape is None else list(value.shape)}"


def _is_closed(root: ir.Node, nodes: Sequence[ir.Node]) -> bool:
    """Whether the inner nodes can go: their results are used by the matched nodes alone."""
    inside = set(nodes)
    for node in nodes:
        for i, value in enumerate(node.outputs):
            if node is root and i == 0:
                continue
            if value.is_graph_output() or any(use.node not in inside for use in value.uses()):
                return False
    return True


@dataclass(frozen=True, slots=True)
class _State:
    captures: Mapping[str, Captured]
    nodes: Mapping[int, ir.Node]

    def capture(self, name: str, value: Captured) -> "_State | None":
        if name not in self.captures:
            return _State({**self.captures, name: value}, self.nodes)
        known = self.captures[name]
        if known is value or (not isinstance(known, ir.Value) and known == value):
            return self
        return self if _same_constant(known, value) else None


def _same_constant(a: Captured, b: Captured) -> bool:
    if not (isinstance(a, ir.Value) and isinstance(b, ir.Value)) or not same_type(a, b):
        return False
    left = constant_array(a, limit=_SAME_CONSTANT_LIMIT)
    right = constant_array(b, limit=_SAME_CONSTANT_LIMIT)
    return left is not None and right is not None and left.tobytes() == right.tobytes()


def _match_value(pattern: Pattern, value: ir.Value | None, state: _State, root: ir.Node) -> Iterator[_State]:
    if isinstance(pattern, Maybe):
        if value is not None:
            yield from _match_value(pattern.pattern, value, state, root)
        else:
            yield state
    elif isinstance(pattern, Either):
        for one in pattern.patterns:
            yield from _match_value(one, value, state, root)
    elif value is None:
        return
    elif isinstance(pattern, Anything):
        yield state
    elif isinstance(pattern, Var):
        bound = state.capture(pattern.name, value)
        if bound is not None:
            yield bound
    elif isinstance(pattern, Number):
        if scalar(value) is not None:
            yield from _match_value(pattern.var, value, state, root)
    elif isinstance(pattern, Literal):
        found = scalar(value)
        if found is not None and math.isclose(found, pattern.value, rel_tol=pattern.rtol):
            yield state
    elif isinstance(pattern, OpPattern):
        node = value.producer()
        if node is not None and value is node.outputs[0] and node.graph is root.graph:
            yield from _match_node(pattern, node, state, root)


def _match_node(pattern: OpPattern, node: ir.Node, state: _State, root: ir.Node) -> Iterator[_State]:
    if (node.domain, node.op_type) != (pattern.domain, pattern.op_type):
        return
    known = state.nodes.get(id(pattern))
    if known is not None:
        if known is node:
            yield state
        return
    inputs = list(node.inputs)
    while len(inputs) > len(pattern.args) and inputs[-1] is None:
        inputs.pop()
    if len(inputs) > len(pattern.args):
        return
    inputs += [None] * (len(pattern.args) - len(inputs))
    bound = _match_attributes(pattern, node, state)
    if bound is not None and pattern.out is not None:
        bound = bound.capture(pattern.out.name, node.outputs[0])
    if bound is None:
        return
    bound = _State(bound.captures, {**bound.nodes, id(pattern): node})
    yield from _match_operands(pattern.args, inputs, bound, root)
    if len(inputs) == 2 and inputs[0] is not inputs[1] and not node.domain and node.op_type in COMMUTATIVE:
        yield from _match_operands(pattern.args, inputs[::-1], bound, root)


def _match_operands(
    patterns: Sequence[Pattern], values: Sequence[ir.Value | None], state: _State, root: ir.Node
) -> Iterator[_State]:
    if not patterns:
        yield state
        return
    for bound in _match_value(patterns[0], values[0], state, root):
        yield from _match_operands(patterns[1:], values[1:], bound, root)


def _match_attributes(pattern: OpPattern, node: ir.Node, state: _State) -> _State | None:
    defaults = _defaults(node.op_type, node.domain)
    if not pattern.any_attrs:
        for name in node.attributes:
            if name not in pattern.attrs and not _equal(attribute(node, name), defaults.get(name)):
                return None
    bound: _State | None = state
    for name, wanted in pattern.attrs.items():
        value = attribute(node, name, defaults.get(name))
        if isinstance(wanted, Var):
            bound = bound.capture(wanted.name, value) if bound is not None else None
        elif not _equal(value, wanted):
            return None
    return bound


def _equal(a: AttrLike | None, b: AttrLike | None) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return list(a) == list(b)
    return a is not None and a == b


@functools.cache
def _defaults(op_type: str, domain: str) -> Mapping[str, AttrLike]:
    """Defaults of the attributes in the newest schema (they did not change since the working opset)."""
    if not onnx.defs.has(op_type, domain):
        return {}
    found: dict[str, AttrLike] = {}
    for name, info in onnx.defs.get_schema(op_type, domain=domain).attributes.items():
        if info.default_value.type:
            value = onnx.helper.get_attribute_value(info.default_value)
            found[name] = value.decode() if isinstance(value, bytes) else value
    return found
