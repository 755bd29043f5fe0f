"""What the pages show as output of a command is its output.

`pytest tests/docs --snapshot-update` runs the commands and writes their output into the pages.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_VARIES = (
    (re.compile(r"\d+\.\d+ s\b"), "0.00 s"),
    # The last bits of sums depend on the processor that simulates.
    (re.compile(r"\S+ of scale"), "0 of scale"),
    (re.compile(r"\S+ \.\. \S+$", re.MULTILINE), "0 .. 0"),
)


def run(block: str, folder: Path) -> str:
    """The block with the output of every command below it. A command that fails shows its errors as well."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "110"}
    shown = []
    for line in block.splitlines():
        if line.startswith("$ "):
            done = subprocess.run(
                ["bash", "-c", line.removeprefix("$ ")], cwd=folder, env=environment, capture_output=True, text=True
            )
            output = done.stdout + (done.stderr if done.returncode else "")
            shown.append(f"{line}\n{output}".rstrip("\n"))
    return "\n".join(shown) + "\n"


def masked(text: str) -> str:
    """Without what differs from run to run, and without trailing blanks."""
    for pattern, same in _VARIES:
        text = pattern.sub(same, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def test_sessions_show_what_happens(page, tmp_path: Path, root: Path, request: pytest.FixtureRequest) -> None:
    blocks = [b for b in page.blocks("console") if "$ ipucc" in b.text]
    if not blocks:
        pytest.skip("no session on this page")
    (tmp_path / "samples").symlink_to(root / "samples")
    outcomes = [(block, run(block.text, tmp_path)) for block in blocks]
    if request.config.option.update_snapshots:
        text = page.text
        for block, outcome in reversed(outcomes):
            text = text[: block.start] + outcome + text[block.start + len(block.text) :]
        page.path.write_text(text, encoding="utf-8")
        return
    for block, outcome in outcomes:
        assert masked(block.text) == masked(outcome)
