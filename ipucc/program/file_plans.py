"""The entry `placement.json` of a program file: how good the placement is, and the plan of every op."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

from ipucc.program.fields import Field
from ipucc.program.model import PlannedOp

__all__ = ["placement_entry", "read_placement"]

_MOST: Final = 1 << 62


def placement_entry(figures: object, ops: Sequence[PlannedOp]) -> dict[str, object]:
    """The entry from the figures of the manifest (a table, or nothing) and the ops."""
    listed = [asdict(op) for op in ops]
    return {**(figures if isinstance(figures, Mapping) else {}), "ops": listed}


def read_placement(entry: Field) -> tuple[dict[str, object], tuple[PlannedOp, ...]]:
    """The inverse. Raises IPU0506 for an op with a field that is missing, unknown or wrong; figures are any JSON."""
    figures = {key: f.value for key, f in entry.items() if key != "ops"}
    return figures, tuple(_op(f) for f in entry["ops"].elements())


def _op(f: Field) -> PlannedOp:
    f.keys("name", "kind", "plan", "cycles", "resident_bytes", "result_bytes", "temporary_bytes", "nodes")
    cycles, resident, result, temporary = (
        f[key].integer(0, _MOST) for key in ("cycles", "resident_bytes", "result_bytes", "temporary_bytes")
    )
    nodes = tuple(node.text() for node in f["nodes"].elements())
    return PlannedOp(
        f["name"].text(), f["kind"].text(), f["plan"].text(), cycles, resident, result, temporary, nodes
    )  # fmt: skip
