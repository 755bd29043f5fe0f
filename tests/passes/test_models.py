"""clean-up and fuse on real exports: node counts against onnxslim, numbers against onnxruntime on the file itself."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ipucc.diagnostics import CompileError
from ipucc.frontend import load_model
from ipucc.graph.schemas import oracle_model
from ipucc.pass_manager import DEFAULT_PIPELINE, count_nodes, run_pipeline

# Constant weights make the outputs of the light models uniform, and the oracles disagree about them; the weights of
# resnet18_shapeonly are absent.
WITHOUT_NUMBERS = ("light_resnet50", "light_squeezenet", "resnet18_shapeonly")
MODELS = (
    "bert_base.dynamo",
    "bert_base.legacy",
    "dyn/llama_small.dyn.dynamo",
    "gcn.dynamo",
    "gpt2.dynamo",
    "llama_small.dynamo",
    "lstm_classifier.dynamo",
    "mobilenet_v2.dynamo",
    "moe_plain.dynamo",
    "opset23/bert_base.dynamo",
    "opset23/llama_small.dynamo",
    "real/cct1_16_32",
    "real/cct2_32_128_op20",
    "real/light_resnet50",
    "real/light_squeezenet",
    "real/mnist_8",
    "real/resnet18_shapeonly",
    "real/super_resolution_10",
    "real/ultraface_slim320_simplified",
    "resnet50.dynamo",
    "resnet50.legacy",
    "t5_encoder.dynamo",
    "unet.dynamo",
    "vit_base.legacy",
)


@cache
def inputs_of(path: Path) -> dict[str, np.ndarray]:
    """The inputs stored beside a model, if there are any."""
    for stored in (path.with_suffix(".npz"), path.with_suffix(".inputs.npz")):
        if stored.is_file():
            arrays = np.load(stored)
            return {n.removeprefix("in_"): arrays[n] for n in arrays if not n.startswith("out_")}
    return {}


def load(path: Path) -> ir.Model:
    if path.parent.name == "dyn":
        return load_model(path, input_shapes={n: list(a.shape) for n, a in inputs_of(path).items()})
    return load_model(path, dims={"batch_size": 1} if "super_resolution" in path.name else {})


LOOPS = ("lstm_classifier.dynamo",)
SLOW = ("real/light_resnet50", "real/super_resolution_10", "real/ultraface_slim320_simplified")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MODELS])
def test_numbers_and_nodes(name: str, shared_models: Path, oracles: SimpleNamespace) -> None:
    path = shared_models / f"{name}.onnx"
    if name.endswith(LOOPS):
        # The steps of a long sequence are a loop of the program, which passes see part by part.
        with pytest.raises(CompileError, match="IPU0334"):
            load(path)
        return
    model = load(path)
    before = count_nodes(model)
    imported = None if name.endswith("shapeonly") else ir.to_proto(model.clone())
    run_pipeline(model, "clean-up")
    cleaned = count_nodes(model)
    run_pipeline(model, "fuse")
    assert count_nodes(model) <= cleaned <= before
    for node in model.graph:
        assert node.metadata_props.get("ipucc.origin")
    if imported is None or name.endswith(WITHOUT_NUMBERS):
        return
    feeds = {n: a for n, a in inputs_of(path).items() if n in {v.name for v in model.graph.inputs}}
    if len(feeds) < len(model.graph.inputs):
        feeds = oracles.inputs(model)
    wanted = oracles.ort(imported, feeds)
    oracles.close(oracles.ort(ir.to_proto(model), feeds), wanted, 2e-5)
    oracles.close(oracles.reference(oracle_model(model), feeds), wanted, 2e-5)


@pytest.mark.slow
def test_no_more_nodes_than_onnxslim(shared_models: Path) -> None:
    onnxslim = pytest.importorskip("onnxslim")
    ours = slim = 0
    for name in MODELS:
        path = shared_models / f"{name}.onnx"
        if name.endswith("shapeonly") or name in LOOPS:
            continue
        model = load(path)
        proto = onnx.load(path)
        shapes = [f"{v.name}:{','.join(str(int(d)) for d in v.shape)}" for v in model.graph.inputs]
        slimmed = onnxslim.slim(proto, input_shapes=shapes)
        run_pipeline(model, DEFAULT_PIPELINE)
        ours += count_nodes(model)
        slim += sum(node.op_type != "Constant" for node in slimmed.graph.node)
    assert ours <= 1.05 * slim


def test_clean_up_alone_is_close_to_onnxslim(shared_models: Path) -> None:
    onnxslim = pytest.importorskip("onnxslim")
    for name in ("bert_base.legacy", "vit_base.legacy", "resnet50.legacy"):
        path = shared_models / f"{name}.onnx"
        model = load(path)
        run_pipeline(model, "clean-up,fuse{attention=false norm=false activation=false epilogue=false}")
        slimmed = onnxslim.slim(onnx.load(path))
        assert count_nodes(model) <= 1.05 * sum(node.op_type != "Constant" for node in slimmed.graph.node)
