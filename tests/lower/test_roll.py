"""Repeated layers as loops: the same numbers in the same cycles, from less code."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from ipucc.api import Executable
from ipucc.compiler import CompileOptions
from ipucc.optimise import optimise_model, schedule_model
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.place import place
from ipucc.passes.program.allocate import allocate
from ipucc.passes.program.code import code_size
from ipucc.passes.program.lower import lower
from ipucc.passes.program.roll import roll
from ipucc.program.model import Exchange, Program, Repeat
from ipucc.program.timing import StepTime
from ipucc.program.verify import verify_program
from ipucc.target import load_target

TARGET = replace(load_target("gc200"), tiles=16, phase_cycles=16)
LAYERS = 4


def layers(begin: str, layer: str, end: str, outputs: str = "float[16,32] y") -> str:
    """A network of equal layers: `{i}` is the number of a layer, `{h}` what the layer before made."""
    text = [begin]
    for i in range(LAYERS):
        text.append(layer.format(i=i, h=f"h{i - 1}" if i else "h"))
    return f"deep (float[16,32] x) => ({outputs}) {{\n" + "\n".join([*text, end]) + "\n}"


PLAIN = """a{i} = MatMul({h}, w{i})
    b{i} = Add(a{i}, c{i})
    r{i} = Relu(b{i})
    h{i} = LayerNormalization(r{i}, s{i}, t{i})"""
CASES = {
    # Activations are handed from one iteration to the next, weights differ.
    "perceptron": layers("h = Neg(x)", PLAIN, "y = Neg(h3)"),
    # Every iteration also reads what was made before the loop.
    "residual": layers("h = Neg(x)", PLAIN.replace("h{i} = ", "n{i} = ") + "\n h{i} = Add(n{i}, x)", "y = Neg(h3)"),
    # The first iteration reads one buffer where the others read two: it stays outside of the loop.
    "one for two": layers("h = Neg(x)", PLAIN.replace("h{i} = ", "n{i} = ") + "\n h{i} = Add(n{i}, h)", "y = Neg(h3)"),
    # What every iteration makes is used behind the loop.
    "all layers": layers("h = Neg(x)", PLAIN, "m = Max(h0, h1, h2, h3) \n y = Neg(m)"),
    # The result of every iteration is an output.
    "outputs": layers("h = Neg(x)", PLAIN, "y = Neg(h3)", "float[16,32] y, float[16,32] h1, float[16,32] h0"),
}
WEIGHTS = {
    name: shape
    for i in range(LAYERS)
    for name, shape in ((f"w{i}", (32, 32)), (f"c{i}", (32,)), (f"s{i}", (32,)), (f"t{i}", (32,)))
}


def programs(model: onnx.ModelProto, options: CompileOptions) -> tuple[Program, Program]:
    """The program of a model, straight and with its repetitions as loops, both with addresses."""
    graph = schedule_model(optimise_model(model, options).model, TARGET, options)
    problem = build_problem(graph, TARGET, TARGET.usable_bytes, 6)
    placement = place(problem, TARGET.usable_bytes, "greedy", "fast")
    straight = lower(graph, placement, TARGET)
    rolled = roll(lower(graph, placement, TARGET), least=2)
    for program in (straight, rolled):
        program.code_bytes = code_size(program, TARGET).total
        start = -(-(TARGET.reserved_bytes + program.code_bytes) // 16) * 16
        for buffer, offset in zip(program.buffers, allocate(program, start).offsets, strict=True):
            buffer.offset = offset
        verify_program(program)
    return straight, rolled


@pytest.mark.parametrize("precision", ["model", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_a_loop_computes_what_its_iterations_do(
    name: str, precision: str, model_of: Callable[..., onnx.ModelProto]
) -> None:
    model = model_of(CASES[name], WEIGHTS)
    straight, rolled = programs(model, CompileOptions(precision=precision))  # type: ignore[arg-type]
    loops = [step for step in rolled.steps if isinstance(step, Repeat)]
    # The first layer may lie differently, since what comes before it does.
    first = LAYERS - 1 if name == "one for two" else LAYERS
    assert [loop.count for loop in loops] in ([first], [first - 1])
    assert len(rolled.steps) < len(straight.steps)
    assert rolled.code_bytes < straight.code_bytes
    x = np.random.default_rng(0).integers(-8, 9, (16, 32)).astype(np.float32) / 8
    found = []
    for program in (straight, rolled):
        exe = Executable(program)
        result = exe.run({"x": x}, checked=True)
        again = exe.run({"x": x})
        assert exe.cycles == result.cycles == again.cycles
        for key, value in result.outputs.items():
            np.testing.assert_array_equal(again.outputs[key], value)
        found.append(result)
    # A loop may copy within the tiles what it hands on; for the rest it takes the steps that it stands for, and every
    # iteration has the names of its layer.
    carried = [step for step in found[1].steps if step.name.endswith(".carry")]
    assert not any(step.exchange or step.sync for step in carried)
    others = [step for step in found[1].steps if step not in carried]
    assert [_cost(step) for step in others] == [_cost(step) for step in found[0].steps]
    wanted = ReferenceEvaluator(model).run(None, {"x": x})
    for (key, straight_value), value in zip(found[0].outputs.items(), wanted, strict=True):
        np.testing.assert_array_equal(straight_value, found[1].outputs[key])
        np.testing.assert_allclose(straight_value, value, atol=1e-4 if precision == "model" else 2e-2)


def test_a_loop_begins_where_least_is_handed_on(model_of: Callable[..., onnx.ModelProto]) -> None:
    """The first convolution reads fewer channels, so that the second one fetches from another layout than the others:
    what repeats first is behind a fetch, and a loop from there would hand on fetched cells with their halos."""
    lines = [f"h{i} = Conv <pads = [1,1,1,1]> ({f'h{i - 1}' if i else 'x'}, w{i})" for i in range(LAYERS + 1)]
    text = "deep (float[1,8,8,8] x) => (float[1,16,8,8] y) {\n" + "\n".join([*lines, f"y = Neg(h{LAYERS})"]) + "\n}"
    weights = {f"w{i}": (16, 16 if i else 8, 3, 3) for i in range(LAYERS + 1)}
    _, rolled = programs(model_of(text, weights), CompileOptions())
    (loop,) = (step for step in rolled.steps if isinstance(step, Repeat))
    assert loop.count == LAYERS - 1
    carry = loop.body[-1]
    assert isinstance(carry, Exchange)
    assert carry.name.endswith(".carry")
    handed = [rolled.buffers[move.src].name for move in carry.moves]
    assert handed
    assert not any(".in" in name for name in handed)


def _cost(step: StepTime) -> tuple[str, str, int, int, int, int]:
    return step.name, step.kind, step.compute, step.exchange, step.sync, step.host


def test_layers_that_differ_stay_as_they_are(model_of: Callable[..., onnx.ModelProto]) -> None:
    text = """deep (float[16,32] x) => (float[16,8] y) {
        a = MatMul(x, w0)
        b = Relu(a)
        c = MatMul(b, w1)
        y = Tanh(c)
    }"""
    straight, rolled = programs(model_of(text, {"w0": (32, 24), "w1": (24, 8)}), CompileOptions())
    assert not [step for step in rolled.steps if isinstance(step, Repeat)]
    assert len(rolled.steps) == len(straight.steps)
