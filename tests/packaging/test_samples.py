"""The samples that are committed, and the scripts that write the others."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

import ipucc

SAMPLES = Path(__file__).parents[2] / "samples"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sample_{name}", SAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(model: onnx.ModelProto | Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


@pytest.fixture(scope="module")
def digits() -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    with np.load(SAMPLES / "digits" / "test_images.npz") as data:
        return onnx.load(SAMPLES / "digits" / "digits.onnx"), data["images"], data["labels"]


def accuracy(model: onnx.ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    batches = [run(model, {"image": images[at : at + 64]})[0] for at in range(0, len(images), 64)]
    return float((np.concatenate(batches).argmax(axis=1) == labels).mean())


def test_the_digits_network_reads_digits_it_has_not_seen(digits):
    model, images, labels = digits
    assert images.shape == (448, 1, 8, 8)
    assert set(labels) == set(range(10))
    assert accuracy(model, images, labels) >= 0.97


def test_the_digits_network_can_spare_three_of_four_blocks(digits):
    """The blocks of smallest L1 norm of both linear layers, as the sparsify pass picks them."""
    model, images, labels = digits
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    for weight in cut.graph.initializer:
        if weight.name in ("linear1.weight", "linear2.weight"):
            w = onnx.numpy_helper.to_array(weight).copy()
            rows = -(-w.shape[0] // 16) * 16
            blocks = np.pad(w, ((0, rows - w.shape[0]), (0, 0))).reshape(rows // 16, 16, -1, 16)
            norms = np.abs(blocks).sum(axis=(1, 3))
            weak = np.argsort(norms, axis=None, kind="stable")[: norms.size * 3 // 4]
            blocks.transpose(0, 2, 1, 3)[np.unravel_index(weak, norms.shape)] = 0
            sparse = blocks.reshape(rows, -1)[: len(w)]
            assert np.count_nonzero(sparse) <= 0.3 * w.size
            weight.CopyFrom(onnx.numpy_helper.from_array(sparse, weight.name))
    assert accuracy(cut, images, labels) >= accuracy(model, images, labels) - 0.02


def test_the_linear_layer_multiplies():
    model = script("linear").linear(m=48, k=32, n=5, seed=3)
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).standard_normal((5, 32), np.float32)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_allclose(run(model, {"x": x})[0], x @ weight, rtol=1e-4, atol=1e-5)
    assert weight.std() == pytest.approx(1 / np.sqrt(32), rel=0.1)


def test_the_layer_of_bert_adds_up():
    """Every cycle of a run belongs to one line, and the ratio is that of the cycles."""
    sample = script("sparse_bert_layer")
    model = sample.bert_layer(128, 2, 1, 16, seed=0)
    for options in ({}, {"block": 16, "density": 0.25}):
        exe = ipucc.compile(model, precision="fp16", **options)
        found = sample.parts(exe)
        assert sum(part.cycles for part in found.values()) == exe.cycles.total
        assert sum(part.exchange for part in found.values()) == exe.cycles.exchange
        assert all(found[name].products and found[name].plans for name in sample.GROUPS)
        assert not any(found[name].plans.startswith("banded") for name in sample.GROUPS) or options
    run = CliRunner().invoke(sample.main, ["--hidden", "128", "--seq", "16", "--density", "0.25"])
    assert run.exit_code == 0, run.output
    last = run.stdout.splitlines()[-1].split()
    assert last[:2] == ["sparse", f"{exe.cycles.total:,}"]


def test_the_break_even_lies_where_the_line_crosses():
    even = script("blocks_question").break_even
    assert even(100, [(0.5, 200), (0.1, 50), (0.2, 80)]) == "0.25"
    assert even(100, [(0.5, 200), (0.1, 120)]) == "below 0.1"
    assert even(100, [(0.5, 90), (0.1, 20)]) == "above 0.5"
    assert even(100, []) == ""


@pytest.mark.slow
def test_the_question_of_blocks_is_answered(tmp_path):
    call = [
        sys.executable, str(SAMPLES / "blocks_question.py"), "--matrix", "bert-base.attention", "--rows", "16",
        "--density", "0.5", "--density", "0.1", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()[2:]
    assert [line.split()[-4:-3] for line in lines[1:]] == [["8"], ["4"]]
    ratios = [[float(word) for word in line.split()[-3:-1]] for line in lines]
    assert ratios[0][1] > ratios[1][1] > ratios[2][1] > ratios[2][0], "larger blocks and fewer of them are faster"
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "points").iterdir()}
    again = subprocess.run(call, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "points").iterdir()} == times


def test_the_training_script_learns(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    train = script("digits/train")
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "1", "--folder", str(tmp_path)])
    train.main()
    with np.load(tmp_path / "test_images.npz") as data:
        model = onnx.load(tmp_path / "digits.onnx")
        reached = accuracy(model, data["images"], data["labels"])
    assert reached > 0.6
    assert f"{reached:.4f}" in capsys.readouterr().out  # numpy and onnxruntime agree
