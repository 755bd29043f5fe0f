"""What the planner predicts for products, dense and block-sparse, each question asked once."""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from ipucc.diagnostics import CompileError
from ipucc.graph.edit import attribute, static_shape, value_dtype
from ipucc.pass_manager.base import Predict
from ipucc.passes.graph.products import Product
from ipucc.passes.graph.sparse_form import predicted
from ipucc.sparsity.blocks import Block, Mask, grid_of
from ipucc.sparsity.masks import kept_count

__all__ = ["NEVER", "Predictions", "random_mask"]

NEVER = 1 << 60
"""Cycles of what cannot be lowered or fits nowhere."""

Key: TypeAlias = tuple[object, ...]


@dataclass(eq=False)
class Predictions:
    """Cycles of products by what they compute, so that equal layers are predicted once.

    Block-sparse ones count as equal with patterns of about as many blocks (to 3 %), whatever the patterns.
    """

    predict: Predict
    _dense: dict[Key, int] = field(default_factory=dict)
    _sparse: dict[Key, int] = field(default_factory=dict)

    def key(self, product: Product) -> Key:
        """What predictions of a product depend on but the pattern: equal for equal layers."""
        node = product.node
        operands = tuple((static_shape(v), value_dtype(v).name) for v in node.inputs if v is not None)
        attrs = tuple((name, attribute(node, name)) for name in sorted(node.attributes))
        return node.domain, node.op_type, operands, attrs, product.turned

    def dense(self, product: Product) -> int:
        """Cycles of the product as it is."""
        key = self.key(product)
        if key not in self._dense:
            self._dense[key] = self._ask(product.node)
        return self._dense[key]

    def sparse(self, product: Product, mask: Mask, block: Block) -> int:
        """Cycles with the blocks of a mask only."""
        count = int(mask.sum())
        key = (*self.key(product), block, round(np.log(max(count, 1)) / np.log(1.03)))
        if key not in self._sparse:
            with predicted(product, mask, block) as node:
                self._sparse[key] = self._ask(node)
        return self._sparse[key]

    def at_density(self, product: Product, block: Block, density: float) -> int:
        """Cycles with a random pattern of a density (`random_mask`)."""
        return self.sparse(product, random_mask(product, block, density), block)

    def floor(self, product: Product, count: int, block: Block) -> int:
        """Cycles that no plan with so many blocks can be below, quickly."""
        mask = np.zeros(grid_of(product.shape, block), bool)
        mask.reshape(-1)[:count] = True
        with predicted(product, mask, block) as node:
            return self.predict.floor(node)

    def break_even(self, product: Product, block: Block, steps: int = 6) -> float:
        """The density below which a random pattern of these blocks is predicted to take fewer cycles than the dense
        product: 0 where none does, 1 where all do. Found by bisection: `steps` halve the interval of the logarithm."""
        dense, total = self.dense(product), int(np.prod(grid_of(product.shape, block)))
        if self._loses(product, block, 1 / total, dense):
            return 0.0
        if not self._loses(product, block, 1.0, dense):
            return 1.0
        low, high = np.log(1 / total), 0.0
        for _ in range(steps):
            middle = (low + high) / 2
            low, high = (low, middle) if self._loses(product, block, float(np.exp(middle)), dense) else (middle, high)
        return float(np.exp(low))

    def _loses(self, product: Product, block: Block, density: float, dense: int) -> bool:
        count = kept_count(int(np.prod(grid_of(product.shape, block))), density)
        return self.floor(product, count, block) >= dense or self.at_density(product, block, density) >= dense

    def _ask(self, node: ir.Node) -> int:
        try:
            return self.predict(node)
        except CompileError:
            return NEVER


def random_mask(product: Product, block: Block, density: float) -> Mask:
    """A random pattern of a density; the same for equal shapes, and one of a lower density is part of it."""
    grid = grid_of(product.shape, block)
    order = np.random.default_rng([*product.shape, *block]).permutation(int(np.prod(grid)))
    mask = np.zeros(order.size, bool)
    mask[order[: kept_count(order.size, density)]] = True
    return mask.reshape(grid)
