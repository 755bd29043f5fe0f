"""Partials and statistics that are joined in groups first, under plans drawn at random."""

from collections.abc import Callable, Mapping
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
from ipucc.compiler import Compiled, CompileOptions, compile_model
from ipucc.ops.spec import TileOp
from ipucc.passes.plan import build_problem as building
from ipucc.passes.plan.enumerate import Enumerated
from ipucc.passes.plan.grid import Plan
from ipucc.program.file import load_program, save_program

TILES = 60
MachineFile = Callable[..., Path]


def compiled(model: onnx.ModelProto, plan: Plan, machine_file: MachineFile, patch: pytest.MonkeyPatch) -> Compiled:
    """The model, its ops that have the axes of the plan under this plan, all others on one tile."""

    def plans(forms: list[TileOp], *_: object) -> Enumerated:
        alone = Plan(tuple((a.name, 1) for a in forms[0].axes))
        return Enumerated([(0, plan if {a.name for a in forms[0].axes} == {a for a, _ in plan.parts} else alone)], 1)

    patch.setattr(building, "enumerate_plans", plans)
    patch.setattr(building, "plans_with_cuts", lambda *_: Enumerated([], 0))
    patch.setattr(building, "following", lambda *_: None)
    target = machine_file(tiles=TILES, phase_cycles=TILES)
    return compile_model(model, CompileOptions(target=str(target), solver="greedy"))


def checked(made: Compiled, x: np.ndarray) -> np.ndarray:
    """The result of a checked run, which takes the cycles that were predicted."""
    result = Executable(made.program).run({"x": x}, checked=True)
    assert result.cycles.total == made.cycles["total"]
    (got,) = result.outputs.values()
    return np.asarray(got)


