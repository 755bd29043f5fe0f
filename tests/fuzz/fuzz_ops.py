"""What random graphs are made of: one function per family of ops, which adds a node of it to a graph."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Final

import numpy as np
from fuzz_control import branches, scanned, trips
from fuzz_net import FLOATS, INTEGERS, Net, Rejected
from hypothesis import strategies as st
from onnx import TensorProto

__all__ = ["EXACT", "OPS", "op_types"]

Make = Callable[[Net], None]
NUMBERS: Final = (*FLOATS, "int64", "int32")

UNARY: Final[Mapping[str, Sequence[str]]] = {
    **dict.fromkeys(("Abs", "Neg", "Sign", "Relu"), (*FLOATS, "int32")),
    **dict.fromkeys(
        """Elu Selu Celu Sigmoid Tanh Erf Exp Log Sqrt Floor Ceil Round Reciprocal Softplus Softsign LeakyRelu
        HardSigmoid HardSwish Mish Gelu ThresholdedRelu Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh IsInf
        IsNaN Swish""".split(),  # noqa: SIM905
        FLOATS,
    ),
    "Not": ("bool",),
    "BitwiseNot": INTEGERS,
    "Identity": (*FLOATS, *INTEGERS, "bool"),
}
BINARY: Final[Mapping[str, Sequence[str]]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Max", "Min"), (*NUMBERS, "uint8", "int8")),
    **dict.fromkeys(("Div", "Pow", "PRelu", "Mean"), FLOATS),
    "Sum": FLOATS,
    "Mod": ("int32", "int64"),
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"), NUMBERS),
    **dict.fromkeys(("And", "Or", "Xor"), ("bool",)),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), INTEGERS),
    "BitShift": ("uint8",),
}
REDUCTIONS: Final = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip
ROWS: Final = ("Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization", "LpNormalization")
CHANNELS: Final = (
    "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "MeanVarianceNormalization",
)  # fmt: skip
POOLS: Final = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
CELLS: Final = ("RNN", "GRU", "LSTM")


def unary(net: Net) -> None:
    op = net.some(list(UNARY))
    a = net.pick(*UNARY[op])
    attributes = {}
    if op in ("Elu", "Celu", "LeakyRelu", "ThresholdedRelu") and net.coin():
        attributes = {"alpha": 0.5}
    if op == "Gelu" and net.coin():
        attributes = {"approximate": "tanh"}
    net.add(op, [a], **attributes)


def clip(net: Net) -> None:
    a = net.pick(*FLOATS, "int32", "int8", "uint8")
    kind = net.values[a].array.dtype
    low, high = (net.tensor(np.asarray(n, kind)) for n in (net.number(0, 2), net.number(2, 4)))
    net.add("Clip", [a, *net.some([[low, high], [low], ["", high]])])


def cast(net: Net) -> None:
    a = net.pick(*FLOATS, *INTEGERS, "bool")
    kinds = ["FLOAT", "FLOAT16", "INT64", "INT32", "BOOL", *(["INT8", "UINT8"] if net.coin() else [])]
    if net.values[a].dtype in FLOATS and (net.values[a].array < 0).any():
        kinds = [k for k in kinds if k != "UINT8"]  # What a negative number becomes is not defined.
    net.add("Cast", [a], to=int(TensorProto.DataType.Value(net.some(kinds))))


def beside(net: Net, a: str) -> str:
    """An operand that broadcasts with a value: one of its shape, or a constant."""
    value = net.values[a]
    alike = [b for b, v in net.values.items() if v.shape == value.shape and v.dtype == value.dtype]
    if net.coin():
        return str(net.some(alike))
    some = tuple(n if net.coin() else 1 for n in value.shape)
    return net.constant(some[net.number(0, len(some)) :], value.dtype)


def binary(net: Net) -> None:
    op = net.some(list(BINARY))
    a = net.pick(*BINARY[op])
    b = beside(net, a)
    if op in ("Div", "Mod") and (net.values[b].array == 0).any():
        raise Rejected("by zero")
    pair = [a, b] if op in ("PRelu", "Div", "Mod") or net.coin() else [b, a]
    attributes = {"direction": net.some(["LEFT", "RIGHT"])} if op == "BitShift" else {}
    if op == "BitShift" and (net.values[pair[1]].array > 7).any():
        raise Rejected("by more than there is")
    net.add(op, pair, **attributes)


def where(net: Net) -> None:
    a = net.pick(*FLOATS, "int64", "int8")
    shape = net.values[a].shape
    conditions = [n for n, v in net.values.items() if v.dtype == "bool" and v.shape == shape]
    condition = net.some(conditions) if conditions else net.constant(shape, "bool")
    net.add("Where", [condition, *net.some([[a, beside(net, a)], [beside(net, a), a]])])


def reduction(net: Net) -> None:
    op = net.some(REDUCTIONS)
    a = net.pick(*FLOATS, *(["int32"] if op in ("ReduceSum", "ReduceMax", "ReduceMin") else []), rank=1)
    rank = net.values[a].array.ndim
    axes = net.some([[d] for d in range(-rank, rank)] + [list(range(rank)), list(range(rank))[1:] or [0]])
    if net.number(0, 5) == 5:
        net.add(op, [a], keepdims=net.number(0, 1), noop_with_empty_axes=net.number(0, 1))
        return
    net.add(op, [a, net.ints(*axes)], keepdims=net.number(0, 1))


def position(net: Net) -> None:
    op = net.some(["ArgMax", "ArgMin", "CumSum", "CumProd"])
    a = net.pick(*FLOATS, *(["int32"] if op != "CumProd" else []), rank=1)
    axis = net.number(0, net.values[a].array.ndim - 1)
    if op.startswith("Arg"):
        net.add(op, [a], axis=axis, keepdims=net.number(0, 1), select_last_index=net.number(0, 1))
    else:
        net.add(op, [a, net.tensor(np.int64(axis))], exclusive=net.number(0, 1), reverse=net.number(0, 1))


def rows(net: Net) -> None:
    op = net.some(ROWS)
    a = net.pick(*FLOATS, rank=1)
    value = net.values[a]
    axis = net.number(-value.array.ndim, value.array.ndim - 1)
    if op.endswith("max"):
        net.add(op, [a], axis=axis)
    elif op == "LpNormalization":
        p = net.number(1, 2)
        if p == 1 and (value.array < 0).any():
            raise Rejected("a fault of the evaluator")  # it adds up the elements, not their magnitudes
        net.add(op, [a], axis=axis, p=p)
    else:
        axis = -net.number(1, min(2, value.array.ndim))
        scale = [net.constant(value.shape[axis:], value.dtype) for _ in range(2 if op[0] == "L" else 1)]
        net.add(op, [a, *scale], axis=axis, epsilon=0.01)


def channels(net: Net) -> None:
    op = net.some(CHANNELS)
    a = net.pick(*FLOATS, ranks=(4,) if op[0] in "LM" else (3, 4))
    value = net.values[a]
    c = value.shape[1]
    per = [net.constant((c,), value.dtype) for _ in range(2)]
    if op == "BatchNormalization":
        variance = net.tensor((np.arange(1, c + 1) / 4).astype(value.array.dtype))
        net.add(op, [a, *per, net.constant((c,), value.dtype), variance], epsilon=0.01)
    elif op == "InstanceNormalization":
        net.add(op, [a, *per], epsilon=0.01)
    elif op == "GroupNormalization":
        if net.opset < 21:
            raise Rejected("scales groups")
        net.add(op, [a, *per], num_groups=net.some([g for g in range(1, c + 1) if c % g == 0]), epsilon=0.01)
    elif op == "LRN":
        net.add(op, [a], size=net.some([1, 3, 5]))
    else:
        net.add(op, [a])


def matmul(net: Net) -> None:
    a = net.pick(*FLOATS, rank=1)
    value = net.values[a]
    fitting = [b for b, v in net.values.items() if v.dtype == value.dtype and v.array.ndim > 1 and value.array.ndim > 1
               and v.shape[:-2] == value.shape[:-2] and v.shape[-2] == value.shape[-1]]  # fmt: skip
    if fitting and net.coin():
        net.add("MatMul", [a, net.some(fitting)])
        return
    n = net.number(1, 20)
    b = net.constant(net.some([(value.shape[-1], n), (value.shape[-1],)]), value.dtype)
    net.add("MatMul", [a, b])


def gemm(net: Net) -> None:
    a = net.pick(*FLOATS, ranks=(2,))
    value = net.values[a]
    left, right, n = net.number(0, 1), net.number(0, 1), net.number(1, 20)
    k, m = value.shape[1 - left], value.shape[left]
    b = net.constant((n, k) if right else (k, n), value.dtype)
    c = net.some([[], [net.constant(net.some([(n,), (m, 1), (1, n), (m, n)]), value.dtype)]])
    net.add("Gemm", [a, b, *c], transA=left, transB=right, alpha=net.some([1.0, 0.5]), beta=net.some([1.0, 2.0]))


def einsum(net: Net) -> None:
    a = net.pick(*FLOATS, ranks=(2, 3))
    value = net.values[a]
    if value.array.ndim == 2:
        text, other = net.some(
            [("ij,jk->ik", (value.shape[1], 4)), ("ij,ij->i", value.shape), ("ij,kj->ki", (3, value.shape[1]))]
        )
    else:
        text, other = net.some([("bij,bjk->bik", (value.shape[0], value.shape[2], 3)), ("bij,j->ib", value.shape[2:])])
    net.add("Einsum", [a, net.constant(other, value.dtype)], equation=text)


def convolution(net: Net) -> None:
    a = net.pick(*FLOATS, ranks=(3, 4))
    value = net.values[a]
    c, *size = value.shape[1:]
    op = net.some(["Conv", "Conv", "ConvTranspose"])
    groups = net.some([g for g in (1, 2, 3, c) if c % g == 0])
    made = groups * net.number(1, 3)
    kernel = [net.number(1, min(3, s)) for s in size]
    shape = (made, c // groups, *kernel) if op == "Conv" else (c, made // groups, *kernel)
    inputs = [a, net.constant(shape, value.dtype), *net.some([[], [net.constant((made,), value.dtype)]])]
    attributes: dict[str, object] = {
        "group": groups,
        "kernel_shape": kernel,
        "strides": [net.number(1, 2) for _ in size],
    }
    padding = net.some(["", "", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if padding:
        net.add(op, inputs, auto_pad=padding, **attributes)
        return
    pads = [[net.number(0, k - 1) for k in kernel] for _ in range(2)]
    net.add(op, inputs, pads=pads[0] + pads[1], dilations=[net.some([1, 1, 2]) for _ in size], **attributes)


def pool(net: Net) -> None:
    op = net.some(POOLS)
    a = net.pick(*FLOATS, ranks=(4,))
    if op.startswith("Global"):
        net.add(op, [a], **({"p": net.number(1, 2)} if op == "GlobalLpPool" else {}))
        return
    kernel = [net.number(1, min(3, s)) for s in net.values[a].shape[2:]]
    pads = [net.number(0, k - 1) for k in kernel]
    attributes: dict[str, object] = {
        "kernel_shape": kernel,
        "strides": [net.number(1, 2) for _ in kernel],
        "pads": pads + pads,
    }
    if net.coin():
        attributes["ceil_mode"] = 1
    if net.coin() and op != "LpPool":
        attributes["dilations"] = [net.number(1, 2) for _ in kernel]
    if op == "AveragePool":
        attributes["count_include_pad"] = net.number(0, 1)
    if op == "LpPool":
        attributes["p"] = net.number(1, 2)
    net.add(op, [a], **attributes)


def transpose(net: Net) -> None:
    a = net.pick(*FLOATS, *INTEGERS, "bool", rank=1)
    net.add("Transpose", [a], perm=net.some(_orders(net.values[a].array.ndim)))


def _orders(rank: int) -> list[list[int]]:
    some = [list(range(rank)), list(range(rank))[::-1]]
    return some + [[*some[0][i:], *some[0][:i]] for i in range(rank)] + [[*some[0][:-2], *some[0][-2:][::-1]]]


def reshape(net: Net) -> None:
    a = net.pick(*FLOATS, *INTEGERS, "bool")
    kind = net.some(["Reshape", "Reshape", "Flatten", "Unsqueeze", "Squeeze"])
    value = net.values[a]
    rank = value.array.ndim
    if kind == "Flatten":
        net.add(kind, [a], axis=net.number(0, rank))
    elif kind == "Unsqueeze":
        net.add(kind, [a, net.ints(net.number(-rank - 1, rank))])
    elif kind == "Squeeze":
        ones = [d for d, n in enumerate(value.shape) if n == 1]
        if not ones:
            raise Rejected("nothing to squeeze")
        net.add(kind, [a, net.ints(net.some(ones))])
    else:
        left, shape = prod(value.shape), []
        for _ in range(net.number(0, 3)):
            shape.append(net.some([d for d in range(1, left + 1) if left % d == 0]))
            left //= shape[-1]
        shape.insert(net.number(0, len(shape)), net.some([left, -1]))
        net.add(kind, [a, net.ints(*shape)])


def slices(net: Net) -> None:
    a = net.pick(*FLOATS, *INTEGERS, rank=1)
    shape = net.values[a].shape
    axis = net.number(0, len(shape) - 1)
    start, step = net.number(0, shape[axis] - 1), net.some([1, 1, 2, 3, -1, -2])
    end = net.number(start + 1, shape[axis]) if step > 0 else net.number(0, start) - shape[axis] - 1
    net.add("Slice", [a, *(net.ints(n) for n in (start, end, axis, step))])


def concat(net: Net) -> None:
    a = net.pick(*FLOATS, *INTEGERS, rank=1)
    value = net.values[a]
    axis = net.number(0, value.array.ndim - 1)
    alike = [b for b, v in net.values.items() if v.dtype == value.dtype and v.array.ndim == value.array.ndim
             and v.shape[:axis] + v.shape[axis + 1 :] == value.shape[:axis] + value.shape[axis + 1 :]]  # fmt: skip
    net.add("Concat", [a, *(net.some(alike) for _ in range(net.number(1, 2)))], axis=axis)


def split(net: Net) -> None:
    a = net.pick(*FLOATS, "int32", "uint8", rank=1)
    axis = net.number(0, net.values[a].array.ndim - 1)
    size = net.values[a].shape[axis]
    first = net.number(1, max(1, size - 1))
    net.add("Split", [a, net.ints(first, size - first)], 2, axis=axis)


def pad(net: Net) -> None:
    a = net.pick(*FLOATS, "int32", "int8", rank=1)
    value = net.values[a]
    mode = net.some(["constant", "constant", "edge", "reflect", "wrap"])
    most = 3 if mode in ("constant", "edge") else min(value.shape) - 1
    before, after = ([net.number(0, max(0, min(3, most))) for _ in value.shape] for _ in range(2))
    fill = [net.tensor(np.asarray(net.number(-1, 1), value.array.dtype))] if mode == "constant" else []
    if mode == "constant" and net.coin():
        axis = net.number(-value.array.ndim, value.array.ndim - 1)
        net.add(
            "Pad", [a, net.ints(before[axis], -net.number(0, value.shape[axis] - 1)), *fill, net.ints(axis)], mode=mode
        )
        return
    net.add("Pad", [a, net.ints(*before, *after), *fill], mode=mode)


def repeat(net: Net) -> None:
    a = net.pick(*FLOATS, *INTEGERS, rank=1)
    shape = net.values[a].shape
    if net.coin():
        net.add("Tile", [a, net.ints(*(net.number(1, 2) for _ in shape))])
    else:
        wide = [net.number(1, 3) if n == 1 else n for n in shape]
        net.add("Expand", [a, net.ints(*net.some([wide, [2, *wide]]))])


def blocks(net: Net) -> None:
    a = net.pick(*FLOATS, "int8", ranks=(4,))
    if net.coin():
        net.add("DepthToSpace", [a], blocksize=2, mode=net.some(["DCR", "CRD"]))
    else:
        net.add("SpaceToDepth", [a], blocksize=net.some([1, 2]))


def triangle(net: Net) -> None:
    a = net.pick(*FLOATS, "int64", rank=2)
    net.add("Trilu", [a, net.tensor(np.int64(net.number(-2, 2)))], upper=net.number(0, 1))


def resize(net: Net) -> None:
    a = net.pick(*FLOATS, ranks=(4,))
    n, c, *size = net.values[a].shape
    mode = net.some(["nearest", "linear", "cubic"])
    attributes: dict[str, object] = {"mode": mode}
    attributes["coordinate_transformation_mode"] = net.some(
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"]
    )
    if mode == "nearest":
        attributes["nearest_mode"] = net.some(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    elif mode == "cubic":
        attributes |= {"cubic_coeff_a": net.some([-0.75, -0.5]), "exclude_outside": net.number(0, 1)}
    if mode != "nearest" and net.coin():
        attributes["antialias"] = 1
    if net.coin():
        sizes = [n, c, *(net.some([s, 2 * s, s + 1, max(1, s // 2)]) for s in size)]
        net.add("Resize", [a, "", "", net.ints(*sizes)], **attributes)
    else:
        factors = [net.some([0.5, 1.0, 1.5, 2.0]) for _ in size]
        parts = any(s * f != int(s * f) for s, f in zip(size, factors, strict=True))
        if parts and mode == "nearest" and attributes["coordinate_transformation_mode"] == "align_corners":
            raise Rejected("each oracle has a fault of its own")
        scales = net.tensor(np.asarray(factors, np.float32))
        net.add("Resize", [a, "", scales], axes=[2, 3], **attributes)


def grid_sample(net: Net) -> None:
    a = net.pick("float32", ranks=(4,))
    n, _, height, width = net.values[a].shape
    rng = np.random.default_rng(net.number(0, 5))
    grid = net.tensor((rng.integers(-20, 21, (n, min(height, 5), min(width, 4), 2)) / 16).astype(np.float32))
    net.add("GridSample", [a, grid], mode=net.some(["linear", "nearest", "cubic"]), align_corners=net.number(0, 1),
            padding_mode=net.some(["zeros", "border", "reflection"]))  # fmt: skip


def crop(net: Net) -> None:
    a = net.pick(*FLOATS, "int32", rank=1)
    axes = list(range(net.values[a].array.ndim))[-2:]
    net.add("CenterCropPad", [a, net.ints(*(net.number(1, 9) for _ in axes))], axes=axes)


def about(net: Net) -> None:
    a = net.pick(*FLOATS, "int64", "bool")
    net.add(net.some(["Shape", "Size"]), [a])


def per_channel(net: Net) -> None:
    """Quantised along an axis, there and back."""
    a = net.pick("float32", rank=2)
    axis = net.number(0, 1)
    size = net.values[a].shape[axis]
    kind = net.some([np.int8, np.uint8])
    scale = net.tensor((2.0 ** -net.draw(st.integers(1, 3)) * (1 + np.arange(size) % 3)).astype(np.float32))
    zero = net.tensor((np.arange(size) % 5).astype(kind))
    (q,) = net.add("QuantizeLinear", [a, scale, zero], axis=axis)
    net.add("DequantizeLinear", [q, scale, zero], axis=axis)


def quantised_convolution(net: Net) -> None:
    a = net.pick("uint8", ranks=(4,))
    c = net.values[a].shape[1]
    weight = net.constant((2, c, 1, min(2, net.values[a].shape[3])), "int8")
    one, zero = net.tensor(np.float32(0.5)), net.tensor(np.uint8(net.number(0, 3)))
    scales = net.some([net.tensor(np.float32(0.25)), net.tensor(np.asarray([0.25, 0.5], np.float32))])
    none = net.tensor(np.zeros(net.values[scales].shape, np.int8))
    bias = net.some([[], [net.tensor(np.asarray([3, -4], np.int32))]])
    net.add("QLinearConv", [a, one, zero, weight, scales, none, net.tensor(np.float32(2)), zero, *bias])


def _indices(net: Net, shape: Sequence[int], below: int, constant: bool) -> str:
    rng = np.random.default_rng(net.number(0, 5))
    array = rng.integers(-below if net.coin() else 0, below, shape)
    if constant:
        return net.tensor(array)
    name = net.input("int64", len(shape))
    net.values[name] = type(net.values[name])(array)
    return name


def gather(net: Net) -> None:
    a = net.pick(*FLOATS, "int32", "uint8", rank=1)
    shape = net.values[a].shape
    axis = net.number(0, len(shape) - 1)
    op, constant = net.some(["Gather", "Gather", "GatherElements", "GatherND"]), net.coin()
    if op == "Gather":
        net.add(op, [a, _indices(net, net.some([(3,), (), (2, 2)]), shape[axis], constant)], axis=axis)
    elif op == "GatherElements":
        wanted = [net.number(1, n) if d == axis else n for d, n in enumerate(shape)]
        net.add(op, [a, _indices(net, wanted, shape[axis], constant)], axis=axis)
    else:
        net.add(op, [a, _indices(net, (net.number(1, 3), 1), shape[0], constant)])


def scatter(net: Net) -> None:
    a = net.pick(*FLOATS, "int32", rank=1)
    value = net.values[a]
    axis = net.number(0, value.array.ndim - 1)
    constant, reduce = net.coin(), net.some(["none", "add", "max", "mul"])
    if net.coin():
        shape = [min(2, n) if d == axis else n for d, n in enumerate(value.shape)]
        index, axes = _indices(net, shape, value.shape[axis], constant), {"axis": axis}
        taken = np.sort(net.values[index].array % value.shape[axis], axis=axis)
        twice = bool((np.diff(taken, axis=axis) == 0).any())
    else:
        index, axes = _indices(net, (2, 1), value.shape[0], constant), {}
        shape, taken = [2, *value.shape[1:]], net.values[index].array % value.shape[0]
        twice = bool(taken[0] == taken[1])
    if twice and reduce == "none":
        raise Rejected("two updates of one element")
    updates = net.constant(shape, value.dtype)
    net.add("ScatterElements" if axes else "ScatterND", [a, index, updates], reduction=reduce, **axes)


def one_hot(net: Net) -> None:
    a = net.pick("int64", "int32", rank=1)
    values = net.tensor(np.asarray([0, 1], np.float32))
    net.add("OneHot", [a, net.tensor(np.int64(net.number(2, 9))), values], axis=net.some([-1, 0]))


def top(net: Net) -> None:
    a = net.pick(*FLOATS, "int32", rank=1)
    value = net.values[a]
    axis = net.number(0, value.array.ndim - 1)
    net.add("TopK", [a, net.ints(net.number(1, value.shape[axis]))], 2, axis=axis, largest=net.number(0, 1))


def reverse(net: Net) -> None:
    a = net.pick(*FLOATS, rank=2)
    time, batch, *_ = net.values[a].shape
    lengths = np.random.default_rng(net.number(0, 3)).integers(1, time + 1, batch)
    net.add("ReverseSequence", [a, net.tensor(lengths)], time_axis=0, batch_axis=1)


def quantised(net: Net) -> None:
    kind = net.some([np.int8, np.uint8])
    scale, zero = net.tensor(np.float32(net.some([0.25, 0.5]))), net.tensor(kind(net.number(0, 3)))
    op = net.some(["QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul"])
    if op == "QuantizeLinear":
        net.add(op, [net.pick("float32"), scale, zero])
    elif op == "DequantizeLinear":
        net.add(op, [net.pick(np.dtype(kind).name), scale, zero])
    elif op == "ConvInteger":
        a = net.pick("uint8", ranks=(4,))
        weight = net.constant((3, net.values[a].shape[1], 1, min(2, net.values[a].shape[3])), "int8")
        net.add(op, [a, weight, *net.some([[], [net.tensor(np.uint8(2))]])])
    else:
        a = net.pick(np.dtype(kind).name, ranks=(2,))
        b = net.constant((net.values[a].shape[1], net.number(1, 8)), "int8")
        if op == "MatMulInteger":
            net.add(op, [a, b, *net.some([[], [zero]])])
        else:
            flat = net.tensor(np.int8(0))
            net.add(op, [a, scale, zero, b, scale, flat, net.tensor(np.float32(2)), zero])


def recurrence(net: Net) -> None:
    op = net.some(CELLS)
    a = net.pick("float32", ranks=(3,))
    features, hidden = net.values[a].shape[2], net.number(1, 4)
    if net.values[a].shape[0] > 6:
        raise Rejected("long")
    both = net.coin()
    gates, ways = {"RNN": 1, "GRU": 3, "LSTM": 4}[op], 2 if both else 1
    weights = [net.constant((ways, gates * hidden, n), "float32") for n in (features, hidden)]
    bias = net.some([[], [net.constant((ways, 2 * gates * hidden), "float32")]])
    attributes: dict[str, object] = {
        "hidden_size": hidden,
        "direction": "bidirectional" if both else net.some(["forward", "reverse"]),
    }
    if op == "GRU":
        attributes["linear_before_reset"] = net.number(0, 1)
    if net.coin():
        batch = net.values[a].shape[1]
        lengths = net.tensor(
            np.random.default_rng(net.number(0, 3)).integers(1, net.values[a].shape[0] + 1, batch, np.int32)
        )
        first = net.constant((ways, batch, hidden), "float32")
        net.add(op, [a, *weights, *(bias or [""]), lengths, first], 2, **attributes)
        return
    net.add(op, [a, *weights, *bias], 2, **attributes)


def attention(net: Net) -> None:
    a = net.pick("float32", ranks=(4,))
    value = net.values[a]
    alike = [n for n, v in net.values.items() if v.shape == value.shape and v.dtype == value.dtype]
    net.add("Attention", [a, net.some(alike), net.some(alike)], is_causal=net.number(0, 1))


MOVES: Final = (transpose, reshape, slices, concat, split, pad, repeat, blocks, triangle, gather)
EXACT: Final = (*MOVES, clip, where, one_hot, top, reverse, crop)
OPS: Final = (
    *(3 * (unary, binary)), *MOVES, *EXACT, matmul, matmul, gemm, einsum, convolution, convolution, pool, rows, rows,
    channels, reduction, reduction, position, cast, cast, resize, scatter, quantised, quantised, recurrence, attention,
    grid_sample, about, per_channel, quantised_convolution, trips, trips, scanned, branches,
)  # fmt: skip


def op_types() -> list[str]:
    """All op types that occur."""
    named = """Clip Cast Where ArgMax ArgMin CumSum CumProd MatMul Gemm Einsum Conv ConvTranspose Transpose Reshape
        Flatten Unsqueeze Squeeze Slice Concat Split Pad Tile Expand DepthToSpace SpaceToDepth Trilu Resize Gather
        GatherElements GatherND ScatterElements ScatterND OneHot TopK ReverseSequence QuantizeLinear DequantizeLinear
        MatMulInteger ConvInteger QLinearMatMul Attention GridSample CenterCropPad Shape Size QLinearConv Loop Scan
        If""".split()  # noqa: SIM905
    return sorted({*UNARY, *BINARY, *REDUCTIONS, *ROWS, *CHANNELS, *POOLS, *CELLS, *named})
