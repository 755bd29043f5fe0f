"""Constants that are fitted to measurements; all others stand where they are used, with their source.

They are in data/fitted.toml, family by family. `validate.py --fit` writes that file again, from the rows of a family
that are in the half `fitted` of the project's own table. Nothing is fitted to a single row.
"""

import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from validation.rows import Measurement

__all__ = ["FILE", "Fit", "constant", "fitted_families", "write_constants"]

FILE = Path(__file__).parents[1] / "data" / "fitted.toml"

Fit = Callable[[Sequence[Measurement]], dict[str, tuple[float, str]]]
"""From the fitted half of a family to its constants: value, and what it is."""


@cache
def _document() -> dict[str, dict[str, float]]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def constant(family: str, name: str) -> float:
    """A fitted constant; KeyError for one that is not there."""
    return float(_document()[family][name])


def fitted_families() -> list[str]:
    """The families that have constants."""
    return list(_document())


def write_constants(found: dict[str, dict[str, tuple[float, str]]]) -> None:
    """Writes data/fitted.toml."""
    lines = [
        "# Fitted by `python benchmarks/validate.py --fit` on every other row of each family, ids sorted, with the",
        "# first one; benchmarks/validation says what they are for.",
    ]  # fmt: skip
    for family, constants in found.items():
        lines += ["", f'["{family}"]']
        lines += [f"{name} = {value:.6g}  # {what}" for name, (value, what) in constants.items()]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _document.cache_clear()
