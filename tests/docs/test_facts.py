"""Names and numbers in the text are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

from ipucc.diagnostics import IDS

_ROOTS = ("ipucc/", "passes/", "runtime/", "tests/", "samples/", "benchmarks/", "docs/")


def test_paths_exist(page, root: Path) -> None:
    named = set(re.findall(r"(?<![\w./-])(?:[\w.-]+/)+[\w.-]*\w|(?<![\w./-])(?:[\w.-]+/)+", page.prose()))
    ours = [path for path in sorted(named) if path.startswith(_ROOTS)]
    assert [path for path in ours if not ((root / path).exists() or (root / f"{path}.py").exists())] == []


def test_diagnostics_exist(page) -> None:
    assert set(re.findall(r"IPU\d{4}", page.text)) <= set(IDS)


def test_the_supported_ops_are_listed(root: Path) -> None:
    # In a process of its own: other tests register ops.
    code = "from ipucc.ops.support import supported_ops\nprint(*(n for domain, n in supported_ops() if not domain))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    supported = done.stdout.split()
    text = (root / "docs/ops.md").read_text(encoding="utf-8")
    listed = re.search(r"^(\d+) ops of ONNX have a lowering:\n\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert re.findall(r"`(\w+)`", listed[2]) == supported
    assert int(listed[1]) == len(supported)
    for name in ("README.md", "CHANGELOG.md"):
        counts = re.findall(r"(\d+) ONNX ops", (root / name).read_text(encoding="utf-8"))
        assert counts == [str(len(supported))]


def test_outputs_come_from_commands_that_exist(page, root: Path) -> None:
    for block in re.findall(r'^```text from="([^"]+)"$', page.text, re.MULTILINE):
        program, script, *_ = block.split()
        assert program == "python"
        assert (root / script).is_file()
