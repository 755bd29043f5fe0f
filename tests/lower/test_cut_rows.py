"""Softmax and normalisations under plans drawn at random: rows whole or cut, in rounds or at once."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from ipucc.api import Executable
from ipucc.compiler import CompileOptions, compile_model
from ipucc.ops.spec import TileOp
from ipucc.passes.plan import build_problem as building
from ipucc.passes.plan.enumerate import Enumerated
from ipucc.passes.plan.grid import Plan

TILES = 48
Shapes = Mapping[str, tuple[int, ...]]

MODELS: dict[str, tuple[str, tuple[int, ...], Shapes]] = {
    "softmax": ("y = Softmax <axis = -1> (t)", (5, 131), {}),
    "softmax of columns": ("y = Softmax <axis = 1> (t)", (3, 37, 21), {}),
    "log": ("y = LogSoftmax <axis = -1> (t)", (2, 3, 90), {}),
    "hard": ("y = Hardmax <axis = -1> (t)", (7, 65), {}),
    "layer": ("y = LayerNormalization <axis = -1> (t, s, b)", (6, 203), {"s": (203,), "b": (203,)}),
    "layer over two": ("y = LayerNormalization <axis = 1> (t, s, b)", (3, 9, 25), {"s": (9, 25), "b": (9, 25)}),
    "root mean square": ("y = RMSNormalization <axis = -1> (t, s)", (5, 128), {"s": (128,)}),
    "instance": ("y = InstanceNormalization (t, s, b)", (2, 3, 11, 18), {"s": (3,), "b": (3,)}),
    "group": ("y = GroupNormalization <num_groups = 2> (t, s, b)", (2, 6, 7, 10), {"s": (6,), "b": (6,)}),
}  # fmt: skip


class Plans:
    """Stands in for the enumeration of plans: one plan, drawn at random, for every op."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.drawn: list[tuple[TileOp, Plan]] = []

    def __call__(self, forms: Sequence[TileOp], *_: object) -> Enumerated:
        op = forms[0]
        serial = ""
        if self.rng.random() < 0.5:
            serial = str(self.rng.choice([a.name for a in op.axes if a.kind == "parallel" and a.size > a.grain]))
        parts: dict[str, int] = {}
        for i in self.rng.permutation(len(op.axes)):
            axis = op.axes[i]
            grains = -(-axis.size // axis.grain) // (2 if axis.name == serial else 1)
            most = 1 if axis.kind == "whole" else min(grains, TILES // prod(parts.values()))
            parts[axis.name] = int(self.rng.integers(1, most + 1))
        plan = Plan(tuple(parts.items()), (serial, 2) if serial else None, bool(self.rng.random() < 0.3))
        self.drawn.append((op, plan))
        return Enumerated([(0, plan)], 1)


def model(
    text: str, shape: tuple[int, ...], weights: Shapes, opset: int, values: np.random.Generator
) -> onnx.ModelProto:
    """x, twice x, and what `text` makes of that."""
    dims = ",".join(map(str, shape))
    head = f'<ir_version: 10, opset_import: ["": {opset}]> g (float[{dims}] x) => (float[{dims}] y)'
    made = onnx.parser.parse_model(f"{head} {{ t = Add(x, x) {text} }}")
    for name, dims_ in weights.items():
        value = values.integers(-6, 7, dims_).astype(np.float32) / 4
        made.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return made


@pytest.mark.parametrize("precision", ["model", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_any_plan_computes_the_same(
    name: str, precision: str, machine_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, shape, weights = MODELS[name]
    rng = np.random.default_rng(0)
    made = model(text, shape, weights, 23 if name == "root mean square" else 21, rng)
    x = (rng.integers(-16, 17, shape) / 8 + 1).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    (wanted,) = onnxruntime.InferenceSession(made.SerializeToString(), options).run(None, {"x": x})
    # No row is cut by the plan that only follows: every op then computes where its operand lies.
    monkeypatch.setattr(building, "following", lambda *_: None)
    target = machine_file(tiles=TILES)
    cut = rounds = 0
    for seed in range(5):
        plans = Plans(seed)
        monkeypatch.setattr(building, "enumerate_plans", plans)
        monkeypatch.setattr(building, "plans_with_cuts", lambda *_: Enumerated([], 0))
        compiled = compile_model(
            made,
            CompileOptions(target=str(target), precision=precision, solver="greedy"),  # type: ignore[arg-type]
        )
        rows = [(op, plan) for op, plan in plans.drawn if op.rows]
        assert len(rows) == 1
        ((op, plan),) = rows
        stages = next(c.stages for c in compiled.placement.chosen if c.plan is plan)
        along = any(dict(plan.parts)[a] > 1 for a in op.rows)
        assert len(stages) == (2 if along else 1)
        cut += along
        rounds += along and plan.serial is not None
        result = Executable(compiled.program).run({"x": x}, checked=True)
        (got,) = result.outputs.values()
        near = (2e-6 if precision == "model" else 4e-3) * np.abs(wanted).max()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=near)
        assert result.cycles.total == compiled.cycles["total"]
    assert cut > rounds > 0


@pytest.mark.parametrize("name", ["layer", "softmax", "hard"])
def test_rows_are_cut_where_their_producer_is(
    name: str, machine_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row op that computes where its operand lies, on the cells that a split product leaves: some are empty."""
    text, _, _ = MODELS[name]
    rng = np.random.default_rng(0)
    made = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[1,64] x) => (float[1,44] y) {{ t = MatMul(x, w) {text} }}'
    )
    for key, shape in {"w": (64, 44), "s": (44,), "b": (44,)}.items():
        value = rng.integers(-6, 7, shape).astype(np.float32) / 8
        made.graph.initializer.append(onnx.numpy_helper.from_array(value, key))
    x = (rng.integers(-16, 17, (1, 64)) / 8).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    splits = [Plan((("k", k), ("m", 1), ("n", n))) for k, n in ((3, 4), (6, 2), (4, 1))]
    empty = 0
    for split in splits:
        # No plan of its own for the row op: it has to follow.
        monkeypatch.setattr(building, "plans_with_cuts", lambda *_: Enumerated([], 0))
        monkeypatch.setattr(
            building, "enumerate_plans", lambda forms, *_, s=split: Enumerated([] if forms[0].rows else [(0, s)], 1)
        )
        compiled = compile_model(
            made, CompileOptions(target=str(machine_file(tiles=TILES)), solver="greedy", passes="clean-up,fuse")
        )
        product, rows = compiled.placement.chosen
        assert rows.stages[0].suffix == ".statistics"
        np.testing.assert_array_equal(rows.layout.tiles, product.layout.tiles)
        lo, hi = rows.layout.cuts[1]
        empty += int((lo == hi).sum())
        result = Executable(compiled.program).run({"x": x}, checked=True)
        (got,) = result.outputs.values()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
        assert result.cycles.total == compiled.cycles["total"]
    assert empty
