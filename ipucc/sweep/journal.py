"""What a sweep has done, in a folder, so that nothing is done twice: a file per point, named by the point's key.

A file appears whole or not at all; one that is damaged counts as none, and the point is computed again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipucc.cache import write_whole
from ipucc.diagnostics import error
from ipucc.sweep.measure import Row, Task

__all__ = ["Journal"]

_SCHEMA: Final = "ipucc.sweep-point/1"


@dataclass(frozen=True)
class Journal:
    """The points in a folder. Other sweeps may keep theirs in it too."""

    folder: Path

    def read(self, task: Task) -> Row | None:
        """The row of a point that was computed before, None where there is none."""
        try:
            said = json.loads(self._path(task).read_text(encoding="utf-8"))
            if said["schema"] != _SCHEMA or said["key"] != task.key:
                return None
            return Row.of_json(said["row"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, task: Task, row: Row) -> None:
        """Keeps a row. Raises CompileError IPU0508 where it cannot be written."""
        content = json.dumps({"schema": _SCHEMA, "key": task.key, "row": row.to_json()}, allow_nan=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(task), content.encode() + b"\n")
        except OSError as failure:
            raise error("IPU0508", f"cannot write into {self.folder}: {failure.strerror or failure}") from failure

    def _path(self, task: Task) -> Path:
        return self.folder / f"{task.key}.json"
