"""Small compiled programs: a perceptron, equal layers that become a loop, a convolution, half precision."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from ipucc.compiler import CompileOptions, compile_model
from ipucc.dtypes import storage_type
from ipucc.passes.program.allocate import allocate
from ipucc.program.model import Buffer, Call, Compute, Program

ModelOf = Callable[..., onnx.ModelProto]
MachineFile = Callable[..., Path]
Feeds = dict[str, np.ndarray]

LAYERS = "".join(f"m{i} = MatMul(h{i - 1}, w{i}) a{i} = Add(m{i}, b{i}) h{i} = Relu(a{i}) " for i in range(1, 5))
SOURCES: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "mlp": (
        "g (float[13, 24] x) => (float[13, 10] y) { h = MatMul(x, w) a = Add(h, b) r = Relu(a) y = MatMul(r, v) }",
        {"w": (24, 40), "b": (40,), "v": (40, 10)},
    ),
    "layers": (
        f"g (float[10, 24] x) => (float[10, 64] y) {{ h0 = MatMul(x, w0) {LAYERS} y = Softmax(h4) }}",
        {"w0": (24, 64)} | {f"w{i}": (64, 64) for i in range(1, 5)} | {f"b{i}": (64,) for i in range(1, 5)},
    ),
    "conv": (
        "g (float[1, 3, 9, 9] x) => (float[1, 5] y) { c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w, b) "
        "r = Relu(c) p = MaxPool<kernel_shape = [3, 3], strides = [3, 3]>(r) f = Flatten(p) y = MatMul(f, v) }",
        {"w": (7, 3, 3, 3), "b": (7,), "v": (63, 5)},
    ),
}


@pytest.fixture(scope="session")
def compiled(model_of: ModelOf, machine_file: MachineFile) -> Callable[[str], Program]:
    """Programs by name: those of SOURCES, `half` (the convolution in fp16), `call` (with a function)."""
    machine = str(machine_file(tiles=16))
    made: dict[str, Program] = {}

    def get(name: str) -> Program:
        if name not in made:
            if name == "call":
                made[name] = with_function(copy.deepcopy(get("mlp")))
            else:
                text, weights = SOURCES["conv" if name == "half" else name]
                precision = "fp16" if name == "half" else "model"
                options = CompileOptions(target=machine, precision=precision, solver="greedy")
                made[name] = compile_model(model_of(text, weights), options).program
        return made[name]

    return get


@pytest.fixture
def program(compiled: Callable[[str], Program]) -> Callable[[str], Program]:
    """The same programs as copies that a test may break."""
    return lambda name: copy.deepcopy(compiled(name))


@pytest.fixture(scope="session")
def feeds() -> Callable[[Program, int], Feeds]:
    """Random inputs of a program."""

    def make(program: Program, seed: int) -> Feeds:
        rng = np.random.default_rng(seed)
        return {name: rng.standard_normal(shape).astype(storage_type(dtype)) for name, dtype, shape in program.inputs}

    return make


def with_function(program: Program) -> Program:
    """The program with its last compute set in a function that gets its operand and hands its result back by copies."""
    at = max(i for i, s in enumerate(program.steps) if isinstance(s, Compute))
    step = program.steps[at]
    assert isinstance(step, Compute)
    operand, result = step.operands[0], step.results[0]
    formal = len(program.buffers)
    for b in (operand.buffer, result.buffer):
        actual = program.buffers[b]
        program.buffers.append(Buffer(f"formal.{actual.name}", actual.dtype, actual.layout))
    body = Compute(
        step.name, step.codelet, step.tiles, step.cells,
        (type(operand)(formal, operand.cells, operand.fill), *step.operands[1:]),
        (type(result)(formal + 1, result.cells, result.fill),), step.macs,
    )  # fmt: skip
    program.functions["last"] = (body,)
    program.steps[at] = Call("last", ((operand.buffer, formal),), ((formal + 1, result.buffer),))
    start = -(-(program.target.reserved_bytes + program.code_bytes) // 16) * 16
    for buffer, offset in zip(program.buffers, allocate(program, start).offsets, strict=True):
        buffer.offset = offset
    return program
