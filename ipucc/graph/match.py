"""Where a pattern occurs in a graph.

A pattern matches only where a replacement is safe: inner nodes are used inside the match alone and are no graph
outputs, attributes that the pattern does not name have their defaults, results beyond the first are unused. The
operands of commutative ops match in either order. A sub-pattern used twice must be the same node.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import onnx
import onnx_ir as ir

from ipucc.graph.edit import AttrLike, attribute, constant_array, same_type, scalar
from ipucc.graph.expr import COMMUTATIVE
from ipucc.graph.patterns import Anything, Either, Literal, Maybe, Number, OpPattern, Pattern, Var

__all__ = ["Captured", "Match", "find"]

Captured: TypeAlias = "ir.Value | AttrLike | None"

_SAME_CONSTANT_LIMIT: Final = 64


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


def find(pattern: OpPattern, root: ir.Node) -> Match | None:
    """The first safe match of a pattern at a node."""
    for state in _match_node(pattern, root, _State({}, {}), root):
        nodes = tuple(dict.fromkeys(state.nodes.values()))
        if _is_closed(root, nodes):
            others = tuple(n for n in nodes if n is not root)
            return Match(root, (root, *others), state.captures)
    return None


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
