"""A 3 x 3 Gaussian blur on GC2, one chip and two, over the least size of a tile's block (thorbenlouw/lbm-graphcore).

samples/machine/blur.py has the program and the source's rule for cutting the image. The codelet is compiled C++: what a
pixel takes is fitted, one figure for workers that have rows of pixels and one for those that have columns, which are
gathered first. The machine file has what an exchange between two chips takes.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean

from ipucc.codelets.base import Counts
from ipucc.program.model import Compute, walk
from ipucc.target import load_target
from validation.fit import constant
from validation.rows import Measurement, NotRebuilt

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "samples"))

from machine.blur import Blur, Partition, blur, partition

__all__ = ["family", "fit", "group", "simulate"]

_FAMILY = "stencil blur"
_SEARCHED = range(60, 181)
_target = cache(load_target)


def family(row: Measurement) -> str | None:
    """`stencil blur` for the sweep over least sizes of blocks; other blurs do not say what they ran."""
    return _FAMILY if row["op"].startswith("1000 iterations on") else None


def group(row: Measurement) -> str:
    """Most rows are of a few partitions only, each compiled once."""
    return _FAMILY


@cache
def _program(name: str, rows: int, columns: int, cut: Partition) -> tuple[Mapping[str, Counts], int]:
    """Extents of the blocks of all tiles, and cycles of a step beside the kernel's."""
    exe = blur(name, rows, columns, 1, cut)
    kernels = [s for s in walk(exe.program.steps, {}) if isinstance(s, Compute)]
    return kernels[0].cells.n, (exe.cycles.exchange + exe.cycles.sync) // 2


def _cycles(row: Measurement, codelet: Blur) -> int:
    size = re.search(r"(\d+)x(\d+) grid", row["op"])
    if size is None:
        raise NotRebuilt("the size of the image is not given")
    if row.ipus > 2:
        raise NotRebuilt("more than two chips: the constant of the links is that of two")
    name = row.machine if row.ipus == 1 else f"{row.machine}x{row.ipus}"
    target, rows, columns = _target(name), int(size[2]), int(size[1])
    cut = partition(target, rows, columns, row.need("minRows"), row.need("minCols"))
    extents, beside = _program(name, rows, columns, cut)
    return int(codelet.cycles(extents, target).max()) + beside


def _seconds(row: Measurement, codelet: Blur) -> float:
    # An iteration is two steps, there and back.
    return _target(row.machine).cycles_to_seconds(2 * _cycles(row, codelet) * 1000)


def simulate(row: Measurement) -> tuple[float, int]:
    """Seconds of the run, and cycles of a step."""
    if row["unit"] != "s":
        raise NotRebuilt(f"unit {row['unit']} of a run time")
    codelet = Blur(*(int(constant(_FAMILY, name)) for name in ("pixel_rows", "pixel_columns")))
    return _seconds(row, codelet), _cycles(row, codelet)


def fit(rows: Sequence[Measurement]) -> dict[str, tuple[float, str]]:
    """The issues of a pixel on one chip, for rows and columns in turn until both stay."""
    one = [r for r in rows if r.ipus == 1]

    def off(codelet: Blur) -> float:
        return fmean(abs(_seconds(r, codelet) / r.value - 1) for r in one)

    best = Blur()
    for _ in range(4):
        best = min((Blur(n, best.pixel_columns) for n in _SEARCHED), key=off)
        best = min((Blur(best.pixel_rows, n) for n in _SEARCHED), key=off)
    return {
        "pixel_rows": (best.pixel_rows, "issues of a worker for a pixel of four channels, workers with rows"),
        "pixel_columns": (best.pixel_columns, "the same, workers with columns"),
    }
