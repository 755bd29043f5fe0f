"""Local orders of a placed graph: fewer fragments, the same numbers, the same orders for equal layers."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest

import ipucc
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.local_order import in_local_orders
from ipucc.passes.plan.place import Placement, place
from ipucc.passes.program.lower import lower
from ipucc.program.model import Exchange, walk
from ipucc.program.timing import exchange_code, exchange_time
from ipucc.target import load_target
from tests.plan.conftest import MODELS, Build

TARGET = replace(load_target("gc200"), tiles=64)


def placed(model: onnx.ModelProto, tile_graph: Build) -> Placement:
    problem = build_problem(tile_graph(model, TARGET, precision="fp16"), TARGET, TARGET.usable_bytes, 6)
    return place(problem, TARGET.usable_bytes, "cpsat", "fast")


def moved(placement: Placement) -> tuple[int, int]:
    """Fragments and cycles of all exchanges of the lowered placement."""
    program = lower(placement.problem.graph, placement, TARGET)
    steps = [s for s in walk(program.steps, program.functions) if isinstance(s, Exchange)]
    code = sum(int(exchange_code(s.moves, program.buffers, TARGET).sum()) for s in steps)
    times = [exchange_time(s, program.buffers, TARGET) for s in steps]
    return code // TARGET.fragment_code_bytes, sum(t.exchange + t.copy for t in times)


@pytest.mark.parametrize("name", MODELS)
def test_chosen_orders_are_no_worse_than_by_grains(
    name: str, models: Mapping[str, onnx.ModelProto], tile_graph: Build
) -> None:
    placement = placed(models[name], tile_graph)
    fragments, cycles = moved(placement)
    fewer, faster = moved(in_local_orders(placement))
    assert fewer <= fragments
    assert faster <= 1.02 * cycles + 4


def test_rows_that_meet_anew_are_held_by_rows(model_of: Callable[..., onnx.ModelProto], tile_graph: Build) -> None:
    # The softmax has its rows apart, the product gathers them into cells of many rows.
    model = model_of(
        """m (float[256,64] x) => (float[256,64] y) {
            p = Softmax <axis = -1> (x)
            y = MatMul(p, w)
        }""",
        {"w": (64, 64)},
    )
    placement = placed(model, tile_graph)
    fragments, _ = moved(placement)
    ordered = in_local_orders(placement)
    assert any(s.by_rows for c in ordered.chosen for s in c.stages)
    assert 2 * moved(ordered)[0] <= fragments


def test_ops_that_share_a_variable_share_their_orders(models: Mapping[str, onnx.ModelProto], tile_graph: Build) -> None:
    for model in models.values():
        ordered = in_local_orders(placed(model, tile_graph))
        known: dict[int, object] = {}
        for v, c in zip(ordered.problem.variable, ordered.chosen, strict=True):
            assert known.setdefault(v, c) is c


@pytest.mark.parametrize("name", MODELS)
def test_numbers_do_not_depend_on_orders(
    name: str, models: Mapping[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[name]
    feeds = {
        i.name: np.random.default_rng(0).integers(0, 5, [d.dim_value for d in i.type.tensor_type.shape.dim]).astype(
            np.int64 if i.type.tensor_type.elem_type == onnx.TensorProto.INT64 else np.float32
        )
        for i in model.graph.input
    }  # fmt: skip
    ordered = ipucc.compile(model, precision="fp16").run(feeds, checked=True)
    monkeypatch.setattr("ipucc.passes.program.fit.in_local_orders", lambda placement, *_: placement)
    plain = ipucc.compile(model, precision="fp16").run(feeds, checked=True)
    for a, b in zip(ordered.outputs.values(), plain.outputs.values(), strict=True):
        np.testing.assert_array_equal(a, b)
