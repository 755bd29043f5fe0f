"""Rules of `clean-up` that leave one spelling of what ONNX can say in several ways."""

from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import (
    constant_array,
    float_attribute,
    int_attribute,
    ints_attribute,
    static_shape,
    value_dtype,
)
from ipucc.graph.match import Match
from ipucc.graph.patterns import OpPattern, Var, maybe, op
from ipucc.graph.rewrite import Builder, Rule, require, rewrite
from ipucc.graph.weight_names import carry_name

_DIVISORS: Final = 1 << 16
"""Constant divisors of at most this many elements are looked at."""
_EXPONENTS: Final = 14


def _gemm(a: Var, b: Var, c: Var) -> OpPattern:
    return op.Gemm(a, b, maybe(c), any_attrs=True)


@rewrite("gemm", _gemm)
def gemm(m: Match, new: Builder, a: ir.Value, b: ir.Value, c: ir.Value | None) -> ir.Value:
    """Gemm is MatMul, with alpha, beta and C as elementwise ops behind it and the transposes before it.

    The transpose of a constant is computed; alpha and beta go into constants where they stand beside one.
    """
    node = m.root
    alpha, beta = float_attribute(node, "alpha", 1.0), float_attribute(node, "beta", 1.0)
    require(beta != 0 or c is None, "beta is 0, and C may hold NaN")
    left = _transposed(new, a) if int_attribute(node, "transA", 0) else a
    right = _transposed(new, b) if int_attribute(node, "transB", 0) else b
    y = new.MatMul(left, right)
    if alpha != 1:
        y = new.Mul(y, alpha)
    if c is None:
        return y
    if beta != 1:
        scaled = new.editor.derived(
            (c,), lambda array: array * beta, static_shape(c) or (), value_dtype(c), f"{c.name}_scaled"
        )
        c = scaled if scaled is not None else new.Mul(c, beta)
    return new.Add(y, c)


def _transposed(new: Builder, value: ir.Value) -> ir.Value:
    """The transpose of a matrix; of a constant that nothing else reads, as a constant."""
    shape = static_shape(value)
    if shape is not None and len(value.uses()) == 1:
        constant = new.editor.derived((value,), np.transpose, shape[::-1], value_dtype(value), f"{value.name}_t")
        if constant is not None:
            carry_name(value, constant, turned=True)
            return constant
    return new.Transpose(value, perm=(1, 0))


def _sum(a: Var, b: Var) -> OpPattern:
    return op.Sum(a, b)


