"""What rows of benchmarks have in common: the figures of a compiled program, and how rows are shown and written."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipucc.compiler import Compiled


@dataclass(kw_only=True)
class ProgramRow:
    """Figures of a program; None where there is none, and `status` has the ids of the diagnostics then, else the
    solver's. `cycles` is compute + exchange + sync as predicted, `estimated` the solver's objective, `bound_cycles`
    what no program goes below."""

    status: str = ""
    gap: float | None = None
    cycles: int | None = None
    compute: int | None = None
    exchange: int | None = None
    sync: int | None = None
    estimated: int | None = None
    bound_cycles: int | None = None
    max_tile_bytes: int | None = None

    def take(self, figures: dict[str, Any]) -> None:
        """Sets fields by name."""
        for name, value in figures.items():
            if name not in self.__dataclass_fields__:
                raise AttributeError(f"a row has no field {name!r}")
            setattr(self, name, value)


def program_figures(compiled: "Compiled") -> dict[str, Any]:
    """The fields of a `ProgramRow` that a compiled program has."""
    import ipucc

    cycles = compiled.cycles
    return {
        "status": compiled.placement.status, "gap": compiled.placement.gap, "cycles": cycles["total"],
        **{part: cycles[part] for part in ("compute", "exchange", "sync", "estimated")},
        "max_tile_bytes": int(ipucc.Executable(compiled.program).profile().tile_bytes.max()),
    }  # fmt: skip


def count(value: int | None) -> str:
    """A count for people, nothing for None."""
    return "" if value is None else f"{value:,}"


def share(part: float | None, whole: float | None, digits: int = 1) -> str:
    """A share for people, nothing where there is none."""
    return "" if part is None or not whole else f"{part / whole:.{digits}%}"


def write_rows(document: Path | None, schema: str, target: str, rows: Sequence[Any]) -> None:
    """Writes rows with their faults to a file, if one is named."""
    if document is None:
        return
    found = [{**asdict(row), "fault": row.fault} for row in rows]
    text = json.dumps({"schema": schema, "target": target, "rows": found}, indent=1)
    document.write_text(text + "\n", encoding="utf-8")
