"""Sparse products that differ in their patterns alone: with the same exchanges, so that layers become a loop."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import ipucc
from ipucc.compiler import Compiled, CompileOptions, compile_graph
from ipucc.diagnostics import DoesNotFit
from ipucc.ops.distribution import Pattern, Scheme, dealt
from ipucc.optimise import lower_ops, optimise_model
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.place import place
from ipucc.passes.program.code_price import blended
from ipucc.program.model import Exchange, Repeat
from ipucc.target import Target, load_target

LAYERS = 6


def random_pattern(seed: int, high: int = 12, wide: int = 10, together: int = 1) -> Pattern:
    keep = np.flatnonzero(np.random.default_rng(seed).random(high * wide) < 0.2)
    rows, cols = np.divmod(keep, wide)
    return Pattern(rows, cols, (high, wide), (16 // together, 16), None, together)


@given(
    st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 12), st.integers(1, 10), st.sampled_from([1, 2, 4])
)  # fmt: skip
def test_fixed_runs_need_and_make_the_same_whatever_the_pattern(one, other, bands, across, together):
    scheme = Scheme.parse(f"fixed {bands}x{across}")
    made = [dealt(random_pattern(seed, together=together), scheme, 120) for seed in (one, other)]
    for name in ("rows", "row_start", "columns", "capacity"):
        np.testing.assert_array_equal(getattr(made[0], name), getattr(made[1], name))
    pattern, runs = random_pattern(one, together=together), made[0]
    for r in range(runs.count):
        for i in range(runs.start[r], runs.start[r + 1]):
            unit, part = divmod(int(runs.place[i]), together)
            row = runs.rows[runs.row_start[r] + unit] * together + part
            assert (row, runs.columns[r, runs.slot[i]]) == (pattern.rows[runs.order[i]], pattern.cols[runs.order[i]])


def stack(width: int = 128) -> onnx.ModelProto:
    """Equal layers, a normalisation between two of them."""
    rng = np.random.default_rng(0)
    nodes, constants, x = [], [], "x"
    for i in range(LAYERS):
        weight = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"p{i}"], name=f"fc{i}"))
        nodes.append(helper.make_node("Relu", [f"p{i}"], [f"r{i}"], name=f"relu{i}"))
        nodes.append(helper.make_node("Softmax", [f"r{i}"], [f"y{i}"], name=f"soft{i}"))
        x = f"y{i}"
    shape = [24, width]
    graph = helper.make_graph(
        nodes, "stack", [helper.make_tensor_value_info("x", 1, shape)], [helper.make_tensor_value_info(x, 1, shape)],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


OPTIONS = CompileOptions(passes="clean-up,fuse,sparsify{block=8,density=0.2}", effort="fast")


def compiled(target: Target) -> Compiled:
    done = optimise_model(stack(), OPTIONS, target=target)
    return compile_graph(done.model, target, OPTIONS, remarks=done.remarks)


@pytest.fixture(scope="module")
def machine() -> Target:
    return replace(load_target("gc200"), tiles=48)


@pytest.fixture(scope="module")
def free(machine: Target) -> Compiled:
    return compiled(machine)


@pytest.fixture(scope="module")
def short(machine: Target, free: Compiled) -> Compiled:
    """Where a fifth of what the layers need has room."""
    room = free.code.total - free.code.exchange * 4 // 5
    return compiled(replace(machine, executable_bytes=machine.reserved_bytes + room))


def test_layers_exchange_alike_where_code_of_their_own_does_not_fit(free: Compiled, short: Compiled) -> None:
    assert not [r for r in free.remarks if r.id == "IPU0414"]
    assert not any(isinstance(s, Repeat) for s in free.program.steps)
    (remark,) = [r for r in short.remarks if r.id == "IPU0414"]
    assert "code takes" in remark.message
    (loop,) = [s for s in short.program.steps if isinstance(s, Repeat)]
    assert loop.count >= LAYERS - 2
    assert any(isinstance(s, Exchange) for s in loop.body)
    assert short.code.total <= short.program.target.executable_bytes
    assert free.cycles["total"] < short.cycles["total"]


def test_numbers_are_the_same_either_way(free: Compiled, short: Compiled) -> None:
    x = np.random.default_rng(1).standard_normal((24, 128)).astype(np.float32)
    one, other = (ipucc.Executable(c.program).run({"x": x}).outputs[f"y{LAYERS - 1}"] for c in (free, short))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_does_not_fit_alike_either_is_told_of_the_layers_as_they_were(machine: Target, free: Compiled) -> None:
    room = free.code.codelets // 2
    with pytest.raises(DoesNotFit, match="IPU0407"):
        compiled(replace(machine, executable_bytes=machine.reserved_bytes + room))


def test_between_two_prices_of_code_the_room_is_used(machine: Target) -> None:
    graph = lower_ops(optimise_model(stack(), OPTIONS, target=machine).model, machine, OPTIONS)
    problem = build_problem(graph, machine, machine.usable_bytes, 8)
    fast, lean = (
        place(problem, machine.usable_bytes, "cpsat", "fast", problem.at_code_price(price)) for price in (0.0, 50.0)
    )
    most, least = (problem.code_bytes(p.choice) for p in (fast, lean))
    assert least < most
    assert blended(lean, fast, least).objective <= lean.objective
    assert blended(lean, fast, most).objective == fast.objective
    last = lean.objective
    for share in (0.25, 0.5, 0.75, 1.0):
        room = least + share * (most - least)
        made = blended(lean, fast, room)
        assert problem.code_bytes(made.choice) <= room
        assert made.objective == problem.evaluate(made.choice).cycles <= last
        assert made.chosen == tuple(problem.candidates[v][made.choice[v]] for v in problem.variable)
        last = made.objective
    assert last < lean.objective