@rewrite("sum-of-two", _sum)
def sum_of_two(m: Match, new: Builder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Sum(a, b) is Add(a, b)."""
    return new.Add(a, b)


def _average(x: Var) -> OpPattern:
    return op.GlobalAveragePool(x)


@rewrite("global-average-pool", _average)
def global_average_pool(m: Match, new: Builder, x: ir.Value) -> ir.Value | None:
    """GlobalAveragePool is ReduceMean over the spatial axes."""
    shape = static_shape(x)
    if shape is None or len(shape) < 3:
        return None
    return new.ReduceMean(x, np.arange(2, len(shape), dtype=np.int64), keepdims=1)


def _average_window(x: Var) -> OpPattern:
    return op.AveragePool(x, any_attrs=True)


@rewrite("average-pool-over-all", _average_window)
def average_pool_over_all(m: Match, new: Builder, x: ir.Value) -> ir.Value | None:
    """An AveragePool without padding whose window is the whole image is ReduceMean over the spatial axes."""
    shape, result = static_shape(x), static_shape(m.output)
    if shape is None or result is None or any(size != 1 for size in result[2:]):
        return None
    node, spatial = m.root, len(shape) - 2
    window = ints_attribute(node, "kernel_shape", ())
    plain = not any(ints_attribute(node, "pads", (0,) * 2 * spatial)) and window == shape[2:]
    if not plain or any(d != 1 for d in ints_attribute(node, "dilations", (1,) * spatial)):
        return None
    return new.ReduceMean(x, np.arange(2, len(shape), dtype=np.int64), keepdims=1)


def _reduce(x: Var, axes: Var, keepdims: Var, noop: Var) -> OpPattern:
    return op.ReduceMean(x, maybe(axes), keepdims=keepdims, noop_with_empty_axes=noop)


@rewrite("explicit-axes", _reduce)
def explicit_axes(
    m: Match, new: Builder, x: ir.Value, axes: ir.Value | None, keepdims: int, noop: int
) -> ir.Value | None:
    """ReduceMean names its axes, counted from the front and sorted; without axes it means all, or nothing."""
    shape = static_shape(x)
    if shape is None:
        return None
    given = constant_array(axes) if axes is not None else np.array([], dtype=np.int64)
    if given is None:
        return None
    if not given.size and noop:
        return x
    listed = [int(axis) for axis in given.reshape(-1)] if given.size else list(range(len(shape)))
    wanted = sorted(axis % len(shape) for axis in listed) if shape else []
    if given.size and listed == wanted and not noop:
        return None
    if not wanted:
        return x
    return new.ReduceMean(x, np.array(wanted, dtype=np.int64), keepdims=keepdims)


def _reduction_of_view(x: Var, axes: Var, shape: Var) -> OpPattern:
    return op.Reshape(op.ReduceMean(x, axes, keepdims=1), shape, any_attrs=True)


@rewrite("reduce-without-axes", _reduction_of_view)
def reduce_without_axes(m: Match, new: Builder, x: ir.Value, axes: ir.Value) -> ir.Value | None:
    """ReduceMean that keeps its axes, reshaped to drop exactly these, is ReduceMean that drops them."""
    source, listed = static_shape(x), constant_array(axes)
    if source is None or listed is None:
        return None
    gone = {int(a) % len(source) for a in listed}
    kept = tuple(size for axis, size in enumerate(source) if axis not in gone)
    if static_shape(m.output) != kept:
        return None
    return new.ReduceMean(x, axes, keepdims=0)


def _quotient(x: Var, divisor: Var) -> OpPattern:
    return op.Div(x, divisor)


@rewrite("exact-reciprocal", _quotient)
def exact_reciprocal(m: Match, new: Builder, x: ir.Value, divisor: ir.Value) -> ir.Value | None:
    """Division of floats by constant powers of two is multiplication, the same to the last bit."""
    values = constant_array(divisor, _DIVISORS)
    if values is None or not value_dtype(x).is_floating_point() or not values.size:
        return None
    mantissa, exponent = np.frexp(np.abs(values.astype(np.float64)))
    # The reciprocals are normal numbers of every float type.
    if (mantissa != 0.5).any() or (np.abs(exponent - 1) > _EXPONENTS).any():
        return None
    return new.Mul(x, np.reciprocal(values.astype(np.float64)).astype(values.dtype))


CANONICAL: Final[tuple[Rule, ...]] = (
    gemm,
    exact_reciprocal,
    sum_of_two,
    global_average_pool,
    average_pool_over_all,
    explicit_axes,
    reduce_without_axes,
)


def normalise_attributes(model: ir.Model) -> int:
    """Writes `auto_pad` as the pads it means, and the axis of a softmax from the back; the nodes changed."""
    count = 0
    for node in model.graph.all_nodes():
        if node.domain:
            continue
        if node.op_type in ("Conv", "MaxPool", "AveragePool"):
            count += _explicit_pads(node)
        elif node.op_type in ("Softmax", "LogSoftmax"):
            axis, value = int_attribute(node, "axis", -1), node.inputs[0]
            if axis >= 0 and value is not None and value.shape is not None:
                node.attributes["axis"] = ir.AttrInt64("axis", axis - len(value.shape))
                count += 1
    return count


def _explicit_pads(node: ir.Node) -> bool:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    operands = [static_shape(value) for value in node.inputs[:2] if value is not None]
    shape, result = operands[0], static_shape(node.outputs[0])
    if mode == "NOTSET" or shape is None or result is None:
        return False
    spatial = len(shape) - 2
    weight = operands[1] if node.op_type == "Conv" else None
    window = weight[2:] if weight is not None else ints_attribute(node, "kernel_shape", ())
    if len(window) != spatial:
        return False
    strides = ints_attribute(node, "strides", (1,) * spatial)
    dilations = ints_attribute(node, "dilations", (1,) * spatial)
    begins, ends = [], []
    for i in range(spatial):
        reach = (window[i] - 1) * dilations[i] + 1
        total = max(0, (result[2 + i] - 1) * strides[i] + reach - shape[2 + i]) if mode != "VALID" else 0
        small = total // 2
        begins.append(total - small if mode == "SAME_LOWER" else small)
        ends.append(small if mode == "SAME_LOWER" else total - small)
    del node.attributes["auto_pad"]
    node.attributes["pads"] = ir.AttrInt64s("pads", (*begins, *ends))
    return True
