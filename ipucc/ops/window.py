"""The geometry of windows: kernels, strides, dilations and padding of convolutions and pooling."""

from dataclasses import dataclass
from math import gcd

import numpy as np
import onnx_ir as ir

from ipucc.dtypes import itemsize
from ipucc.ops.builder import Builder
from ipucc.ops.graph import Ref
from ipucc.ops.spec import Along, Operand, Span
from ipucc.tiles.layout import GRAIN_BYTES
from ipucc.tiles.view import View

__all__ = ["Window", "steps_of", "thinned", "window_of"]


@dataclass(frozen=True)
class Window:
    """Per spatial dimension; `begins` and `ends` are the padding in front and behind."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """All fields in their order."""
        return self.kernel, self.strides, self.dilations, self.begins, self.ends

    def span(self, d: int, count: int) -> Span:
        """Which interval of input dimension d each of the `count` positions of axis `o{d}` needs, padding included."""
        lo = np.arange(count, dtype=np.int64) * self.strides[d] - self.begins[d]
        return Span(f"o{d}", lo, lo + (self.kernel[d] - 1) * self.dilations[d] + 1)

    def transposed_span(self, d: int, count: int) -> Span:
        """The same for a transposed convolution: the inputs i with i * stride + k * dilation - begin = o."""
        o = np.arange(count, dtype=np.int64) + self.begins[d]
        lo = -(-(o - (self.kernel[d] - 1) * self.dilations[d]) // self.strides[d])
        return Span(f"o{d}", lo, o // self.strides[d] + 1)

    @staticmethod
    def grains(operand: Operand, first: int) -> tuple[int, ...]:
        """At which multiples the cells of an operand begin, for its dimensions from `first` on."""
        grain = max(1, GRAIN_BYTES // itemsize(operand.dtype))
        found = []
        for d in range(first, len(operand.shape)):
            if isinstance(operand.dims[d], Along):
                raise ValueError("a window dimension is a span")
            found.append(grain if d == operand.grain_dim else 1)
        return tuple(found)


def window_of(b: Builder, node: ir.Node, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
    """The window of a convolution or pooling over an input of these spatial sizes. IPU0120 for wrong attributes."""
    rank = len(kernel)
    strides, dilations = steps_of(b, node, rank)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            less, more = total // 2, total - total // 2
            begins.append(less if auto == "SAME_UPPER" else more)
            ends.append(more if auto == "SAME_UPPER" else less)
        return Window(kernel, strides, dilations, tuple(begins), tuple(ends))
    if auto == "VALID":
        pads: tuple[int, ...] = (0,) * 2 * rank
    elif auto == "NOTSET":
        pads = _ints(b, node, "pads", (0,) * 2 * rank, 2 * rank)
    else:
        raise b.fail("IPU0120", f"auto_pad is {auto!r}")
    return Window(kernel, strides, dilations, pads[:rank], pads[rank:])


def thinned(b: Builder, x: Ref, window: Window) -> tuple[Ref, Window]:
    """The image without what no window sees, where strides and dilations have a common divisor, and the window over
    it. Spatial dimensions are the last ones of x."""
    kernel, strides, dilations, begins, ends = ([*part] for part in window.parts)
    first = len(x.shape) - len(kernel)
    for d, k in enumerate(kernel):
        step = strides[d] if k == 1 else gcd(strides[d], dilations[d])
        size, phase = x.shape[first + d], -begins[d] % step
        if step == 1 or phase >= size:
            continue
        at = np.arange(phase, size, step)
        seen = -(-(size + ends[d] - phase) // step)
        x = b.view(x, View.take(x.shape, first + d, at))
        strides[d], dilations[d] = strides[d] // step, max(1, dilations[d] // step)
        begins[d], ends[d] = (begins[d] + phase) // step, seen - at.size
    return x, Window(tuple(kernel), tuple(strides), tuple(dilations), tuple(begins), tuple(ends))


def steps_of(b: Builder, node: ir.Node, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations of a node with windows over `rank` dimensions."""
    return _ints(b, node, "strides", (1,) * rank, rank), _ints(b, node, "dilations", (1,) * rank, rank)


def _ints(b: Builder, node: ir.Node, name: str, default: tuple[int, ...], count: int) -> tuple[int, ...]:
    value = tuple(int(v) for v in node.attributes.get_ints(name) or default)
    if len(value) != count:
        raise b.fail("IPU0120", f"attribute {name!r} has {len(value)} values, not {count}")
    return value
