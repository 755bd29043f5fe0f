"""Products with a constant weight: matmuls and convolutions, their weights as [taps, k, n]."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import constant_array, describe, int_attribute, is_constant, static_shape
from ipucc.graph.schemas import DOMAIN
from ipucc.graph.weight_names import source_name
from ipucc.pass_manager import PassContext
from ipucc.passes.graph.precision import UNCONVERTED
from ipucc.sparsity.blocks import Array

__all__ = ["KINDS", "Product", "find_products", "matches"]

KINDS: Final = ("matmul", "conv")

_OPS: Final = {
    ("", "MatMul"): "matmul", (DOMAIN, "FusedMatMul"): "matmul", ("", "Conv"): "conv", (DOMAIN, "FusedConv"): "conv",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Product:
    """A node, and the constant that holds its weight.

    `turned` says that the node reads the constant's transpose. `shape` is [taps, k, n]: k inputs and n outputs of the
    product, taps the positions of a convolution's kernel. `names` are those that users may call it by: of the node, of
    the nodes of the model file that it comes from, of the weight now and in the file.
    """

    node: ir.Node
    kind: str
    constant: ir.Value
    turned: bool
    shape: tuple[int, int, int]
    names: tuple[str, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of the weight as the op reads it: [k, n], or [n, k, kernel...]."""
        shape = static_shape(self.constant)
        assert shape is not None  # find_products has looked
        return shape[::-1] if self.turned else shape

    @property
    def file_dims(self) -> tuple[int, ...]:
        """The shape of the weight in the model file."""
        return self.dims[::-1] if self._swapped else self.dims

    def file_grid(self, block: tuple[int, int]) -> tuple[int, ...]:
        """The grid of blocks in the order of axes of the model file."""
        if self.kind == "conv":
            n, k, *kernel = self.dims
            return (-(-n // block[1]), -(-k // block[0]), *kernel)
        grid = (-(-self.shape[1] // block[0]), -(-self.shape[2] // block[1]))
        return grid[::-1] if self._swapped else grid

    def read(self) -> Array | None:
        """The weight [taps, k, n]; None where its values are absent."""
        found = constant_array(self.constant)
        return None if found is None else self.by_taps(found.T if self.turned else found)

    def peek(self) -> Array | None:
        """The weight, perhaps in the wider type that it had: what is zero here is zero in `read`, which may take far
        longer. None where its values are absent."""
        wide = self.constant.meta.get(UNCONVERTED)
        if wide is None:
            return self.read()
        found = np.asarray(wide.numpy())
        return self.by_taps(found.T if self.turned else found)

    def let_go(self) -> None:
        """Gives the memory of a weight that was read from a mapped file back; it is mapped again when it is read."""
        for tensor in (self.constant.const_value, self.constant.meta.get(UNCONVERTED)):
            if isinstance(tensor, ir.ExternalTensor):
                with suppress(BufferError):  # somebody has an array of it
                    tensor.release()

    def by_taps(self, array: Array) -> Array:
        """An array over the axes of the weight as the op reads it (or over its blocks) as [taps, k, n]; a view."""
        if self.kind == "matmul":
            return array[None]
        return np.moveaxis(array.reshape(*array.shape[:2], -1), (0, 1, 2), (2, 1, 0))

    def from_file(self, array: Array) -> Array:
        """An array over the axes that the weight has in the model file (or over its blocks) as [taps, k, n]."""
        return self.by_taps(array.T if self._swapped else array)

    @property
    def _swapped(self) -> bool:
        return source_name(self.constant)[1] != self.turned


def find_products(model: ir.Model, kinds: Collection[str], ctx: PassContext) -> list[Product]:
    """The products of these kinds in the order of the graph; a remark names convolutions that cannot be among them."""
    found = []
    for node in list(model.graph.all_nodes()):
        kind = _OPS.get((node.domain, node.op_type))
        if kind not in kinds or node.graph is None or len(node.inputs) < 2:
            continue
        held = _held(node.inputs[1])
        if held is None or static_shape(held[0]) is None:
            continue
        constant, turned = held
        shape = static_shape(constant) or ()
        if kind == "matmul":
            if len(shape) != 2:
                continue
            sizes = (1, *(shape[::-1] if turned else shape))
        else:
            if (reason := _unsuited(node)) is not None:
                ctx.missed(node, f"kept dense: {reason}", id="IPU0410")
                continue
            sizes = (prod(shape[2:]), shape[1], shape[0])
        if min(sizes) < 1:
            continue
        assert kind is not None
        names = (node.name, *describe(node).split(","), constant.name, source_name(constant)[0], node.inputs[1].name)  # type: ignore[union-attr]
        found.append(
            Product(
                node, kind, constant, turned, (sizes[0], sizes[1], sizes[2]), tuple(dict.fromkeys(filter(None, names)))
            )
        )
    return found


def matches(product: Product, patterns: Collection[str]) -> list[str]:
    """Those patterns (shell style: *, ?, [...]; a name stands for itself) that fit a name of the product."""
    return [p for p in patterns if any(name == p or fnmatchcase(name, p) for name in product.names)]


def _held(value: ir.Value | None) -> tuple[ir.Value, bool] | None:
    """The constant behind an operand, and whether the operand is its transpose (a weight that others read too)."""
    if value is None or is_constant(value):
        return None if value is None else (value, False)
    node = value.producer()
    if node is None or (node.domain, node.op_type) != ("", "Transpose") or not is_constant(node.inputs[0]):
        return None
    source = node.inputs[0]
    assert source is not None  # it is constant
    perm = tuple(node.attributes.get_ints("perm", (1, 0)))
    return (source, True) if perm == (1, 0) and len(static_shape(source) or ()) == 2 else None


def _unsuited(node: ir.Node) -> str | None:
    """Why a convolution cannot be block-sparse."""
    if (group := int_attribute(node, "group", 1)) != 1:
        return f"a convolution of {group} groups"
    if node.domain == "" and len(node.inputs) > 2 and node.inputs[2] is not None:
        return "the bias of the convolution is not fused (run the pass fuse first)"
    if node.domain == "" and node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return "the pads of the convolution are not explicit (run the pass clean-up first)"
    return None
