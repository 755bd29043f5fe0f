"""Sparse products against publications: the cells of PopSparse's heat map, and what is claimed of orderings.

Called by spmm.py. Heat-map cells are speed-ups of the vendor's static sparse product over its dense one, medians over
all k that were measured for an m; here k = m. Nothing is fitted: both sides are the vendor's plans on ipucc's machine.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np
from rows import count
from spmm import Case, Row, best_over, dense_of, figures_of, measured_row, measurements, write

from ipucc.cli.output import table
from ipucc.target import load_target

__all__ = ["heat_map_rows", "ordering_checks"]

DENSITIES = (0.25, 0.125, 0.0625, 0.03125)


@dataclass
class Cell:
    """A measured speed-up and the simulated one; `error` is relative to the measured one, None where no program is."""

    id: str
    m: int
    block: int
    n: int
    density: float
    measured: float
    simulated: float | None
    ours: float | None
    error: float | None
    cycles: int | None
    our_cycles: int | None
    dense_cycles: int | None


def _cell(work: tuple[dict[str, str], str]) -> Cell:
    found, target = work
    m, block, n, density = int(found["m"]), int(found["block"]), int(found["n"]), float(found["density"])
    case = Case(m, m, n, block, density, found["dtype"], "static", "vendor")
    row = measured_row(case, target)
    # Our own plans beside them, over the same dense product: cells of single elements take minutes each.
    ours = figures_of(Case(m, m, n, block, density, found["dtype"], "static", "best"), target) if block > 1 else None
    dense = figures_of(dense_of(case), target).cycles
    value = float(found["value"])
    our_cycles = ours.cycles if ours is not None else None
    return Cell(
        found["id"], m, block, n, density, value, row.speedup,
        dense / our_cycles if dense and our_cycles else None,
        None if row.speedup is None else row.speedup / value - 1, row.cycles, our_cycles, dense,
    )  # fmt: skip


def heat_map_rows(target: str, document: Path | None, blocks: Sequence[str] = ()) -> int:
    """Prints the cells, of some blocks or of all, with their errors, and medians by block; exit code 1 if a cell has no
    program. A cell of single elements takes up to a minute."""
    cells = [
        c for c in measurements(op="static sparse vs dense") if c["value"] and (not blocks or c["block"] in blocks)
    ]
    cells.sort(key=lambda c: (-int(c["block"]), int(c["m"]), float(c["density"]), int(c["n"])))
    made: list[Cell] = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for cell in pool.map(_cell, [(c, target) for c in cells]):
            made.append(cell)
            click.echo(
                f"{len(made)} of {len(cells)}: {cell.m} {cell.block} {cell.n} {cell.density}: {cell.error}", err=True
            )

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    names = (
        "m = k",
        "block",
        "density",
        "n",
        "measured",
        "simulated",
        "error",
        "ours",
        "cycles",
        "our cycles",
        "dense",
    )
    click.echo(table("", names, [
        (str(c.m), str(c.block), f"{c.density:.4g}", str(c.n), text(c.measured), text(c.simulated),
         "" if c.error is None else f"{c.error:+.1%}", text(c.ours), count(c.cycles), count(c.our_cycles),
         count(c.dense_cycles))
        for c in made
    ]))  # fmt: skip
    summary = []
    for block in (16, 1):
        for m in (None, 512, 1024, 4096):
            errors = np.array(
                [abs(c.error) for c in made if c.error is not None and c.block == block and m in (None, c.m)]
            )
            if errors.size:
                name = f"block {block}, m = {m or 'all'}"
                summary.append((name, str(errors.size), *(f"{x:.1%}" for x in np.quantile(errors, (0.5, 0.9, 1.0)))))
    every = np.array([abs(c.error) for c in made if c.error is not None])
    summary.append(("all", str(every.size), *(f"{x:.1%}" for x in np.quantile(every, (0.5, 0.9, 1.0)))))
    click.echo(table("", ("cells", "count", "median", "90th percentile", "worst"), summary))
    write(document, load_target(target), made)
    return int(any(c.simulated is None for c in made))


@dataclass
class Check:
    """A claim, what was found, and whether it holds."""

    name: str
    claim: str
    found: str
    holds: bool


class _Asked:
    """Rates and speed-ups over the best of a few n, made once each."""

    def __init__(self, target: str, scheme: str) -> None:
        self.target, self.scheme = target, scheme
        self.rows: dict[tuple[str, int, int, float], Row] = {}

    def row(self, mode: str, block: int, density: float, m: int = 4096) -> Row:
        key = mode, m, block, density
        if key not in self.rows:
            scheme = "best" if mode == "dynamic" else self.scheme
            case = Case(m, m, 0, block, density, "fp16", mode, scheme)
            # Single elements run at one rate from a few columns on.
            self.rows[key] = best_over(case, self.target, (64, 256) if block == 1 else (64, 256, 1024, 4096))
            click.echo(f"{key}: {self.rows[key].tflops} TFLOP/s, {self.rows[key].speedup}", err=True)
        return self.rows[key]

    def rate(self, mode: str, block: int, density: float, m: int = 4096) -> float:
        return self.row(mode, block, density, m).tflops or 0.0

    def speedup(self, mode: str, block: int, density: float, m: int = 4096) -> float:
        return self.row(mode, block, density, m).speedup or 0.0


def _s1(a: _Asked) -> tuple[str, bool]:
    static = [a.rate("static", b, 0.0625) for b in (1, 4, 16)]
    dynamic = [a.rate("dynamic", b, 0.0625) for b in (1, 4, 16)]
    holds = all(s > d > 0 for s, d in zip(static, dynamic, strict=True)) and static == sorted(static)
    return f"static {_list(static)}, dynamic {_list(dynamic)} TFLOP/s", holds and dynamic == sorted(dynamic)


def _s2(a: _Asked) -> tuple[str, bool]:
    flat = [a.rate("static", 1, d) for d in DENSITIES]
    falls = [a.rate("static", 16, d) for d in DENSITIES]
    # Measured 11.6 to 8.6, and 89.8 to 35.6.
    return f"b=1 {_list(flat)}, b=16 {_list(falls)} TFLOP/s", min(flat) >= max(flat) / 1.6 and falls[0] > 1.5 * falls[
        -1
    ]


def _s3(a: _Asked) -> tuple[str, bool]:
    found = {
        "static b=16 at 1/4": a.speedup("static", 16, 0.25), "static b=1 at 1/16": a.speedup("static", 1, 0.0625),
        "static b=1 at 1/32": a.speedup("static", 1, 0.03125), "dynamic b=16 at 1/8": a.speedup("dynamic", 16, 0.125),
        "dynamic b=1 at 1/32": a.speedup("dynamic", 1, 0.03125),
    }  # fmt: skip
    wins = (True, False, True, True, False)
    return _named(found), all((x > 1) == w for x, w in zip(found.values(), wins, strict=True))


def _s4(a: _Asked) -> tuple[str, bool]:
    found = {
        "static b=1 at 1/32": a.speedup("static", 1, 0.03125), "static b=4 at 1/8": a.speedup("static", 4, 0.125),
        "dynamic b=8 at 1/32": a.speedup("dynamic", 8, 0.03125),
    }  # fmt: skip
    return _named(found), all(x > 1 for x in found.values())


def _s5(a: _Asked) -> tuple[str, bool]:
    off = []
    for m, block, density in (
        (4096, 16, 0.0625),
        (4096, 4, 0.125),
        (4096, 16, 0.25),
        (1024, 16, 0.0625),
        (512, 16, 0.0625),
    ):
        law = 0.0013 * m**0.59 * density**-0.54 * block**0.5
        off.append(a.speedup("static", block, density, m) / law)
    return f"simulated over the law: {_list(off)}", all(0.5 <= x <= 2 for x in off)


def _s6(a: _Asked) -> tuple[str, bool]:
    by_n = {
        n: measured_row(Case(4096, 4096, n, 16, 0.03125, "fp16", "static", a.scheme), a.target).speedup or 0.0
        for n in (4, 16, 64, 256)
    }
    return ", ".join(f"n={n}: {x:.2f}" for n, x in by_n.items()), by_n[4] == max(by_n.values())


def _s7(a: _Asked) -> tuple[str, bool]:
    by_m = {m: a.speedup("static", 16, 0.0625, m) for m in (256, 512, 4096)}
    return ", ".join(f"m={m}: {x:.2f}" for m, x in by_m.items()), by_m[256] < 1 < by_m[512] < by_m[4096]


CHECKS: dict[str, tuple[str, Callable[[_Asked], tuple[str, bool]]]] = {
    "S1": ("static is faster than dynamic, and both rise with the block", _s1),
    "S2": ("the rate of static b=1 is nearly flat in density, that of b=16 falls", _s2),
    "S3": ("crossovers: static b=16 wins at 1/4, b=1 between 1/16 and 1/32, dynamic b=16 from 1/8, b=1 never", _s3),
    "S4": ("the vendor's rule: static b=1 pays at 1/32, b>=4 at 1/8, dynamic b>=8 at 1/32", _s4),
    "S5": ("speed-up within a factor of two of 0.0013 m^0.59 d^-0.54 b^0.50", _s5),
    "S6": ("at 1/32 and m=4096 the speed-up is largest at n=4", _s6),
    "S7": ("b=16, 1/16: below dense at m=256, above from 512, rising", _s7),
}


def ordering_checks(target: str, document: Path | None, scheme: str = "vendor") -> int:
    """Prints the claims with what was found; exit code 1 if one does not hold. Static products and the dense ones are
    the vendor's plans, dynamic ones ours."""
    asked = _Asked(target, scheme)
    made = []
    for name, (claim, check) in CHECKS.items():
        found, holds = check(asked)
        made.append(Check(name, claim, found, holds))
    click.echo(table("", ("", "claim", "found", ""), [
        (c.name, c.claim, c.found, "holds" if c.holds else "does not hold") for c in made
    ]))  # fmt: skip
    write(document, load_target(target), list(asked.rows.values()), checks=[asdict(c) for c in made])
    return int(not all(c.holds for c in made))


def _list(values: list[float]) -> str:
    return " / ".join(f"{v:.2f}" if v < 10 else f"{v:.1f}" for v in values)


def _named(values: dict[str, float]) -> str:
    return ", ".join(f"{name}: {x:.2f}" for name, x in values.items())
