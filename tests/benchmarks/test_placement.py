"""benchmarks/placement.py: what its rows say about small models on a small machine."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from growth import alone
from networks.branching import branching
from networks.builder import save
from placement import failed, graph_part, joint_part, memory_part, plotted

from ipucc.compiler import CompileOptions
from ipucc.target import load_target

TINY = str(Path(__file__).parents[1] / "golden" / "tiny.toml")
OPTIONS = CompileOptions(target=TINY, effort="fast")


@pytest.fixture
def chain(tmp_path: Path, model_of) -> Path:
    path = tmp_path / "chain.onnx"
    text = "g (float[64,32] x) => (float[64,32] y) { a = MatMul(x, v) b = Softmax(a) y = MatMul(b, w) }"
    onnx.save(model_of(text, {"v": (32, 48), "w": (48, 32)}), path)
    return path


def test_baselines_that_fit_are_no_better_than_the_joint_choice(chain: Path) -> None:
    row = joint_part("chain", chain, load_target(TINY), OPTIONS)
    assert row["status"] == "optimal"
    assert row["ops"] == 3
    assert row["fastest_over"] == row["linear_over"] == 0
    assert 1 <= row["greedy"] <= row["linear"]  # type: ignore[operator]
    assert row["fastest"] >= 1  # type: ignore[operator]
    # Every result there and back again is more than what neighbours save each other.
    assert row["linear"] > row["fastest"]  # type: ignore[operator]
    assert not failed("joint", [row])
    assert failed("joint", [row | {"linear_fit": 0.9}])


def test_memory_is_cut_until_nothing_fits(chain: Path) -> None:
    rows = list(memory_part("chain", chain, load_target(TINY), OPTIONS, 0.7))
    rows.sort(key=lambda row: -row["tile_bytes"])  # type: ignore[operator]
    assert len(rows) > 3
    fits = [row["cycles"] is not None for row in rows]
    assert fits == sorted(fits, reverse=True)
    assert rows[-1]["status"] == "infeasible"
    # What fits and what does not are close to each other.
    least, most = rows[fits.index(False) - 1], rows[fits.index(False)]
    assert most["tile_bytes"] > 0.9 * least["tile_bytes"]  # type: ignore[operator]
    for row in rows[: fits.index(False)]:
        assert row["greedy"] is None or row["greedy"] >= row["cycles"]  # type: ignore[operator]
    bars = plotted(rows).splitlines()
    assert len(bars) == len(rows)
    assert rows[-1]["status"] in bars[-1]  # type: ignore[operator]


def test_bars_grow_with_the_logarithm_of_cycles() -> None:
    figures = [(400, 100, 200), (300, 400, None), (200, None, None)]
    rows = [{"tile_bytes": n, "status": "infeasible", "cycles": c, "greedy": g} for n, c, g in figures]
    both, alone, none = (line.partition("|")[2] for line in plotted(rows, 30).splitlines())
    assert both == "#" * 10 + "+" * 10
    assert alone == "#" * 30 + "  greedy finds nothing"
    assert none == " infeasible"


def test_the_network_of_branches_is_placed_with_all_and_with_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "branching.onnx"
    save(branching(24, 1, 8, seed=2, channels=[(16, 32)], widths=(16, 48)), path, external=False)
    target = replace(load_target(TINY), tile_bytes=1 << 18, executable_bytes=1 << 17)
    chip, tight = graph_part(path, target, OPTIONS)
    assert chip["ops"] >= 24  # type: ignore[operator]
    assert tight["cap_bytes"] < tight["free_peak_bytes"] <= chip["cap_bytes"]  # type: ignore[operator]
    assert chip["cycles"] <= tight["cycles"]  # type: ignore[operator]
    assert all(row["bound"] <= row["cycles"] for row in (chip, tight))  # type: ignore[operator]
    assert not failed("graph", [chip])
    assert failed("graph", [chip | {"gap": 0.04}])


def test_a_compilation_of_its_own_has_a_limit(chain: Path) -> None:
    row = alone(chain, OPTIONS, 60.0)
    assert row["ops"] == 3
    assert row["cycles"] > 0  # type: ignore[operator]
    assert row["peak_rss_bytes"] > 1 << 20  # type: ignore[operator]
    assert alone(chain, OPTIONS, 0.0)["status"] == "timeout"
