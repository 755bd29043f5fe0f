"""The networks that samples/make_models.py writes: their published sizes, their numbers, and that they compile."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from networks.branching import branching
from networks.builder import save
from networks.convolutional import EFFICIENTNET_B0, MOBILENET_V2, efficientnet_b0, mobilenet_v2, resnet50
from networks.llama import llama_step
from networks.transformers import bert, bert_layer, gpt2, vit
from networks.unet import unet

import ipucc
from ipucc.oracle import check

MAKE_MODELS = Path(__file__).parents[2] / "samples" / "make_models.py"
Make = Callable[[], onnx.ModelProto]

# Every network at full depth or at its published sizes, images as small as they can be.
SMALL: dict[str, Make] = {
    "bert": lambda: bert("small", 2, 64, 4, batch=1, seq=12, pooler=True, seed=1),
    "bert-layer": lambda: bert_layer(64, 4, batch=2, seq=12, seed=1),
    "gpt2": lambda: gpt2(2, 64, 4, vocabulary=96, batch=2, seq=12, head="tied", seed=1),
    "vit": lambda: vit(2, 64, 4, batch=2, size=32, patch=16, classes=10, seed=1),
    "resnet50": lambda: resnet50(batch=1, seed=1),
    "mobilenet-v2": lambda: mobilenet_v2(batch=1, size=64, classes=1000, seed=1),
    "efficientnet-b0": lambda: efficientnet_b0(batch=1, size=64, classes=1000, seed=1),
    "unet": lambda: unet(batch=1, size=64, width=64, depth=4, classes=2, seed=1),
    "llama-step": lambda: llama_step(2, 64, 4, 2, 176, 80, batch=2, context=9, seed=1),
    "branching": lambda: branching(80, batch=2, size=16, seed=1, channels=[(16, 48)] * 2, widths=(16, 64)),
}

# The same in few ops that differ, so that they compile in seconds.
TINY: dict[str, Make] = {
    **{name: SMALL[name] for name in ("bert", "bert-layer", "gpt2", "vit", "llama-step")},
    "gpt2 untied": lambda: gpt2(1, 32, 2, vocabulary=48, batch=1, seq=8, head="untied", seed=1),
    "mobilenet-v2": lambda: mobilenet_v2(batch=1, size=16, classes=10, seed=1, stages=MOBILENET_V2[:2]),
    "efficientnet-b0": lambda: efficientnet_b0(batch=1, size=16, classes=10, seed=1, stages=EFFICIENTNET_B0[:2]),
    "unet": lambda: unet(batch=1, size=16, width=8, depth=2, classes=2, seed=1),
    "branching": lambda: branching(20, batch=1, size=8, seed=1, channels=[(16, 32)], widths=(16, 48)),
}


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Random inputs: ids below every vocabulary, nothing masked."""
    rng, found = np.random.default_rng(0), {}
    for value in model.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.name.endswith("mask"):
            found[value.name] = np.ones(shape, np.int64)
        elif value.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            found[value.name] = rng.integers(0, 2, shape)
        else:
            found[value.name] = rng.standard_normal(shape, np.float32)
    return found


def run(model: onnx.ModelProto | Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def parameters(model: onnx.ModelProto) -> int:
    """Trained numbers: neither statistics nor shapes, masks and tables."""
    return sum(
        int(np.prod(weight.dims))
        for weight in model.graph.initializer
        if weight.data_type == onnx.TensorProto.FLOAT
        and weight.dims
        and not weight.name.endswith((".mean", ".variance"))
        and not weight.name.startswith("rotary.")
    )


@pytest.mark.parametrize("name", SMALL)
def test_networks_are_valid_and_keep_their_values_in_half_precision(name):
    model = SMALL[name]()
    onnx.checker.check_model(model, full_check=True)
    declared = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.output}
    inner = [node.output[0] for node in model.graph.node if node.op_type in ("Add", "MatMul", "Conv", "Concat")]
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in inner if value not in declared)
    values = run(model, feeds(model))
    for (output, shape), value in zip(declared.items(), values, strict=False):
        assert list(value.shape) == shape, output
    for value in values:
        assert np.isfinite(value).all()
        assert 0.01 < np.abs(value).max() < 1000
    assert 0.1 < values[0].std() < 5


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: resnet50(1, 0), 25_557_032),
        (lambda: mobilenet_v2(1, 224, 1000, 0), 3_504_872),
        (lambda: efficientnet_b0(1, 224, 1000, 0), 5_288_548),
        (lambda: unet(1, 256, 64, 4, 2, 0), 31_037_698),
    ],
    ids=["resnet50", "mobilenet-v2", "efficientnet-b0", "unet"],
)
def test_convolutional_networks_have_their_published_sizes(make, count):
    assert parameters(make()) == count


