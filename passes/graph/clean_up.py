"""The pass `clean-up`: folding, identities, one spelling for each meaning, common subexpressions, dead
code."""

from dataclasses import dataclass
from typing import ClassVar, Final

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from ipucc.graph.edit import is_constant, prune
from ipucc.graph.fold import fold_constants
from ipucc.graph.rewrite import apply_rules
from ipucc.graph.tensors import is_missing
from ipucc.pass_manager import Pass, PassContext, option
from ipucc.passes.graph.canonical import CANONICAL, normalise_attributes
from ipucc.passes.graph.identities import IDENTITIES, bypass_expands
from ipucc.passes.graph.views import VIEWS, sink_reshapes

MAX_ROUNDS: Final = 20
SHARED_LIMIT: Final = 1024
"""Equal constants of at most this many elements become one, so that the nodes reading them can be
compared."""


@dataclass(frozen=True)
class CleanUp(Pass):
    """Leaves no node that computes a constant, copies an operand, repeats another node or is not used.

    Gemm becomes MatMul and elementwise ops; Squeeze, Unsqueeze and Flatten become Reshape; GlobalAveragePool
    becomes ReduceMean; pads and axes are explicit. Numbers change by rounding only where Gemm scales (beta).

        t = Transpose <perm = [1, 0]> (w)          y = MatMul (x, w_t)
        y = Gemm (x, t, b)                    ->   z = Add (y, b)
        z = Identity (y)
    """

    name: ClassVar[str] = "clean-up"

    fold: bool = option(True, "compute nodes whose operands are constants")
    cse: bool = option(True, "merge nodes that compute the same")

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        changed = False
        for _ in range(MAX_ROUNDS):
            count = bypass_expands(model) + normalise_attributes(model) + sink_reshapes(model)
            if self.fold:
                count += fold_constants(model)
            count += apply_rules(model, (*IDENTITIES, *VIEWS, *CANONICAL))
            if self.cse:
                count += share_constants(model)
                count += bool(CommonSubexpressionEliminationPass()(model).modified)
            count += prune(model)
            if not count:
                break
            changed = True
        return changed


def share_constants(model: ir.Model) -> int:
    """Lets equal small constants of the main graph be one value; the number that became unused."""
    known: dict[tuple[str, str, bytes], ir.Value] = {}
    count = 0
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.size > SHARED_LIMIT or value.is_graph_output() or not is_constant(value):
            continue
        if not value.uses() or tensor.dtype is ir.DataType.STRING or is_missing(tensor):
            continue
        key = (str(tensor.dtype), str(tensor.shape), tensor.tobytes())
        first = known.setdefault(key, value)
        if first is not value:
            value.replace_all_uses_with(first)
            count += 1
    return count
