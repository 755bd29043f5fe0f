"""benchmarks/spmm.py from outside, the vendor's plans that it compares with, and benchmarks/sparse_masks.py."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from poplibs_plans import dense_plan, sparse_plan
from spmm import random_pattern

from ipucc.target import load_target

ROOT = Path(__file__).parents[2]
FIELDS = {"m", "k", "n", "block", "density", "dtype", "mode", "scheme", "cycles", "compute", "exchange", "reduce",
          "tflops", "speedup"}  # fmt: skip


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_rows_have_cycles_that_add_up_and_a_speedup(tmp_path):
    out = tmp_path / "rows.json"
    done = run(
        "spmm.py", "--m", "128", "--k", "96", "--n", "32", "--density", "0.25", "--mode", "dense", "--mode", "static",
        "--scheme", "best", "--scheme", "vendor", "--json", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(r["mode"], r["scheme"]) for r in rows] == [
        ("dense", "best"), ("dense", "vendor"), ("static", "best"), ("static", "vendor"),
    ]  # fmt: skip
    for row in rows:
        assert row.keys() >= FIELDS
        assert row["cycles"] == row["compute"] + row["exchange"] + row["reduce"] + row["sync"]
        dense = next(r["cycles"] for r in rows if r["mode"] == "dense" and r["scheme"] == row["scheme"])
        assert row["speedup"] == pytest.approx(dense / row["cycles"])
        kept = 1.0 if row["mode"] == "dense" else 0.25
        assert row["tflops"] == pytest.approx(2 * 128 * 96 * 32 * kept * 1.85e9 / row["cycles"] / 1e12)


def test_a_pattern_that_is_an_input_costs_more_than_one_that_is_known(tmp_path):
    out = tmp_path / "rows.json"
    done = run(
        "spmm.py", "--m", "256", "--n", "64", "--density", "0.125", "--mode", "static", "--mode", "dynamic",
        "--json", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    static, dynamic = json.loads(out.read_text())["rows"]
    assert static["cycles"] < dynamic["cycles"]


@pytest.mark.parametrize(
    "arguments",
    [("--heat-map", "--m", "64"), ("--mode", "dynamic", "--scheme", "vendor", "--n", "8"), ("--block", "5")],
)
def test_options_that_do_not_go_together_are_told(arguments):
    done = run("spmm.py", *arguments)
    assert done.returncode == 2
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_vendors_dense_plans_are_near_the_measured_curves():
    bow = load_target("bow")
    errors = []
    with (ROOT / "benchmarks" / "data" / "measurements.csv").open(newline="", encoding="utf-8") as file:
        for r in csv.DictReader(file):
            if r["workload"] == "MatMul" and r["op"] == "dense" and r["m"] in ("1024", "4096"):
                m, n = int(r["m"]), int(r["n"])
                measured = 2 * m * m * n / float(r["value"]) / 1e12 * bow.clock_hz
                errors.append(dense_plan(m, m, n, r["dtype"], bow).cycles / measured - 1)
    assert len(errors) == 41
    assert np.median(np.abs(errors)) < 0.05
    assert np.quantile(np.abs(errors), 0.9) < 0.12


def test_the_vendors_sparse_plan_keeps_its_limits():
    bow = load_target("bow")
    for n in (4, 64, 1024):
        pattern = random_pattern(512, 512, 16, 0.125)
        plan = sparse_plan(pattern, n, "fp16", bow)
        assert plan.scheme.kind == "banded"
        assert plan.parts <= 32
        assert plan.scheme.bands <= 128
        assert plan.scheme.count * plan.parts <= bow.tiles


@pytest.mark.slow
def test_even_masks_are_even_and_give_up_score(tmp_path):
    out = tmp_path / "rows.json"
    digits = ROOT / "samples" / "digits" / "digits.onnx"
    done = run(
        "sparse_masks.py", "--model", str(digits), "--grid", "4x4", "--block", "16", "--density", "0.25", "--json",
        str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {r["way"]: r for r in json.loads(out.read_text())["rows"]}
    free, even, loose = rows["free, grid"], rows["even, grid"], rows["even 10 %, grid"]
    assert free["score"] == pytest.approx(rows["free, runs"]["score"])
    assert even["fullest"] == 1.0 < loose["fullest"] < free["fullest"]
    assert 0.9 < even["score"] <= loose["score"] <= 1.0
    assert even["cycles"] < free["cycles"]
