"""precision{to=fp16}: what becomes float16, and what must not."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from ipucc.graph import expr as language
from ipucc.graph.schemas import oracle_model
from ipucc.graph.tensors import MissingTensor
from ipucc.pass_manager import PassContext, run_pipeline
from ipucc.passes.graph.precision import retyped

Build = Callable[..., ir.Model]
F32 = np.float32
MLP = """g (float[2,4] x, float[4,3] w, float[3] b) => (float[2,3] y) {
  m = MatMul(x, w)
  a = Add(m, b)
  y = Relu(a) }"""


@pytest.mark.parametrize("pipeline", ["precision{to=fp16}", "fuse,precision", "precision,fuse"])
def test_values_weights_and_borders(pipeline: str, build: Build, oracles: object) -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((4, 3)).astype(F32), "b": rng.standard_normal(3).astype(F32)}
    model = build(MLP, **constants)
    feeds = oracles.inputs(model)
    wanted = oracles.ort(ir.to_proto(model), feeds)
    run_pipeline(model, pipeline)
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]
    assert {v.dtype for v in values} == {ir.DataType.FLOAT16}
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.metadata_props["ipucc.io_dtype"] == "float32"
    halves = {n: a.astype(np.float16) for n, a in feeds.items()}
    for run in (oracles.ort, oracles.reference):
        oracles.close(run(oracle_model(model), halves), wanted, 5e-3)


def test_integers_and_bools_stay(build: Build) -> None:
    text = """g (int64[2,3] i, float[5,4] t) => (float[2,3,4] y, bool[2,3] z, float[2,3] f, int64[2,3,4] k) {
      y = Gather(t, i)
      z = Cast<to = 9>(i)
      f = Cast<to = 1>(z)
      k = Cast<to = 7>(y) }"""
    model = build(text, t=np.zeros((5, 4), dtype=F32))
    run_pipeline(model, "precision")
    kinds = [v.dtype.name for v in (*model.graph.inputs, *model.graph.outputs)]
    assert kinds == ["INT64", "FLOAT16", "BOOL", "FLOAT16", "INT64"]
    assert "ipucc.io_dtype" not in model.graph.inputs[0].metadata_props
    assert not run_pipeline(model, "precision").changed


def test_constants_are_clamped_and_epsilons_kept(build: Build) -> None:
    text = """g (float[3] x, float[3] m, float e) => (float[3] y) {
      a = Add(x, m)
      y = Div(a, e) }"""
    model = build(text, m=F32([-3.4e38, 1, -np.inf]), e=F32(1e-12))
    ctx = PassContext()
    run_pipeline(model, "precision", context=ctx)
    found = {n: v.const_value.numpy() for n, v in model.graph.initializers.items()}
    np.testing.assert_array_equal(found["m"], np.array([-65504, 1, -np.inf], dtype=np.float16))
    assert 0 < found["e"] < 1e-7
    assert [(r.id, r.data["count"]) for r in ctx.remarks] == [("IPU0412", 1)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Add(x, -3.4028235e+38)", "Add(x, -65504.0)"),
        ("Add(x, -inf)", "Add(x, -inf)"),
        ("Div(x, 1e-12)", "Div(x, 5.960464477539063e-08)"),
        ('Cast(x, to="float32")', 'Cast(x, to="float16")'),
        ('Cast(x, to="int32")', 'Cast(x, to="int32")'),
        ("Where(a0, 0.0, -1.0)", 'Where(a0, Cast(0.0, to="float16"), -1.0)'),
        ("Where(a0, x, 0.0)", "Where(a0, x, 0.0)"),
    ],
)
def test_expressions(text: str, wanted: str) -> None:
    assert language.format(retyped(language.parse(text), "float16")) == wanted


def test_operands_that_onnx_wants_in_float32_stay(build: Build, oracles: object) -> None:
    text = """g (float[1,1,2,2] x, float[4] s) => (float[1,1,4,4] y) { y = Resize<mode = "nearest">(x, , s) }"""
    model = build(text, s=F32([1, 1, 2, 2]))
    feeds = oracles.inputs(model)
    wanted = oracles.ort(ir.to_proto(model), feeds)
    run_pipeline(model, "precision")
    scales = model.graph[0].inputs[2]
    assert scales.dtype is ir.DataType.FLOAT
    oracles.close(oracles.ort(ir.to_proto(model), {"x": feeds["x"].astype(np.float16)}), wanted, 1e-3)


def test_absent_weights_change_their_type(build: Build) -> None:
    model = build(MLP, w=np.zeros((4, 3), dtype=F32), b=np.zeros(3, dtype=F32))
    weight = model.graph.initializers["w"]
    weight.const_value = MissingTensor("w", ir.DataType.FLOAT, ir.Shape([4, 3]), "its file is absent")
    run_pipeline(model, "precision")
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, MissingTensor)
    assert tensor.dtype is ir.DataType.FLOAT16


def test_large_weights_are_converted_when_they_are_read(build: Build) -> None:
    text = "g (float[1,2048] x, float[2048,1024] w) => (float[1,1024] y) { y = MatMul(x, w) }"
    model = build(text, w=np.full((2048, 1024), 1e9, dtype=F32))
    run_pipeline(model, "precision")
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.LazyTensor)
    assert float(tensor.numpy()[0, 0]) == 65504
