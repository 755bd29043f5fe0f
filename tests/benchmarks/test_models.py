"""benchmarks/models.py from outside, and the bound that it puts beside the cycles of a model."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from model_bounds import model_bound
from networks.builder import save
from networks.transformers import bert

from ipucc.compiler import CompileOptions
from ipucc.optimise import lower_ops, optimise_model
from ipucc.target import load_target

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "benchmarks" / "models.py"
TINY = str(ROOT / "tests" / "golden" / "tiny.toml")
FIELDS = {
    "model", "status", "gap", "cycles", "compute", "exchange", "sync", "bound_cycles", "max_tile_bytes",
    "compile_seconds", "warm_seconds", "peak_rss_bytes",
}  # fmt: skip


def models(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(MODELS), *arguments], capture_output=True, text=True, cwd=ROOT)


def onnx_model(body: str, path: Path) -> Path:
    text = f'<ir_version: 10, opset_import: ["": 20]>\n{body}'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.mark.slow
def test_rows_of_models_that_compile_and_of_one_that_does_not(tmp_path):
    layers, large, out = tmp_path / "layers.onnx", tmp_path / "large.onnx", tmp_path / "rows.json"
    save(bert("layers", 3, 32, 2, batch=1, seq=8, pooler=False, seed=0), layers, external=False)
    onnx_model("g (float[2000, 2000] x) => (float[2000, 2000] y) { y = Relu(x) }", large)
    done = models(str(layers), str(large), "--target", TINY, "--run", "--json", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["schema"] == "ipucc.models/1"
    row, refused = found["rows"]
    assert row.keys() >= FIELDS
    assert row["model"] == "layers"
    assert row["status"] in ("optimal", "feasible")
    assert row["gap"] >= 0
    assert row["cycles"] == row["compute"] + row["exchange"] + row["sync"] == row["counted"]
    assert row["cycles"] == row["planned_cycles"] == row["warm_cycles"]
    assert 0 < row["bound_cycles"] < row["compute"]
    assert row["layers"] == 3
    assert 3 * row["layer_cycles"] < row["cycles"]
    assert row["port_cycles"] <= row["exchange"]
    assert row["error"] < 2e-2
    assert row["compile_seconds"] > 0
    assert row["planned_seconds"] > 0
    assert row["warm_seconds"] > 0
    assert row["peak_rss_bytes"] > 50e6
    assert f"{row['cycles']:,}" in done.stdout
    assert refused.keys() == row.keys()
    assert refused["status"].startswith("IPU04")
    assert refused["cycles"] is None
    assert refused["bound_cycles"] > 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("body", "precision", "work"),
    [
        # Stores: 8 bytes a cycle.
        ("g (float[64, 96] x) => (float[64, 96] y) { y = Relu(x) }", "model", 64 * 96 * 4 / 8),
        # 64 rows share the loading of a block: 4 cycles a row and 32 to load, for 16 x 16 products a row.
        (
            "g (float[64, 96] x, float[96, 160] w) => (float[64, 160] y) { y = MatMul(x, w) }",
            "fp16", 64 * 96 * 160 * (4 + 32 / 160) / 256,
        ),
        # A block for every matrix of a batch.
        (
            "g (float[8, 16, 32] x, float[8, 32, 16] w) => (float[8, 16, 16] y) { y = MatMul(x, w) }",
            "fp16", 8 * 16 * 32 * 16 * (4 + 32 / 16) / 256,
        ),
    ],
    ids=["stores", "matmul", "batch"],
)  # fmt: skip
def test_the_bound_is_the_work_of_the_ops_over_all_tiles(body, precision, work, tmp_path):
    options = CompileOptions(target=TINY, precision=precision)
    target = load_target(TINY)
    graph = lower_ops(optimise_model(onnx_model(body, tmp_path / "m.onnx"), options).model, target, options)
    assert model_bound(graph, target) == pytest.approx(work / target.tiles, abs=1)


def test_options_that_make_no_sense_are_refused():
    done = models("--model", "bert-tiny")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
