"""Result files, and tables for people."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ipucc.diagnostics import CompileError, error

__all__ = ["pairs", "replacing", "table", "writable", "write_text"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new folder beside `path`, in which the caller writes a file of the same name; it then replaces `path`.

    Whatever goes wrong, `path` is as it was before or complete, and the folder is gone. Raises CompileError IPU0508
    where the file cannot be written. Files that the caller writes beside the first one are moved along with it.
    """
    target = Path(path)
    writable(target)
    try:
        with tempfile.TemporaryDirectory(prefix=".ipucc-", dir=target.parent) as folder:
            yield Path(folder) / target.name
            # The file that the user named comes last: it refers to the others.
            for made in sorted(Path(folder).iterdir(), key=lambda p: (p.name == target.name, p.name)):
                os.replace(made, target.parent / made.name)
    except OSError as failure:
        raise _unwritable(target, failure.strerror or str(failure)) from failure


def writable(path: str | Path, *sources: str | Path | None) -> None:
    """Refuse a result file that cannot be written, or that is one of the files it is made from, before the work is
    done. Raises CompileError IPU0508."""
    target = Path(path)
    if not str(path):
        raise error("IPU0508", "no file is named for the result")
    if str(path) == "-":
        raise _unwritable(target, "results go to files", "./- is a file of this name")
    for source in sources:
        if source is not None and target.exists() and Path(source).exists() and target.samefile(source):
            raise _unwritable(target, f"the result is made from {source}")
    if target.is_dir():
        raise _unwritable(target, "it is a folder")
    if not target.parent.is_dir():
        raise _unwritable(target, "its folder does not exist")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise _unwritable(target, "its folder cannot be written")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text: with rules on a terminal, plain columns elsewhere. Cells that look like numbers go right."""
    right = [all(_number(row[i]) for row in rows) and bool(rows) for i in range(len(columns))]
    if sys.stdout.isatty():
        return _ruled(title, columns, rows, right)
    lines = [title] if title else []
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    for row in (columns, *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def pairs(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Names and their values, one pair a line."""
    width = max((len(name) for name, _ in rows), default=0)
    lines = [title] if title else []
    return "\n".join(lines + [f"  {name.ljust(width)}  {value}".rstrip() for name, value in rows])


def _ruled(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left")
    for name, to_the_right in zip(columns, right, strict=True):
        drawn.add_column(name, justify="right" if to_the_right else "left")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = Console()
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().rstrip("\n")


def _number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("%", "").replace(" ", "").lstrip("+-").isdigit() or text == ""


def _unwritable(path: Path, reason: str, *help: str) -> CompileError:
    return error("IPU0508", f"cannot write {path}: {reason}", help=help)
