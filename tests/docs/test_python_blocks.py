"""The Python code of the pages runs, page by page from top to bottom, each page in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

_ELSEWHERE = {"docs/writing_passes.md": "tests/pass_manager/test_writing_passes.py"}
"""Pages with a test of their own."""

_MODELS = {
    "model.onnx": "(float[batch, 16] x) => (float[batch, 8] y) <float[16, 8] w> { h = MatMul(x, w)  y = Relu(h) }",
    "bert.onnx": "(float[batch, seq] x) => (float[batch, seq] y) { y = Relu(x) }",
    "net.onnx": "(float[n, c, h, w] x) => (float[n, c, h, w] y) { y = Relu(x) }",
}
"""The models of the user's that pages speak of, by file name."""

_BEFORE = "import numpy; x = numpy.ones((1, 16), numpy.float32)"
"""Pages may speak of the user's own input x of model.onnx with a batch of one."""


@pytest.fixture
def folder(tmp_path: Path, root: Path) -> Path:
    """A folder as the pages assume it: the samples, and models of the user's."""
    (tmp_path / "samples").symlink_to(root / "samples")
    weight = np.random.default_rng(0).standard_normal((16, 8), np.float32)
    for name, text in _MODELS.items():
        model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> g {text}')
        if name == "model.onnx":
            model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        onnx.save(model, tmp_path / name)
    return tmp_path


def test_blocks_run(page, folder: Path, root: Path) -> None:
    blocks = page.blocks("python")
    if page.name in _ELSEWHERE:
        assert (root / _ELSEWHERE[page.name]).is_file()
        pytest.skip("tested elsewhere")
    if not blocks:
        pytest.skip("no Python on this page")
    # One script, whose lines have the numbers that they have on the page.
    script = _BEFORE
    for block in blocks:
        line = page.text.count("\n", 0, block.start)
        script += "\n" * (line - script.count("\n")) + block.text
    path = folder / "page.py"
    path.write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, path.name], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