@st.composite
def products(draw: st.DrawFn) -> tuple[tuple[int, int, int], Plan]:
    """A product and a plan that joins its partials in groups, perhaps in steps of a parallel or of the reduced axis."""
    m, k, n = draw(st.integers(1, 12)), draw(st.integers(16, 240)), draw(st.integers(1, 40))
    grains = {"m": m, "k": -(-k // 4), "n": -(-n // 4)}
    parts = {"k": draw(st.integers(4, min(TILES, grains["k"])))}
    for axis in draw(st.permutations("mn")):
        parts[axis] = draw(st.integers(1, min(grains[axis], TILES // prod(parts.values()))))
    serial = None
    steps = [a for a in "mkn" if grains[a] // parts[a] > 1]
    if steps and draw(st.booleans()):
        axis = draw(st.sampled_from(steps))
        serial = axis, draw(st.integers(2, min(4, grains[axis] // parts[axis])))
    groups = draw(st.integers(2, parts["k"] - 1))
    order = draw(st.permutations(sorted(parts)))
    return (m, k, n), Plan(tuple((a, parts[a]) for a in order), serial, draw(st.booleans()), groups=groups)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=products())
def test_products_leave_no_partial_out_and_add_none_twice(
    drawn: tuple[tuple[int, int, int], Plan], machine_file: MachineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    (m, k, n), plan = drawn
    values = np.random.default_rng(0)
    x, w = (values.integers(-8, 9, shape).astype(np.float32) for shape in ((m, k), (k, n)))
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[{m},{k}] x) => (float[{m},{n}] y) {{ y = MatMul(x, w) }}'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    made = compiled(model, plan, machine_file, monkeypatch)
    assert [s.suffix for s in made.placement.chosen[0].stages] == [".partials", ".groups", ".reduce"]
    # Whole numbers: sums are exact in any order.
    np.testing.assert_array_equal(checked(made, x), x @ w)


REDUCTIONS: Mapping[str, Callable[..., np.ndarray]] = {
    "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod,
}  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(REDUCTIONS)), rows=st.integers(16, 300), columns=st.sampled_from([0, 1, 3, 17]),
    data=st.data(),
)  # fmt: skip
def test_reductions_of_uneven_groups(
    kind: str, rows: int, columns: int, data: st.DataObject, machine_file: MachineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = data.draw(st.integers(4, min(rows // 4, TILES)))
    groups = data.draw(st.integers(2, r - 1))
    parts = {"r": r} | ({"d0": data.draw(st.integers(1, TILES // r))} if columns else {})
    shape, rest = ((rows, columns), (columns,)) if columns else ((rows,), ())
    values = np.random.default_rng(rows)
    # Signs and a zero now and then: a fill that counts would show in every kind.
    x = (values.choice([-1, 1], shape) if kind == "ReduceProd" else -values.integers(1, 9, shape)).astype(np.float32)
    x = -x if kind == "ReduceMin" else x
    head, axes = (",".join(map(str, s)) for s in (shape, rest))
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[{head}] x) => (float[{axes}] y) '
        f"<int64[1] a = {{0}}> {{ y = {kind} <keepdims = 0> (x, a) }}"
    )
    made = compiled(model, Plan(tuple(parts.items()), groups=groups), machine_file, monkeypatch)
    assert made.placement.chosen[0].stages[1].suffix == ".groups"
    np.testing.assert_array_equal(checked(made, x).reshape(rest), REDUCTIONS[kind](x, axis=0))


ROWS: Mapping[str, tuple[str, tuple[int, ...], Mapping[str, tuple[int, ...]]]] = {
    "softmax": ("y = Softmax <axis = -1> (x)", (3, 131), {}),
    "one row": ("y = Softmax <axis = 0> (x)", (257,), {}),
    "log": ("y = LogSoftmax <axis = 1> (x)", (2, 90, 5), {}),
    "hard": ("y = Hardmax <axis = -1> (x)", (4, 165), {}),
    "layer": ("y = LayerNormalization <axis = -1> (x, s, b)", (4, 203), {"s": (203,), "b": (203,)}),
    "layer over two": ("y = LayerNormalization <axis = 1> (x, s, b)", (2, 19, 25), {"s": (19, 25), "b": (19, 25)}),
    "root mean square": ("y = RMSNormalization <axis = -1> (x, s)", (2, 128), {"s": (128,)}),
    "instance": ("y = InstanceNormalization (x, s, b)", (1, 2, 13, 18), {"s": (2,), "b": (2,)}),
}


class Drawn:
    """A plan for a row op whose rows are cut into at least four parts, joined in groups; one tile for other ops."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.groups = 0

    def __call__(self, forms: list[TileOp], *_: object) -> Enumerated:
        op = forms[0]
        parts = {a.name: 1 for a in op.axes}
        if not op.rows:
            return Enumerated([(0, Plan(tuple(parts.items())))], 1)
        self.groups += 1
        long = [a for a in op.rows if op.axis(a).size // op.axis(a).grain >= 4]
        first = str(self.rng.choice(long))
        for name in [first, *(str(a) for a in self.rng.permutation(sorted(set(parts) - {first})))]:
            axis = op.axis(name)
            room = min(-(-axis.size // axis.grain), TILES // prod(parts.values()))
            parts[name] = 1 if axis.kind == "whole" else int(self.rng.integers(4 if name == first else 1, room + 1))
        serial = None
        steps = [a.name for a in op.axes if a.kind == "parallel" and a.size // a.grain // parts[a.name] > 1]
        if steps and self.rng.random() < 0.5:
            serial = str(self.rng.choice(steps)), 2
        groups = int(self.rng.integers(2, next(parts[a] for a in op.rows if parts[a] > 1) or 3))
        return Enumerated([(0, Plan(tuple(parts.items()), serial, groups=max(2, groups)))], 1)


@pytest.mark.parametrize("precision", ["model", "fp16"])
@pytest.mark.parametrize("name", ROWS)
def test_statistics_of_rows(
    name: str, precision: str, machine_file: MachineFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text, shape, weights = ROWS[name]
    dims = ",".join(map(str, shape))
    opset = 23 if name == "root mean square" else 21
    head = f'<ir_version: 10, opset_import: ["": {opset}]> g (float[{dims}] x) => (float[{dims}] y)'
    model = onnx.parser.parse_model(f"{head} {{ {text} }}")
    values = np.random.default_rng(0)
    for key, size in weights.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(values.integers(-6, 7, size).astype(np.float32) / 4, key)
        )
    x = (values.integers(-16, 17, shape) / 8 - 3).astype(np.float32)  # all below what may stand beside a short cell
    if name == "softmax":
        x[0, :40] = -np.inf  # whole parts and groups of nothing
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    (other,) = ReferenceEvaluator(model).run(None, {"x": x})
    monkeypatch.setattr(building, "plans_with_cuts", lambda *_: Enumerated([], 0))
    monkeypatch.setattr(building, "following", lambda *_: None)
    options = {"precision": "fp16"} if precision == "fp16" else {}
    for seed in range(4):
        drawn = Drawn(seed)
        monkeypatch.setattr(building, "enumerate_plans", drawn)
        made = compile_model(
            model,
            CompileOptions(target=str(machine_file(tiles=TILES)), solver="greedy", **options),  # type: ignore[arg-type]
        )
        assert drawn.groups == 1
        assert any([s.suffix for s in c.stages] == [".statistics", ".groups", ""] for c in made.placement.chosen)
        got = checked(made, x)
        near = 2e-2 if precision == "fp16" else 2e-6
        for oracle in (wanted, other):
            np.testing.assert_allclose(got, oracle, rtol=0, atol=near * np.abs(oracle[np.isfinite(oracle)]).max())
    save_program(made.program, tmp_path / "rows.ipux")
    read = load_program(tmp_path / "rows.ipux")
    np.testing.assert_array_equal(Executable(read).run({"x": x}).outputs["y"], got)
