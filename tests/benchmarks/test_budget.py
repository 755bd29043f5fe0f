"""benchmarks/budget.py: the three ways keep to the same cycles, and a budget keeps as much of every layer as ERK."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from budget import encoder, kept, norms

from ipucc.compiler import CompileOptions
from ipucc.optimise import optimise_model

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_rows_of_the_digits_network(tmp_path):
    out = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "budget.py"), "--model", "digits", "--share", "0.9", "--json", out],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dense, uniform, erk, budget = json.loads(out.read_text())["rows"]
    assert dense["kept_per_layer"] == dense["kept"] == 1
    assert dense["accuracy"] > 0.98
    for row in (uniform, erk, budget):
        assert row["placed"] <= row["allowed"] < dense["placed"]
        assert 0 < row["kept_per_layer"] < 1
    assert budget["kept_per_layer"] > erk["kept_per_layer"]
    assert budget["kept_per_layer"] > uniform["kept_per_layer"]
    assert budget["accuracy"] > uniform["accuracy"]


def test_kept_shares_are_those_of_the_weights():
    model = encoder(1, tokens=8, width=64)
    dense = norms(model)
    assert len(dense) == 4
    whole = optimise_model(model, CompileOptions(passes="clean-up,fuse,precision"))
    assert kept(whole, dense) == (1.0, 1.0)
    half = optimise_model(model, CompileOptions(passes="clean-up,fuse,precision,sparsify{block=4,density=0.5}"))
    per_layer, all_of_it = kept(half, dense)
    assert 0.5 < per_layer < 1
    assert 0.5 < all_of_it < 1