def test_transformers_have_their_published_sizes_by_layer():
    """A layer, a word and what is outside of both, counted on small networks."""
    one, two = (gpt2(layers, 768, 12, 1, 1, 4, "tied", 0) for layers in (1, 2))
    layer = parameters(two) - parameters(one)
    assert parameters(one) + 11 * layer + 50_256 * 768 == 124_439_808
    one, two = (vit(layers, 768, 12, 1, 224, 16, 1000, 0) for layers in (1, 2))
    layer = parameters(two) - parameters(one)
    assert parameters(one) + 11 * layer == 86_567_656


@pytest.mark.parametrize("name", TINY)
def test_tiny_networks_compile_and_compute(name, tmp_path):
    path = tmp_path / "model.onnx"
    model = TINY[name]()
    save(model, path, external=False)
    exe = ipucc.compile(path, precision="fp16", solver="greedy")
    inputs = feeds(model)
    result = exe.run(inputs)
    assert result.cycles == exe.cycles
    assert check(result.outputs, inputs, path, precision="fp16", flops=result.flops).max_rel_error < 2e-2


def test_bert_ignores_masked_tokens():
    model = bert("small", 2, 64, 4, batch=2, seq=12, pooler=True, seed=1)
    inputs = feeds(model)
    inputs["attention_mask"][:, 9:] = 0
    hidden, pooled = run(model, inputs)
    assert hidden.shape == (2, 12, 64)
    assert pooled.shape == (2, 64)
    inputs["input_ids"][:, 9:] = 7
    np.testing.assert_allclose(run(model, inputs)[0][:, :9], hidden[:, :9], atol=1e-5)


def test_gpt2_does_not_look_ahead():
    model = gpt2(2, 64, 4, vocabulary=96, batch=1, seq=12, head="tied", seed=1)
    inputs = feeds(model)
    logits = run(model, inputs)[0]
    inputs["input_ids"][:, 9:] = 7
    changed = run(model, inputs)[0]
    np.testing.assert_allclose(changed[:, :9], logits[:, :9], atol=1e-5)
    assert np.abs(changed[:, 9:] - logits[:, 9:]).max() > 0.1


def test_a_decoder_step_continues_from_the_cache_that_the_step_before_returned():
    """Two tokens one after the other, and the same with a longer cache whose first entry is masked."""
    rng = np.random.default_rng(0)

    def step(context: int, tokens: np.ndarray, past: list[np.ndarray], position: int, hidden: int) -> list[np.ndarray]:
        model = llama_step(2, 64, 4, 2, 176, 80, batch=1, context=context, seed=1)
        mask = np.ones((1, context + 1), np.int64)
        mask[:, :hidden] = 0
        caches = [name for name in (value.name for value in model.graph.input) if name.startswith("past")]
        inputs = dict(zip(caches, past, strict=True))
        inputs |= {"input_ids": tokens, "position_ids": np.full((1, 1), position), "attention_mask": mask}
        return run(model, inputs)

    past = [rng.standard_normal((1, 2, 5, 16), np.float32) for _ in range(4)]
    token = np.array([[3]])
    logits, *present = step(5, token, past, 5, 0)
    padded = [np.concatenate([rng.standard_normal((1, 2, 1, 16), np.float32), cache], axis=2) for cache in past]
    np.testing.assert_allclose(step(6, token, padded, 5, 1)[0], logits, atol=1e-4)
    for old, new in zip(past, present, strict=True):
        np.testing.assert_array_equal(new[:, :, :5], old)
    assert np.abs(step(6, token, present, 6, 0)[0] - logits).max() > 0.1


def test_weights_may_lie_beside_the_model(tmp_path):
    model = bert("small", 1, 32, 2, batch=1, seq=4, pooler=False, seed=1)
    inputs = feeds(model)
    expected = run(model, inputs)[0]
    for _ in range(2):  # a second run replaces the first one's files
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        save(copy, tmp_path / "m.onnx", external=True)
    assert (tmp_path / "m.onnx").stat().st_size < 50_000
    np.testing.assert_array_equal(run(tmp_path / "m.onnx", inputs)[0], expected)


def test_the_command_writes_the_same_file_again(tmp_path):
    digests = set()
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.onnx"
        command = [sys.executable, str(MAKE_MODELS), "mobilenet-v2", "--size", "64", "-o", str(file), "--seed", "5"]
        done = subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        assert "14.2 MB of weights" in done.stdout
        digests.add(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("vit-base", "--size", "100"), "not a multiple of the patches"),
        (("unet", "--size", "100"), "not a multiple of 16"),
        (("llama-step", "--hidden", "1000"), "multiple of 256"),
        (("gpt2", "--seq", "1025"), "1024 positions"),
        (("resnet50", "--seq", "8"), "unrecognized arguments"),
        (("bert-base", "--batch", "0"), "at least 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_command_says_what_a_network_cannot_be(tmp_path, arguments, said):
    command = [sys.executable, str(MAKE_MODELS), *arguments, "-o", str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.onnx").exists()
