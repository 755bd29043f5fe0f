"""The planner's prediction of one layer, by which passes choose between forms of it."""

import onnx_ir as ir

from ipucc.codelets.elementwise import Elementwise
from ipucc.ops.all import load_all
from ipucc.ops.builder import Builder, BuildOptions, dtype_of
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Axis
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.greedy import greedy
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.numbers import Numbers

__all__ = ["predict_node"]

_PLANS = 8


def predict_node(node: ir.Node, known: Known, options: BuildOptions) -> int:
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
