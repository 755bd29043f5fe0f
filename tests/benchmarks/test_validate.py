"""benchmarks/validate.py from outside: its contract, and errors that a change of the model must not spoil."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "benchmarks" / "data" / "measurements.csv"

PREFIXES = ("amp", "exchange", "kernel", "dense", "sparse", "stencil", "network", "scaling", "other")

# Median and 90th percentile of the rows held apart from fitting, a little above what they are.
LIMITS = {
    "amp": (0.003, 0.01),
    "dense fp16": (0.03, 0.08),
    "dense fp32": (0.03, 0.10),
    "exchange fragmented": (0.25, 0.25),
    "exchange scheduled": (0.01, 0.02),
    "kernel add": (0.03, 0.05),
    "kernel compiled": (0.03, 0.10),
    "kernel gelu": (0.01, 0.03),
    "kernel gemm": (0.01, 0.03),
    "kernel gemm packed": (0.01, 0.03),
    "kernel layernorm": (0.01, 0.03),
    "kernel reduction": (0.01, 0.03),
    "kernel softmax": (0.01, 0.03),
    "scaling kalman": (0.01, 0.12),
    "stencil aliev": (0.07, 0.07),
    "stencil blur": (0.02, 0.05),
    "stencil triad": (0.02, 0.02),
}

# The same of all rows, where simulating them takes longer.
SLOW_LIMITS = {
    "network resnet50 fp16": (0.10, 0.20),
    "network resnet50 fp32": (0.13, 0.16),
    "network resnet50 fp8": (0.10, 0.20),
    "sparse heat map": (0.12, 0.25),
    "stencil heat": (0.02, 0.09),
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "validate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("validate") / "rows.json"
    done = run(*(a for name in LIMITS for a in ("--family", name)), "--json", str(out))
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("family", LIMITS)
def test_errors_of_rows_held_apart_stay_within_their_limits(found, family):
    held = found["families"][family]["held"]
    median, p90 = LIMITS[family]
    assert held["rows"] >= 1
    assert held["median"] <= median
    assert held["p90"] <= p90


@pytest.mark.slow
def test_families_that_take_longer_stay_within_their_limits(tmp_path):
    out = tmp_path / "rows.json"
    done = run(*(a for name in SLOW_LIMITS for a in ("--family", name)), "--json", str(out))
    assert done.returncode == 0, done.stderr
    families = json.loads(out.read_text())["families"]
    for family, (median, p90) in SLOW_LIMITS.items():
        assert families[family]["median"] <= median
        assert families[family]["p90"] <= p90


def test_errors_are_relative_and_figures_are_those_of_the_rows(found):
    assert found["schema"] == "ipucc.validate/1"
    ids = [r["id"] for r in found["rows"]] + [s["id"] for s in found["skipped"]]
    assert len(ids) == len(set(ids))
    for row in found["rows"]:
        assert row["error"] == pytest.approx(row["simulated"] / row["measured"] - 1)
        assert row["half"] in ("fitted", "held")
    for name, family in found["families"].items():
        sizes = sorted(abs(r["error"]) for r in found["rows"] if r["family"] == name)
        assert family["rows"] == len(sizes)
        assert family["worst"] == pytest.approx(sizes[-1])
        assert family["median"] <= family["p90"] <= family["worst"]
        assert name.split(" ")[0] in PREFIXES
    for skipped in found["skipped"]:
        assert skipped["reason"]


def test_a_table_with_other_ids_values_and_sizes_is_simulated_by_its_columns(tmp_path):
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    amp = next(r for r in rows if r["workload"].startswith("on-tile AMP"))
    gelu = next(r for r in rows if "GeLU" in r["op"])
    dense = next(r for r in rows if r["workload"] == "MatMul")
    training = next(r for r in rows if "training" in r["workload"])
    made = [
        {**amp, "id": "a", "m": "4096", "value": "341.7"},
        {**gelu, "id": "b", "params": "elements=3072", "value": "16650"},
        {**dense, "id": "c", "m": "2048", "k": "512", "n": "640", "value": "100"},
        {**training, "id": "d"},
        {**amp, "id": "e", "value": ""},
        {**amp, "id": "f", "m": "many"},
        {**amp, "id": "g", "value": "0"},
        {**gelu, "id": "h", "num_ipus": "many", "params": "elements=no"},
    ]
    table, out = tmp_path / "other.csv", tmp_path / "rows.json"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(amp))
        writer.writeheader()
        writer.writerows(made)
    done = run("--measurements", str(table), "--json", str(out))
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert {r["id"]: r["family"] for r in found["rows"]} == {"a": "amp", "b": "kernel gelu", "c": "dense fp16"}
    assert {r["half"] for r in found["rows"]} == {"held"}
    assert {s["id"] for s in found["skipped"]} == {"d", "e", "f", "g", "h"}
    by_id = {r["id"]: r for r in found["rows"]}
    assert abs(by_id["a"]["error"]) < 0.005
    assert by_id["b"]["simulated"] == 330 + 32 * 510


@pytest.mark.parametrize("text", ["id,chip\nx,Bow\n", ""])
def test_a_table_without_the_columns_is_refused(tmp_path, text):
    table = tmp_path / "bad.csv"
    table.write_text(text)
    done = run("--measurements", str(table))
    assert done.returncode == 1
    assert "has no column" in done.stderr
    assert "Traceback" not in done.stderr
