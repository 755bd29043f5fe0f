"""Fits all constants again, on the fitted halves of the project's own table."""

from typing import Any

from validation.fit import write_constants
from validation.rows import Measurement, NotRebuilt, read_measurements
from validation.run import MODULES, OWN, family_of, half_of, module_of

__all__ = ["fit_all"]


def fit_all() -> None:
    """Writes data/fitted.toml."""
    rows = read_measurements(OWN)
    found: dict[str, dict[str, tuple[float, str]]] = {}
    for name in MODULES:
        module: Any = module_of(name)
        if not hasattr(module, "fit"):
            continue
        by_family: dict[str, list[Measurement]] = {}
        for row in rows:
            known = family_of(row)
            if known is not None and known[0] == name and half_of(row) == "fitted" and _usable(row):
                by_family.setdefault(known[1], []).append(row)
        for family, of in sorted(by_family.items()):
            if made := module.fit(of):
                found[family] = made
    write_constants(found)


def _usable(row: Measurement) -> bool:
    try:
        return row.value is not None
    except NotRebuilt:
        return False
