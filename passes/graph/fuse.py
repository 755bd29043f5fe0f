"""The pass `fuse`: every fusion of the graph level, in the order in which they feed each other."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ipucc.pass_manager import Pass, PassContext, option
from ipucc.passes.graph.fuse_activation import FuseActivation
from ipucc.passes.graph.fuse_attention import FuseAttention
from ipucc.passes.graph.fuse_conv import FuseConv
from ipucc.passes.graph.fuse_epilogue import FuseEpilogue
from ipucc.passes.graph.fuse_norm import FuseNorm


@dataclass(frozen=True)
class Fuse(Pass):
    """Runs fuse-conv, fuse-attention, fuse-norm, fuse-activation and fuse-epilogue, in this order.

    Convolutions first, since their biases are epilogues; whole patterns before the epilogue, which takes
    their parts for loose elementwise ops.
    """

    name: ClassVar[str] = "fuse"

    conv: bool = option(True, "fold BatchNormalization and Pad into convolutions")
    attention: bool = option(True, "softmax guards and rotary embeddings")
    norm: bool = option(True, "LayerNormalization and RMSNormalization out of their parts")
    activation: bool = option(True, "activations out of their parts")
    epilogue: bool = option(True, "elementwise ops into contractions, the rest into FusedElementwise")

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        wanted: tuple[tuple[bool, Pass], ...] = (
            (self.conv, FuseConv()),
            (self.attention, FuseAttention()),
            (self.norm, FuseNorm()),
            (self.activation, FuseActivation()),
            (self.epilogue, FuseEpilogue()),
        )
        changed = [item.run(model, ctx) for enabled, item in wanted if enabled]
        return any(changed)
