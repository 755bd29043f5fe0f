"""Plans that take over the cuts of what an op reads."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx
import pytest

from ipucc.passes.plan import build_problem as building
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.enumerate import Enumerated
from ipucc.passes.plan.place import place
from ipucc.target import load_target
from tests.plan.conftest import MODELS, Build

TARGET = replace(load_target("gc200"), tiles=96)
TWO = (
    """two (float[60,64] x) => (float[60,40] y) {
        a = MatMul(x, w0)
        y = MatMul(a, w1)
    }""",
    {"w0": (64, 96), "w1": (96, 40)},
)


def test_the_cuts_of_a_producer_are_offered(model_of: Callable[..., onnx.ModelProto], tile_graph: Build) -> None:
    problem = build_problem(tile_graph(model_of(*TWO), TARGET), TARGET, TARGET.usable_bytes, 8)
    first, second = problem.candidates
    offered = {dict(c.plan.parts)["m"] for c in second}
    assert {c.layout.grid[0] for c in first[:8]} <= offered
    # Rows alone, and rows with the columns that the second product adds up.
    assert any((dict(c.plan.parts)["m"], dict(c.plan.parts)["k"]) in {c.layout.grid for c in first[:8]} for c in second)


@pytest.mark.parametrize("name", MODELS)
def test_more_plans_are_never_worse(
    name: str, models: Mapping[str, onnx.ModelProto], tile_graph: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tile_graph(models[name], TARGET, precision="fp16")

    def least() -> int:
        return place(
            build_problem(graph, TARGET, TARGET.usable_bytes, 6), TARGET.usable_bytes, "cpsat", "max"
        ).objective

    with_cuts = least()
    monkeypatch.setattr(building, "plans_with_cuts", lambda *_: Enumerated([], 0))
    assert with_cuts <= least()


def test_equal_ops_keep_their_plans_whatever_they_read(
    model_of: Callable[..., onnx.ModelProto], tile_graph: Build
) -> None:
    text = """m (float[48,32] x) => (float[48,32] y) {
        a = Softmax <axis = -1> (x)
        b = MatMul(a, w0)
        c = MatMul(b, w1)
        y = MatMul(c, w2)
    }"""
    model = model_of(text, {f"w{i}": (32, 32) for i in range(3)})
    problem = build_problem(tile_graph(model, TARGET), TARGET, TARGET.usable_bytes, 6)
    products = [problem.candidates[v] for op, v in zip(problem.graph.ops, problem.variable, strict=True)
                if op.kind == "MatMul"]  # fmt: skip
    assert len(products) == 3
    assert len({id(c) for c in products}) == 1
