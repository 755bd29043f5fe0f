"""`ipucc sweep` as a user calls it: its figures, its accuracy, what it keeps and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from ipucc.cli.main import cli

ENTRY = "import sys; from ipucc.cli.main import main; sys.argv[0] = 'ipucc'; main()"
WAIT_SECONDS = 240
SAMPLES = 18
GRID = ("--block", "4,8", "--density", "0.5,0.25")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", ENTRY, "sweep", *map(str, arguments)]


def sweep(*arguments: object) -> Result:
    """A sweep from this process, with one that computes points if there are any to compute."""
    jobs = () if "--scheduler" in arguments else ("--jobs", "1")
    return CliRunner().invoke(cli, ["sweep", *map(str, arguments), *jobs])


def rows_of(folder: Path) -> list[dict]:
    """The rows of a sweep without the wall time of their compilation."""
    found = json.loads((folder / "sweep.json").read_text())["rows"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def points(folder: Path) -> dict[str, int]:
    """The kept points and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "points").glob("*.json")}


@pytest.fixture(scope="module")
def samples(mlp) -> dict[str, np.ndarray]:
    """Samples, no multiple of a run, with labels that the dense model gives them; two are wrong and one not judged."""
    x = np.random.default_rng(3).standard_normal((SAMPLES, 32), np.float32)
    labels = classes(onnx.load(mlp), x)
    labels[:2] = (labels[:2] + 1) % 8
    labels[2] = -1
    return {"x": x, "labels": labels}


@pytest.fixture(scope="module")
def data(samples, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, **samples)
    return path


