"""Progress on a terminal, and Ctrl-C: during placement it takes the best so far, at other times it leaves nothing."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

import ipucc
from ipucc.compiler import CompileOptions, compile_model
from ipucc.passes.plan.effort import Progress
from ipucc.program.file import load_program

ENTRY = "import sys; from ipucc.cli.main import main; sys.argv[0] = 'ipucc'; main()"
WAIT_SECONDS = 120

# The process waits for the signal at places that the test names, so that it always comes at the same moment. Ctrl-C
# itself, its handler and what follows are the real ones.
WAITING = """
import sys, time
from ipucc.cli.progress import Watch
wanted = sys.argv.pop(1).split(",")

def wait(watch):
    asked = watch.stopping
    print("ready", file=sys.stderr, flush=True)
    end = time.monotonic() + {seconds}
    while time.monotonic() < end and watch.stopping == asked:
        time.sleep(0.01)

def hear(name):
    old = getattr(Watch, name)
    def heard(self, what):
        old(self, what)
        if wanted and (what if name == "started" else what.phase) == wanted[0]:
            del wanted[0]
            wait(self)
    setattr(Watch, name, heard)

hear("started")
hear("placing")
from ipucc.cli.main import main
main()
"""


def interrupted_at(places: str, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command that gets SIGINT whenever it has come to one of these
    phases of the compiler, or of placement."""
    script = WAITING.format(seconds=WAIT_SECONDS)
    process = subprocess.Popen(
        [sys.executable, "-c", script, places, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    before = ""
    for _ in places.split(","):
        line = ""
        while line != "ready\n":
            line = process.stderr.readline()
            assert line, before
            before += line
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, out, before + err


@pytest.fixture(scope="module")
def tight(mlp, machine_file) -> tuple[str, ...]:
    """Arguments of a compilation in which memory is short: the best plans of all ops do not fit together, so that
    placement has something to search."""
    for kib in range(52, 16, -2):
        target = str(machine_file(tiles=8, tile_bytes=kib * 1024, executable_bytes=kib * 1024, interleaved_bytes=0))
        heard: list[Progress] = []
        try:
            compile_model(mlp, CompileOptions(target=target, dims={"n": 512}), progress=heard.append)
        except ipucc.DoesNotFit:
            continue
        if any(h.phase == "greedy" for h in heard):
            return "compile", mlp, "--dim", "n=512", "--target", target
    pytest.fail("there is no memory in which the model fits, but not as fast as with more")


def test_ctrl_c_in_placement_takes_the_best_so_far(tight, tmp_path):
    path = tmp_path / "m.ipux"
    code, out, err = interrupted_at("greedy", *tight, "-o", path, "--json")
    assert code == 130, err
    found = json.loads(out)
    assert found["placement"]["status"] == "interrupted"
    assert "best placement" in err
    assert "Traceback" not in err
    program = load_program(path)
    assert program.manifest["interrupted"] is True
    assert program.manifest["placement"]["status"] == "interrupted"
    result = ipucc.load(path).run({"x": [[1.0] * 32] * 512})
    assert result.cycles.total == found["cycles"]["total"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.ipux"]


@pytest.mark.parametrize(
    "phase", ["import", "plan", "verify", *(pytest.param(p, marks=pytest.mark.slow) for p in ("fuse", "lower"))]
)
def test_ctrl_c_elsewhere_leaves_nothing(mlp, tmp_path, phase):
    (tmp_path / "m.ipux").write_text("old")
    code, out, err = interrupted_at(phase, "compile", mlp, "--dim", "n=4", "-o", tmp_path / "m.ipux")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["m.ipux"]
    assert (tmp_path / "m.ipux").read_text() == "old"


def test_a_second_ctrl_c_gives_up(tight, tmp_path):
    code, out, err = interrupted_at("greedy,lower", *tight, "-o", tmp_path / "m.ipux")
    assert (code, out) == (130, "")
    assert "going on with the best placement" in err
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_finished_compilation_says_that_it_was_not_interrupted(program):
    assert load_program(program).manifest["interrupted"] is False


def on_a_terminal(arguments: Sequence[object], **environment: str) -> tuple[int, str]:
    """Exit code and everything that a command writes to a terminal of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable, [sys.executable, "-c", ENTRY, *map(str, arguments)], {**os.environ, **environment}
        )  # fmt: skip
    text = b""
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        text += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text.decode()


def lines_left(text: str) -> list[str]:
    """What a terminal still shows: a line is drawn over after a carriage return and erased by a control sequence."""
    plain = re.sub(r"\x1b\[\?25[lh]", "", text)
    return [re.sub(r"^.*\x1b\[2K", "", line).strip("\r\x1b[2K1A") for line in plain.replace("\r\n", "\n").split("\n")]


def test_a_terminal_shows_what_is_going_on(tight, tmp_path):
    code, text = on_a_terminal([*tight, "-o", tmp_path / "m.ipux", "--print-after", "fuse"], TERM="xterm", COLUMNS="90")
    assert code == 0, text
    assert re.search(r"\d\.\d s  (import|plan|place)", text), "a phase and the time since the begin"
    shown = "\n".join(lines_left(text))
    assert "# after fuse" in [line.strip() for line in lines_left(text)], "text stands above the line, whole"
    assert not re.search(r"\d\.\d s  (import|plan|place|lower)", shown), "the line is gone at the end"
    assert "placement  cpsat" in shown


def test_placement_shows_objective_bound_and_gap(mlp, tmp_path, monkeypatch):
    from ipucc.cli.progress import Watch

    watch = Watch()
    watch.started("place")
    watch.placing(Progress("cpsat", 2000, 1500))
    assert watch.line().endswith("place (cpsat)  2,000 cycles, bound 1,500, gap 25.0%")
    watch.placing(Progress("greedy", None, 0))
    assert watch.line().endswith("place (greedy)")
    watch.started("lower")
    assert watch.line().endswith("lower")


@pytest.mark.parametrize("verb", [["opt", "-o", "o.onnx", "--passes", "fuse"], ["validate"]])
def test_other_verbs_work_on_a_terminal(verb, mlp, tmp_path):
    arguments = [verb[0], mlp, "--dim", "n=4", *verb[1:]]
    code, text = on_a_terminal([tmp_path / a if a == "o.onnx" else a for a in arguments], TERM="xterm")
    assert code == 0, text


def test_nothing_is_shown_where_nobody_looks(mlp, tmp_path):
    for environment in ({}, {"FORCE_COLOR": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", ENTRY, "compile", mlp, "--dim", "n=4", "-o", str(tmp_path / "m.ipux")],
            capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=WAIT_SECONDS,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
