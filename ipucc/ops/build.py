"""The whole graph, node by node, as a tile graph."""

import json
from collections.abc import Collection
from typing import Final

import onnx_ir as ir

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.dtypes import to_storage
from ipucc.graph.dynamic_schemas import DYNAMIC_OPS, INITIAL
from ipucc.graph.edit import EXTENTS
from ipucc.graph.schemas import DOMAIN
from ipucc.ops.all import load_all
from ipucc.ops.builder import Builder, BuildOptions, dtype_of
from ipucc.ops.graph import TileGraph
from ipucc.ops.siblings import find_siblings, join

__all__ = ["build_tile_graph"]


def build_tile_graph(model: ir.Model, options: BuildOptions, joined: Collection[str] = ()) -> TileGraph:
    """The tile graph of a model at the working opset with static shapes.

    Products of the kinds `joined` (see `ipucc.ops.siblings`), and block-sparse ones of one left side, become one.
    Raises CompileError with one diagnostic per node that cannot be lowered, all at once.
    """
    load_all()
    b = Builder(options)
    patterns = _pattern_inputs(model)
    for value in model.graph.inputs:
        if value.const_value is None:
            b.add_input(value, value.metadata_props.get("ipucc.io_dtype", dtype_of(value)), value in patterns)
            if (initial := value.meta.get(INITIAL)) is not None:
                b.graph.weights[str(value.name)] = to_storage(initial, dtype_of(value))
    one = {
        node: group
        for group in find_siblings(model.graph)
        if group.kind in joined or (group.sparse and not options.alike)
        for node in group.nodes
    }
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
    cuts = json.loads(model.graph.metadata_props.get(EXTENTS, "{}"))
    b.graph.extents = {name: tuple((axis, counter) for axis, counter in found) for name, found in cuts.items()}
    return b.graph


def _pattern_inputs(model: ir.Model) -> set[ir.Value]:
    """The graph inputs that are values or places of block-sparse operands, and nothing else."""
    found = set()
    for value in model.graph.inputs:
        uses = value.uses()
        if uses and all(node.op_type in DYNAMIC_OPS and node.domain == DOMAIN and i in _OPERANDS[node.op_type]
                        for node, i in uses):  # fmt: skip
            found.add(value)
    return found


_OPERANDS: Final = {"DynamicSparseMatMul": (1, 2), "SampledMatMul": (2,)}
