"""All families, and the runs of their rows over the cores of a machine."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ipucc.diagnostics import CompileError
from validation.reasons import reason
from validation.rows import Measurement, NotRebuilt, Result, halves, read_measurements

__all__ = ["MODULES", "OWN", "Outcome", "family_of", "half_of", "module_of", "run_rows"]

OWN = Path(__file__).parents[1] / "data" / "measurements.csv"
MODULES = ("amp", "exchange", "kernel", "dense", "sparse", "blur", "stencil", "network", "scaling")
"""Modules of this package with `family`, `simulate`, and, if they have them, `group`, `own` and `fit`."""
Outcome = Result | tuple[str, str]
"""A simulated row, or the id of one that is not and the reason."""


@cache
def module_of(name: str) -> Any:
    return import_module(f"validation.{name}")


def family_of(row: Measurement) -> tuple[str, str] | None:
    """The module and the family of a row; None if no module knows the experiment."""
    for name in MODULES:
        found = module_of(name).family(row)
        if found is not None:
            return name, str(found)
    return None


@cache
def _own_halves() -> dict[str, str]:
    families = {row.id: found[1] for row in read_measurements(OWN) if (found := family_of(row)) is not None}
    return halves(families)


def half_of(row: Measurement) -> str:
    """`fitted` for rows of the project's own table that constants were fitted with, `held` for all others."""
    return _own_halves().get(row.id, "held")


def run_rows(rows: Sequence[Measurement], families: Sequence[str] = (), own: bool = False) -> Iterator[Outcome]:
    """What becomes of every row, in any order; of those of some families only, if any are named. `own` adds ipucc's own
    plans where a family has them."""
    jobs: dict[str, list[tuple[str, str, str, Measurement]]] = {}
    for row in rows:
        found = family_of(row)
        if found is None:
            if not families:
                yield row.id, reason(row)
            continue
        name, family = found
        if families and not any(family == f or family.split(" ")[0] == f for f in families):
            continue
        module = module_of(name)
        key = module.group(row) if hasattr(module, "group") else name
        jobs.setdefault(key, []).append((name, family, half_of(row), row))
    # Large groups first, so that no core is left with one at the end.
    work = sorted(jobs.values(), key=lambda group: -sum(_weight(name, row) for name, _, _, row in group))
    cores = min(len(work), os.cpu_count() or 1)
    if cores <= 1:
        for group in work:
            yield from _run_group(group, own)
        return
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_run_group, group, own) for group in work]):
            yield from done.result()


def _weight(name: str, row: Measurement) -> float:
    """How much work a row is, roughly."""
    module = module_of(name)
    return float(module.weight(row)) if hasattr(module, "weight") else 1.0


def _run_group(group: Sequence[tuple[str, str, str, Measurement]], own: bool) -> list[Outcome]:
    return [_run_row(name, family, half, row, own) for name, family, half, row in group]


def _run_row(name: str, family: str, half: str, row: Measurement, own: bool) -> Outcome:
    module = module_of(name)
    try:
        measured = row.value
        simulated, cycles = module.simulate(row)
        ours = module.own(row) if own and hasattr(module, "own") else None
    except NotRebuilt as failure:
        return row.id, str(failure)
    except CompileError as refusal:
        return row.id, f"does not compile: {' '.join(dict.fromkeys(d.id for d in refusal.diagnostics))}"
    except (ArithmeticError, LookupError, ValueError) as failure:
        # A table of somebody else's may hold what no experiment has.
        return row.id, f"no program can be made of these columns ({type(failure).__name__}: {failure})"
    at = " ".join(f"{c}={row[c]}" for c in ("m", "k", "n", "block", "density", "batch", "params") if row[c])
    error = simulated / measured - 1
    return Result(row.id, family, measured, float(simulated), row["unit"], error, half, at, cycles, ours)
