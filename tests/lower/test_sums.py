"""Products and convolutions that add up their reduced axis in rounds, under plans drawn at random."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from ipucc.api import Executable
from ipucc.codelets.matmul import MatMulRound
from ipucc.compiler import Compiled, CompileOptions, compile_model
from ipucc.diagnostics import CompileError
from ipucc.ops.spec import TileOp
from ipucc.passes.plan import build_problem as building
from ipucc.passes.plan.enumerate import Enumerated
from ipucc.passes.plan.grid import Plan
from ipucc.program.file import load_program, save_program
from ipucc.program.model import Compute
from ipucc.program.verify import verify_program

TILES = 48
Shapes = Mapping[str, tuple[int, ...]]

MODELS: dict[str, tuple[str, tuple[int, ...], Shapes]] = {
    "product": ("y = MatMul(t, w)", (21, 150), {"w": (150, 44)}),
    "few rows": ("y = MatMul(t, w)", (3, 200), {"w": (200, 40)}),
    "bias and activation": (
        "p = MatMul(t, w) q = Add(p, b) r = Relu(q) y = Add(r, u)",
        (21, 150),
        {"w": (150, 44), "b": (44,), "u": (21, 44)},
    ),
    "residual": ("p = MatMul(t, w) q = Add(p, t) y = Gelu(q)", (16, 144), {"w": (144, 144)}),
    "batched": ("o = Transpose <perm = [0, 2, 1]> (t) y = MatMul(t, o)", (3, 18, 70), {}),
    "convolution": (
        "p = Conv <pads = [1, 1, 1, 1]> (t, w, b) y = Relu(p)", (2, 72, 9, 7), {"w": (24, 72, 3, 3), "b": (24,)},
    ),
    "strides": ("y = Conv <strides = [2, 2]> (t, w)", (1, 80, 9, 9), {"w": (16, 80, 2, 3)}),
    "one tap": ("y = Conv (t, w)", (1, 80, 5, 6), {"w": (40, 80, 1, 1)}),
    "transposed": ("y = ConvTranspose <strides = [2, 2]> (t, w)", (1, 80, 5, 4), {"w": (80, 8, 3, 3)}),
}  # fmt: skip


class Plans:
    """Stands in for the enumeration of plans: a plan with rounds that add up for every op that can, drawn at random."""

    def __init__(self, seed: int, rotates: bool) -> None:
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.rotates = rotates
        self.drawn: list[tuple[TileOp, Plan]] = []

    def __call__(self, forms: Sequence[TileOp], *_: object) -> Enumerated:
        op = forms[0]
        reduced = next((a for a in op.axes if a.kind == "reduce"), None)
        adds = reduced is not None and op.partial is not None and op.partial.in_round("first") is not None
        parts: dict[str, int] = {}
        serial = None
        if reduced is not None and adds:
            grains = -(-reduced.size // reduced.grain)
            # Every other plan leaves partials: two rings, or several tiles along the reduced axis.
            if self.rotates:
                rounds = int(self.rng.integers(2, max(2, min(4, grains // 2)) + 1))
                parts[reduced.name] = rounds * (1 + self.seed % 2)
                over = [a.name for a in op.axes if a.kind == "parallel" and a.size > a.grain]
                serial = str(self.rng.choice(over)), rounds
            else:
                parts[reduced.name] = int(self.rng.integers(2, grains // 2 + 1)) if self.seed % 2 else 1
                serial = reduced.name, int(self.rng.integers(2, min(5, grains // parts[reduced.name]) + 1))
        for i in self.rng.permutation(len(op.axes)):
            axis = op.axes[i]
            most = 1 if axis.kind == "whole" else min(-(-axis.size // axis.grain), TILES // prod(parts.values()))
            parts.setdefault(axis.name, int(self.rng.integers(1, most + 1)))
        order = self.rng.permutation(sorted(parts)).tolist()
        plan = Plan(
            tuple((a, parts[a]) for a in order), serial, bool(self.rng.random() < 0.3), rotates=self.rotates and adds
        )
        if adds:
            self.drawn.append((op, plan))
        return Enumerated([(int(self.rng.integers(len(forms))) if adds else 0, plan)], 1)


def model(text: str, shape: tuple[int, ...], weights: Shapes) -> onnx.ModelProto:
    """x, twice x, and what `text` makes of that."""
    dims = ",".join(map(str, shape))
    head = f'<ir_version: 10, opset_import: ["": 20]> g (float[{dims}] x) => (float y)'
    made = onnx.parser.parse_model(f"{head} {{ t = Add(x, x) {text} }}")
    values = np.random.default_rng(0)
    for name, dims_ in weights.items():
        value = values.integers(-6, 7, dims_).astype(np.float32) / 8
        made.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    del made.graph.output[0].type.tensor_type.shape.dim[:]
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def oracles(made: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    return [session.run(None, {"x": x})[0], ReferenceEvaluator(made).run(None, {"x": x})[0]]


def checked(compiled: Compiled, x: np.ndarray, wanted: Sequence[np.ndarray], near: float) -> None:
    result = Executable(compiled.program).run({"x": x}, checked=True)
    (got,) = result.outputs.values()
    for values in wanted:
        np.testing.assert_allclose(got, values, rtol=0, atol=near * np.abs(values).max())
    assert result.cycles.total == compiled.cycles["total"]


@pytest.mark.parametrize("rotates", [False, True], ids=["in place", "rotating"])
@pytest.mark.parametrize("precision", ["model", "fp16", "fp32 partials"])
@pytest.mark.parametrize("name", MODELS)
def test_any_rounds_add_up_to_the_same(
    name: str, precision: str, rotates: bool, machine_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    made = model(*MODELS[name])
    x = (np.random.default_rng(1).integers(-16, 17, MODELS[name][1]) / 16).astype(np.float32)
    wanted = oracles(made, x)
    target = machine_file(tiles=TILES)
    options = {"precision": "model"} if precision == "model" else {"precision": "fp16"}
    if precision == "fp32 partials":
        options["partials"] = "fp32"
    left = 0
    for seed in range(4):
        plans = Plans(seed, rotates)
        monkeypatch.setattr(building, "enumerate_plans", plans)
        monkeypatch.setattr(building, "plans_with_cuts", lambda *_: Enumerated([], 0))
        compiled = compile_model(
            made, CompileOptions(target=str(target), solver="greedy", passes="clean-up,fuse", **options)
        )  # type: ignore[arg-type]
        ((_, plan),) = plans.drawn
        chosen = next(c for c in compiled.placement.chosen if c.plan is plan)
        stage = chosen.stages[0]
        assert stage.sums is not None
        assert stage.sums.rotate == rotates
        left += len(chosen.stages) == 2
        checked(compiled, x, wanted, {"model": 2e-6, "fp16": 2e-2, "fp32 partials": 4e-3}[precision])
    assert left == 2
    save_program(compiled.program, tmp_path / "sums.ipux")
    read = load_program(tmp_path / "sums.ipux")
    assert Executable(read).run({"x": x}).cycles.total == compiled.cycles["total"]


def test_only_rounds_write_over_what_they_read(
    machine_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan((("k", 2), ("m", 3), ("n", 4)), ("k", 3))
    monkeypatch.setattr(building, "enumerate_plans", lambda forms, *_: Enumerated([(0, whole_or(forms[0], plan))], 1))
    compiled = compile_model(
        model(*MODELS["product"]),
        CompileOptions(target=str(machine_file(tiles=TILES)), solver="greedy", passes="clean-up,fuse"),
    )
    program = compiled.program
    verify_program(program)
    at, step = next(
        (i, s) for i, s in enumerate(program.steps) if isinstance(s, Compute) and s.name.endswith("partials.1")
    )
    assert isinstance(step.codelet, MatMulRound)
    assert step.operands[-1].buffer == step.results[0].buffer
    program.steps[at] = replace(step, codelet=replace(step.codelet, round="first"))
    with pytest.raises(CompileError, match="shares bytes"):
        verify_program(program)


def whole_or(op: TileOp, plan: Plan) -> Plan:
    """The plan for a product, one tile for anything else."""
    return plan if op.kind == "MatMul" else Plan(tuple((a.name, 1) for a in op.axes))


@st.composite
def plans(draw: st.DrawFn) -> tuple[tuple[int, int, int], Plan]:
    """A product and any plan of it with rounds that add up, on at most 48 tiles."""
    m, k, n = draw(st.integers(1, 40)), draw(st.integers(8, 150)), draw(st.integers(1, 60))
    grains = {"m": m, "k": -(-k // 4), "n": -(-n // 4)}
    rotates = draw(st.booleans()) and max(grains["m"], grains["n"]) > 1
    if rotates:
        rounds = draw(st.integers(2, min(4, grains["k"])))
        parts = {"k": rounds * draw(st.integers(1, min(2, grains["k"] // rounds)))}
        serial = draw(st.sampled_from([a for a in "mn" if grains[a] > 1])), rounds
    else:
        parts = {"k": draw(st.integers(1, min(6, grains["k"] // 2)))}
        serial = "k", draw(st.integers(2, min(6, grains["k"] // parts["k"])))
    for axis in draw(st.permutations("mn")):
        parts[axis] = draw(st.integers(1, min(grains[axis], TILES // prod(parts.values()))))
    order = draw(st.permutations(sorted(parts)))
    plan = Plan(tuple((a, parts[a]) for a in order), serial, draw(st.booleans()), rotates=rotates)
    return (m, k, n), plan


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=plans(), form=st.integers(0, 1))
def test_rounds_leave_nothing_out_and_add_nothing_twice(
    drawn: tuple[tuple[int, int, int], Plan], form: int, machine_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (m, k, n), plan = drawn
    values = np.random.default_rng(0)
    x, w = (values.integers(-8, 9, shape).astype(np.float32) for shape in ((m, k), (k, n)))
    made = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[{m},{k}] x) => (float[{m},{n}] y) {{ y = MatMul(x, w) }}'
    )
    made.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    monkeypatch.setattr(building, "enumerate_plans", lambda *_: Enumerated([(form, plan)], 1))
    target = machine_file(tiles=TILES, phase_cycles=TILES)
    compiled = compile_model(made, CompileOptions(target=str(target), solver="greedy", passes="clean-up,fuse"))
    result = Executable(compiled.program).run({"x": x}, checked=True)
    # Whole numbers: sums are exact in any order.
    np.testing.assert_array_equal(result.outputs["y"], x @ w)
    assert result.cycles.total == compiled.cycles["total"]
