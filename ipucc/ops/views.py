"""Ops that only rename elements: they become views of their operands and move nothing by themselves."""

import numpy as np
import onnx_ir as ir

from ipucc.ops.builder import Builder, lowering, shape_of
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Source
from ipucc.tiles.view import View

__all__: list[str] = []


@lowering("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(b: Builder, node: ir.Node) -> None:
    b.define(node, b.reshape(b.ref(node, 0), shape_of(node.outputs[0])))


@lowering("Identity", "Dropout")
def _identity(b: Builder, node: ir.Node) -> None:
    if node.op_type == "Dropout":
        # The import takes every form that drops nothing.
        raise b.fail("IPU0202", "Dropout in training needs random numbers", help=["export the model for inference"])
    b.define(node, b.ref(node, 0))


@lowering("Transpose")
def _transpose(b: Builder, node: ir.Node) -> None:
    ref = b.ref(node, 0)
    perm = node.attributes.get_ints("perm") or tuple(reversed(range(len(ref.shape))))
    b.define(node, b.view(ref, View.transpose(ref.shape, perm)))


@lowering("Expand")
def _expand(b: Builder, node: ir.Node) -> None:
    ref = b.ref(node, 0)
    b.define(node, b.view(ref, View.broadcast(ref.shape, shape_of(node.outputs[0]))))


@lowering("Slice")
def _slice(b: Builder, node: ir.Node) -> None:
    ref = b.ref(node, 0)
    bounds = [_known(b, node, i, name) for i, name in ((1, "starts"), (2, "ends"))]
    axes = _known(b, node, 3, "axes") if b.has(node, 3) else np.arange(bounds[0].size)
    steps = _known(b, node, 4, "steps") if b.has(node, 4) else np.ones(bounds[0].size, np.int64)
    for start, end, axis, step in zip(*(a.tolist() for a in (*bounds, axes, steps)), strict=True):
        dim = axis % len(ref.shape)
        index = range(ref.shape[dim])[slice(start, _open(end, step), step)]
        ref = b.view(ref, View.take(ref.shape, dim, list(index)))
    b.define(node, ref)


def _open(end: int, step: int) -> int | None:
    """An end far below zero with a negative step means: up to and including the first element."""
    return None if step < 0 and end < -(2**30) else end


def _known(b: Builder, node: ir.Node, i: int, what: str) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    value = b.constant(node, i)
    if value is None:
        raise b.fail("IPU0204", f"operand {what!r} must be a constant", help=["bind it, or fold it before compiling"])
    return np.atleast_1d(value).astype(np.int64)


@lowering("Split")
def _split(b: Builder, node: ir.Node) -> None:
    ref = b.ref(node, 0)
    dim = node.attributes.get_int("axis", 0) % len(ref.shape)
    at = 0
    for i, out in enumerate(node.outputs):
        size = shape_of(out)[dim]
        b.define(node, b.view(ref, View.take(ref.shape, dim, range(at, at + size))), i)
        at += size


@lowering("Concat")
def _concat(b: Builder, node: ir.Node) -> None:
    shape = shape_of(node.outputs[0])
    dim = node.attributes.get_int("axis") % len(shape)
    sources: list[Source] = []
    at = 0
    for i in range(len(node.inputs)):
        part = b.ref(node, i)
        size = part.shape[dim]
        if size == 0:
            continue
        if part.gap != 0.0:
            part = b.copied(part, f"{b.name()}.{i}")
        index = np.full(shape[dim], -1)
        index[at : at + size] = np.arange(size)
        sources.extend(b.view(part, View.take(part.shape, dim, index)).sources)
        at += size
    b.define(node, Ref(tuple(sources), shape, b.ref(node, 0).dtype))


@lowering("Pad")
def _pad(b: Builder, node: ir.Node) -> None:
    ref = b.ref(node, 0)
    mode = node.attributes.get_string("mode", "constant")
    pads = _known(b, node, 1, "pads")
    axes = _known(b, node, 3, "axes") if b.has(node, 3) else np.arange(len(ref.shape))
    gap = 0.0
    if b.has(node, 2):
        value = b.constant(node, 2)
        if value is None:
            raise b.fail("IPU0204", "operand 'constant_value' must be a constant")
        gap = float(np.asarray(value).reshape(-1)[0])
    if mode == "constant" and any(not s.view.is_total for s in ref.sources) and ref.gap != gap:
        ref = b.copied(ref, b.name())
    for k, axis in enumerate(axes.tolist()):
        dim = axis % len(ref.shape)
        before, after, n = int(pads[k]), int(pads[k + axes.size]), ref.shape[dim]
        at = np.arange(-before, n + after)
        if mode == "constant":
            index = np.where((at >= 0) & (at < n), at, -1)
        elif mode == "edge":
            index = np.clip(at, 0, n - 1)
        elif mode == "reflect":
            period = max(2 * (n - 1), 1)
            fold = np.abs(at) % period
            index = np.where(fold < n, fold, period - fold)
        elif mode == "wrap":
            index = at % n
        else:
            raise b.fail("IPU0202", f"Pad with mode {mode!r} is not supported")
        ref = b.view(ref, View.take(ref.shape, dim, index))
    b.define(node, Ref(ref.sources, ref.shape, ref.dtype, gap if mode == "constant" else ref.gap))


@lowering("Tile")
def _tile(b: Builder, node: ir.Node) -> None:
    ref = b.ref(node, 0)
    for dim, n in enumerate(_known(b, node, 1, "repeats").tolist()):
        ref = b.view(ref, View.take(ref.shape, dim, np.tile(np.arange(ref.shape[dim]), n)))
    b.define(node, ref)


@lowering("DepthToSpace", "SpaceToDepth")
def _depth_space(b: Builder, node: ir.Node) -> None:
    ref = b.ref(node, 0)
    n, c, h, w = ref.shape
    s = node.attributes.get_int("blocksize")
    if node.op_type == "SpaceToDepth":
        ref = b.reshape(ref, (n, c, h // s, s, w // s, s))
        crd = node.attributes.get_string("mode", "DCR") == "CRD"
        ref = b.view(ref, View.transpose(ref.shape, (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4)))
    elif node.attributes.get_string("mode", "DCR") == "DCR":
        ref = b.reshape(ref, (n, s, s, c // (s * s), h, w))
        ref = b.view(ref, View.transpose(ref.shape, (0, 3, 4, 1, 5, 2)))
    else:
        ref = b.reshape(ref, (n, c // (s * s), s, s, h, w))
        ref = b.view(ref, View.transpose(ref.shape, (0, 1, 4, 2, 5, 3)))
    b.define(node, b.reshape(ref, shape_of(node.outputs[0])))
