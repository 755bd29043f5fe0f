"""Small random graphs, compiled for small machines: the numbers of two oracles, in the predicted cycles, checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx.printer
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ipucc
from ipucc.program.verify import verify_program

Solver = Literal["cpsat", "greedy"]
Precision = Literal["model", "fp16"]

MOST_ELEMENTS = 4096


@dataclass
class Net:
    """A graph under construction: the values that ops may read, by name, with their shapes.

    `exact` graphs have ops of which no result is rounded, on small whole numbers.
    """

    draw: st.DrawFn
    exact: bool = False
    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __repr__(self) -> str:
        return onnx.printer.to_text(self.model())

    @property
    def dtype(self) -> type[np.floating]:
        return np.float16 if self.exact else np.float32

    def some(self, choices: Sequence[object]) -> object:
        return self.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, rank: int = 0) -> str:
        """A value of at least so many dimensions, late ones rather than early ones; a new input if there is none."""
        fitting = [name for name, shape in self.values.items() if len(shape) >= rank]
        return str(self.some(fitting[-3:])) if fitting else self.input(rank)

    def input(self, rank: int = 0) -> str:
        rank = rank or self.number(1, 4)
        name = f"x{len(self.inputs)}"
        self.values[name] = tuple(self.number(1, 12 if rank > 2 else 40) for _ in range(rank))
        self.inputs.append(name)
        return name

    def constant(self, shape: Sequence[int]) -> str:
        rng = np.random.default_rng(len(self.constants))
        array = rng.integers(-2, 3, shape) if self.exact else rng.integers(-64, 65, shape) / 64
        return self.tensor(array.astype(self.dtype))

    def tensor(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: object) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        self.values[name] = tuple(shape)

    def model(self) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        read = {name for node in self.nodes for name in node.input}

        def port(name: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, self.values[name])

        outputs = [port(n.output[0]) for n in self.nodes if n.output[0] not in read]
        graph = helper.make_graph(self.nodes, "random", [port(n) for n in self.inputs], outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def matmul(net: Net) -> None:
    a = net.pick(2)
    shape = net.values[a]
    fitting = [b for b, s in net.values.items() if len(s) == len(shape) and s[:-2] == shape[:-2] and s[-2] == shape[-1]]
    if fitting and net.number(0, 1):
        b = str(net.some(fitting))
        n = net.values[b][-1]
    else:
        n = net.number(1, 24)
        b = net.constant((shape[-1], n))
    net.add("MatMul", [a, b], (*shape[:-1], n))


def conv(net: Net) -> None:
    a = net.pick(4)
    n, c, *size = net.values[a][:4]
    if len(net.values[a]) != 4:
        return
    groups = int(net.some([g for g in (1, 2, 3, c) if c % g == 0]))  # type: ignore[call-overload]
    made = groups * net.number(1, 4)
    kernel = [net.number(1, min(3, s)) for s in size]
    strides = [net.number(1, 2) for _ in size]
    pads = [net.number(0, k - 1) for k in kernel]
    shape = [(s + 2 * p - k) // t + 1 for s, p, k, t in zip(size, pads, kernel, strides, strict=True)]
    inputs = [a, net.constant((made, c // groups, *kernel))]
    if net.number(0, 1):
        inputs.append(net.constant((made,)))
    net.add("Conv", inputs, (n, made, *shape), group=groups, kernel_shape=kernel, strides=strides, pads=[*pads, *pads])


def pool(net: Net) -> None:
    a = net.pick(4)
    shape = net.values[a]
    if len(shape) != 4:
        return
    kernel = [net.number(1, min(3, s)) for s in shape[2:]]
    strides = [net.number(1, 2) for _ in kernel]
    out = [(s - k) // t + 1 for s, k, t in zip(shape[2:], kernel, strides, strict=True)]
    kind = str(net.some(["MaxPool", "AveragePool"]))
    net.add(kind, [a], (*shape[:2], *out), kernel_shape=kernel, strides=strides)


def unary(net: Net) -> None:
    a = net.pick()
    kinds = ["Relu", "Neg", "Abs"] if net.exact else ["Relu", "Tanh", "Sigmoid", "Neg", "Abs", "Erf"]
    net.add(str(net.some(kinds)), [a], net.values[a])


def binary(net: Net) -> None:
    a = net.pick()
    shape = net.values[a]
    alike = [b for b, s in net.values.items() if s == shape]
    if net.number(0, 1):
        b = str(net.some(alike))
    else:
        some = tuple(n if net.number(0, 1) else 1 for n in shape)
        b = net.constant(some[net.number(0, len(some)) :])
    pair = [a, b] if net.number(0, 1) else [b, a]
    kinds = ["Max", "Min"] if net.exact else ["Add", "Sub", "Mul", "Max"]
    net.add(str(net.some(kinds)), pair, shape)


def reduction(net: Net) -> None:
    a = net.pick(1)
    shape = net.values[a]
    axes = sorted(net.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    keep = net.number(0, 1)
    kind = str(net.some(["ReduceMax", "ReduceMin"] if net.exact else ["ReduceSum", "ReduceMean", "ReduceMax"]))
    out = [1 if d in axes else n for d, n in enumerate(shape) if keep or d not in axes]
    net.add(kind, [a, net.tensor(np.asarray(axes))], out, keepdims=keep)


def softmax(net: Net) -> None:
    a = net.pick(1)
    shape = net.values[a]
    net.add("Softmax", [a], shape, axis=net.number(-len(shape), len(shape) - 1))


def normalisation(net: Net) -> None:
    a = net.pick(1)
    shape = net.values[a]
    scale, shift = net.constant(shape[-1:]), net.constant(shape[-1:])
    net.add("LayerNormalization", [a, scale, shift], shape, axis=-1, epsilon=1e-3)


def transpose(net: Net) -> None:
    a = net.pick(1)
    perm = net.draw(st.permutations(range(len(net.values[a]))))
    net.add("Transpose", [a], [net.values[a][p] for p in perm], perm=perm)


def reshape(net: Net) -> None:
    a = net.pick()
    left, shape = prod(net.values[a]), []
    for _ in range(net.number(0, 3)):
        shape.append(int(net.some([d for d in range(1, left + 1) if left % d == 0])))  # type: ignore[call-overload]
        left //= shape[-1]
    shape.insert(net.number(0, len(shape)), left)
    net.add("Reshape", [a, net.tensor(np.asarray(shape))], shape)


def slices(net: Net) -> None:
    a = net.pick(1)
    shape = net.values[a]
    axis = net.number(0, len(shape) - 1)
    start = net.number(0, shape[axis] - 1)
    step = int(net.some([1, 1, 2, 3, -1, -2]))  # type: ignore[call-overload]
    end = net.number(start + 1, shape[axis]) if step > 0 else net.number(0, start) - shape[axis] - 1
    size = len(range(shape[axis])[slice(start, end if step > 0 or end >= -shape[axis] else None, step)])
    numbers = [net.tensor(np.asarray([n])) for n in (start, end, axis, step)]
    net.add("Slice", [a, *numbers], [size if d == axis else n for d, n in enumerate(shape)])


def concat(net: Net) -> None:
    a = net.pick(1)
    shape = net.values[a]
    axis = net.number(0, len(shape) - 1)
    alike = [b for b, s in net.values.items() if len(s) == len(shape) and s[:axis] == shape[:axis]
             and s[axis + 1 :] == shape[axis + 1 :]]  # fmt: skip
    parts = [a, *(str(net.some(alike)) for _ in range(net.number(1, 2)))]
    size = sum(net.values[p][axis] for p in parts)
    net.add("Concat", parts, [size if d == axis else n for d, n in enumerate(shape)], axis=axis)


def pad(net: Net) -> None:
    a = net.pick(1)
    shape = net.values[a]
    before, after = ([net.number(0, 3) for _ in shape] for _ in range(2))
    value = net.tensor(np.asarray(net.number(-1, 1), net.dtype))
    out = [b + n + e for b, n, e in zip(before, shape, after, strict=True)]
    net.add("Pad", [a, net.tensor(np.asarray([*before, *after])), value], out)


def gather(net: Net) -> None:
    a = net.pick(1)
    shape = net.values[a]
    axis = net.number(0, len(shape) - 1)
    index = net.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=6))
    net.add("Gather", [a, net.tensor(np.asarray(index))], [*shape[:axis], len(index), *shape[axis + 1 :]], axis=axis)


MOVES = [transpose, reshape, slices, concat, pad, gather, unary, binary, reduction]
OPS = [matmul, matmul, conv, conv, pool, softmax, normalisation, *MOVES]


@st.composite
def nets(draw: st.DrawFn, exact: bool = False) -> Net:
    net = Net(draw, exact)
    for _ in range(draw(st.integers(1, 2))):
        net.input()
    wanted = draw(st.integers(3, 8))
    for _ in range(2 * wanted):
        op = draw(st.sampled_from(MOVES if exact else OPS))
        before = dict(net.values), list(net.nodes), list(net.inputs), list(net.constants)
        op(net)
        made = [s for n, s in net.values.items() if n not in before[0]]
        if any(prod(s) > MOST_ELEMENTS or prod(s) == 0 or len(s) > 5 for s in made):
            net.values, net.nodes, net.inputs, net.constants = before
        if len(net.nodes) == wanted:
            break
    if not net.nodes:
        unary(net)
    return net


def oracle(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> tuple[list[np.ndarray], float]:
    """The outputs by onnxruntime, and the largest magnitude that any value on the way has."""
    names = [o.name for o in model.graph.output]
    every = onnx.ModelProto()
    every.CopyFrom(model)
    for node in model.graph.node:
        if node.output[0] not in names:
            every.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(every.SerializeToString(), options)
    values = [np.asarray(v, np.float64) for v in session.run(None, feeds)]
    return values[: len(names)], max(float(np.abs(v).max(initial=0.0)) for v in values)


def held_against_the_oracles(net: Net, target: str, solver: Solver, precision: Precision = "model") -> None:
    model = net.model()
    rng = np.random.default_rng(0)
    feeds = {}
    for name in net.inputs:
        values = rng.integers(-8, 9, net.values[name]) if net.exact else rng.standard_normal(net.values[name])
        feeds[name] = values.astype(net.dtype)
    wanted, largest = oracle(model, feeds)
    exe = ipucc.compile(model, target=target, solver=solver, precision=precision, effort="fast")
    verify_program(exe.program)
    result = exe.run(feeds, checked=True)
    assert result.cycles.total == exe.manifest["cycles"]["total"]  # type: ignore[index]
    got = [np.asarray(v, np.float64) for v in result.outputs.values()]
    # What is small next to the values that it was computed from has lost digits.
    relative, lost = (1e-4, 1e-6) if precision == "model" else (3e-2, 3e-3)
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        tolerance = 0.0 if net.exact else relative * float(np.abs(b).max(initial=0.0)) + lost * largest
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    with np.errstate(all="ignore"):
        second = [np.asarray(v, np.float64) for v in ReferenceEvaluator(model).run(None, feeds)]
    if all(np.allclose(a, b, rtol=0, atol=1e-5 * largest) for a, b in zip(second, wanted, strict=True)):
        for a, b in zip(got, second, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2 * relative * largest)


@pytest.fixture(scope="module")
def machines(machine_file: Callable[..., Path]) -> dict[int, str]:
    """Machine files by their number of tiles."""
    return {tiles: str(machine_file(tiles=tiles, phase_cycles=tiles)) for tiles in (3, 16, 64)}


few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SOLVERS: tuple[Solver, ...] = ("greedy", "cpsat")
PRECISIONS: tuple[Precision, ...] = ("model", "model", "fp16")


@few
@given(
    net=nets(),
    tiles=st.sampled_from([16, 64, 3]),
    solver=st.sampled_from(SOLVERS),
    precision=st.sampled_from(PRECISIONS),
)
def test_right_numbers(net: Net, tiles: int, solver: Solver, precision: Precision, machines: dict[int, str]) -> None:
    held_against_the_oracles(net, machines[tiles], solver, precision)


@few
@given(net=nets(exact=True), tiles=st.sampled_from([16, 64, 3]), solver=st.sampled_from(SOLVERS))
def test_halves_arrive_unchanged(net: Net, tiles: int, solver: Solver, machines: dict[int, str]) -> None:
    held_against_the_oracles(net, machines[tiles], solver)


@pytest.mark.slow
@settings(few, max_examples=600)
@given(
    net=nets(),
    tiles=st.sampled_from([16, 64, 3]),
    solver=st.sampled_from(SOLVERS),
    precision=st.sampled_from(PRECISIONS),
)
def test_right_numbers_of_many(
    net: Net, tiles: int, solver: Solver, precision: Precision, machines: dict[int, str]
) -> None:
    held_against_the_oracles(net, machines[tiles], solver, precision)