def classes(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or len(x)
    padded = np.concatenate([x, np.zeros((-len(x) % size, 32), np.float32)])
    parts = [session.run(None, {"x": padded[i : i + size]})[0] for i in range(0, len(padded), size)]
    return np.concatenate(parts)[: len(x)].argmax(axis=1)


def pruned(model: onnx.ModelProto, block: int, density: float) -> onnx.ModelProto:
    """The model with the blocks of least L1 norm set to zero, done here."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for weight in copy.graph.initializer:
        if len(weight.dims) != 2:
            continue
        dense = numpy_helper.to_array(weight)
        k, n = dense.shape
        blocks = dense.reshape(k // block, block, n // block, block)
        norms = np.abs(blocks.astype(np.float64)).sum(axis=(1, 3))
        keep = np.zeros(norms.size, bool)
        keep[np.argsort(-norms, axis=None, kind="stable")[: max(1, round(density * norms.size))]] = True
        kept = (blocks * keep.reshape(norms.shape)[:, None, :, None]).reshape(k, n)
        weight.CopyFrom(numpy_helper.from_array(kept, weight.name))
    return copy


@pytest.fixture(scope="module")
def whole(fixed, data, tmp_path_factory) -> Path:
    """A sweep by several processes that nothing has interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    whole = command(fixed, *GRID, "--eval", data, "--out", out, "--jobs", 2)
    done = subprocess.run(whole, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def kept(whole, tmp_path) -> Path:
    """A copy of its folder."""
    return Path(shutil.copytree(whole, tmp_path / "kept"))


def test_points_stand_in_the_order_of_the_grid(whole):
    found = [(row["target"], row["block"], row["density"]) for row in rows_of(whole)]
    sparse = [("gc200", [b, b], d) for b in (4, 8) for d in (0.5, 0.25)]
    assert found == [("gc200", None, None), *sparse]


def test_a_point_has_the_figures_of_its_compilation(fixed, whole, ipucc, document, tmp_path):
    rows = rows_of(whole)
    for row, options in ((rows[0], []), (rows[4], ["--block", "8", "--density", "0.25"])):
        said = document(ipucc("compile", fixed, "-o", tmp_path / "m.ipux", "--json", *options))
        assert {name: row[name] for name in ("cycles", "compute", "exchange", "sync", "estimated")} == {
            name: said["cycles"]["total" if name == "cycles" else name]
            for name in ("cycles", "compute", "exchange", "sync", "estimated")
        }
        assert {name: row[name] for name in said["memory"]} == said["memory"]
        assert (row["gap"], row["status"]) == (said["placement"]["gap"], said["placement"]["status"])


def test_a_point_says_what_it_keeps(whole):
    dense, *sparse = rows_of(whole)
    assert (dense["layers"], dense["kept"], dense["sparse_flops"]) == (0, None, dense["flops"])
    for row in sparse:
        assert row["layers"] == 2
        assert row["kept"] == pytest.approx(row["density"], abs=0.05)
        assert row["sparse_flops"] == pytest.approx(row["kept"] * dense["flops"], rel=0.2)


def test_accuracy_is_that_of_the_pruned_model(fixed, samples, whole):
    model, labels = onnx.load(fixed), samples["labels"]
    judged = labels >= 0
    for row in rows_of(whole):
        masked = model if row["block"] is None else pruned(model, row["block"][0], row["density"])
        right = (classes(masked, samples["x"]) == labels) & judged
        assert (row["accuracy"], row["judged"]) == (right.sum() / judged.sum(), judged.sum())


def test_accuracy_from_the_simulator(fixed, data, ipucc, document):
    run = ipucc("sweep", fixed, "--block", 8, "--density", 0.5, "--eval", data, "--faithful", "--json", "--jobs", 1)
    dense, sparse = document(run)["rows"]
    assert (dense["accuracy"], dense["judged"]) == (15 / 17, 17)
    assert sparse["judged"] == 17


def test_the_table_shows_the_rows(fixed, data, kept):
    done = sweep(fixed, *GRID, "--eval", data, "--out", kept)
    assert done.exit_code == 0, done.stderr
    # Without the extra `plots` there is no chart, and nothing else is told.
    assert done.stderr.count("warning[") == (find_spec("matplotlib") is None)
    lines = [line.split() for line in done.stdout.splitlines()]
    rows = rows_of(kept)
    assert [line[:2] for line in lines[2:7]] == [["gc200", "dense"], *([["gc200", b] for b in "4488"])]
    for line, row in zip(lines[2:7], rows, strict=True):
        assert f"{row['cycles']:,}" in line
        assert f"{row['accuracy']:.1%}" in line
    assert "5 points, 0 computed now" in done.stdout


def test_a_larger_grid_computes_only_what_is_new(fixed, data, kept):
    before = points(kept)
    done = sweep(fixed, "--block", "4,8", "--density", "0.5,0.25,0.125", "--eval", data, "--out", kept)
    assert "7 points, 2 computed now" in done.stdout
    after = points(kept)
    assert {name: after[name] for name in before} == before
    assert len(after) == 7


def test_other_options_are_computed_anew(fixed, data, kept):
    done = sweep(fixed, "--block", 8, "--density", 0.5, "--out", kept, "--eval", data, "--score", "l2")
    assert "2 points, 1 computed now" in done.stdout, "the dense model knows no score"


def test_a_damaged_point_is_computed_anew(fixed, data, kept):
    rows = rows_of(kept)
    for path, content in zip(sorted((kept / "points").glob("*.json")), ("", "[]", '{"schema": 1}'), strict=False):
        path.write_text(content)
    done = sweep(fixed, *GRID, "--eval", data, "--out", kept)
    assert "5 points, 3 computed now" in done.stdout
    assert rows_of(kept) == rows


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    return [int(p) for path in Path(f"/proc/{pid}/task").glob("*/children") for p in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def begun(fixed, data, tmp_path) -> Iterator[tuple[subprocess.Popen, Path, list[int]]]:
    """A sweep that has done a point or two, its folder, and the processes that it has started."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(fixed, *GRID, "--eval", data, "--out", out, "--jobs", 1),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + WAIT_SECONDS
        while not (out / "points").is_dir() or not points(out):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        yield process, out, children(process.pid)
    finally:
        process.kill()
        process.communicate()


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + WAIT_SECONDS
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def finishes(out: Path, done_before: dict[str, int], fixed: str, data: Path, whole: Path) -> None:
    """The same command computes only the rest, and has the same rows then."""
    assert 0 < len(done_before) < 5
    again = sweep(fixed, *GRID, "--eval", data, "--out", out)
    assert f"5 points, {5 - len(done_before)} computed now" in again.stdout, again.stderr
    after = points(out)
    assert {name: after[name] for name in done_before} == done_before, "what was done is not written again"
    assert rows_of(out) == rows_of(whole)
    assert {p.name for p in (out / "points").iterdir()} == {p.name for p in (whole / "points").glob("*.json")}


def test_a_killed_sweep_goes_on_where_it_was(begun, fixed, data, whole):
    process, out, workers = begun
    process.kill()
    process.communicate()
    assert gone(workers), "the processes end with the one that started them"
    assert not (out / "sweep.json").exists()
    finishes(out, points(out), fixed, data, whole)


def test_ctrl_c_keeps_what_is_done(begun):
    process, out, workers = begun
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    stdout, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, stdout) == (130, "")
    done = points(out)
    said = f"interrupted: {len(done)} of 5 points are done and kept in {out}; the same command goes on from there\n"
    assert stderr == said
    assert gone(workers)
    assert 0 < len(done) < 5
    assert {path.name for path in out.iterdir()} == {"points"}


@pytest.mark.slow
def test_a_worker_that_dies_is_reported(begun):
    process, out, workers = begun
    # One of them is the tracker of multiprocessing, which ignores this.
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "error[IPU0804]" in stderr
    assert "Traceback" not in stderr
    assert points(out)


def test_a_model_that_does_not_fit_is_a_row(fixed, data, machine_file, document, tmp_path):
    target = machine_file(tiles=2, tile_bytes=9 * 1024, executable_bytes=9 * 1024, interleaved_bytes=0)
    grid = (fixed, "--block", 8, "--density", 0.1, "--target", f"{target},gc200", "--eval", data)
    run = sweep(*grid, "--json", "--out", tmp_path / "out")
    assert run.exit_code == 0, run.output
    rows = document(run)["rows"]
    assert [row["target"] for row in rows] == [str(target)] * 2 + ["gc200"] * 2
    assert (rows[0]["cycles"], rows[0]["problems"][0]["severity"]) == (None, "error")
    assert rows[0]["status"].startswith("IPU040")
    assert [rows[i]["accuracy"] for i in (0, 1)] == [rows[i]["accuracy"] for i in (2, 3)], "the graph is judged"
    shown = sweep(*grid, "--out", tmp_path / "out").stdout
    assert rows[0]["status"].split()[0] + ": " in shown


def test_passes_of_the_user_take_block_and_density(fixed, document):
    grid = ("--block", "8", "--density", "0.5", "--json")
    own = sweep(fixed, *grid, "--passes", "clean-up,fuse,sparsify{exclude=[fc2],when=always}")
    dense, sparse = document(own)["rows"]
    assert (dense["layers"], sparse["layers"]) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--block", "7"], 2, "IPU0614"),
        (["--block", "4,,8"], 2, "IPU0614"),
        (["--density", "0"], 2, "IPU0614"),
        (["--density", "1.5"], 2, "IPU0614"),
        (["--density", "half"], 2, "IPU0614"),
        (["--target", "gc9000"], 1, "IPU0701"),
        (["--faithful"], 2, "IPU0308"),
        (["--jobs", "2", "--scheduler", "tcp://127.0.0.1:9"], 2, "IPU0308"),
        (["--jobs", "0"], 2, "--jobs"),
        (["--passes", "clean-up"], 2, "IPU0308"),
        (["--passes", "clean-up,sparsify{pattern=zeros}"], 2, "IPU0308"),
        (["--passes", "clean-up,sparsify", "--score", "l2"], 2, "IPU0308"),
        (["--score", "wanda", "--jobs", "1"], 1, "IPU0304"),
        (["--calibrate", "missing.npz", "--score", "wanda"], 1, "IPU0605"),
        (["--eval", "missing.npz"], 1, "IPU0605"),
        (["--out", "{model}"], 1, "IPU0508"),
        (["--dim", "q=1"], 1, "IPU0110"),
    ],
)
def test_wrong_options(fixed, ipucc, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    run = ipucc("sweep", fixed, *[a.replace("{model}", fixed) for a in arguments])
    assert (run.exit_code, run.stdout) == (code, ""), run.output
    assert said in run.stderr
    assert list(tmp_path.iterdir()) == []


def wrong(samples: dict[str, np.ndarray]) -> dict[str, tuple[dict[str, np.ndarray], str, str]]:
    x, labels = samples["x"], samples["labels"]
    return {
        "no labels": ({"x": x}, "IPU0801", "labels"),
        "no input": ({"labels": labels}, "IPU0601", "x: float32"),
        "another array": ({"x": x, "mask": x, "labels": labels}, "IPU0602", "mask"),
        "shape": ({"x": x[:, :31], "labels": labels}, "IPU0603", "[18, 31]"),
        "element type": ({"x": x.astype(str), "labels": labels}, "IPU0604", "str"),
        "complex": ({"x": x.astype(complex), "labels": labels}, "IPU0604", "complex128"),
        "counts": ({"x": x, "labels": labels[:5]}, "IPU0801", "labels 5"),
        "no samples": ({"x": x[:0], "labels": labels[:0]}, "IPU0801", "labels 0"),
        "labels of floats": ({"x": x, "labels": labels.astype(float)}, "IPU0801", "float64"),
        "labels of another shape": ({"x": x, "labels": np.stack([labels, labels], 1)}, "IPU0801", "y [4, 8]"),
        "no class": ({"x": x, "labels": labels + 7}, "IPU0801", "8 classes"),
        "none judged": ({"x": x, "labels": labels * 0 - 1}, "IPU0801", "negative"),
        "objects": ({"x": x, "labels": labels.astype(object)}, "IPU0605", "objects"),
    }


@pytest.mark.parametrize("case", list(wrong({"x": np.zeros((18, 32)), "labels": np.zeros(18, int)})))
def test_wrong_data(fixed, samples, ipucc, tmp_path, case):
    arrays, id, said = wrong(samples)[case]
    np.savez(tmp_path / "wrong.npz", **arrays)
    run = ipucc("sweep", fixed, "--eval", tmp_path / "wrong.npz", "--block", 8, "--density", 0.5, "--jobs", 1)
    assert (run.exit_code, run.stdout) == (1, ""), run.output
    assert f"error[{id}]" in run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_a_file_that_is_no_npz(fixed, ipucc):
    run = ipucc("sweep", fixed, "--eval", fixed)
    assert (run.exit_code, "error[IPU0605]" in run.stderr) == (1, True)


def test_a_model_that_cannot_be_compiled(write, ipucc, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    run = ipucc("sweep", tmp_path / "m.onnx", "--json")
    assert run.exit_code == 1
    assert json.loads(run.stdout)["schema"] == "ipucc.error/1"


def test_the_chart(fixed, whole, kept, data):
    pytest.importorskip("matplotlib")
    text = (whole / "sweep.svg").read_text()
    for word in ("fixed.onnx", "block 4", "block 8", "dense", "accuracy", "cycles", "gc200"):
        assert f">{word}<" in text, word
    (kept / "sweep.svg").unlink()
    assert sweep(fixed, *GRID, "--eval", data, "--out", kept).exit_code == 0
    assert (kept / "sweep.svg").read_text() == text, "equal rows give an equal picture"


def test_without_matplotlib_there_are_figures(fixed, data, kept, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (kept / "sweep.svg").unlink(missing_ok=True)
    run = CliRunner().invoke(cli, ["sweep", fixed, *GRID, "--eval", str(data), "--out", str(kept)])
    assert run.exit_code == 0
    assert "warning[IPU0802]" in run.stderr
    assert "matplotlib" in run.stderr
    assert "5 points, 0 computed now" in run.stdout
    assert not (kept / "sweep.svg").exists()


def test_without_dask_the_option_says_so(fixed, ipucc, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    run = ipucc("sweep", fixed, "--scheduler", "tcp://127.0.0.1:9")
    assert (run.exit_code, "error[IPU0802]" in run.stderr) == (1, True)
    assert "ipucc[dask]" in run.stderr


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere", "tcp://"])
def test_a_scheduler_that_is_not_there(fixed, ipucc, address):
    pytest.importorskip("distributed")
    run = ipucc("sweep", fixed, "--scheduler", address)
    assert (run.exit_code, "error[IPU0803]" in run.stderr) == (1, True)
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_points_by_workers_of_dask(fixed, data, whole, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        done = sweep(fixed, *GRID, "--eval", data, "--out", tmp_path, "--scheduler", cluster.scheduler_address)
    assert done.exit_code == 0, done.stderr
    assert rows_of(tmp_path) == rows_of(whole)
    assert set(points(tmp_path)) == set(points(whole)), "a local sweep goes on from here, and the other way round"


@pytest.mark.slow
def test_a_scheduler_that_goes_away(fixed, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        process = subprocess.Popen(
            command(fixed, *GRID, "--out", tmp_path, "--scheduler", cluster.scheduler_address),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        end = time.monotonic() + WAIT_SECONDS
        while not points(tmp_path) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert stderr.startswith("error[IPU0803]")
    assert "Traceback" not in stderr
    assert points(tmp_path)
