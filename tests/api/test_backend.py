"""The standard backend interface of ONNX: its own tests, refusals, inputs from which sizes follow."""

import unittest
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.test import BackendTest

import ipucc
import ipucc.backend as backend
from ipucc.diagnostics import CompileError

FAST = {"solver": "greedy", "effort": "fast"}


def port(name: str, shape: list[Any] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], held: list[TensorProto] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, [port("y", None)], held or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.filterwarnings("ignore")
def test_the_tests_of_onnx_run_against_it() -> None:
    class Tested(backend.IpuBackend):
        options = FAST
        refusal = backend.SkippedRefusal

    tests = BackendTest(Tested, __name__)
    for name in ("add_bcast", "reshape_one_dim", "sequence_insert_at_back", "Conv2d_no_bias"):
        tests.include(f"^test_{name}_cpu$")
    names = ["test_add_bcast_cpu", "test_reshape_one_dim_cpu", "test_sequence_insert_at_back_cpu"]
    suite = unittest.TestSuite(tests.test_cases["OnnxBackendNodeModelTest"](name) for name in names)
    suite.addTest(tests.test_cases["OnnxBackendPyTorchConvertedModelTest"]("test_Conv2d_no_bias_cpu"))
    found = unittest.TestResult()
    suite.run(found)
    assert (found.testsRun, found.errors, found.failures) == (4, [], [])
    assert [(str(test).split()[0], "IPU0119" in why) for test, why in found.skipped] == [(names[2], True)]


def test_a_prepared_model_runs_as_often_as_wanted() -> None:
    model = model_of([helper.make_node("Mul", ["a", "b"], ["y"])], [port("a", [2, 3]), port("b", [3])])
    ready = backend.prepare(model, **FAST)
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.full(3, 2, np.float32)
    found = ready.run([a, b])
    assert np.array_equal(found[0], 2 * a)
    assert np.array_equal(found["y"], 2 * a)  # type: ignore[call-overload]
    assert np.array_equal(ready.run({"b": b, "a": -a})[0], -2 * a)
    with pytest.raises(CompileError) as caught:
        ready.run([a])
    assert [d.id for d in caught.value.diagnostics] == ["IPU0601"]


def test_a_node_runs_by_itself() -> None:
    node = helper.make_node("Clip", ["x", "", "high"], ["y"])
    (y,) = backend.run_node(node, [np.arange(4, dtype=np.float32), np.float32(2)], **FAST)
    assert y.tolist() == [0, 1, 2, 2]
    (y,) = backend.run_node(helper.make_node("Relu", ["x"], ["y"]), np.float32([-1, 1]), opset_version=13, **FAST)
    assert y.tolist() == [0, 1]


def test_inputs_from_which_sizes_follow_are_bound() -> None:
    model = model_of(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])], [port("x", [2, 3]), port("shape", [2], TensorProto.INT64)]
    )
    ready = backend.prepare(model, **FAST)
    assert ready.bound == ("shape",)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for shape in ([3, 2], [6, 1], [3, 2]):
        assert ready.run([x, np.array(shape)])[0].shape == tuple(shape)


def test_shapes_that_are_open_are_those_of_the_inputs() -> None:
    ready = backend.prepare(model_of([helper.make_node("Neg", ["x"], ["y"])], [port("x", ["n", 2])]), **FAST)
    for n in (1, 3):
        assert ready.run([np.ones((n, 2), np.float32)])[0].tolist() == [[-1, -1]] * n


def test_initializers_that_are_inputs_have_values_unless_they_are_given_one() -> None:
    held = helper.make_tensor("w", TensorProto.FLOAT, [2], [1, 2])
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], [port("x", [2]), port("w", [2])], [held])
    ready = backend.prepare(model, **FAST)
    x = np.zeros(2, np.float32)
    assert ready.inputs == ("x",)
    assert ready.run([x])[0].tolist() == [1, 2]
    assert ready.run([x, x + 5])[0].tolist() == [5, 5]
    assert ready.run({"x": x})[0].tolist() == [1, 2]


def test_a_refusal_names_every_node_at_fault() -> None:
    nodes = [
        helper.make_node("Bernoulli", ["x"], ["a"], name="first"),
        helper.make_node("RandomNormalLike", ["a"], ["b"], name="second"),
        helper.make_node("Neg", ["b"], ["y"]),
    ]  # fmt: skip
    with pytest.raises(backend.Refusal) as caught:
        backend.run_model(model_of(nodes, [port("x", [2, 2])]), [np.eye(2, dtype=np.float32)])
    assert [(d.id, d.node) for d in caught.value.diagnostics] == [("IPU0201", "first"), ("IPU0201", "second")]
    assert isinstance(caught.value, ipucc.CompileError)
    assert not isinstance(caught.value, unittest.SkipTest)


def test_devices() -> None:
    found = [d for d in ("IPU", "CPU", "IPU:0", "IPU:1", "CUDA") if backend.supports_device(d)]
    assert found == ["IPU", "CPU", "IPU:0"]
    with pytest.raises(CompileError, match="CUDA"):
        backend.prepare(model_of([helper.make_node("Neg", ["x"], ["y"])], [port("x", [2])]), "CUDA")
