"""Importing real files: equal numbers, everything static, few nodes."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from model_files import model_folder, why_none

from ipucc.frontend import MissingTensor, load_model, load_module, parts_of, straight
from ipucc.graph.printing import parse_graph, print_graph
from ipucc.graph.verify import verify_graph

MODELS = model_folder()
DIMS = {"llama_small.dyn.dynamo": {"s10": 1, "s12": 16, "s86": 1}, "super_resolution_10": {"batch_size": 1}}
FILES = sorted(MODELS.rglob("*.onnx")) if MODELS is not None else []
# Nodes after the import of files that say their shapes by nodes; an upper bound that may only fall.
NODES = {
    "bert_base.legacy": 86,
    "llama_small.dyn.dynamo": 143,
    "vit_base.legacy": 70,
    "cct2_32_128_op20": 65,
    "light_resnet50": 176,
}

pytestmark = pytest.mark.skipif(not FILES, reason=why_none())


RECURRENT = ("lstm_classifier", "gru_seq2seq")
"""Models whose recurrences are loops of the program: their parts are checked here, their numbers end to end."""


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    wanted = {value.name for value in session.get_inputs()}
    return list(session.run(None, {name: array for name, array in feeds.items() if name in wanted}))


def inputs(path: Path, model: ir.Model) -> dict[str, np.ndarray]:
    names = [value.name or "" for value in model.graph.inputs]
    golden = path.with_suffix(".inputs.npz")
    if golden.exists():
        return dict(zip(names, np.load(golden).values(), strict=True))
    stored = path.with_suffix(".npz")
    if stored.exists():
        return {name: np.load(stored)[f"in_{name}"] for name in names}
    random = np.random.default_rng(0)
    feeds = {}
    for name, value in zip(names, model.graph.inputs, strict=True):
        assert value.shape is not None
        feeds[name] = random.standard_normal(value.shape.numpy(), np.float32)
    return feeds


def outputs(path: Path, count: int) -> list[np.ndarray]:
    """What is stored beside the model as its results; nothing if nothing is."""
    golden, stored = path.with_suffix(".outputs.npz"), path.with_suffix(".npz")
    if golden.exists():
        return list(np.load(golden).values())
    return [np.load(stored)[f"out_{index}"] for index in range(count)] if stored.exists() else []


@pytest.mark.parametrize("path", FILES, ids=[path.parent.name + "-" + path.stem for path in FILES])
def test_import(path: Path) -> None:
    module = load_module(path, dims=DIMS.get(path.stem, {}))
    for part in parts_of(module.region):
        verify_graph(part.model)
        assert all(node.metadata_props.get("ipucc.origin") for node in part.model.graph)
    if len(module.region) > 1:
        assert path.stem.startswith(RECURRENT)
        return
    model = straight(module)
    values = [value for node in model.graph for value in node.outputs if value.name]
    assert all(value.shape is not None and value.shape.is_static() and value.dtype is not None for value in values)
    assert len(model.graph) <= NODES.get(path.stem, len(ir.load(path).graph) + 20)
    if any(isinstance(value.const_value, MissingTensor) for value in model.graph.initializers.values()):
        return
    original = onnx.load(path)
    original.ir_version = max(original.ir_version, 4)
    feeds = inputs(path, model)
    got = run(ir.to_proto(model), feeds)
    for array, wanted in zip(got, outputs(path, len(got)), strict=False):
        np.testing.assert_allclose(array.reshape(wanted.shape), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    for array, wanted in zip(got, run(original, feeds), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("stem", ["bert_base.legacy", "llama_small.dynamo", "moe_plain.dynamo"])
def test_the_text_of_a_model_is_the_model(stem: str) -> None:
    model = load_model(MODELS / f"{stem}.onnx")
    text = print_graph(model, elide=False)
    again = parse_graph(text)
    verify_graph(again)
    assert print_graph(again, elide=False) == text
    feeds = inputs(MODELS / f"{stem}.onnx", model)
    for left, right in zip(run(ir.to_proto(model), feeds), run(ir.to_proto(again), feeds), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_model_without_weights_is_whole_but_for_them() -> None:
    path = MODELS / "real" / "resnet18_shapeonly.onnx"
    model = load_model(path)
    missing = [v for v in model.graph.initializers.values() if isinstance(v.const_value, MissingTensor)]
    assert len(missing) > 20
    assert "# missing" in print_graph(model)
    assert model.graph.outputs[0].shape == [1, 1000]


def test_two_imports_are_equal() -> None:
    path = MODELS / "bert_base.legacy.onnx"
    first, second = (ir.to_proto(load_model(path)) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
