"""What block sparsity could buy: the zeros in the weights of a model, and the planner's predictions, layer by layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from ipucc.diagnostics import JsonValue
from ipucc.graph.edit import describe
from ipucc.graph.weight_names import source_name
from ipucc.optimise import optimise_model, predictor
from ipucc.pass_manager import PassContext
from ipucc.passes.graph.predictions import NEVER, Predictions
from ipucc.passes.graph.products import KINDS, find_products
from ipucc.passes.graph.use_zeros import best_block
from ipucc.sparsity import Scan, scan
from ipucc.sparsity.blocks import Block

if TYPE_CHECKING:
    from ipucc.compiler import CompileOptions

__all__ = ["SparseWeight", "sparse_weights"]


@dataclass(frozen=True)
class SparseWeight:
    """One layer. `weight` and `node` are names of the model file, `shape` is [taps, k, n].

    `densities` say by block which share of the blocks is not all zero; None where the values are absent, as then is
    `sparse_cycles`. `block` is the one of fewest predicted cycles for the zeros that there are, else 16 x 16;
    `break_even` the density of random blocks of that size below which sparse is predicted to be faster. Cycles are
    those of the layer alone on the chip; None stands for a form that cannot be planned.
    """

    weight: str
    node: str
    kind: str
    shape: tuple[int, int, int]
    densities: Mapping[Block, float] | None
    block: Block
    dense_cycles: int | None
    sparse_cycles: int | None
    break_even: float

    def to_json(self) -> dict[str, JsonValue]:
        """The fields as plain JSON values; blocks are called `16x16`."""
        known = self.densities
        return {
            "weight": self.weight, "node": self.node, "kind": self.kind, "shape": list(self.shape),
            "densities": None if known is None else {f"{a}x{b}": share for (a, b), share in known.items()},
            "block": list(self.block), "dense_cycles": self.dense_cycles, "sparse_cycles": self.sparse_cycles,
            "break_even": self.break_even,
        }  # fmt: skip


def sparse_weights(
    source: str | Path | onnx.ModelProto | ir.Model,
    options: "CompileOptions",
    *,
    on_start: Callable[[str], None] | None = None,
) -> list[SparseWeight]:
    """The products of a model with constant weights, in its order, behind the default passes without `use-zeros`.

    `on_start` hears of every layer. Equal layers are predicted once. Raises CompileError as `optimise_model` does.
    """
    passes = "clean-up,fuse" + (",precision{to=fp16}" if options.precision == "fp16" else "")
    model = optimise_model(source, replace(options, passes=passes)).model
    predictions = Predictions(predictor(options))
    even: dict[tuple[object, ...], float] = {}
    found = []
    for product in find_products(model, KINDS, PassContext()):
        name = source_name(product.constant)[0]
        if on_start is not None:
            on_start(name)
        weight = product.read()
        densities: Scan | None = None if weight is None else scan(weight)
        block: Block = (16, 16)
        sparse = NEVER
        if weight is not None and densities is not None and densities.elements:
            best, sparse = best_block(product, weight, densities, predictions)
            block = best or densities.best
            if best is None and densities.densities[block] < 1:
                sparse = predictions.at_density(product, block, densities.densities[block])
        dense = predictions.dense(product)
        key = (*predictions.key(product), block)
        if key not in even:
            even[key] = predictions.break_even(product, block)
        made = None if densities is None else dict(densities.densities)
        least, most = (None if count == NEVER else count for count in (sparse, dense))
        node = describe(product.node)
        found.append(SparseWeight(name, node, product.kind, product.shape, made, block, most, least, even[key]))
    return found
