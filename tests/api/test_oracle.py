"""The check of outputs against a reference."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ipucc import oracle
from ipucc.diagnostics import CompileError
from ipucc.oracle import TOLERANCE, check, compare


@pytest.fixture
def model(tmp_path) -> str:
    """y = x / z, z2 = z, with a symbolic dimension."""
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Div", ["x", "z"], ["y"]), helper.make_node("Identity", ["z"], ["z2"])]
    ports = [info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "z", "y", "z2")]
    graph = helper.make_graph(nodes, "g", ports[:2], ports[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    return str(tmp_path / "m.onnx")


X = {"x": np.array([1, 0, -1, 3], np.float32), "z": np.array([0, 0, 0, 2], np.float32)}
Y = {"y": np.array([np.inf, np.nan, -np.inf, 1.5], np.float32), "z2": X["z"]}


def test_special_values_must_match(model):
    found = check(Y, X, model)
    assert found.ok
    assert found.oracle == "onnxruntime"
    assert (found.max_abs_error, found.max_rel_error) == (0, 0)
    for wrong in (0.0, -np.inf, np.nan):
        outputs = {**Y, "y": Y["y"].copy()}
        outputs["y"][0] = wrong
        bad = check(outputs, X, model)
        assert not bad.ok
        assert bad.worst == "y"
        assert bad.to_json()["max_rel_error"] is None
        assert bad.failure().id == "IPU0607"


def test_errors_count_against_the_scale_of_the_output(model):
    outputs = {"y": Y["y"], "z2": X["z"] + np.float32(1e-3)}
    found = check(outputs, X, model)
    assert found.max_abs_error == pytest.approx(1e-3, rel=1e-3)
    assert found.max_rel_error == pytest.approx(1e-3 / 2, rel=1e-3)
    assert (found.ok, found.worst) == (False, "z2")
    assert check(outputs, X, model, precision="fp16").ok
    assert TOLERANCE == {"model": 1e-4, "fp16": 2e-2}


def test_a_reference_of_zeros_has_no_scale():
    zeros = {"y": np.zeros(3, np.float32)}
    assert compare(zeros, zeros).max_rel_error == 0
    assert compare({"y": np.full(3, 1e-9, np.float32)}, zeros).max_rel_error == float("inf")
    assert compare({"y": np.zeros((3, 1), np.float32)}, zeros).max_rel_error == float("inf")


def test_the_evaluator_of_onnx_decides_without_onnxruntime(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = check(Y, X, model)
    assert (found.ok, found.oracle) == (True, "onnx.reference")
    assert [r.id for r in found.remarks] == ["IPU0609"]


def test_references_that_disagree_are_reported(model, monkeypatch):
    right = oracle._reference

    def wrong(*arguments):
        y, z = right(*arguments)
        return [y, z + 1]

    monkeypatch.setattr(oracle, "_reference", wrong)
    found = check(Y, X, model)
    assert found.ok, "onnxruntime decides"
    (remark,) = found.remarks
    assert (remark.id, remark.severity) == ("IPU0608", "warning")
    assert "z2" in remark.message
    assert check(Y, X, model, flops=oracle.SLOW_FLOPS + 1).remarks == (), "the slow one is not asked"


def test_no_reference_at_all(model, monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("no\nmore")

    monkeypatch.setattr(oracle, "_reference", fail)
    monkeypatch.setattr(oracle, "_onnxruntime", fail)
    with pytest.raises(CompileError) as failure:
        check(Y, X, model)
    (found,) = failure.value.diagnostics
    assert found.id == "IPU0609"
    assert len(found.notes) == 2
    with pytest.raises(CompileError, match="IPU0101"):
        check(Y, X, tmp_path / "absent.onnx")
    with pytest.raises(CompileError, match="IPU0609"):
        check({"other": X["x"]}, X, model)


def test_symbolic_dimensions_take_the_given_size(model):
    assert check(Y, X, model, dims={"n": 4, "unknown": 7}).ok
