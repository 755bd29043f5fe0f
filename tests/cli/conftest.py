"""Tiny models on disk, and the command as a user calls it."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from ipucc.cli.main import cli

Run = Callable[..., Result]


def make_mlp() -> onnx.ModelProto:
    """x [n, 32] -> MatMul, Add, Relu, MatMul -> y [n, 8]; n is symbolic."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((32, 48), np.float32) / 6,
        "b1": rng.standard_normal(48).astype(np.float32),
        "w2": rng.standard_normal((48, 8), np.float32) / 7,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="fc1"),
        helper.make_node("Add", ["a", "b1"], ["b"], name="bias1"),
        helper.make_node("Relu", ["b"], ["c"], name="relu1"),
        helper.make_node("MatMul", ["c", "w2"], ["y"], name="fc2"),
    ]
    return model_of(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(a, name) for name, a in weights.items()],
    )


def model_of(nodes, inputs, outputs, weights=()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def write(tmp_path) -> Callable[..., str]:
    """Writes a model: either a ModelProto, or nodes, inputs, outputs and weights; returns the path."""

    def write(*parts: Any, name: str = "model.onnx") -> str:
        model = parts[0] if isinstance(parts[0], onnx.ModelProto) else model_of(*parts)
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return str(path)

    return write


@pytest.fixture
def ipucc() -> Run:
    """Runs the command in this process."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(a) for a in arguments])

    return run


@pytest.fixture(scope="session")
def mlp(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model") / "mlp.onnx"
    path.write_bytes(make_mlp().SerializeToString())
    return str(path)


@pytest.fixture(scope="session")
def fixed(mlp, tmp_path_factory) -> str:
    """The perceptron for runs of 4 samples."""
    model = onnx.load(mlp)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    path = tmp_path_factory.mktemp("fixed") / "fixed.onnx"
    onnx.save(model, path)
    return str(path)


@pytest.fixture(scope="session")
def program(mlp, tmp_path_factory) -> str:
    """The perceptron, compiled for a batch of 4."""
    path = tmp_path_factory.mktemp("program") / "mlp.ipux"
    done = CliRunner().invoke(cli, ["compile", mlp, "-o", str(path), "--dim", "n=4"])
    assert done.exit_code == 0, done.output
    return str(path)


@pytest.fixture
def document() -> Callable[[Result], dict[str, Any]]:
    """Reads the JSON document of a command; fails on anything beside it."""

    def read(result: Result) -> dict[str, Any]:
        found = json.loads(result.stdout)
        assert isinstance(found, dict)
        return found

    return read
