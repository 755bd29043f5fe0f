"""The code of docs/writing_passes.md runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from ipucc.pass_manager import default_registry, parse_pipeline, run_pipeline

PAGE = Path(__file__).parents[2] / "docs/writing_passes.md"


def block(title: str) -> str:
    found = re.search(rf"```python title={re.escape(title)}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"{PAGE.name} has no block {title}"
    return found[1]


@pytest.fixture
def model() -> ir.Model:
    found = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 26]>
        g (float[2] x, float two) => (float[2] y, float[2] z) {
          [squared] a = Pow(x, two)
          y = Relu(a)
          z = Sum(x, a) }""",
        initializers=[ir.tensor(np.float32(2), name="two")],
    )
    two = found.graph.inputs.pop()
    assert two.is_initializer()
    ShapeInferencePass()(found)
    return found


def test_the_pass_fits_in_25_lines_of_code() -> None:
    lines = [line for line in block("square.py").splitlines() if line.strip()]
    assert len(lines) <= 25


def test_the_pass_and_its_use(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "square.py").write_text(block("square.py"))
    monkeypatch.chdir(tmp_path)
    exec(compile(block("use"), "use", "exec"), {"model": model})
    printed = capsys.readouterr().out
    assert "# after squares" in printed
    assert "= Pow" not in printed
    assert 'remark[IPU0320]: square\n  --> pass squares: node "squared" (Pow)' in printed


def test_its_options(model: ir.Model, tmp_path: Path) -> None:
    (tmp_path / "square.py").write_text(block("square.py"))
    registry = default_registry()
    registry.load_file(tmp_path / "square.py")
    result = run_pipeline(model, parse_pipeline("squares{remarks=false}", registry))
    assert result.changed
    assert result.remarks == ()


def test_the_plain_form(model: ir.Model) -> None:
    scope: dict[str, object] = {}
    exec(compile(block("plain"), "plain", "exec"), scope)
    run = scope["run"]
    assert callable(run)
    run(None, model, None)
    assert sorted(node.op_type for node in model.graph) == ["Add", "Pow", "Relu"]
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
