"""The pass `fuse`: every fusion of the graph level, in the order in which they feed each other."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ipucc.graph.rewrite import apply_rules
from ipucc.pass_manager import Pass, PassContext, option
from ipucc.passes.graph.fuse_activation import FuseActivation
from ipucc.passes.graph.fuse_attention import FuseAttention
from ipucc.passes.graph.fuse_conv import FuseConv
from ipucc.passes.graph.fuse_epilogue import FuseEpilogue
from ipucc.passes.graph.fuse_norm import FuseNorm
from ipucc.passes.graph.views import VIEWS, sink_reshapes


@dataclass(frozen=True)
class Fuse(Pass):
    """Runs fuse-conv, fuse-attention, fuse-norm, fuse-activation and fuse-epilogue, in this order.

    Convolutions first, since their biases are epilogues; whole patterns before the epilogue, which takes
    their parts for loose elementwise ops.
    """

    name: ClassVar[str] = "fuse"

    conv: bool = option(True, "fold BatchNormalization and Pad into convolutions")
    attention: bool = option(True, "softmax guards and rotary embeddings")
    guards: str = option("prove", "as in fuse-attention", choices=("prove", "assume"))
    norm: bool = option(True, "LayerNormalization and RMSNormalization out of their parts")
    activation: bool = option(True, "activations out of their parts")
    epilogue: bool = option(True, "elementwise ops into contractions, the rest into FusedElementwise")

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        wanted: tuple[tuple[bool, Pass], ...] = (
            (self.conv, FuseConv()),
            (self.attention, FuseAttention(guards=self.guards)),
            (self.norm, FuseNorm()),
            (self.activation, FuseActivation()),
        )
        changed = [item.run(model, ctx) for enabled, item in wanted if enabled]
        # Activations that became one node let the reshapes around them through.
        changed.append(sink_reshapes(model) + apply_rules(model, VIEWS) > 0)
        if self.epilogue:
            changed.append(FuseEpilogue().run(model, ctx))
        return any(changed)
