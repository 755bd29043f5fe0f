"""benchmarks/gemm.py from outside, and the bounds and the compute-shift plans that it puts beside its cycles."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gemm_bounds import gemm_bound
from t10_plans import fastest_plan

from ipucc.target import Target, load_target

ROOT = Path(__file__).parents[2]
GEMM = ROOT / "benchmarks" / "gemm.py"
TINY = ROOT / "tests" / "golden" / "tiny.toml"
FIELDS = {"shape", "cycles", "compute", "exchange", "sync", "bound_cycles", "peak_share", "plan"}


def gemm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(GEMM), *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def gc200() -> Target:
    return load_target("gc200")


def test_rows_have_cycles_that_add_up_and_lie_above_their_bounds(tmp_path):
    out = tmp_path / "rows.json"
    done = gemm("--shape", "64x96x80", "--shape", "1x64x48", "--target", str(TINY), "--json", str(out))
    found = json.loads(out.read_text())
    assert found["schema"] == "ipucc.gemm/1"
    assert [row["shape"] for row in found["rows"]] == ["64x96x80", "1x64x48"]
    for row in found["rows"]:
        assert row.keys() >= FIELDS
        assert row["cycles"] == row["compute"] + row["exchange"] + row["sync"]
        assert 0 < row["amp_bound"] <= row["compute_bound"] <= row["bound_cycles"] <= row["cycles"]
        assert row["peak_share"] == pytest.approx(row["amp_bound"] / row["cycles"])
        assert row["t10_cycles"] > row["compute_bound"]
        assert f"{row['cycles']:,}" in done.stdout
        assert row["plan"] in done.stdout
    slower = any(row["t10_cycles"] < row["cycles"] for row in found["rows"])
    assert done.returncode == int(slower), done.stderr


def test_a_shape_that_does_not_fit_is_a_row_with_the_reason(tmp_path):
    out = tmp_path / "rows.json"
    done = gemm("--shape", "16x4096x4096", "--target", str(TINY), "--json", str(out))
    (row,) = json.loads(out.read_text())["rows"]
    assert row["status"].startswith("IPU04")
    assert row["cycles"] is None
    assert row["memory_bound"] > load_target(str(TINY)).usable_bytes
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--shape", "12x0x4"), ("--shape", "12x4"), ("--dense-curve", "--shape", "1x1x1")]
)
def test_options_that_make_no_sense_are_refused(arguments):
    done = gemm(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_bounds_are_below_every_cut_into_equal_boxes(gc200):
    """What a plan of boxes computes and receives, counted here on its own, is never less than the bound."""
    rng = np.random.default_rng(0)
    room = gc200.usable_bytes
    for _ in range(40):
        m, k, n = (int(2 ** rng.uniform(4, 12)) for _ in range(3))
        parts = [int(2 ** rng.uniform(0, 4)) for _ in range(3)]
        pm, pk, pn = (min(part, size) for part, size in zip(parts, (m, k, n), strict=True))
        if pm * pk * pn > gc200.tiles:
            continue
        a, b, c = m * k / (pm * pk), k * n / (pk * pn), m * n / (pm * pn)
        macs = m * k * n / (pm * pk * pn)
        compute = macs / gc200.amp_macs_per_cycle("fp16", "fp16")
        sums = 2 * c * (pk - 1) / pk
        inputs = 2 * a * (pn - 1) / pn + max(0.0, 2 * b - room)
        received = (inputs + sums) / gc200.pair_bytes_per_cycle
        cycles = compute + received + (gc200.phase_cycles if received else 0)
        bound = gemm_bound(m, k, n, "fp16", gc200)
        # A matrix unit whose blocks are full and loaded for nothing is what `amp_cycles` assumes.
        least = bound.cycles - bound.compute_cycles + bound.amp_cycles
        assert least <= cycles + 1, (m, k, n, pm, pk, pn)


def test_bounds_know_the_matrix_unit_and_the_memory(gc200):
    square = gemm_bound(4096, 4096, 4096, "fp16", gc200)
    assert square.amp_cycles == 4096**3 // (1472 * 64)
    assert square.cycles >= square.compute_cycles >= square.amp_cycles
    assert square.fits
    assert square.memory_bytes == -(-3 * 2 * 4096**2 // 1472)
    # 4096 columns do not fit beside one another: activations or sums have to move.
    assert square.cycles > square.compute_cycles + gc200.phase_cycles
    # One row: every weight is loaded for it, 16 bytes a cycle, or meets it in the vector unit.
    assert gemm_bound(1, 4096, 4096, "fp16", gc200).compute_cycles >= 4096**2 * 2 / 16 / 1472 / 2
    assert not gemm_bound(30_000, 30_000, 30_000, "fp16", gc200).fits


def test_compute_shift_plans_fit_and_rotate_only_where_they_must(gc200):
    machine = replace(gc200, tiles=64)
    small = fastest_plan(256, 256, 256, "fp16", machine)
    assert small is not None
    assert "rounds" not in small.text
    large = fastest_plan(2048, 2048, 2048, "fp16", machine)
    assert large is not None
    assert "rounds" in large.text
    assert large.memory_bytes <= machine.usable_bytes
    assert large.cycles == large.compute + large.exchange + large.sync
    assert large.cycles > gemm_bound(2048, 2048, 2048, "fp16", machine).cycles
    assert fastest_plan(8192, 8192, 8192, "fp16", machine) is None
