"""What the pages show as output of a command is its output.

`pytest tests/docs --snapshot-update` runs the commands and writes their output into the pages.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ipucc.cli.main import cli

_VARIES = (
    (re.compile(r"\d+\.\d+ s\b"), "0.00 s"),
    # The last bits of sums depend on the processor that simulates.
    (re.compile(r"\S+ of scale"), "0 of scale"),
    (re.compile(r"\S+ \.\. \S+$", re.MULTILINE), "0 .. 0"),
)


def output(command: str) -> str:
    """What a command line writes, and its errors if it fails. A plain `ipucc` at its front is called in this process,
    which has loaded already what it needs."""
    first, pipe, behind = command.partition(" | ")
    name, *words = shlex.split(first)
    joined = words[-1:] == ["2>&1"]
    arguments = words[:-1] if joined else words
    if name != "ipucc" or any(c in word for word in arguments for c in "<>&$*"):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        return done.stdout + (done.stderr if done.returncode else "")
    called = CliRunner().invoke(cli, arguments)
    text = called.output if joined else called.stdout
    if pipe:
        return subprocess.run(["bash", "-c", behind], input=text, capture_output=True, text=True).stdout
    return text + (called.stderr if called.exit_code and not joined else "")


def run(block: str) -> str:
    """The block with the output of every command below it."""
    shown = [f"{x}\n{output(x.removeprefix('$ '))}".rstrip("\n") for x in block.splitlines() if x.startswith("$ ")]
    return "\n".join(shown) + "\n"


def masked(text: str) -> str:
    """Without what differs from run to run, and without trailing blanks."""
    for pattern, same in _VARIES:
        text = pattern.sub(same, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def test_sessions_show_what_happens(
    page, tmp_path: Path, root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [b for b in page.blocks("console") if "$ ipucc" in b.text]
    if not blocks:
        pytest.skip("no session on this page")
    (tmp_path / "samples").symlink_to(root / "samples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "110")
    outcomes = [(block, run(block.text)) for block in blocks]
    if request.config.option.update_snapshots:
        text = page.text
        for block, outcome in reversed(outcomes):
            text = text[: block.start] + outcome + text[block.start + len(block.text) :]
        page.path.write_text(text, encoding="utf-8")
        return
    for block, outcome in outcomes:
        assert masked(block.text) == masked(outcome)
