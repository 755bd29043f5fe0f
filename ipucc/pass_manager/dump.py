"""Numbered text dumps of every stage of a compilation: `000-input.txt`, `001-clean-up.txt`, ..."""

import re
from pathlib import Path
from typing import Final

from ipucc.diagnostics import error

_OURS: Final = re.compile(r"\d{3,}-[a-z0-9-]+\.txt")


class DumpFolder:
    """A folder that holds the dumps of one compilation, numbered in the order of writing.

    Dumps of an earlier compilation are removed at the start. Raises CompileError (IPU0508) if the folder
    holds anything else, or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._count = 0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            present = sorted(self.path.iterdir())
            foreign = [p.name for p in present if not (p.is_file() and _OURS.fullmatch(p.name))]
            if foreign:
                raise error(
                    "IPU0508",
                    f"the folder for dumps, {self.path}, holds other files",
                    notes=[", ".join(foreign[:5]) + (" ..." if len(foreign) > 5 else "")],
                    help=["name a new or empty folder"],
                )
            for old in present:
                old.unlink()
        except OSError as failure:
            raise self._unwritable(failure) from failure

    def write(self, stage: str, text: str) -> Path:
        """Writes the next dump and returns its path."""
        target = self.path / f"{self._count:03d}-{stage}.txt"
        self._count += 1
        try:
            target.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
        except OSError as failure:
            raise self._unwritable(failure) from failure
        return target

    def _unwritable(self, failure: OSError) -> Exception:
        return error("IPU0508", f"cannot write dumps into {self.path}: {failure.strerror or failure}")
