"""The cache of compiled programs, from outside: the same bytes, read and not compiled, and only for the same input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ipucc.cli.main import cli

DIGITS = Path(__file__).resolve().parents[2] / "samples" / "digits" / "digits.onnx"


def compiled(folder: Path, name: str, *options: str, model: Path = DIGITS, cache: bool = True) -> tuple[bytes, int]:
    """The program's bytes, and how many passes ran for it."""
    out = folder / f"{name}.ipux"
    args = ["compile", str(model), "-o", str(out), "--effort", "fast", "--json", *options]
    done = CliRunner().invoke(cli, [*args, *(["--cache", str(folder / "cache")] if cache else [])])
    assert done.exit_code == 0, done.output
    return out.read_bytes(), len(json.loads(done.stdout)["passes"])


def test_a_kept_program_is_read_and_has_the_same_bytes(tmp_path: Path) -> None:
    plain, work = compiled(tmp_path, "plain", cache=False)
    first, cold = compiled(tmp_path, "first")
    second, warm = compiled(tmp_path, "second")
    assert plain == first == second
    assert cold == work > 0
    assert warm == 0


@pytest.mark.parametrize("options", [("--precision", "fp16"), ("--solver", "greedy"), ("--target", "bow")])
def test_other_options_are_compiled(options: tuple[str, ...], tmp_path: Path) -> None:
    first, _ = compiled(tmp_path, "first")
    other, passes = compiled(tmp_path, "other", *options)
    assert passes > 0
    assert other != first


def test_another_model_is_compiled(tmp_path: Path) -> None:
    compiled(tmp_path, "first")
    changed = tmp_path / "digits.onnx"
    data = bytearray(DIGITS.read_bytes())
    at = data.rindex(b"\x00\x00\x00\x3d") if b"\x00\x00\x00\x3d" in data else len(data) // 2
    data[at] ^= 1
    changed.write_bytes(data)
    _, passes = compiled(tmp_path, "changed", model=changed)
    assert passes > 0
    same = tmp_path / "again"
    same.mkdir()
    shutil.copy(DIGITS, same / "digits.onnx")
    _, passes = compiled(tmp_path, "same", model=same / "digits.onnx")
    assert passes == 0


def test_a_damaged_entry_is_compiled_again(tmp_path: Path) -> None:
    first, _ = compiled(tmp_path, "first")
    (entry,) = (tmp_path / "cache").glob("*.ipux")
    entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    again, passes = compiled(tmp_path, "again")
    assert passes > 0
    assert again == first
    _, passes = compiled(tmp_path, "third")
    assert passes == 0


def test_weights_beside_the_model_count(tmp_path: Path) -> None:
    import onnx

    model = tmp_path / "digits.onnx"
    onnx.save(onnx.load(DIGITS), model, save_as_external_data=True, location="digits.data", size_threshold=0)
    compiled(tmp_path, "first", model=model)
    data = bytearray((tmp_path / "digits.data").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "digits.data").write_bytes(data)
    _, passes = compiled(tmp_path, "changed", model=model)
    assert passes > 0


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    _, passes = compiled(tmp_path, "first")
    assert passes > 0
    assert (tmp_path / "cache").read_text() == "a file, not a folder"


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPUCC_CACHE_DIR", str(tmp_path / "kept"))
    compiled(tmp_path, "first", cache=False)
    assert len(os.listdir(tmp_path / "kept")) == 2
    _, passes = compiled(tmp_path, "second", cache=False)
    assert passes == 0


def test_the_bytes_do_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "if sys.argv[2] == 'one': os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import ipucc\n"
        "ipucc.compile(sys.argv[1], precision='fp16', effort='fast').save(sys.argv[3])\n"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no process to a core")
    made = []
    for cores in ("one", "all"):
        out = tmp_path / f"{cores}.ipux"
        environment = {**os.environ, "IPUCC_CACHE_DIR": ""}
        subprocess.run([sys.executable, "-c", script, str(DIGITS), cores, str(out)], check=True, env=environment)
        made.append(out.read_bytes())
    assert made[0] == made[1]
