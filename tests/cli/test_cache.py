"""The cache, from outside: the same bytes with it and without, read and not made again, and only for the same input."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

import ipucc
from ipucc.cli.main import cli

DIGITS = Path(__file__).resolve().parents[2] / "samples" / "digits" / "digits.onnx"

Compile = Callable[..., tuple[bytes, int]]


@pytest.fixture
def compiled(fixed: str) -> Compile:
    """Compiles the perceptron or another model: the program's bytes, and how many passes ran for it."""

    def compiled(
        folder: Path, name: str, *options: str, model: str | Path = fixed, cache: bool = True
    ) -> tuple[bytes, int]:
        out = folder / f"{name}.ipux"
        args = ["compile", str(model), "-o", str(out), "--effort", "fast", "--json", *options]
        done = CliRunner().invoke(cli, [*args, *(["--cache", str(folder / "cache")] if cache else [])])
        assert done.exit_code == 0, done.output
        return out.read_bytes(), len(json.loads(done.stdout)["passes"])

    return compiled


def test_a_kept_program_is_read_and_has_the_same_bytes(compiled: Compile, tmp_path: Path) -> None:
    plain, work = compiled(tmp_path, "plain", cache=False)
    first, cold = compiled(tmp_path, "first")
    second, warm = compiled(tmp_path, "second")
    assert plain == first == second
    assert cold == work > 0
    assert warm == 0


@pytest.mark.parametrize("options", [("--precision", "fp16"), ("--solver", "greedy"), ("--target", "bow")])
def test_other_options_are_compiled(options: tuple[str, ...], compiled: Compile, tmp_path: Path) -> None:
    first, _ = compiled(tmp_path, "first")
    other, passes = compiled(tmp_path, "other", *options)
    assert passes > 0
    assert other != first


def test_another_model_is_compiled(compiled: Compile, fixed: str, tmp_path: Path) -> None:
    compiled(tmp_path, "first")
    changed = tmp_path / "fixed.onnx"
    data = bytearray(Path(fixed).read_bytes())
    at = data.rindex(b"\x00\x00\x00\x3d") if b"\x00\x00\x00\x3d" in data else len(data) // 2
    data[at] ^= 1
    changed.write_bytes(data)
    _, passes = compiled(tmp_path, "changed", model=changed)
    assert passes > 0
    same = tmp_path / "again"
    same.mkdir()
    shutil.copy(fixed, same)
    _, passes = compiled(tmp_path, "same", model=same / "fixed.onnx")
    assert passes == 0


def test_a_damaged_entry_is_compiled_again(compiled: Compile, tmp_path: Path) -> None:
    first, _ = compiled(tmp_path, "first")
    (entry,) = (tmp_path / "cache").glob("*.ipux")
    entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    again, passes = compiled(tmp_path, "again")
    assert passes > 0
    assert again == first
    _, passes = compiled(tmp_path, "third")
    assert passes == 0


