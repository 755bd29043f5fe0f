"""benchmarks/joins.py and benchmarks/axis_orders.py: what their rows say about one op."""

from pathlib import Path

import onnx
from axis_orders import measure as measure_orders
from axis_orders import orders
from joins import Row, measure, no_groups

from ipucc.codelets.reduce import Reduce
from ipucc.compiler import CompileOptions
from ipucc.passes.plan.grid import Plan

TINY = str(Path(__file__).parents[1] / "golden" / "tiny.toml")


def test_groups_are_taken_away_for_one_side_only() -> None:
    with no_groups():
        assert Reduce("sum", ("r",), (), "float32").joining("float32") is None
    row = measure("sum of 16,384 x 16 to 16", CompileOptions(precision="fp16"))
    assert "groups" in row.plan
    assert row.cycles < row.at_once
    assert not row.fault
    assert Row("slower", 10, 11, "").fault == "slower"


def test_all_orders_are_no_worse_than_one(tmp_path: Path, model_of) -> None:  # type: ignore[no-untyped-def]
    plan = Plan((("k", 2), ("m", 1), ("n", 4), ("b", 3)))
    found = [p.parts for p in orders(plan)]
    assert len(set(found)) == len(found) == 6
    assert all(dict(p) == dict(plan.parts) for p in found)
    path = tmp_path / "chain.onnx"
    text = "g (float[64,32] x) => (float[64,32] y) { a = MatMul(x, v) b = Softmax(a) y = MatMul(b, w) }"
    onnx.save(model_of(text, {"v": (32, 48), "w": (48, 32)}), path)
    _, few, _, one, many, status, every, ratio = measure_orders("chain", path, CompileOptions(target=TINY))
    assert int(many) > int(few)
    assert status == "optimal"
    assert int(every.replace(",", "")) <= int(one.replace(",", ""))
    assert float(ratio) >= 1
