"""Rows of the table of measurements, what becomes of each, and the figures of a family."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path

import numpy as np

__all__ = ["Figures", "Measurement", "NotRebuilt", "Result", "figures", "halves", "read_measurements"]

COLUMNS = (
    "id", "chip", "num_ipus", "clock_GHz", "workload", "op", "m", "k", "n", "dtype", "partials", "block", "density",
    "batch", "seq", "params", "metric", "unit", "value", "source", "confidence", "notes",
)  # fmt: skip
"""The columns that a table must have; it may have more."""


class NotRebuilt(Exception):
    """Why a row cannot be simulated."""


@dataclass(frozen=True)
class Measurement:
    """One row as text by column. Families know an experiment by these columns, never by its id."""

    text: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.text[column].strip()

    @property
    def id(self) -> str:
        return self["id"]

    @cached_property
    def value(self) -> float:
        """What was measured, in `unit`. NotRebuilt for a row without a number."""
        try:
            found = float(self["value"])
        except ValueError:
            reason = "no value in the source" if not self["value"] else f"a fact, not a number: {self['value']}"
            raise NotRebuilt(reason) from None
        if not isfinite(found) or found == 0:
            raise NotRebuilt(f"an error relative to {self['value']} means nothing")
        return found

    def whole(self, column: str) -> int:
        """A whole number from a column. NotRebuilt where there is none."""
        text = self[column]
        if not re.fullmatch(r"[1-9]\d*(\.0*)?", text):
            raise NotRebuilt(f"{column} is not a number: {text!r}" if text else f"{column} is not given")
        return int(float(text))

    def real(self, column: str) -> float:
        """A positive number from a column. NotRebuilt where there is none."""
        try:
            found = float(self[column])
        except ValueError:
            raise NotRebuilt(f"{column} is not given") from None
        if not found > 0:
            raise NotRebuilt(f"{column} is not positive")
        return found

    def param(self, name: str) -> int | None:
        """The number behind `name=` (or `name `) in the column params."""
        found = re.search(rf"\b{re.escape(name)}[= ](\d+)", self["params"])
        return int(found[1]) if found else None

    def need(self, name: str) -> int:
        """`param`, NotRebuilt where there is none."""
        found = self.param(name)
        if found is None:
            raise NotRebuilt(f"{name} is not given")
        return found

    @property
    def ipus(self) -> int:
        """How many chips; one where the row does not say."""
        found = re.search(r"\d+", self["num_ipus"])
        return int(found[0]) if found else 1

    @property
    def machine(self) -> str:
        """The built-in target of the chip that was measured."""
        chip = self["chip"].lower()
        for name in ("c600", "bow", "gc200", "gc2"):
            if chip.startswith(name):
                return name
        raise NotRebuilt(f"no machine file for the chip {self['chip']!r}")


@dataclass(frozen=True)
class Result:
    """A row that was simulated, in the unit of the measurement. `half` says whether constants of its family were fitted
    with it (`fitted`) or not (`held`). `cycles` are those of one run of the program where there is one."""

    id: str
    family: str
    measured: float
    simulated: float
    unit: str
    error: float
    half: str
    at: str = ""
    cycles: int | None = None
    ours: float | None = None


@dataclass(frozen=True)
class Figures:
    """Absolute relative errors of some rows."""

    rows: int
    median: float
    p90: float
    worst: float


def figures(errors: Sequence[float]) -> Figures:
    """Median, 90th percentile and largest of the errors' sizes; there must be one."""
    sizes = np.abs(np.asarray(errors, np.float64))
    return Figures(sizes.size, float(np.median(sizes)), float(np.quantile(sizes, 0.9)), float(sizes.max()))


def read_measurements(path: Path) -> list[Measurement]:
    """The rows of a table. ValueError for a file that has not the columns, or ids twice."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}")
        try:
            rows = [Measurement({k: v or "" for k, v in row.items() if k}) for row in reader]
        except csv.Error as failure:
            raise ValueError(f"{path} is not a table: {failure}") from failure
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ValueError(f"{path} has the id {row.id!r} twice")
        seen.add(row.id)
    return rows


def halves(families: dict[str, str]) -> dict[str, str]:
    """Of every id, given with its family, the half: every other one of a family, ids sorted, is `fitted`, beginning
    with the first."""
    made: dict[str, str] = {}
    for family in sorted(set(families.values())):
        ids = sorted(i for i, f in families.items() if f == family)
        made.update({i: "fitted" if at % 2 == 0 else "held" for at, i in enumerate(ids)})
    return made
