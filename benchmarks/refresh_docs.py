"""Run the benchmarks that the documentation shows, and write what they print into the pages.

    python benchmarks/refresh_docs.py [--only zoo]

A block that opens with ```text from="python benchmarks/zoo.py" is the output of that command. The sessions of the pages
are another matter: `pytest tests/docs --snapshot-update` runs those.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r'^(```text from="(?P<command>[^"]+)")\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def output(command: str) -> str:
    """What a command prints. Its exit code does not matter here: pages show failures as well."""
    program, *arguments = shlex.split(command)
    call = [sys.executable if program == "python" else program, *arguments]
    return subprocess.run(call, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout


@click.command(help=__doc__.split("\n")[0])
@click.option("--only", default="", help="Only commands that contain this text.")
def main(only: str) -> None:
    pages = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    found = [m["command"] for page in pages for m in _BLOCK.finditer(page.read_text(encoding="utf-8"))]
    printed: dict[str, str] = {}
    for command in dict.fromkeys(c for c in found if only in c):
        click.echo(f"running {command}", err=True)
        printed[command] = "\n".join(line.rstrip() for line in output(command).strip("\n").splitlines())

    def fresh(block: re.Match[str]) -> str:
        text = printed.get(block["command"])
        return block[0] if text is None else f"{block[1]}\n{text}\n```"

    # Pages are read again: running takes long, and somebody may have written meanwhile.
    for page in pages:
        before = page.read_text(encoding="utf-8")
        after = _BLOCK.sub(fresh, before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            click.echo(f"wrote {page.relative_to(ROOT)}", err=True)


if __name__ == "__main__":
    main()
