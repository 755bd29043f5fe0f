"""benchmarks/reuse.py: a model that shares an op with one before it finds plans, and is the same program."""

from pathlib import Path

import onnx
import pytest
from reuse import measure, shown

TINY = str(Path(__file__).parents[1] / "golden" / "tiny.toml")


@pytest.mark.slow
def test_plans_are_kept_and_change_nothing(tmp_path: Path, model_of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPUCC_CACHE_DIR", "")
    rows, kept = [], None
    for name, text in (("one", "y = Relu(x)"), ("two", "a = Relu(x) y = Softmax(a)")):
        model = tmp_path / f"{name}.onnx"
        onnx.save(model_of(f"g (float[32,64] x) => (float[32,64] y) {{ {text} }}"), model)
        rows.append(measure(name, model, TINY, "model", kept, tmp_path / name))
        kept = kept or tmp_path / name
    assert [row.fault for row in rows] == ["", ""]
    assert [list(row.seconds) for row in rows] == [["cold", "again"], ["cold", "kept", "again"]]
    assert rows[0].entries is not None
    assert rows[1].entries is not None
    assert 0 < rows[0].entries < rows[1].entries
    assert "two" in shown(rows)
