"""Control flow that data decides: a model with it falls apart into straight parts, loops and branches.

A part is a model of its own, with static shapes and nothing to decide; values go from part to part by name. Loops and
branches (`ipucc.frontend.region`) say what is carried, and hold the parts of their bodies. What can be decided or
written out while compiling has been before (`ipucc.frontend.simplify`).
"""

from typing import Final

import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.frontend.bodies import (
    Bodies,
    Import,
    Made,
    Signature,
    hand_on,
    kept_value,
    model_of,
    own_outputs,
    own_trims,
    type_text,
    typed,
    uses_of,
)
from ipucc.frontend.emit import Emitter
from ipucc.frontend.loops import loop, scan
from ipucc.frontend.region import Branch, Region
from ipucc.graph.edit import describe

__all__ = ["Signature", "cut", "first_control"]

CONTROL: Final = frozenset(("If", "Loop", "Scan"))


def first_control(model: ir.Model) -> ir.Node | None:
    """The first If, Loop or Scan of a model, in topological order."""
    return next((node for node in model.graph if node.domain == "" and node.op_type in CONTROL), None)


def cut(model: ir.Model, node: ir.Node, received: frozenset[str], load: Import) -> tuple[Region, Signature]:
    """The region of a model whose first control flow is `node`: what does not depend on it, the loop or branch, and
    what is left. `load` imports each of them.

    Raises IPU0330 to IPU0334 for what a program cannot do, CompileError of `load`.
    """
    graph = model.graph
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.type is not None and not isinstance(value.type, ir.TensorType):
            raise error("IPU0119", f'"{value.name}" is no tensor; only tensors are supported', node=describe(node),
                        op=node.op_type)  # fmt: skip
    made = {"If": _branch, "Loop": loop, "Scan": scan}[node.op_type](node, Bodies(model, received, load))
    outputs = list(graph.outputs)
    late: set[ir.Value] = {*made.results, *node.outputs}
    for other in graph:
        if other is not node and (other.op_type in CONTROL or any(v in late for v in uses_of(other))):
            late.update(other.outputs)
    first = [n for n in graph if n is not node and not any(v in late for v in n.outputs)]
    rest = [n for n in graph if n is not node and any(v in late for v in n.outputs)]
    graph.outputs.clear()
    graph.remove([*first, *rest, node])
    rest = own_trims(rest, f"{describe(node)}/behind")
    early = {v for n in first for v in n.outputs}
    read = {v for n in rest for v in uses_of(n)}
    results = {v: made.signature[str(v.name)] for v in made.results}
    for value, (kind, shape) in results.items():
        value.type, value.shape = kind, shape.copy()
    names = {str(v.name) for v in made.results}
    wanted = [v for v in early if v in read or str(v.name) in made.needed]
    wanted.sort(key=lambda v: str(v.name))
    region: Region = []
    signature: dict[str, tuple[ir.TypeProtocol, ir.Shape]] = {}
    handed = frozenset(str(v.name) for v in wanted)
    ends = [v for v in outputs if v not in late]
    behind = frozenset((*received, *names, *handed))
    # Before the import of what comes first, which may let duplicates take the place of each other.
    tail = model_of(model, rest, [v for v in outputs if v in late and v not in results], behind)
    head = model_of(model, first, [*wanted, *(v for v in ends if v not in wanted)], received)
    if head is not None:
        region, found = load(head, received)
        signature.update(found)
        hand_on(region, handed)
    region.append(made.item)
    signature.update({name: made.signature[name] for name in names})
    if tail is not None:
        for value in tail.graph.inputs:
            if str(value.name) in signature:
                value.type, value.shape = signature[str(value.name)][0], signature[str(value.name)][1].copy()
        after, found = load(tail, behind)
        signature.update(found)
        region += after
    return region, signature


def _branch(node: ir.Node, bodies: Bodies) -> Made:
    e = Emitter(node)
    condition = kept_value(e, typed(e.op("Reshape", node.inputs[0], e.ints()), ir.DataType.BOOL, ()), bodies)
    regions, found = [], []
    for name in ("then_branch", "else_branch"):
        body = node.attributes[name].as_graph()
        own_outputs(body, e, apart=True)
        names = [str(v.name) for v in body.outputs]
        region, signature = bodies.region(body, ())
        regions.append(region)
        found.append([(n, *signature[n]) for n in names])
    results: list[tuple[str, str, str]] = []
    types: dict[str, tuple[ir.TypeProtocol, ir.Shape]] = {}
    for i, (result, one, two) in enumerate(zip(node.outputs, *found, strict=True)):
        if one[1:] != two[1:]:
            raise error(
                "IPU0332", f"the branches give {result.name!r} as {type_text(*one[1:])} and as {type_text(*two[1:])}",
                node=describe(node), op="If", help=["both branches of an If must give results of one type and shape"],
            )  # fmt: skip
        result.name = result.name or f"{describe(node)}/unused{i}"
        results.append((str(result.name), one[0], two[0]))
        types[str(result.name)] = one[1:]
    item = Branch(describe(node), str(condition.name), tuple(results), *regions)
    return Made(item, list(node.outputs), types, frozenset((*bodies.needed, str(condition.name))))
