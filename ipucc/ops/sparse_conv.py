"""Block-sparse convolutions: blocks of input and output channels at places of the window (see `ipucc.ops.sparse`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import onnx_ir as ir

from ipucc.codelets.reduce import Reduce
from ipucc.codelets.sparse_conv import BlockSparseConv
from ipucc.dtypes import is_float, itemsize
from ipucc.ops.builder import Builder, lowering, shape_of
from ipucc.ops.distribution import Pattern, Runs
from ipucc.ops.elementwise import broadcast_dims
from ipucc.ops.graph import Ref
from ipucc.ops.sparse import blocks_of_runs, distributions, gathered_rows, joined_columns
from ipucc.ops.spec import Along, Axis, Operand, Span
from ipucc.ops.window import Window, window_of
from ipucc.tiles.view import Group, View

__all__: list[str] = []


@dataclass(frozen=True, eq=False)
class _Layer:
    """A convolution: its operands, the places of its blocks and the shape [N, O, ...] of its result."""

    x: Ref
    values: Ref
    window: Window
    pattern: Pattern
    shape: tuple[int, ...]


@lowering("BlockSparseConv", domain="ipucc")
def _block_sparse_conv(b: Builder, node: ir.Node) -> None:
    x, values = b.ref(node, 0), b.ref(node, 1)
    if not is_float(x.dtype):
        raise b.fail("IPU0203", f"a block-sparse convolution of {x.dtype} is not supported")
    bk, bn = (int(v) for v in node.attributes.get_ints("block"))
    if min(bk, bn) * itemsize(x.dtype) < 8:
        raise b.fail(
            "IPU0206", f"blocks of {bk} x {bn} channels are narrower than what an exchange moves at once",
            help=["use blocks of 4 x 4 channels or more for convolutions"],
        )  # fmt: skip
    oc, ic, *kernel = (int(v) for v in node.attributes.get_ints("shape"))
    rows, cols, taps = (
        np.asarray(node.attributes.get_ints(name), np.int64) for name in ("rows", "cols", "taps")
    )  # fmt: skip
    shape = shape_of(node.outputs[0])
    window = window_of(b, node, x.shape[2:], tuple(kernel))
    pattern = Pattern(rows, cols, (-(-ic // bk), -(-oc // bn)), (bk, bn), taps, max(1, b.grain(x.dtype) // bk))
    layer = _Layer(b.settled(x, 1), values, window, pattern, shape)
    partials = b.options.partials if x.dtype == "float16" else x.dtype
    expr = node.attributes.get_string("expr", "")
    extras = [b.ref(node, i) for i in range(2, len(node.inputs))]

    def chain(name: str, runs: Runs) -> Ref:
        return _join(b, _convolve(b, layer, runs, partials, name), runs, layer, extras, "" if expr == "x" else expr)

    positions = shape[0] * prod(shape[2:])
    offered = distributions(b, node, pattern, positions, x.dtype, partials)
    b.define(node, b.offered([(str(scheme), partial(chain, str(scheme), runs)) for scheme, runs in offered]))


def _convolve(b: Builder, layer: _Layer, runs: Runs, partials: str, name: str) -> Ref:
    """[runs, n, slots x bn, ...]: the partials of every run."""
    x, window, pattern = layer.x, layer.window, layer.pattern
    (bk, bn), (batch, oc, *out) = pattern.block, layer.shape
    outputs = runs.columns.shape[1]
    assert pattern.taps is not None
    need, begin = gathered_rows(runs, bk * pattern.together, x.shape[1])
    gathered = b.view(x, View.take(x.shape, 1, need))
    window_size = prod(window.kernel)
    places = runs.place * window_size + pattern.taps[runs.order]
    spatial = tuple(f"o{d}" for d in range(len(out)))
    axes = (
        Axis("r", runs.count, pinned=True), Axis("n", batch), Axis("p", outputs * bn, "whole"),
        *(Axis(axis, size) for axis, size in zip(spatial, out, strict=True)),
    )  # fmt: skip
    spans = [window.span(d, size) for d, size in enumerate(out)]
    operands: list[Operand] = [
        b.operand(gathered, (Along("n"), Span("r", begin[:-1], begin[1:]), *spans), want=1, fetched=True),
        *blocks_of_runs(b, layer.values, runs, places, name),
    ]
    grains = Window.grains(operands[0], 2)
    codelet = BlockSparseConv(
        window.kernel, window.strides, window.dilations, window.begins, grains, (bk, bn),
        runs.capacity, outputs, x.dtype,
    )  # fmt: skip
    positions = batch * prod(out)
    return b.compute(
        "BlockSparseConv", axes, operands, ("r", "n", "p", *spatial), partials, codelet, 2, f"{b.name()}.partials",
        macs=positions * oc * x.shape[1] * prod(window.kernel), sparse_macs=positions * runs.order.size * bk * bn,
    )  # fmt: skip


def _join(b: Builder, partials: Ref, runs: Runs, layer: _Layer, extras: Sequence[Ref], expr: str) -> Ref:
    """[N, O, ...]: the sum of every channel's partials, then the epilogue."""
    (batch, oc, *out), bn = layer.shape, layer.pattern.block[1]
    depth, flat = joined_columns(runs, layer.pattern.shape[1], bn, partials.shape[2], oc)
    groups = [Group((0, 2), (0, 2), flat), Group((1,), (1,), batch)]
    groups += [Group((3 + d,), (3 + d,), size) for d, size in enumerate(out)]
    stacked = b.view(partials, View(partials.shape, (depth, *layer.shape), tuple(groups)))
    results = ("n", "oc", *(f"o{d}" for d in range(len(out))))
    axes = (Axis("d", depth, "whole"), *(Axis(a, size) for a, size in zip(results, layer.shape, strict=True)))
    operands = [b.operand(stacked, (Along("d"), *(Along(a) for a in results)), want=2)]
    for extra in extras:
        ref = b.reshape(extra, (1,) * (len(layer.shape) - len(extra.shape)) + extra.shape)
        dims = broadcast_dims(ref.shape, results, layer.shape)
        operands.append(b.operand(ref, dims, want=1 if ref.shape[1] > 1 else None))
    dtype = layer.x.dtype
    codelet = Reduce("sum", ("d",), results, dtype, 1.0, expr, tuple(e.dtype for e in extras))
    return b.compute("BlockSparseConv", axes, operands, results, dtype, codelet, 1)
