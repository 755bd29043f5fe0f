"""The command as its own process: start-up, streams, exit codes, and the same bytes in every process."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("numpy", "onnx", "onnx_ir", "ortools", "numba", "networkx", "rich", "safetensors", "onnxruntime")
ENTRY = "import sys; from ipucc.cli.main import main; sys.argv[0] = 'ipucc'; main()"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENTRY, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def loaded(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_help_is_quick():
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        done = run("--help")
        seconds.append(time.perf_counter() - begin)
        assert done.returncode == 0
    bare = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    bare = time.perf_counter() - bare
    # The bound holds for a machine at rest; on a busy one the interpreter's own start says how busy it is.
    assert min(seconds) < max(0.2, 12 * bare)


def test_every_help_says_what_the_verb_does():
    overview = run("--help").stdout
    for verb in ("compile", "run", "inspect", "diff", "opt", "sweep", "validate", "passes", "targets"):
        assert verb in overview
        done = run(verb, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: ipucc " + verb in done.stdout
    assert "130 interrupted" in " ".join(overview.split())


@pytest.mark.parametrize(
    "code",
    [
        "import ipucc",
        "import ipucc; ipucc.CompileError",
        "from ipucc.cli.main import cli\ntry: cli.main(['--help'])\nexcept SystemExit: sys.stdout.flush()",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code):
    assert [name for name in loaded(code) if name in HEAVY] == []


def test_running_a_program_takes_neither_onnx_nor_the_solver(program):
    code = f"import ipucc\nipucc.load({program!r}).run(timing_only=True)"
    assert not {"onnx", "onnx_ir", "ortools", "onnxruntime"} & set(loaded(code))


def test_json_is_one_document_on_a_clean_stream(mlp, program, tmp_path):
    commands = [
        ["compile", mlp, "--dim", "n=4", "-o", tmp_path / "m.ipux", "--json", "--print-after", "all"],
        ["run", program, "--input", "x=random:0", "--check", mlp, "--json"],
    ]
    for command in commands:
        done = run(*command)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["schema"].startswith("ipucc.")


def test_exit_codes_reach_the_shell(mlp, tmp_path):
    assert run("--version").returncode == 0
    assert run("compile", mlp, "-o", tmp_path / "m.ipux").returncode == 1
    assert run("compile", mlp).returncode == 2
    assert run("frobnicate").returncode == 2
    assert run().returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_causes_no_noise():
    command = shlex.join([sys.executable, "-c", ENTRY, "targets", "gc200", "--json"])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 10 >/dev/null; sleep 0.2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""


def test_a_full_disk_is_reported(mlp):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", ENTRY, "targets"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
