"""The planner's prediction of one layer, by which passes choose between forms of it."""

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx_ir as ir

from ipucc.codelets.elementwise import Elementwise
from ipucc.codelets.sparse import block_sparse_cycles
from ipucc.graph.edit import ints_attribute
from ipucc.graph.schemas import DOMAIN
from ipucc.ops.all import load_all
from ipucc.ops.build import build_tile_graph
from ipucc.ops.builder import Builder, BuildOptions, dtype_of, shape_of
from ipucc.ops.graph import Ref, TileGraph
from ipucc.ops.spec import Along, Axis
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.greedy import greedy
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.numbers import Numbers
from ipucc.passes.plan.schedule import schedule
from ipucc.tiles.cuts import useful_parts

__all__ = ["Predictor"]

_PLANS = 8


@dataclass(frozen=True, eq=False)
class Predictor:
    """Answers what passes ask of the planner (`ipucc.pass_manager.base.Predict`) for one machine."""

    known: Known
    options: BuildOptions

    def __call__(self, node: ir.Node) -> int:
        """Estimated cycles of one node on the whole chip, its first operand coming from another op's result."""
        load_all()
        # The distribution that is ranked first says enough.
        b = Builder(replace(self.options, distributions=1))
        for i, value in enumerate(node.inputs):
            if value is None or value.const_value is not None:
                continue
            given = ir.Value(name=f"operand{i}", shape=value.shape, type=value.type)
            b.add_input(given, dtype_of(given))
            b.env[value] = _made_on_chip(b, b.env[given])
        b.lower(node)
        return self._placed(b.graph)

    def whole(self, model: ir.Model) -> int:
        """Estimated cycles of a model, its ops in running order, placed greedily."""
        return self._placed(schedule(build_tile_graph(model, replace(self.options, distributions=1))))

    def floor(self, node: ir.Node) -> int:
        """Cycles of the fullest tile were the blocks dealt out evenly and adding to one block column each, at the best
        cut of the rows (for a convolution: positions) over tiles; 0 for other nodes."""
        if (node.domain, node.op_type) not in ((DOMAIN, "BlockSparseMatMul"), (DOMAIN, "BlockSparseConv")):
            return 0
        blocks = len(ints_attribute(node, "rows", ()))
        bk, bn = ints_attribute(node, "block", ())
        result = shape_of(node.outputs[0])
        m = prod(result) // result[-1 if node.op_type == "BlockSparseMatMul" else 1]
        tiles = self.known.target.tiles
        parts = np.asarray(useful_parts(m, tiles), np.int64)
        dtype = dtype_of(node.outputs[0])
        return int(
            block_sparse_cycles(
                -(-m // parts), -(-blocks * parts // tiles), np.ones_like(parts), (bk, bn), dtype, self.known.target
            ).min()
        )

    def _placed(self, graph: TileGraph) -> int:
        cap = self.known.target.usable_bytes
        problem = build_problem(graph, self.known.target, cap, _PLANS, known=self.known)
        choice = greedy(Numbers.of(problem), cap)
        # What fits on no plan costs more than anything that does.
        return problem.evaluate(choice.tolist()).cycles if choice is not None else 1 << 60


def _made_on_chip(b: Builder, ref: Ref) -> Ref:
    axes = tuple(Axis(f"d{i}", n) for i, n in enumerate(ref.shape))
    names = tuple(a.name for a in axes)
    operand = b.operand(ref, [Along(a) for a in names])
    codelet = Elementwise("a0", (ref.dtype,), ref.dtype, names)
    return b.compute("Elementwise", axes, [operand], names, ref.dtype, codelet, operand.grain_dim, "operand")
