"""The whole graph, node by node, as a tile graph."""

from collections.abc import Collection

import onnx_ir as ir

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.ops.all import load_all
from ipucc.ops.builder import Builder, BuildOptions, dtype_of
from ipucc.ops.graph import TileGraph
from ipucc.ops.siblings import find_siblings, join

__all__ = ["build_tile_graph"]


def build_tile_graph(model: ir.Model, options: BuildOptions, joined: Collection[str] = ()) -> TileGraph:
    """The tile graph of a model at the working opset with static shapes.

    Products of the kinds `joined` (see `ipucc.ops.siblings`) become one. Raises CompileError with one diagnostic per
    node that cannot be lowered, all at once.
    """
    load_all()
    b = Builder(options)
    for value in model.graph.inputs:
        if value.const_value is None:
            b.add_input(value, value.metadata_props.get("ipucc.io_dtype", dtype_of(value)))
    one = {node: group for group in find_siblings(model.graph) if group.kind in joined for node in group.nodes}
    problems: list[Diagnostic] = []
    broken: set[ir.Value] = set()
    for node in model.graph:
        if any(v in broken for v in node.inputs if v is not None):
            broken.update(node.outputs)
            continue
        try:
            if node in one:
                if node is one[node].nodes[0]:
                    join(b, one[node])
                continue
            b.lower(node)
        except CompileError as e:
            problems.extend(e.diagnostics)
            broken.update(node.outputs)
    if problems:
        raise CompileError(problems)
    for value in model.graph.outputs:
        b.add_output(value, value.metadata_props.get("ipucc.io_dtype", dtype_of(value)))
    return b.graph
