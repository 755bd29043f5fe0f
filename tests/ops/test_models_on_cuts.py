"""Whole models, op by op on random cuts, against onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ipucc.frontend import load_model
from ipucc.graph.schemas import oracle_model
from ipucc.ops.build import build_tile_graph
from ipucc.ops.builder import BuildOptions
from ipucc.ops.support import supported
from ipucc.target import load_target


@pytest.mark.parametrize(
    "name",
    [
        *("bert_base.dynamo", "gpt2.dynamo", "llama_small.dynamo", "mobilenet_v2.dynamo", "resnet50.legacy"),
        *("t5_encoder.dynamo", "unet.dynamo", "vit_base.legacy", "opset23/llama_small.dynamo", "real/mnist_8"),
    ],
)
def test_model(machine, name: str, shared_models: Path):
    path = shared_models / f"{name}.onnx"
    model = load_model(path, supported=supported)
    graph = build_tile_graph(model, BuildOptions(load_target("gc200")))
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        kind, shape = value.dtype.numpy(), [int(d) for d in value.shape]
        random = rng.normal(size=shape) if kind.kind == "f" else rng.integers(0, 2, size=shape)
        feeds[value.name] = random.astype(kind)
    wanted = onnxruntime.InferenceSession(oracle_model(model).SerializeToString()).run(None, feeds)
    for result, right in zip(machine(graph, 3).run(feeds).values(), wanted, strict=True):
        np.testing.assert_allclose(result, right, rtol=0, atol=1e-5 * np.abs(right).max())
