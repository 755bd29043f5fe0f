"""The geometry of windows: kernels, strides, dilations and padding of convolutions and pooling."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ipucc.dtypes import itemsize
from ipucc.ops.builder import Builder
from ipucc.ops.spec import Along, Operand, Span
from ipucc.tiles.layout import GRAIN_BYTES

__all__ = ["Window", "steps_of", "window_of"]


@dataclass(frozen=True)
class Window:
    """Per spatial dimension; `begins` and `ends` are the padding in front and behind."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

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


def steps_of(b: Builder, node: ir.Node, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations of a node with windows over `rank` dimensions."""
    return _ints(b, node, "strides", (1,) * rank, rank), _ints(b, node, "dilations", (1,) * rank, rank)


def _ints(b: Builder, node: ir.Node, name: str, default: tuple[int, ...], count: int) -> tuple[int, ...]:
    value = tuple(int(v) for v in node.attributes.get_ints(name) or default)
    if len(value) != count:
        raise b.fail("IPU0120", f"attribute {name!r} has {len(value)} values, not {count}")
    return value
