"""Whether block sparsity pays for one layer: the planner's own prediction of it, dense and sparse."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ipucc.codelets.elementwise import Elementwise
from ipucc.graph.tensors import MissingTensor
from ipucc.ops.all import load_all
from ipucc.ops.builder import Builder, BuildOptions, dtype_of, shape_of
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Axis
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.greedy import greedy
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.numbers import Numbers

__all__ = ["predict_matmul", "sparsity_pays"]

_PLANS = 8


def sparsity_pays(
    node: ir.Node, blocks: Sequence[tuple[int, int]], block: tuple[int, int], known: Known, options: BuildOptions
) -> tuple[bool, str]:
    """Whether `node`, a matmul with a constant weight, is predicted to take fewer cycles with only these blocks."""
    dense = predict_matmul(node, known, options)
    sparse = predict_matmul(_sparse(node, blocks, block), known, options)
    text = f"predicted {sparse:,} cycles block-sparse, {dense:,} dense"
    return sparse < dense, text


def predict_matmul(node: ir.Node, known: Known, options: BuildOptions) -> int:
    """Estimated cycles of one node on the whole chip, its first operand coming from another op's result."""
    load_all()
    b = Builder(options)
    for i, value in enumerate(node.inputs):
        if value is None or value.const_value is not None:
            continue
        given = ir.Value(name=f"operand{i}", shape=value.shape, type=value.type)
        b.add_input(given, dtype_of(given))
        b.env[value] = _made_on_chip(b, b.env[given])
    b.lower(node)
    cap = known.target.usable_bytes
    problem = build_problem(b.graph, known.target, cap, _PLANS, known=known)
    choice = greedy(Numbers.of(problem), cap)
    # A layer that fits on no plan of its own costs more than any that does.
    return problem.evaluate(choice.tolist()).cycles if choice is not None else 1 << 60


def _made_on_chip(b: Builder, ref: Ref) -> Ref:
    axes = tuple(Axis(f"d{i}", n) for i, n in enumerate(ref.shape))
    names = tuple(a.name for a in axes)
    operand = b.operand(ref, [Along(a) for a in names])
    codelet = Elementwise("a0", (ref.dtype,), ref.dtype, names)
    return b.compute("Elementwise", axes, [operand], names, ref.dtype, codelet, operand.grain_dim, "operand")


def _sparse(node: ir.Node, blocks: Sequence[tuple[int, int]], block: tuple[int, int]) -> ir.Node:
    """The block-sparse form of a matmul; its blocks have a shape and no values."""
    weight = node.inputs[1]
    assert weight is not None
    rows, cols = np.asarray(blocks, np.int64).reshape(-1, 2).T
    shape = ir.Shape([len(blocks), *block])
    held = MissingTensor("blocks", weight.dtype or ir.DataType.FLOAT, shape, "only a prediction is wanted")
    values = ir.Value(name="blocks", shape=shape, type=weight.type, const_value=held)
    expr = node.attributes.get_string("expr", "") if node.domain == "ipucc" else ""
    made = ir.Node(
        "ipucc", "BlockSparseMatMul", [node.inputs[0], values, *node.inputs[2:]],
        [
            ir.AttrInt64s("rows", rows.tolist()), ir.AttrInt64s("cols", cols.tolist()),
            ir.AttrInt64s("block", list(block)), ir.AttrInt64s("shape", list(shape_of(weight))),
            ir.AttrString("expr", expr or "x"),
        ],
        name=f"{node.name}.sparse",
    )  # fmt: skip
    out = node.outputs[0]
    made.outputs[0].name, made.outputs[0].shape, made.outputs[0].type = "sparse", out.shape, out.type
    return made
