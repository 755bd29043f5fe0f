"""Rules for views: chains of Reshape and Transpose become short, and reshapes move towards the outputs.

A Reshape between a contraction and what follows it hides an epilogue; moved behind both, it often meets
another Reshape and goes.
"""

from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import AttrLike, Editor, static_shape
from ipucc.graph.match import Match
from ipucc.graph.patterns import OpPattern, Var, maybe, op
from ipucc.graph.rewrite import Builder, Rule, rewrite
from ipucc.passes.graph.regions import is_elementwise, users


def permutation(node: ir.Node) -> tuple[int, ...]:
    """The axes of a Transpose; by default they are reversed."""
    found = node.attributes.get("perm")
    if found is not None:
        return tuple(found.as_ints())
    value = node.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else 0
    return tuple(reversed(range(rank)))


def is_view_permutation(shape: tuple[int, ...], perm: tuple[int, ...]) -> bool:
    """Whether a permutation moves axes of size 1 only, so that the order of the elements stays."""
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def _view_of_view(x: Var, a: Var) -> OpPattern:
    return op.Reshape(x, a, any_attrs=True)


@rewrite("reshape-of-reshape", _view_of_view)
def reshape_of_reshape(m: Match, new: Builder, x: ir.Value) -> ir.Value | None:
    """The result of a Reshape is reshaped from its source; the first goes if nothing else uses it."""
    producer = x.producer()
    if producer is None or (producer.domain, producer.op_type) != ("", "Reshape") or producer.inputs[0] is None:
        return None
    return reshape_to(new, producer.inputs[0], static_shape(m.output))


def reshape_to(new: Builder, x: ir.Value, shape: tuple[int, ...] | None) -> ir.Value | None:
    """A Reshape to a static shape; None where the shape is unknown."""
    if shape is None:
        return None
    # ONNX reads a 0 as "keep the size"; allowzero lets it mean an empty axis.
    attrs: dict[str, AttrLike] = {"allowzero": 1} if 0 in shape else {}
    return new.Reshape(x, np.array(shape, dtype=np.int64), **attrs)


def _transposes(x: Var, inner: Var) -> OpPattern:
    return op.Transpose(op.Transpose(x, any_attrs=True, out=inner), any_attrs=True)


@rewrite("transpose-of-transpose", _transposes)
def transpose_of_transpose(m: Match, new: Builder, x: ir.Value, inner: ir.Value) -> ir.Value:
    """Two permutations are one."""
    producer = inner.producer()
    assert producer is not None
    first, second = permutation(producer), permutation(m.root)
    return new.Transpose(x, perm=tuple(first[i] for i in second))


def _views(x: Var, a: Var) -> tuple[OpPattern, ...]:
    return (
        op.Squeeze(x, maybe(a)),
        op.Unsqueeze(x, a),
        op.Flatten(x, any_attrs=True),
        op.Transpose(x, any_attrs=True),
    )


@rewrite("view-as-reshape", _views)
def view_as_reshape(m: Match, new: Builder, x: ir.Value) -> ir.Value | None:
    """Squeeze, Unsqueeze, Flatten, and a Transpose that moves axes of size 1 only, are a Reshape."""
    shape = static_shape(x)
    if m.root.op_type == "Transpose" and (shape is None or not is_view_permutation(shape, permutation(m.root))):
        return None
    return reshape_to(new, x, static_shape(m.output))


def _matmul_of_rows(x: Var, a: Var, w: Var) -> OpPattern:
    return op.MatMul(op.Reshape(x, a, any_attrs=True), w)


@rewrite("matmul-of-rows", _matmul_of_rows)
def matmul_of_rows(m: Match, new: Builder, x: ir.Value, w: ir.Value) -> ir.Value | None:
    """A product of flattened rows with one matrix is the product of the rows as they were, reshaped.

    Only where a later Reshape gives the rows their shape back, so that both go.
    """
    shape, weight = static_shape(x), static_shape(w)
    if shape is None or weight is None or len(shape) < 2 or len(weight) != 2 or shape[-1] != weight[0]:
        return None
    if not _returns_to(m.output, (*shape[:-1], weight[1])):
        return None
    return reshape_to(new, new.MatMul(x, w), static_shape(m.output))


def _returns_to(value: ir.Value, shape: tuple[int, ...]) -> bool:
    """Whether a Reshape gives the value this shape, next or behind ops that a Reshape may pass."""
    while True:
        following = users(value)
        if len(following) != 1 or value.is_graph_output():
            return False
        node = following[0]
        if (node.domain, node.op_type) == ("", "Reshape"):
            return static_shape(node.outputs[0]) == shape
        if not _lets_pass(node, value, keeps_last=True):
            return False
        value = node.outputs[0]


