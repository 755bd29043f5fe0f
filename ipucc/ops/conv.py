"""Convolutions: Conv, its fused form, and ConvTranspose.

Channels are seen as groups times channels of a group: X as [N, G, C/G, ...], W as [G, O/G, C/G, ...], the result as
[N, G, O/G, ...]. With narrow groups (depthwise) the grains of memory run over the groups, else over the channels.
"""

from math import prod

import numpy as np
import onnx_ir as ir

from ipucc.codelets.conv import Conv, ConvTranspose
from ipucc.codelets.reduce import Reduce
from ipucc.dtypes import is_float
from ipucc.ops.builder import Builder, Form, lowering, shape_of
from ipucc.ops.elementwise import broadcast_dims
from ipucc.ops.graph import Ref
from ipucc.ops.matmul import FEW_ROWS
from ipucc.ops.spec import Along, Axis, DimMap, Everything
from ipucc.ops.window import Window, steps_of, window_of

__all__ = ["conv"]


def conv(
    b: Builder, x: Ref, w: Ref, window: Window, group: int, extras: list[Ref], expr: str, shape: tuple[int, ...],
    transposed: bool = False,
) -> Ref:  # fmt: skip
    """A convolution with result `shape` [N, O, ...] and the epilogue over `extras`, which broadcast to it.

    W is ONNX's: [O, C/G, ...], for a transposed convolution [C, O/G, ...]. IPU0203 for types other than floats.
    """
    if not is_float(x.dtype):
        raise b.fail("IPU0203", f"a convolution of {x.dtype} is not supported")
    batch, out = shape[0], shape[2:]
    ic, oc = x.shape[1] // group, shape[1] // group
    grain = b.grain(x.dtype)
    axes = (
        Axis("n", batch), Axis("g", group), Axis("oc", oc),
        *(Axis(f"o{d}", size) for d, size in enumerate(out)),
        Axis("ic", ic, "reduce", 16 if x.dtype == "float16" else grain),
    )  # fmt: skip
    x_by_channel = group == 1 or ic >= max(2, grain // 2)
    y_by_channel = group == 1 or oc >= max(2, grain // 2)
    x = b.reshape(x, (batch, group, ic, *x.shape[2:]))
    spans = [window.transposed_span(d, n) if transposed else window.span(d, n) for d, n in enumerate(out)]
    dims_x: list[DimMap] = [Along("n"), Along("g"), Along("ic"), *spans]
    kernel_dims = [Everything(k) for k in window.kernel]
    if transposed:
        w = b.reshape(w, (group, ic, oc, *window.kernel))
        dims_w: list[DimMap] = [Along("g"), Along("ic"), Along("oc"), *kernel_dims]
    else:
        w = b.reshape(w, (group, oc, ic, *window.kernel))
        dims_w = [Along("g"), Along("oc"), Along("ic"), *kernel_dims]
    w_channel = 1 if transposed else 2
    operands = [
        b.operand(x, dims_x, want=2 if x_by_channel else 1),
        b.operand(w, dims_w, want=w_channel if x_by_channel else 0),
    ]
    results = ("n", "g", "oc", *(f"o{d}" for d in range(len(out))))
    sizes = (batch, group, oc, *out)
    y_grain = 2 if y_by_channel else 1
    for extra in extras:
        ref = b.reshape(extra, (1,) * (len(shape) - len(extra.shape)) + extra.shape)
        channels = (1, 1) if ref.shape[1] == 1 else (group, oc)
        ref = b.reshape(ref, (ref.shape[0], *channels, *ref.shape[2:]))
        want = y_grain if ref.shape[y_grain] > 1 else None
        operands.append(b.operand(ref, broadcast_dims(ref.shape, results, sizes), want=want, epilogue=True))
    types = tuple(e.dtype for e in extras)
    partials = b.options.partials if x.dtype == "float16" else x.dtype
    form = (window.kernel, window.strides, window.dilations, window.begins, Window.grains(operands[0], 3))
    kind = ConvTranspose if transposed else Conv
    made = b.compute(
        "ConvTranspose" if transposed else "Conv", axes, operands, results, x.dtype,
        kind(*form, x.dtype, partials, expr, types), y_grain,
        partial=kind(*form, x.dtype, partials), partial_dtype=partials,
        combine=Reduce("sum", ("ic",), results, x.dtype, 1.0, expr, types),
        macs=_macs(window, x.shape[3:], batch * group * oc * ic, out, transposed),
        forms=_forms(window, ic, batch * prod(out), x.dtype, x_by_channel, y_by_channel, transposed),
    )  # fmt: skip
    return b.reshape(made, shape)


def _forms(
    window: Window, ic: int, positions: int, dtype: str, x_by_channel: bool, y_by_channel: bool, transposed: bool
) -> tuple[Form, ...]:
    """The other methods of a convolution: those that read operands and write results in the grains they have."""
    found: list[str] = []
    half = dtype == "float16"
    slides = half and window.strides[-1] <= 2 and window.dilations[-1] == 1 and window.kernel[-1] > 1
    if not x_by_channel and not y_by_channel:
        found.append("vmac")
        if slides and not transposed:
            found.append("slic depthwise")
    elif x_by_channel and y_by_channel and not transposed:
        channels = 16 if half else 8
        if prod(window.kernel) == 1 and all(s == 1 for s in window.strides):
            found.append("swapped")
            if positions <= FEW_ROWS:
                found.append("dot")
        found += [f"amp {h}x1" for h in (2, 4) if ic <= channels // h and max(window.kernel) > h // 2]
        if slides and ic <= channels:
            found.append("slic")
    return tuple(Form(method, {"method": method}) for method in found)


def _macs(window: Window, inner: tuple[int, ...], channels: int, out: tuple[int, ...], transposed: bool) -> int:
    """Multiply-accumulates with every tap counted at every position, padding included."""
    return channels * prod(window.kernel) * prod(inner if transposed else out)


@lowering("Conv")
def _conv(b: Builder, node: ir.Node) -> None:
    x, w = b.ref(node, 0), b.ref(node, 1)
    group = node.attributes.get_int("group", 1)
    window = window_of(b, node, x.shape[2:], w.shape[2:])
    extras, expr = _bias(b, node)
    b.define(node, conv(b, x, w, window, group, extras, expr, shape_of(node.outputs[0])))


@lowering("FusedConv", domain="ipucc")
def _fused(b: Builder, node: ir.Node) -> None:
    x, w = b.ref(node, 0), b.ref(node, 1)
    window = window_of(b, node, x.shape[2:], w.shape[2:])
    extras = [b.ref(node, i) for i in range(2, len(node.inputs))]
    expr = node.attributes.get_string("expr")
    group = node.attributes.get_int("group", 1)
    shape = shape_of(node.outputs[0])
    b.define(node, conv(b, x, w, window, group, extras, "" if expr == "x" else expr, shape))


@lowering("ConvTranspose")
def _conv_transpose(b: Builder, node: ir.Node) -> None:
    x, w = b.ref(node, 0), b.ref(node, 1)
    shape = shape_of(node.outputs[0])
    window = _transposed_window(b, node, x.shape[2:], w.shape[2:], shape[2:])
    extras, expr = _bias(b, node)
    group = node.attributes.get_int("group", 1)
    b.define(node, conv(b, x, w, window, group, extras, expr, shape, transposed=True))


def _transposed_window(
    b: Builder, node: ir.Node, sizes: tuple[int, ...], kernel: tuple[int, ...], out: tuple[int, ...]
) -> Window:
    """The window with the padding that the result's size asks for, where output_shape or auto_pad decide on it.

    ONNX: total padding = stride (in - 1) + output_padding + (kernel - 1) dilation + 1 - out; SAME_UPPER puts the
    smaller half in front, everything else the larger.
    """
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    given = node.attributes.get_ints("output_shape")
    if auto == "NOTSET" and not given:
        return window_of(b, node, sizes, kernel)
    strides, dilations = steps_of(b, node, len(kernel))
    extra = node.attributes.get_ints("output_padding") or (0,) * len(kernel)
    begins, ends = [], []
    for n, k, s, d, e, o in zip(sizes, kernel, strides, dilations, extra, out, strict=True):
        total = max(s * (n - 1) + int(e) + (k - 1) * d + 1 - o, 0)
        less, more = total // 2, total - total // 2
        begins.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return Window(kernel, strides, dilations, tuple(begins), tuple(ends))


def _bias(b: Builder, node: ir.Node) -> tuple[list[Ref], str]:
    """The optional bias [O] as an operand of the epilogue."""
    if not b.has(node, 2):
        return [], ""
    bias = b.ref(node, 2)
    rank = len(shape_of(node.outputs[0]))
    return [b.reshape(bias, (1, int(np.prod(bias.shape)), *([1] * (rank - 2))))], "Add(x, a0)"
