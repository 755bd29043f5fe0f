"""Extents that depend on data, carried from where they arise to the outputs of the model.

A `Trimmed` stands behind an op that computes a bounded result and how much of it counts. An op that reads one computes
the same for all of the bound: the Trimmed moves behind it, where the op treats every index along its dimension by
itself, and the indices that do not count stay behind those that do. What reaches an output is read by the host, which
then cuts it (`ipucc.values.trimmed`). Ops for which no rule is known are refused by name.
"""

import json

import onnx_ir as ir

from ipucc.diagnostics import Diagnostic
from ipucc.frontend.emit import Emitter, constant_of, shape_or_none
from ipucc.frontend.extent_rules import RULES, Trim, is_trim, is_trimmed
from ipucc.graph.edit import EXTENTS, describe

__all__ = ["move_trims", "stuck_trims", "take_trims"]


def move_trims(model: ir.Model) -> int:
    """Move every Trimmed behind the ops that read it, as far as they let it; the number of moves."""
    moves = 0
    for node in list(model.graph):
        if node.graph is None or not any(is_trim(value) for value in node.inputs):
            continue
        moves += _constant_count(node) if is_trimmed(node) else _move(node)
    for node in list(model.graph):
        if is_trimmed(node):
            moves += _constant_count(node)
    return moves


def take_trims(model: ir.Model) -> int:
    """Let outputs that are trimmed be what is computed, and what counts of them be outputs of their own: the metadata
    EXTENTS of the graph says for each output which dimensions are cut by which of those. The number of such outputs."""
    graph = model.graph
    extents: dict[str, list[tuple[int, str]]] = {}
    counters: dict[ir.Value, str] = {}
    for value in list(graph.outputs):
        found: list[tuple[int, ir.Value]] = []
        source = value
        while (producer := source.producer()) is not None and is_trimmed(producer):
            given, count = producer.inputs
            assert given is not None
            assert count is not None
            found.append((producer.attributes.get_int("axis"), count))
            source = given
        if not found:
            continue
        producer, name = value.producer(), str(value.name)
        assert producer is not None
        Emitter(producer).finish(source)
        for axis, count in found:
            if count not in counters:
                counters[count] = f"{name}.extent"
                while counters[count] in {str(output.name) for output in graph.outputs}:
                    counters[count] += "_"
                kept = ir.node("Identity", [count], name=counters[count], metadata_props=dict(producer.metadata_props))
                kept.outputs[0].name, kept.outputs[0].type = counters[count], ir.TensorType(ir.DataType.INT64)
                graph.append(kept)
                graph.outputs.append(kept.outputs[0])
            extents.setdefault(name, []).append((axis, counters[count]))
    if extents:
        graph.metadata_props[EXTENTS] = json.dumps(extents, sort_keys=True)
    return len(extents)


def stuck_trims(model: ir.Model, where: str | None = None) -> list[Diagnostic]:
    """One IPU0324 for every node that reads what is trimmed and could not be moved before that."""
    problems = []
    for node in model.graph:
        for value in node.inputs:
            if value is not None and is_trim(value) and not is_trimmed(node):
                trim = value.producer()
                assert trim is not None
                text = f'the extent of dimension {trim.attributes.get_int("axis")} of "{value.name}" depends on data, '
                text += f"which {node.op_type} does not take"
                help = ("end the model there, or gather a fixed number of rows (TopK)",)
                problems.append(Diagnostic("IPU0324", "error", text, describe(node), node.op_type, where, (), help))
                break
    return problems


def _constant_count(node: ir.Node) -> int:
    """A Trimmed whose count is known is a Slice."""
    count = constant_of(node.inputs[1])
    if count is None:
        return 0
    e = Emitter(node)
    axis = node.attributes.get_int("axis")
    e.finish(e.op("Slice", node.inputs[0], e.ints(0), e.ints(int(count)), e.ints(axis)))
    return 1


def _move(node: ir.Node) -> int:
    trims = []
    for i, value in enumerate(node.inputs):
        if value is None or not is_trim(value):
            continue
        producer = value.producer()
        assert producer is not None
        source, count = producer.inputs
        shape = shape_or_none(source)
        if source is None or count is None or shape is None:
            return 0
        trims.append(Trim(i, producer.attributes.get_int("axis"), count, shape))
    rule = RULES.get(node.op_type) if node.domain == "" else None
    if rule is None or any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return 0
    return int(rule(node, trims))
