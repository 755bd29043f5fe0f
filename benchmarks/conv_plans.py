"""The vendor's library (poplibs) on convolutional networks, restated: a plan per convolution, op after op.

Not a part of the compiler: what measurements of the vendor's library are compared with (validate.py). Restated from
facts of the sources (lib/poplin/ConvPlan.cpp, lib/popops): every convolution has the partition over batch, image,
input and output channels that is best for itself by the library's estimate; activations and weights are brought to it
at the rates of `poplibs_plans`, partials are added up, and every other op is a compute set of its own over results
spread evenly, in place where it has one operand. Phases cost what they cost on ipucc's machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, prod

import numpy as np
import onnx
from amp_f8 import conv_f8
from numpy.typing import NDArray
from poplibs_plans import DTYPES, SHARE, joined_partials

from ipucc.codelets.conv import conv_cycles
from ipucc.codelets.pool import Pool
from ipucc.target import Target
from ipucc.tiles.cuts import useful_parts

__all__ = ["ConvShape", "OpCycles", "conv_plan", "network_cycles", "network_memory"]

Ints = NDArray[np.int64]

_GROUP = 16
"""Channels that lie together."""
_TYPES = {name: (kind, size, size) for name, (kind, size) in DTYPES.items()} | {"fp8": ("float16", 1, 2)}
"""Per type the kernel's, bytes of an operand and of a partial. 8-bit operands have partials in fp16, and everything
between convolutions is fp16."""
_METHODS = ("amp", "amp 2x1", "amp 4x1")


@dataclass(frozen=True)
class ConvShape:
    """A convolution: batch, channels in and out, height and width of the result, window, stride."""

    batch: int
    inputs: int
    outputs: int
    high: int
    wide: int
    window: tuple[int, int]
    stride: int


@dataclass(frozen=True)
class OpCycles:
    """Cycles of an op by what they are for."""

    compute: int = 0
    exchange: int = 0
    sync: int = 0

    @property
    def total(self) -> int:
        return self.compute + self.exchange + self.sync

    def __add__(self, other: "OpCycles") -> "OpCycles":
        return OpCycles(
            self.compute + other.compute, self.exchange + other.exchange, self.sync + other.sync
        )  # fmt: skip


@cache
def conv_plan(shape: ConvShape, dtype: str, target: Target) -> OpCycles:
    """Cycles of a convolution by the library's plan of it."""
    name, size, partial_size = _TYPES[dtype]
    inner, outer = -(-shape.inputs // _GROUP), -(-shape.outputs // _GROUP)
    axes = (shape.batch, shape.high, shape.wide, inner, outer)
    grid = np.stack(np.meshgrid(*(useful_parts(x, target.tiles) for x in axes), indexing="ij"), axis=-1)
    grid = grid.reshape(-1, len(axes))
    grid = grid[(grid.prod(axis=1) <= target.tiles) & (grid.prod(axis=1) * 4 >= min(target.tiles, prod(axes)))]
    pb, ph, pw, pi, po = grid.T
    n, oh, ow = -(-shape.batch // pb), -(-shape.high // ph), -(-shape.wide // pw)
    ic = np.minimum(-(-inner // pi) * _GROUP, shape.inputs)
    oc = -(-outer // po) * _GROUP
    window, stride = shape.window, shape.stride
    ih, iw = (oh - 1) * stride + window[0], (ow - 1) * stride + window[1]
    if stride > 1 and prod(window) == 1:
        # Positions that no window meets are left where they are.
        ih, iw = oh, ow
    left, right, sums = n * ih * iw * ic * size, prod(window) * ic * oc * size, n * oh * ow * oc * partial_size
    one, pair = target.exchange_bytes_per_cycle, target.pair_bytes_per_cycle
    fetched = left * (1 - 1 / po) / np.where(po % 2 == 0, pair, one) + right * (1 - 1 / (pb * ph * pw)) / one
    if dtype == "fp8":
        work = conv_f8(n * oh, ow, ic, oc, window, stride, target)
    else:
        extents = {"n": n, "g": np.ones_like(n), "oc": oc, "ic": ic, "o0": oh, "o1": ow}
        work = np.min([conv_cycles(m, extents, window, (stride, stride), name, name, target)
                       for m in _METHODS if m == "amp" or prod(window) > 1], axis=0)  # fmt: skip
    stages, joined, added = joined_partials(pi, n * oh * ow * oc, name, partial_size, target)
    memory = left + right + sums * (1 + (stages > 0))
    estimate = work + added + fetched + joined / one
    fits = memory <= SHARE * target.tile_bytes
    i = int((np.where(fits, estimate, np.inf) if fits.any() else estimate).argmin())
    exchange = int((fetched[i] + joined[i] / one) * target.exchange_factor)
    regrouped = _regrouped(shape, dtype, size, target)
    return OpCycles(int(work[i] + added[i]) + regrouped, exchange, int((1 + stages[i]) * target.phase_cycles))


def _regrouped(shape: ConvShape, dtype: str, size: int, target: Target) -> int:
    """Cycles of putting an operand in the groups that the matrix unit takes: results come in groups of its units, 16,
    which fp16 takes as they are and fp32 in groups of 8 (lib/poplin/ConvVertexType.cpp). Every tile copies its share,
    a quarter more than its bytes, no faster than an element a cycle (lib/poplin/ConvModel.cpp, transforms). 8-bit
    operands are cast as they are regrouped: a load and a store of a vector of fp16 each (popops, cast)."""
    if shape.inputs <= target.amp_input_channels("fp32") or dtype == "fp16":
        return 0
    if dtype == "fp8":
        elements = shape.batch * shape.inputs * shape.high * shape.wide * shape.stride**2
        return 12 + target.workers * (37 + 2 * _vectors(elements, "fp16", target))
    held = shape.batch * shape.inputs * shape.high * shape.wide * shape.stride**2 * size / target.tiles
    return ceil(held * 5 / 4 / min(target.copy_bytes_per_cycle, size))


def _vectors(elements: int, dtype: str, target: Target) -> int:
    """Vectors of the busiest worker, elements spread over all tiles."""
    share = ceil(elements / target.tiles / target.workers)
    return ceil(share / target.vector_width(DTYPES[dtype][1]))


def _unary(elements: int, dtype: str, target: Target) -> OpCycles:
    """In place: 2 cycles a vector (popops, unary operations)."""
    return OpCycles(20 + target.workers * (55 + 2 * _vectors(elements, dtype, target)))


def _binary(elements: int, dtype: str, target: Target) -> OpCycles:
    """In place, the second operand brought to where the first one lies: 3 cycles a vector (popops)."""
    moved = -(-elements // target.tiles) * DTYPES[dtype][1] / target.exchange_bytes_per_cycle
    compute = 11 + target.workers * (58 + 3 * _vectors(elements, dtype, target))
    return OpCycles(compute, int(moved * target.exchange_factor), target.phase_cycles)


def _pooled(shape: Sequence[int], source: Sequence[int], kernel: Sequence[int], dtype: str, target: Target) -> OpCycles:
    """Results spread over all tiles, windows brought to them (popnn, pooling)."""
    size = DTYPES[dtype][1]
    outputs = prod(shape)
    groups = max(1, shape[0] * -(-shape[1] // _GROUP) * prod(shape[2:]) // target.tiles)
    codelet = Pool("max", tuple(kernel), (1,) * len(kernel), (1,) * len(kernel), (0,) * len(kernel),
                   (1,) * len(kernel), ((0, 1),) * len(kernel), DTYPES[dtype][0])  # fmt: skip
    extents = {"n": np.ones(1, np.int64), "c": np.array([_GROUP]), "o0": np.ones(1, np.int64),
               "o1": np.array([groups])}  # fmt: skip
    moved = prod(source) * size / target.tiles * max(1.0, prod(kernel) * outputs / prod(source) / 2)
    exchange = int(moved / target.exchange_bytes_per_cycle * target.exchange_factor)
    return OpCycles(int(codelet.cycles(extents, target)[0]), exchange, target.phase_cycles)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    found = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
    return found | {w.name: tuple(w.dims) for w in model.graph.initializer}


def network_cycles(model: onnx.ModelProto, dtype: str, target: Target) -> OpCycles:
    """All ops of a convolutional network, one after the other. Batch normalisation is folded into what it follows.

    With `fp8` the convolutions are in 8 bits but for a first one of few channels, with `fp8 throughout` that one too;
    all else is in fp16. ValueError for an op that is none of such a network.
    """
    shapes = _shapes(model)
    return sum((_op(node, shapes, dtype, target) for node in model.graph.node), OpCycles())


def _op(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], dtype: str, target: Target) -> OpCycles:
    multiplied = dtype
    if dtype.startswith("fp8"):
        few = node.op_type == "Conv" and shapes[node.input[1]][1] < _GROUP
        multiplied = "fp16" if node.op_type != "Conv" or (few and dtype != "fp8 throughout") else "fp8"
        dtype = "fp16"
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    result = shapes[node.output[0]]
    if node.op_type == "Conv":
        weight = shapes[node.input[1]]
        stride = attributes.get("strides", [1, 1])[0]
        shape = ConvShape(result[0], weight[1], result[1], result[2], result[3], (weight[2], weight[3]), stride)
        return conv_plan(shape, multiplied, target)
    if node.op_type in ("Gemm", "MatMul"):
        rows, wide, deep = prod(result[:-1]), result[-1], prod(shapes[node.input[0]]) // prod(result[:-1])
        return conv_plan(ConvShape(1, deep, wide, 1, rows, (1, 1), 1), dtype, target)
    if node.op_type == "Relu":
        return _unary(prod(result), dtype, target)
    if node.op_type == "Add" and all(i in shapes and prod(shapes[i]) > prod(result) // 2 for i in node.input):
        return _binary(prod(result), dtype, target)
    if node.op_type in ("MaxPool", "GlobalAveragePool", "AveragePool"):
        source = shapes[node.input[0]]
        kernel = attributes.get("kernel_shape", source[2:])
        return _pooled(result, source, kernel, dtype, target)
    if node.op_type in ("BatchNormalization", "Flatten", "Reshape", "Add", "Identity", "Constant"):
        return OpCycles()
    raise ValueError(f"no price for {node.op_type}")


def network_memory(model: onnx.ModelProto, dtype: str, target: Target) -> float:
    """The share of a chip that weights and the largest activation take: what a program holds at the least, where the
    ops behind a convolution write over what they read."""
    shapes = _shapes(model)
    size = DTYPES[dtype][1]
    weights = sum(prod(w.dims) for w in model.graph.initializer) * size
    largest = max(prod(shapes[name]) for node in model.graph.node for name in node.output if name in shapes)
    return (weights + largest * size) / (target.tiles * target.usable_bytes)