def test_weights_beside_the_model_count(compiled: Compile, fixed: str, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(onnx.load(fixed), model, save_as_external_data=True, location="model.data", size_threshold=0)
    compiled(tmp_path, "first", model=model)
    data = bytearray((tmp_path / "model.data").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.data").write_bytes(data)
    _, passes = compiled(tmp_path, "changed", model=model)
    assert passes > 0


@pytest.mark.parametrize("inside", ["", "below"])
def test_a_folder_that_cannot_be_used_is_a_warning(inside: str, fixed: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    args = ["compile", fixed, "-o", str(tmp_path / "x.ipux"), "--effort", "fast"]
    done = CliRunner().invoke(cli, [*args, "--cache", str(tmp_path / "cache" / inside)])
    assert done.exit_code == 0
    assert (tmp_path / "x.ipux").exists()
    assert "warning[IPU0616]" in done.stderr
    assert "error" not in done.stderr
    assert (tmp_path / "cache").read_text() == "a file, not a folder"


def test_a_folder_full_of_other_things(compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = compiled(tmp_path, "plain")
    names = [path.name for path in (tmp_path / "cache").rglob("*.*")]
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache" / "plans").mkdir(parents=True)
    for i, name in enumerate(names):
        path = tmp_path / "cache" / ("plans" if name.endswith("plan") else "") / name
        # Folders, links to nowhere and noise under the very names of the entries.
        (path.mkdir, lambda p=path: p.symlink_to("nowhere"), lambda p=path: p.write_bytes(os.urandom(99)))[i % 3]()
    stray = tmp_path / "cache" / ("f" * 64 + ".json")
    stray.symlink_to("nowhere")
    monkeypatch.setenv("IPUCC_CACHE_BYTES", "10")
    for name in ("first", "second"):
        found, passes = compiled(tmp_path, name)
        assert found == plain
        assert passes > 0
    left = [p for p in (tmp_path / "cache").iterdir() if p.suffix == ".ipux" and p.is_file() and not p.is_symlink()]
    assert left == []


def test_entries_may_be_read_by_whom_the_umask_lets(compiled: Compile, tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        compiled(tmp_path, "first")
    finally:
        os.umask(old)
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert {p.stat().st_mode & 0o777 for p in files} == {0o644}


def test_the_environment_names_the_folder(compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPUCC_CACHE_DIR", str(tmp_path / "kept"))
    compiled(tmp_path, "first", cache=False)
    assert len(list((tmp_path / "kept").glob("*.ipux"))) == 1
    assert any((tmp_path / "kept" / "plans").iterdir())
    _, passes = compiled(tmp_path, "second", cache=False)
    assert passes == 0


def plans(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "cache" / "plans").iterdir()}


def forget_programs(folder: Path) -> None:
    for path in (folder / "cache").glob("*.*"):
        path.unlink()


@pytest.mark.parametrize(
    "options", [("--precision", "fp16"), ("--solver", "greedy"), ("--density", "0.3", "--block", "8")]
)
def test_kept_plans_change_no_byte(options: tuple[str, ...], compiled: Compile, tmp_path: Path) -> None:
    plain, _ = compiled(tmp_path, "plain", *options, cache=False)
    first, _ = compiled(tmp_path, "first", *options)
    kept = plans(tmp_path)
    forget_programs(tmp_path)
    second, passes = compiled(tmp_path, "second", *options)
    assert passes > 0
    assert plain == first == second
    assert kept
    assert plans(tmp_path) == kept


def test_plans_of_one_model_serve_another(
    compiled: Compile, tmp_path: Path, model_of: Callable[..., onnx.ModelProto]
) -> None:
    weights = {"w0": (64, 64), "w1": (64, 64), "w2": (64, 64)}
    one, more = "a = MatMul(x, w0) b = Relu(a) y = MatMul(b, w1)", "c = MatMul(y, w2) z = Tanh(c)"
    for name, text, result in (("one", one, "y"), ("more", f"{one} {more}", "z")):
        used = {w: shape for w, shape in weights.items() if w in text}
        onnx.save(
            model_of(f"g (float[32,64] x) => (float[32,64] {result}) {{ {text} }}", used), tmp_path / f"{name}.onnx"
        )
    plain, _ = compiled(tmp_path, "plain", model=tmp_path / "more.onnx", cache=False)
    compiled(tmp_path, "one", model=tmp_path / "one.onnx")
    before = plans(tmp_path)
    after_one, _ = compiled(tmp_path, "more", model=tmp_path / "more.onnx")
    assert after_one == plain
    both = plans(tmp_path)
    assert before.items() < both.items()
    alone = tmp_path / "alone"
    alone.mkdir()
    compiled(alone, "more", model=tmp_path / "more.onnx")
    assert plans(alone).keys() <= both.keys()
    assert len(both) < len(before) + len(plans(alone))


def test_old_programs_go_where_the_folder_is_full(
    compiled: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    compiled(tmp_path, "first")
    (first,) = folder.glob("*.ipux")
    for path in (first, first.with_suffix(".json")):
        os.utime(path, (1, 1))
    (folder / "notes.txt").write_text("not of the cache")
    monkeypatch.setenv("IPUCC_CACHE_BYTES", str(first.stat().st_size * 3 // 2))
    compiled(tmp_path, "second", "--solver", "greedy")
    assert not first.exists()
    assert not first.with_suffix(".json").exists()
    assert len(list(folder.glob("*.ipux"))) == 1
    assert (folder / "notes.txt").exists()
    _, passes = compiled(tmp_path, "third", "--solver", "greedy")
    assert passes == 0


def test_a_size_that_is_no_number_is_refused(fixed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPUCC_CACHE_BYTES", "much")
    done = CliRunner().invoke(cli, ["compile", fixed, "-o", str(tmp_path / "x.ipux"), "--cache", str(tmp_path)])
    assert done.exit_code == 1
    assert "IPU0614" in done.stderr
    assert "IPUCC_CACHE_BYTES" in done.stderr


COMPILE = """
import os, sys
model, cores, cache, out = sys.argv[1:]
if cores == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import ipucc
ipucc.compile(model, precision="fp16", effort="fast", cache=cache or None).save(out)
"""


def started(model: str | Path, cores: str, cache: Path | None, out: Path, seed: int = 0) -> subprocess.Popen[bytes]:
    """A process that compiles a model on so many cores, with sets in an order of its own."""
    named = "" if cache is None else str(cache)
    environment = {**os.environ, "IPUCC_CACHE_DIR": "", "PYTHONHASHSEED": str(seed)}
    return subprocess.Popen([sys.executable, "-c", COMPILE, str(model), cores, named, str(out)], env=environment)


def test_the_bytes_depend_on_neither_cores_nor_cache_nor_hashes(tmp_path: Path) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no process to a core")
    cache, made = tmp_path / "cache", []
    # Without a cache, with an empty one, with plans that a process on other cores has made.
    for i, (cores, folder) in enumerate([("one", None), ("all", cache), ("one", cache)]):
        out = tmp_path / f"{i}.ipux"
        assert started(DIGITS, cores, folder, out, i).wait() == 0
        made.append(out.read_bytes())
        forget_programs(tmp_path)
    assert made[0] == made[1] == made[2]


def test_processes_share_a_folder(fixed: str, tmp_path: Path) -> None:
    outs = [tmp_path / f"{i}.ipux" for i in range(2)]
    running = [started(fixed, "all", tmp_path / "cache", out) for out in outs]
    assert [process.wait() for process in running] == [0, 0]
    plain = tmp_path / "plain.ipux"
    ipucc.compile(fixed, precision="fp16", effort="fast").save(plain)
    assert {out.read_bytes() for out in outs} == {plain.read_bytes()}
    left = [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert all(re.fullmatch(r"[0-9a-f]{64}\.(ipux|json|plan)", name) for name in left)
