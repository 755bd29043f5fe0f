"""The whole graph, node by node, as a tile graph."""

import onnx_ir as ir

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.ops.all import load_all
from ipucc.ops.builder import Builder, BuildOptions, dtype_of
from ipucc.ops.graph import TileGraph

__all__ = ["build_tile_graph"]


def build_tile_graph(model: ir.Model, options: BuildOptions) -> TileGraph:
    """The tile graph of a model at the working opset with static shapes.

    Raises CompileError with one diagnostic per node that cannot be lowered, all at once.
    """
    load_all()
    b = Builder(options)
    for value in model.graph.inputs:
        if value.const_value is None:
            b.add_input(value, value.metadata_props.get("ipucc.io_dtype", dtype_of(value)))
    problems: list[Diagnostic] = []
    broken: set[ir.Value] = set()
    for node in model.graph:
        if any(v in broken for v in node.inputs if v is not None):
            broken.update(node.outputs)
            continue
        try:
            b.lower(node)
        except CompileError as e:
            problems.extend(e.diagnostics)
            broken.update(node.outputs)
    if problems:
        raise CompileError(problems)
    for value in model.graph.outputs:
        b.add_output(value, value.metadata_props.get("ipucc.io_dtype", dtype_of(value)))
    return b.graph
