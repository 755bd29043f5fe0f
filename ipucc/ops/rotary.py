"""RotaryEmbedding: pairs of features turned by an angle, as views and elementwise ops."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.ops.builder import Builder, lowering
from ipucc.ops.elementwise import elementwise
from ipucc.ops.gather import gather
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Source
from ipucc.tiles.view import View

__all__: list[str] = []

Index = NDArray[np.int64]


@lowering("RotaryEmbedding")
def _rotary(b: Builder, node: ir.Node) -> None:
    x = b.ref(node, 0)
    shape = x.shape
    flat = len(shape) == 3
    if flat:
        heads = node.attributes.get_int("num_heads", 0)
        if heads <= 0 or shape[2] % heads:
            raise b.fail("IPU0120", f"num_heads={heads} does not divide the {shape[2]} features of the operand")
        x = b.reshape(x, (*shape[:2], heads, shape[2] // heads))
    size = x.shape[3]
    turned = node.attributes.get_int("rotary_embedding_dim", 0) or size
    if turned % 2 or turned > size:
        raise b.fail("IPU0120", f"rotary_embedding_dim={turned} does not fit a head of {size} features")
    pair = np.arange(turned).reshape(-1, 2).T if node.attributes.get_int("interleaved", 0) else np.arange(turned)
    first, second = pair.reshape(2, -1)
    cos, sin = (_angles(b, node, i, x.shape, flat, turned // 2) for i in (1, 2))
    one, two = (b.view(x, View.take(x.shape, 3, at)) for at in (first, second))
    half = one.shape
    real = elementwise(b, "Sub(Mul(a0, a1), Mul(a2, a3))", [one, cos, two, sin], half, x.dtype)
    imaginary = elementwise(b, "Add(Mul(a0, a1), Mul(a2, a3))", [one, sin, two, cos], half, x.dtype)
    parts = [(real, first, np.arange(first.size)), (imaginary, second, np.arange(second.size))]
    if turned < size:
        rest = np.arange(turned, size)
        parts.append((x if x.gap == 0.0 else b.copied(x, f"{b.name()}.rest"), rest, rest))
    b.define(node, b.reshape(_joined(b, parts, size), shape))


def _angles(b: Builder, node: ir.Node, i: int, shape: Sequence[int], flat: bool, half: int) -> Ref:
    """A cache [positions, half], read at the positions, or [batch, sequence, half]; broadcast over the heads."""
    cache = b.ref(node, i)
    if cache.shape[-1] != half:
        raise b.fail("IPU0120", f"operand {i} has {cache.shape[-1]} angles, not {half}")
    if b.has(node, 3):
        known = b.constant(node, 3)
        if known is None:
            cache = gather(b, cache, b.ref(node, 3), 0)
        else:
            at = known.astype(np.int64)
            taken = b.view(cache, View.take(cache.shape, 0, np.where(at < 0, at + cache.shape[0], at).reshape(-1)))
            cache = b.reshape(taken, (*at.shape, half))
    batch, length = cache.shape[:2]
    return b.reshape(cache, (batch, length, 1, half) if flat else (batch, 1, length, half))


def _joined(b: Builder, parts: Sequence[tuple[Ref, Index, Index]], size: int) -> Ref:
    """One value of `size` elements along the last dimension, element to[i] of it being element at[i] of a part."""
    sources: list[Source] = []
    lead = parts[0][0].shape[:-1]
    for ref, to, at in parts:
        index = np.full(size, -1)
        index[to] = at
        sources.extend(b.view(ref, View.take(ref.shape, len(lead), index)).sources)
    return Ref(tuple(sources), (*lead, size), parts[0][0].dtype)
