"""Rewrites as expressions: a pattern function and a replacement function.

    def _pattern(x):                                   # its parameters are captures; built once
        return x * op.Sigmoid(x), op.Swish(x)          # one pattern, or alternatives

    @rewrite("silu", _pattern)
    def silu(m, new, x):                               # the captures it needs, by name
        require(x.dtype == ir.DataType.FLOAT, "not float32")
        return new.Swish(x)

`apply_rules` walks from the outputs to the inputs, so that the largest pattern wins, until nothing matches.
Patterns are those of `ipucc.graph.patterns`; `ipucc.graph.match` says where they match. The replacement has the
type, shape and names of what it replaces, and carries its provenance.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, TypeVar

import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.graph.edit import AttrLike, Editor, InputLike, all_graphs, describe, merge_origin, prune, same_type
from ipucc.graph.match import Match, find
from ipucc.graph.patterns import OpPattern, Var

__all__ = ["Builder", "Remarks", "Replacement", "Rule", "apply_rules", "present", "require", "rewrite"]

T = TypeVar("T")

MAX_SWEEPS: Final = 50


class Remarks(Protocol):
    """Where rewrites are reported; a PassContext is one."""

    def passed(self, node: ir.Node, message: str) -> None:
        """A rule was applied."""

    def missed(self, node: ir.Node, message: str) -> None:
        """A pattern was found, but the rule does not apply."""


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
