"""The block-sparse form of a product: the node that multiplies only blocks that are kept."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import AttrLike, Editor, copy_type, ints_attribute, merge_origin, static_shape
from ipucc.graph.schemas import DOMAIN, extra_operands
from ipucc.graph.tensors import MissingTensor
from ipucc.passes.graph.products import Product
from ipucc.sparsity.blocks import Array, Block, Mask, cut

__all__ = ["Kept", "predicted", "replace"]


@dataclass(eq=False)
class Kept:
    """The blocks kept of one weight: a mask over its grid, and the weight [taps, k, n], outside of which all is zero.

    `distribution` says how the blocks are dealt to tiles, empty where placement chooses; `values` is the constant of
    the blocks, made when a node first uses it.
    """

    block: Block
    mask: Mask
    weight: Array
    distribution: str = ""
    values: ir.Value | None = field(default=None)

    @property
    def count(self) -> int:
        """How many blocks are kept."""
        return int(self.mask.sum())

    @property
    def density(self) -> float:
        """The share of blocks that is kept."""
        return self.count / self.mask.size


def replace(product: Product, kept: Kept, editor: Editor) -> ir.Node:
    """Puts the block-sparse form in the place of a product's node."""
    if kept.values is None:
        blocks = cut(kept.weight, kept.block)[np.nonzero(kept.mask)]
        kept.values = editor.constant(np.ascontiguousarray(blocks), name=f"{product.constant.name}_blocks")
    op, attrs = _form(product, kept.mask, kept.block)
    if kept.distribution:
        attrs["distribution"] = kept.distribution
    return put_in_place(product, op, (kept.values,), attrs, editor)


def put_in_place(
    product: Product, op: str, weight: Sequence[ir.Value], attrs: Mapping[str, AttrLike], editor: Editor
) -> ir.Node:
    """A node of the domain `ipucc` in the place of a product's node: the same left side, `weight` for the right one,
    the operands of the epilogue, the names."""
    node = product.node
    result = node.outputs[0]
    made = editor.node(op, [node.inputs[0], *weight, *epilogue_operands(node)], dict(attrs), before=node, domain=DOMAIN)
    copy_type(result, made.outputs[0])
    merge_origin(made, [node])
    name, value_name, is_output = node.name, result.name, result.is_graph_output()
    editor.replace(result, made.outputs[0])
    editor.remove_dead([node])
    made.name = name
    if not is_output:
        made.outputs[0].name = value_name
    return made


@contextmanager
def predicted(product: Product, mask: Mask, block: Block) -> Iterator[ir.Node]:
    """The block-sparse form of a product as a node of no graph, to ask the planner about.

    Its blocks have a shape and no values. Behind the `with` the product's operands know nothing of it.
    """
    node, count = product.node, int(mask.sum())
    op, attrs = _form(product, mask, block)
    shape = ir.Shape([count, *block])
    dtype = product.constant.dtype or ir.DataType.FLOAT
    held = MissingTensor("blocks", dtype, shape, "only a prediction is wanted")
    values = ir.Value(name="blocks", shape=shape, type=ir.TensorType(dtype), const_value=held)
    made = ir.node(op, [node.inputs[0], values, *epilogue_operands(node)], attributes=attrs, domain=DOMAIN)
    made.name = f"{node.name}.sparse"
    made.outputs[0].name = "sparse"
    copy_type(node.outputs[0], made.outputs[0])
    try:
        yield made
    finally:
        for i in range(len(made.inputs)):
            made.replace_input_with(i, None)


def epilogue_operands(node: ir.Node) -> tuple[ir.Value, ...]:
    """The operands of a product's epilogue; a plain product has none."""
    return extra_operands(node) if node.domain == DOMAIN else ()


def _form(product: Product, mask: Mask, block: Block) -> tuple[str, dict[str, AttrLike]]:
    """Op and attributes; blocks are listed in the order of the grid [taps, rows, columns]."""
    node = product.node
    taps, rows, cols = (index.tolist() for index in np.nonzero(mask))
    attrs: dict[str, AttrLike] = {
        "block": block,
        "cols": cols,
        "expr": node.attributes.get_string("expr", "x"),
        "rows": rows,
        "shape": product.dims,
    }
    if product.kind == "matmul":
        return "BlockSparseMatMul", attrs
    spatial = len(static_shape(node.outputs[0]) or ()) - 2
    attrs["taps"] = taps
    attrs["dilations"] = ints_attribute(node, "dilations", (1,) * spatial)
    attrs["pads"] = ints_attribute(node, "pads", (0,) * 2 * spatial)
    attrs["strides"] = ints_attribute(node, "strides", (1,) * spatial)
    return "BlockSparseConv", attrs