def _transposed_groups(x: Var, a: Var) -> OpPattern:
    return op.Transpose(op.Reshape(x, a, any_attrs=True), any_attrs=True)


@rewrite("transpose-of-groups", _transposed_groups)
def transpose_of_groups(m: Match, new: Builder, x: ir.Value) -> ir.Value | None:
    """A Transpose of axes that a Reshape merged is a Transpose of the axes themselves, reshaped."""
    middle = m.root.inputs[0]
    shape, merged = static_shape(x), static_shape(middle) if middle is not None else None
    groups = _groups(shape, merged) if shape is not None and merged is not None else None
    if groups is None:
        return None
    perm = tuple(axis for group in permutation(m.root) for axis in groups[group])
    return reshape_to(new, new.Transpose(x, perm=perm), static_shape(m.output))


def _groups(shape: tuple[int, ...], merged: tuple[int, ...]) -> list[list[int]] | None:
    """For each axis of `merged`, the consecutive axes of `shape` that it is the product of; None if there
    are none.

    Axes of size 1 stay by themselves where `merged` has one too, else they join the group behind them. An
    axis of `merged` without any has size 1.
    """
    if 0 in shape:
        return None
    groups: list[list[int]] = []
    axis = 0
    for size in merged:
        group: list[int] = []
        product = 1
        if size == 1 and axis < len(shape) and shape[axis] == 1:
            group.append(axis)
            axis += 1
        while product < size and axis < len(shape):
            product *= shape[axis]
            group.append(axis)
            axis += 1
        if product != size:
            return None
        groups.append(group)
    if any(shape[rest] != 1 for rest in range(axis, len(shape))) or not groups:
        return None
    groups[-1].extend(range(axis, len(shape)))
    return groups


def sink_reshapes(model: ir.Model) -> int:
    """Moves a Reshape behind the one elementwise op that reads it; the number moved.

    The op's other operands are scalars, or vectors along the last axis if the Reshape keeps that axis.
    """
    editor = Editor(model)
    count = 0
    for node in list(model.graph.all_nodes()):
        if node.graph is not None and (node.domain, node.op_type) == ("", "Reshape"):
            count += _sink(node, editor)
    return count


def _lets_pass(node: ir.Node, value: ir.Value, keeps_last: bool) -> bool:
    """Whether an elementwise op may read the source of a Reshape instead of its result, `value`.

    Its other operands have one element and no axes, or lie along the last axis, which the Reshape keeps.
    """
    if node.domain or not is_elementwise(node) or static_shape(node.outputs[0]) != static_shape(value):
        return False
    limit = 1 if keeps_last else 0
    return all(v is value or len(static_shape(v) or ()) <= limit for v in node.inputs if v is not None)


def _sink(reshape: ir.Node, editor: Editor) -> bool:
    source, view = reshape.inputs[0], reshape.outputs[0]
    following = users(view)
    if source is None or len(following) != 1 or view.is_graph_output():
        return False
    node, before, after = following[0], static_shape(source), static_shape(view)
    if before is None or after is None or node.graph is not reshape.graph:
        return False
    keeps_last = bool(before) and bool(after) and before[-1] == after[-1]
    result = node.outputs[0]
    if not _lets_pass(node, view, keeps_last) or result.is_graph_output():
        return False
    for i, value in enumerate(node.inputs):
        if value is view:
            node.replace_input_with(i, source)
    result.shape = ir.Shape(before)
    # The op keeps its place and its result; a new Reshape behind it gives its users the shape they had.
    later = ir.Node("", "Reshape", [result, reshape.inputs[1]], reshape.attributes.values())
    later.name = editor.fresh(reshape.name or "reshape")
    later.metadata_props.update(reshape.metadata_props)
    moved = later.outputs[0]
    moved.name, moved.type, moved.shape = editor.fresh(f"{result.name}_view"), result.type, ir.Shape(after)
    graph = node.graph
    assert graph is not None  # checked above: the same as that of the Reshape
    graph.insert_after(node, later)
    for use in list(result.uses()):
        if use.node is not later:
            use.node.replace_input_with(use.idx, moved)
    editor.remove_dead([reshape])
    return True


VIEWS: Final[tuple[Rule, ...]] = (
    reshape_of_reshape,
    transpose_of_transpose,
    view_as_reshape,
    matmul_of_rows,
    transpose_of_groups,
)
