"""Convolutions with groups, strides, dilations and padding, and their transposed form, with a fused epilogue.

Axes of both: n (batch), g (groups), oc and ic (channels of a group), o0, o1, ... (positions of the result).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import ClassVar, Final

import numpy as np

from ipucc.codelets.amp import amp_nx1
from ipucc.codelets.base import Array, Cells, Codelet, Counts, Round, Streams, register
from ipucc.codelets.macs import lanes, vmac
from ipucc.codelets.matmul import (
    adds_up,
    epilogue_cycles,
    finish,
    product_cycles,
    scratch_bytes,
    streams_of,
    weights_of,
)
from ipucc.codelets.slic import CHANNELS, GROUPS, WINDOW, slic
from ipucc.codelets.windows import aligned, picked, taps
from ipucc.target import Target

__all__ = ["METHODS", "Conv", "ConvRound", "ConvTranspose", "ConvTransposeRound", "conv_cycles"]

# Elements of the unfolded windows that are multiplied at once: 16 MiB of float32.
_UNFOLDED = 1 << 22


@register
@dataclass(frozen=True)
class Conv(Codelet):
    """x[n, g, oc, o..] = sum over ic and taps k of X[n, g, ic, o * stride + k * dilation - begin] W[g, oc, ic, k..];
    then `expr` over x and the epilogue's operands.

    `grains` is, per spatial dimension, the multiple of elements at which cells of X begin (1 unless it arrives in
    grains of that dimension). Outside the tensor and the cell, X and W must be 0. `method` is one of `METHODS`.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    grains: tuple[int, ...]
    dtype: str
    partials: str
    expr: str = ""
    extras: tuple[str, ...] = ()
    method: str = "amp"

    name: ClassVar[str] = "conv"
    code_bytes: ClassVar[int] = 1800

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """poplibs' estimate of the method; strided 1x1 convolutions take the n x 1 form of the matrix unit."""
        return self._cycles(n, target, None)

    def _cycles(self, n: Mapping[str, Counts], target: Target, round: Round | None) -> Counts:
        work = conv_cycles(self.method, n, self.kernel, self.strides, self.dtype, self.partials, target, round)
        results = n["n"] * n["g"] * n["oc"] * _positions(n, len(self.kernel))
        return work + epilogue_cycles(self.expr, results, self.dtype, len(self.extras), target)

    def temp_bytes(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return self._temp_bytes(n, target, None)

    def _temp_bytes(self, n: Mapping[str, Counts], target: Target, round: Round | None) -> Counts:
        positions = n["n"] * _positions(n, len(self.kernel))
        return scratch_bytes(self.method, n["g"], positions, n["oc"], self.dtype, self.partials, target, round)

    @property
    def has_scratch(self) -> bool:
        return self.method == "swapped"

    @property
    def wide(self) -> tuple[int, ...]:
        return weights_of(self.method, self.dtype)

    @property
    def streams(self) -> Streams:
        return streams_of(self.method)

    def in_round(self, round: Round) -> "ConvRound":
        return ConvRound(**{f.name: getattr(self, f.name) for f in fields(Conv)}, round=round)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        x, w, *extras = operands
        return [_finished(self, self._sums(x, w, cells), extras, cells)]

    def _sums(self, x: Array, w: Array, cells: Cells) -> Array:
        x, w = x[:, :, :, : cells.padded("ic")], w[:, :, : cells.padded("oc"), : cells.padded("ic")]
        out = [cells.padded(f"o{d}") for d in range(len(self.kernel))]
        for d, (k, s, dil, begin, grain) in enumerate(
            zip(self.kernel, self.strides, self.dilations, self.begins, self.grains, strict=True)
        ):
            # The cell of X begins at the first position that its first window needs, or at the grain before.
            shift = (cells.lo[f"o{d}"] * s - begin) % grain
            x = aligned(x, 4 + d, shift, max(out[d] - 1, 0) * s + (k - 1) * dil + 1)
        return _contract(taps(x, self.kernel, self.strides, self.dilations, out), w, out)


@register
@dataclass(frozen=True)
class ConvRound(Conv):
    """One of several rounds of a convolution that add up ic: see `ipucc.codelets.matmul.MatMulRound`."""

    round: Round = "first"

    name: ClassVar[str] = "conv_round"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """As in one go, less the clearing of the output where sums are added to; `swapped` transposes once."""
        return self._cycles(n, target, self.round)

    def temp_bytes(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return self._temp_bytes(n, target, self.round)

    @property
    def in_place(self) -> bool:
        return self.round == "next" or (self.round == "last" and self.method != "swapped")

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        x, w, *others = operands
        return [_added(self, self._sums(x, w, cells), others, cells)]


@register
@dataclass(frozen=True)
class ConvTranspose(Codelet):
    """x[n, g, oc, o..] = sum over ic, taps k and positions i with i * stride + k * dilation - begin = o of
    X[n, g, ic, i..] W[g, ic, oc, k..]; then `expr` over x and the epilogue's operands. `grains` as for Conv, `method`
    is `amp` or `vmac`."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    grains: tuple[int, ...]
    dtype: str
    partials: str
    expr: str = ""
    extras: tuple[str, ...] = ()
    method: str = "amp"

    name: ClassVar[str] = "conv_transpose"
    code_bytes: ClassVar[int] = 2000

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """poplibs' estimate of the method. Every position of the result meets ceil(kernel / stride) taps of a
        dimension: the planner splits a transposed convolution into one convolution per phase of the stride."""
        return self._cycles(n, target, None)

    def _cycles(self, n: Mapping[str, Counts], target: Target, round: Round | None) -> Counts:
        met = tuple(-(-k // s) for k, s in zip(self.kernel, self.strides, strict=True))
        work = conv_cycles(self.method, n, met, self.strides, self.dtype, self.partials, target, round)
        # One launch of the kernel per phase.
        work = work + (prod(self.strides) - 1) * target.launch_cycles
        results = n["n"] * n["g"] * n["oc"] * _positions(n, len(self.kernel))
        return work + epilogue_cycles(self.expr, results, self.dtype, len(self.extras), target)

    @property
    def wide(self) -> tuple[int, ...]:
        return weights_of(self.method, self.dtype)

    @property
    def streams(self) -> Streams:
        return streams_of(self.method)

    def in_round(self, round: Round) -> "ConvTransposeRound":
        return ConvTransposeRound(**{f.name: getattr(self, f.name) for f in fields(ConvTranspose)}, round=round)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        x, w, *extras = operands
        return [_finished(self, self._sums(x, w, cells), extras, cells)]

    def _sums(self, x: Array, w: Array, cells: Cells) -> Array:
        x, w = x[:, :, :, : cells.padded("ic")], w[:, :, : cells.padded("ic"), : cells.padded("oc")]
        rank = len(self.kernel)
        out = [cells.padded(f"o{d}") for d in range(rank)]
        for d in range(rank):
            x = self._unfolded(x, d, cells, out[d])
        # [tiles, n, g, ic, k0, o0, k1, o1, ...] -> [tiles, n, g, ic, k..., o...]
        order = [*range(4), *range(4, 4 + 2 * rank, 2), *range(5, 5 + 2 * rank, 2)]
        return _contract(x.transpose(order), w.swapaxes(2, 3), out)

    def _unfolded(self, x: Array, d: int, cells: Cells, out: int) -> Array:
        """Spatial dimension d as two, taps and positions of the result; 0 where no element meets."""
        k, s, dil, begin = self.kernel[d], self.strides[d], self.dilations[d], self.begins[d]
        lo = cells.lo[f"o{d}"]
        first = -(-(lo + begin - (k - 1) * dil) // s) // self.grains[d] * self.grains[d]
        reach = lo[:, None, None] + np.arange(out)[None, None, :] + begin - (np.arange(k) * dil)[None, :, None]
        at = reach // s - first[:, None, None]
        axis = 4 + 2 * d
        met = np.where(reach % s == 0, at, -1).reshape(at.shape[0], k * out)
        return picked(x, axis, met).reshape(*x.shape[:axis], k, out, *x.shape[axis + 1 :])


@register
@dataclass(frozen=True)
class ConvTransposeRound(ConvTranspose):
    """One of several rounds of a transposed convolution that add up ic: see `ipucc.codelets.matmul.MatMulRound`."""

    round: Round = "first"

    name: ClassVar[str] = "conv_transpose_round"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """As in one go, less the clearing of the output where sums are added to."""
        return self._cycles(n, target, self.round)

    @property
    def in_place(self) -> bool:
        return self.round != "first"

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        x, w, *others = operands
        return [_added(self, self._sums(x, w, cells), others, cells)]


def _added(codelet: ConvRound | ConvTransposeRound, x: Array, others: Sequence[Array], cells: Cells) -> Array:
    """What a round makes of its products: the sums so far, the last of the `others`, are added."""
    if adds_up(codelet.round):
        *others, sums = others
        # Partials have dimensions of one in front.
        x += cells.cut(sums, *_results(codelet)).reshape(x.shape)
    return _finished(codelet, x, others, cells)


def _finished(codelet: Conv | ConvTranspose, x: Array, extras: Sequence[Array], cells: Cells) -> Array:
    extras = [cells.cut(e, *_results(codelet)) for e in extras]
    return finish(codelet.expr, x, extras, codelet.dtype, codelet.extras)


def _results(codelet: Conv | ConvTranspose) -> tuple[str, ...]:
    return "n", "g", "oc", *(f"o{d}" for d in range(len(codelet.kernel)))


def _positions(n: Mapping[str, Counts], rank: int) -> Counts:
    positions = np.ones_like(n["n"])
    for d in range(rank):
        positions = positions * n[f"o{d}"]
    return positions


METHODS: Final = ("amp", "amp 2x1", "amp 4x1", "swapped", "dot", "vmac", "slic", "slic depthwise")
"""The ways to convolve. `amp` multiplies one tap of 16 input channels at a time on the matrix unit, `amp 2x1` and
`amp 4x1` two taps of 8 and four of 4; `swapped` and `dot` are those of a matmul, for windows of one tap; `vmac` takes
the vector unit, for several groups at once, and `slic` the short-window unit, for 4 channels or 8 groups at once."""


def conv_cycles(
    method: str,
    n: Mapping[str, Counts],
    kernel: Sequence[int],
    strides: Sequence[int],
    dtype: str,
    partials: str,
    target: Target,
    round: Round | None = None,
) -> Counts:
    """Cycles of a convolution by one of `METHODS`, in one go or in one of several rounds that add up ic; ValueError for
    another method or round, and for a method that needs a window of one tap. `kernel` has the taps that every position
    meets."""
    adds = adds_up(round)
    rank = len(kernel)
    rows = n["n"] * _positions(n, rank)
    width = n[f"o{rank - 1}"]
    lines = rows // np.maximum(width, 1)
    if method == "vmac":
        blocks = -(-n["g"] // lanes(partials)) * n["oc"]
        return vmac(blocks, rows, prod(kernel) * n["ic"], dtype, partials, target, adds)
    if method in ("slic", "slic depthwise"):
        across = prod(kernel[:-1]) * -(-kernel[-1] // WINDOW)
        if method == "slic":
            groups, windows = n["g"] * -(-n["oc"] // CHANNELS), across * -(-n["ic"] // CHANNELS)
        else:
            # Channels of one group lie in planes, each multiplied with each.
            groups, windows = -(-n["g"] // GROUPS) * n["oc"], across * n["ic"]
        return slic(groups, windows, lines, width, strides[-1], method != "slic", partials, target, adds)
    plain = prod(kernel) == 1 and all(s == 1 for s in strides)
    if plain and method in ("amp", "swapped", "dot"):
        return product_cycles(method, n["g"], rows, n["ic"], n["oc"], dtype, partials, target, round)
    height = {"amp": 1, "amp 2x1": 2, "amp 4x1": 4}.get(method)
    if height is None:
        raise ValueError(f"a convolution of this window has no method {method!r}")
    # The dimension in which several taps are taken at once: the one that leaves fewest passes.
    passes = min(-(-k // height) * prod(kernel) // k for k in kernel)
    return amp_nx1(n["g"], lines, width, n["ic"], n["oc"], passes, height, dtype, partials, target, adds)


def _contract(windows: Array, w: Array, out: Sequence[int]) -> Array:
    """[tiles, n, g, oc, out...] of windows [tiles, n, g, ic, kernel..., out...] and w [tiles, g, oc, ic, kernel...]."""
    tiles, batch, groups, ic = windows.shape[:4]
    oc = w.shape[2]
    kernel = windows.shape[4 : windows.ndim - len(out)]
    if ic == 1:
        # Without channels to contract, a product per tap is faster than many small matrix products.
        result = np.zeros((tiles, batch, groups, oc, *out), np.float32)
        spread = (slice(None), None, slice(None), slice(None), *([None] * len(out)))
        for tap in np.ndindex(*kernel):
            result += windows[(slice(None),) * 4 + tap] * w[(slice(None),) * 3 + (0, *tap)][spread]
        return result
    depth, places = ic * prod(kernel), prod(out)
    flat = np.ascontiguousarray(w).reshape(tiles, 1, groups, oc, depth)
    result = np.empty((tiles, batch, groups, oc, places), np.float32)
    step = max(1, _UNFOLDED // max(1, batch * groups * depth * places))
    for start in range(0, tiles, step):
        part = slice(start, start + step)
        columns = windows[part].reshape(-1, batch, groups, depth, places)
        np.matmul(flat[part], columns, out=result[part])
    return result.reshape(tiles, batch, groups, oc, *out)
