"""The Python interface: compile, run, save, load, and what it says of wrong inputs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ipucc
from ipucc.target import load_target


def model_of(nodes, inputs, outputs, weights=()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def value(name: str, kind: int, shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def lookup() -> onnx.ModelProto:
    """ids [n] int64, x [n, 16] -> twice [n, 16] float32, next [n] int64: two outputs of different types."""
    table = np.arange(64, dtype=np.float32).reshape(4, 16)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["row"], name="lookup"),
        helper.make_node("MatMul", ["row", "w"], ["row2"], name="turn"),
        helper.make_node("Add", ["row2", "x"], ["sum"], name="add"),
        helper.make_node("Add", ["ids", "one"], ["next"], name="next"),
    ]
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.eye(16, dtype=np.float32) * 2, "w"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
    ]
    return model_of(
        nodes,
        [value("ids", TensorProto.INT64, ["n"]), value("x", TensorProto.FLOAT, ["n", 16])],
        [value("next", TensorProto.INT64, ["n"]), value("sum", TensorProto.FLOAT, ["n", 16])],
        weights,
    )


INPUTS = {
    "ids": np.array([3, 0, 1, 2, 3], np.int64),
    "x": np.random.default_rng(0).standard_normal((5, 16), np.float32),
}


@pytest.fixture(scope="module")
def exe() -> ipucc.Executable:
    return ipucc.compile(lookup(), dims={"n": 5})


def test_outputs_have_the_models_order_types_and_numbers(exe):
    session = onnxruntime.InferenceSession(lookup().SerializeToString())
    result = exe.run(INPUTS)
    assert list(result.outputs) == ["next", "sum"]
    for found, expected in zip(result.outputs.values(), session.run(None, INPUTS), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_second_run_is_a_run_of_its_own(exe):
    first = exe.run(INPUTS)
    exe.run({"ids": np.zeros(5, np.int64), "x": np.full((5, 16), 9, np.float32)})
    again = exe.run(INPUTS)
    for name, array in first.outputs.items():
        np.testing.assert_array_equal(again.outputs[name], array)
    assert again.cycles == first.cycles


def test_fp16_keeps_the_declared_types():
    exe = ipucc.compile(lookup(), dims={"n": 5}, precision="fp16")
    assert ("x", "float32", (5, 16)) in exe.inputs
    result = exe.run(INPUTS)
    assert result.outputs["sum"].dtype == np.float32
    np.testing.assert_array_equal(result.outputs["next"], INPUTS["ids"] + 1)
    expected = 2 * np.arange(64).reshape(4, 16)[INPUTS["ids"]] + INPUTS["x"]
    np.testing.assert_allclose(result.outputs["sum"], expected, rtol=2e-3, atol=2e-3)
    assert not np.array_equal(result.outputs["sum"], exe_of_model().run(INPUTS).outputs["sum"]), "fp16 rounds"
    peak = load_target("gc200").peak_flops("fp16", "fp16")
    assert result.utilisation == pytest.approx(result.flops / (peak * result.device_seconds))


def exe_of_model() -> ipucc.Executable:
    return ipucc.compile(lookup(), dims={"n": 5}, solver="greedy")


def test_figures_of_a_run(exe):
    result = exe.run(INPUTS)
    assert result.cycles == exe.cycles == exe.run(timing_only=True).cycles
    assert result.cycles.total == result.cycles.compute + result.cycles.exchange + result.cycles.sync
    assert result.cycles.total == sum(step.total for step in result.steps)
    assert result.device_seconds == pytest.approx(result.cycles.total / load_target("gc200").clock_hz)
    predicted = exe.manifest["cycles"]
    assert predicted["total"] == result.cycles.total
    assert exe.run(timing_only=True).outputs == {}


def test_profile_adds_up(exe):
    profile = exe.profile()
    assert sum(step.total for step in profile.steps) == profile.cycles.total == exe.cycles.total
    assert profile.tile_bytes.shape == (1472,)
    assert int(profile.tile_bytes.max()) == exe.manifest["memory"]["max_tile_bytes"]
    plain = profile.to_json()
    assert len(plain["steps"]) == len(profile.steps)
    assert {"name", "kind", "compute", "exchange", "sync", "host", "exchange_bound"} == set(plain["steps"][0])


def test_save_and_load(exe, tmp_path):
    exe.save(tmp_path / "m.ipux")
    again = ipucc.load(tmp_path / "m.ipux")
    assert again.inputs == exe.inputs
    assert again.cycles == exe.cycles
    before, after = exe.run(INPUTS), again.run(INPUTS)
    for name, array in before.outputs.items():
        np.testing.assert_array_equal(after.outputs[name], array)
    assert (after.flops, after.utilisation) == (before.flops, before.utilisation)
    again.save(tmp_path / "n.ipux")
    assert (tmp_path / "n.ipux").read_bytes() == (tmp_path / "m.ipux").read_bytes()


def test_a_path_and_a_model_in_memory_give_the_same(tmp_path, exe):
    onnx.save(lookup(), tmp_path / "m.onnx")
    from_file = ipucc.compile(str(tmp_path / "m.onnx"), input_shapes={"ids": (5,)})
    assert from_file.cycles == exe.cycles
    assert from_file.manifest["model"]["name"] == "m.onnx"
    assert from_file.manifest["dims"] == {}


def test_compile_tells_of_its_passes():
    heard: list[str] = []
    ipucc.compile(
        lookup(), dims={"n": 5}, passes="clean-up", solver="greedy", on_pass=lambda name, _: heard.append(name)
    )
    assert heard == ["import", "clean-up", "schedule", "plan", "place", "lower", "allocate", "verify"]


# Wrong inputs


def ids_of(failure: pytest.ExceptionInfo[ipucc.CompileError]) -> list[str]:
    return [d.id for d in failure.value.diagnostics]


def test_all_wrong_inputs_are_named_at_once(exe):
    with pytest.raises(ipucc.CompileError) as failure:
        exe.run({"idx": INPUTS["x"], "ids": np.zeros((2, 2), np.float32)})
    assert sorted(ids_of(failure)) == ["IPU0601", "IPU0602", "IPU0603", "IPU0604"]
    assert "did you mean 'ids'" in str(failure.value)
    with pytest.raises(ipucc.CompileError) as failure:
        exe.run()
    assert ids_of(failure) == ["IPU0601"]


def test_integers_are_held_in_32_bits(exe):
    assert exe.run({**INPUTS, "ids": INPUTS["ids"].astype(np.int32)}).outputs["next"].dtype == np.int64
    for wrong in (2**31, -(2**31) - 1):
        with pytest.raises(ipucc.CompileError) as failure:
            exe.run({**INPUTS, "ids": np.array([0, 0, 0, 0, wrong])})
        assert ids_of(failure) == ["IPU0610"]


def test_lists_and_numbers_are_converted(exe):
    result = exe.run({"ids": [3, 0, 1, 2, 3], "x": INPUTS["x"].tolist()})
    np.testing.assert_array_equal(result.outputs["sum"], exe.run(INPUTS).outputs["sum"])
    with pytest.raises(ipucc.CompileError) as failure:
        exe.run({"ids": [3, 0, 1, 2, "three"], "x": INPUTS["x"]})
    assert ids_of(failure) == ["IPU0604"]


def test_checked_mode_and_timing_exclude_each_other(exe):
    with pytest.raises(ipucc.CompileError) as failure:
        exe.run(checked=True, timing_only=True)
    assert ids_of(failure) == ["IPU0613"]


def test_checked_mode_gives_the_same_numbers(exe):
    checked, plain = exe.run(INPUTS, checked=True), exe.run(INPUTS)
    for name, array in plain.outputs.items():
        np.testing.assert_array_equal(checked.outputs[name], array)


def test_what_does_not_fit_is_an_error_of_its_own():
    shape = [7_000, 10_000]
    model = model_of(
        [helper.make_node("Relu", ["x"], ["a"], name="r"), helper.make_node("Sin", ["a"], ["y"], name="s")],
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape), value("a", TensorProto.FLOAT, shape)],
    )
    with pytest.raises(ipucc.DoesNotFit) as failure:
        ipucc.compile(model, target="gc2", solver="greedy")
    assert failure.value.exit_code == 3


def test_names_of_the_package():
    assert set(ipucc.__all__) <= set(dir(ipucc))
    for name in ipucc.__all__:
        assert getattr(ipucc, name) is not None
    with pytest.raises(AttributeError, match="compil"):
        ipucc.compil  # noqa: B018
