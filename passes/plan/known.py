"""What is known of ops and edges by their signatures: in memory, and beyond the process where there is a store.

A signature says everything that a result depends on but the machine and ipucc itself, which the store answers for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import numpy as np

from ipucc.ops.spec import TileOp
from ipucc.passes.plan.grid import Plan, following
from ipucc.passes.plan.overlap import Overlaps
from ipucc.passes.plan.problem import Candidate, Table
from ipucc.passes.plan.stages import stages_of
from ipucc.program.timing import Exchanges
from ipucc.target import Target
from ipucc.tiles.layout import Layout

__all__ = ["Known", "Planned", "Store"]

T = TypeVar("T")

_FIGURES: Final = ("cycles", "resident", "result", "temp", "fetching", "code")
"""What a document says of a candidate beside its plan. Stages and layouts are made again from the plan."""


class Store(Protocol):
    """Documents by key, of one machine and one version of ipucc."""

    def read(self, key: Sequence[str]) -> object:
        """The document under a key as it was written; None where there is none."""

    def write(self, key: Sequence[str], document: object) -> None:
        """Keeps a document of plain JSON values, or does not."""


@dataclass(frozen=True, eq=False)
class Planned:
    """The candidates of an op, out of so many `combinations` that were priced. `followed` says whose layout each of
    them takes over, as a number of a candidate of the producer; -1 where the plan has a cut of its own."""

    candidates: list[Candidate]
    combinations: int
    followed: list[int]

    def to_json(self) -> dict[str, Any]:
        """All that cannot be made again from the op."""
        return {"combinations": self.combinations, "candidates": list(map(_document, self.candidates, self.followed))}

    @staticmethod
    def from_json(document: Mapping[str, Any], op: TileOp, layouts: Sequence[Layout]) -> "Planned":
        """The candidates of `op` that `to_json` described; `layouts` are those of its producer's candidates. Raises
        LookupError, TypeError or ValueError for what it cannot have written."""
        found, followed = [], []
        for entry in document["candidates"]:
            at, form = int(entry["like"]), int(entry["form"])
            if not (0 <= form <= len(op.forms) and -1 <= at < len(layouts)):
                raise ValueError("no such form or layout")
            plan = following(op, layouts[at]) if at >= 0 else _plan(entry, op.in_form(form))
            if plan is None:
                raise ValueError("no such plan")
            figures = {name: int(entry[name]) for name in _FIGURES}
            found.append(Candidate(form, plan, stages_of(op.in_form(form), plan), **figures))
            followed.append(at)
        if not found:
            raise ValueError("no candidates")
        return Planned(found, int(document["combinations"]), followed)


class Known:
    """Candidates of ops and tables of edges by their signatures; it serves all graphs, efforts and budgets of one
    machine. What is not known is made, and written to the store. `exchanges` is what is known of those of lowered
    programs, in memory alone."""

    def __init__(self, target: Target, store: Store | None = None) -> None:
        self.target = target
        self.overlaps = Overlaps(target)
        self.exchanges = Exchanges(target)
        self.store = store
        self._planned: dict[str, Planned] = {}
        self._tables: dict[tuple[str, ...], tuple[Table, Table]] = {}

    def planned(self, key: str, op: TileOp, layouts: Sequence[Layout], make: Callable[[], Planned]) -> Planned:
        """The candidates of an op; `layouts` are those that its plans may take over."""
        if key not in self._planned:
            self._planned[key] = self._either(
                ("plans", key), lambda d: Planned.from_json(d, op, layouts), make, Planned.to_json
            )
        return self._planned[key]

    def table(
        self, key: tuple[str, ...], shape: tuple[int, int], make: Callable[[], tuple[Table, Table]]
    ) -> tuple[Table, Table]:
        """Cycles and exchange code of an edge, both of this shape."""
        if key not in self._tables:
            self._tables[key] = self._either(
                ("edge", *key), lambda d: (_table(d["cycles"], shape), _table(d["code"], shape)), make,
                lambda made: {"cycles": made[0].tolist(), "code": made[1].tolist()},
            )  # fmt: skip
        return self._tables[key]

    def _either(
        self,
        key: tuple[str, ...],
        read: Callable[[Mapping[str, Any]], T],
        make: Callable[[], T],
        write: Callable[[T], dict[str, Any]],
    ) -> T:
        """What the store has, else what is made and then kept there."""
        document = self.store.read(key) if self.store is not None else None
        if isinstance(document, dict):
            try:
                return read(document)
            except (LookupError, TypeError, ValueError):
                pass  # Damaged: it is written again.
        made = make()
        if self.store is not None:
            self.store.write(key, write(made))
        return made


def _document(c: Candidate, followed: int) -> dict[str, Any]:
    fields = () if followed >= 0 else ("parts", "serial", "gathered", "rotates", "groups")
    plan = {name: getattr(c.plan, name) for name in fields}
    return {"form": c.form, "like": followed, **plan, **{name: getattr(c, name) for name in _FIGURES}}


def _plan(entry: Mapping[str, Any], op: TileOp) -> Plan:
    parts = tuple((str(axis), int(n)) for axis, n in entry["parts"])
    serial = None if entry["serial"] is None else (str(entry["serial"][0]), int(entry["serial"][1]))
    named = [axis for axis, _ in parts]
    if sorted(named) != sorted(a.name for a in op.axes) or (serial is not None and serial[0] not in named):
        raise ValueError("parts of other axes")
    return Plan(parts, serial, bool(entry["gathered"]), rotates=bool(entry["rotates"]), groups=int(entry["groups"]))


def _table(values: Any, shape: tuple[int, int]) -> Table:
    table = np.array(values, np.int64)
    if table.shape != shape:
        raise ValueError("a table of another shape")
    return table
