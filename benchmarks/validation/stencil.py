"""STREAM triad and finite differences on GC200, one chip and two (simehaa/IPU).

The triad is assembly: per two elements one bundle loads two vectors, stores one and multiplies, so that a worker moves
24 bytes an issue. Stencils are partitioned as their source does: over the tiles so that the faces are smallest, then
over the six workers, by rows in 2-D, 2 x 3 in 3-D; every step exchanges faces and runs one compute set. The loops of
the heat equations are counted in the assembly that their source publishes (samples/machine/heat.py, which is the whole
program for the builder); their vertices read rows with both halos from one piece of memory, so that a step copies the
block behind the exchange. The loop of the Aliev-Panfilov model is counted likewise (38 groups a point, a division among
them that takes up to 2 more). The machine file says what an exchange between chips takes.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Counts
from ipucc.target import Target, load_target
from validation.phases import halo, phase_cycles
from validation.rows import Measurement, NotRebuilt
from validation.tile import TimedKernel, kernel_cycles

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "samples"))

from machine.heat import heat

__all__ = ["family", "group", "simulate", "step_seconds"]

_GHZ = 1.33e9
"""Clock of the GC200 in the runs: its vendor gives 1.325 and 1.33 GHz, and 99.1 % of the triad's bound is at 1.33."""
_STEPS = 1000


@dataclass(frozen=True)
class Triad(TimedKernel):
    """a = b + q c, fp32: one issue per two elements of a worker, eight to fill and drain."""

    name: ClassVar[str] = "validation_triad"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return target.launch_cycles + target.workers * (-(-n["elements"] // (2 * target.workers)) + 8)


@dataclass(frozen=True)
class Rows(TimedKernel):
    """Rows of points of the busiest worker, `pair` issue groups per two points."""

    pair: int

    name: ClassVar[str] = "validation_rows"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return target.launch_cycles + target.workers * n["rows"] * -(-n["points"] // 2) * self.pair


@dataclass(frozen=True)
class Model:
    """What a workload computes: dimensions, operations a point, and floats that its source counts as the least that is
    moved. `pair` are the issue groups of two points of a codelet other than that of the heat equations."""

    dims: int
    flops: int
    floats: int
    pair: int | None = None


_MODELS = {
    "2D heat": Model(2, 6, 5),
    "3D heat": Model(3, 8, 7),
    "Heat equation 3D": Model(3, 8, 7),
    "Aliev-Panfilov": Model(2, 28, 8, 2 * (38 + 2)),
}


def _model(row: Measurement) -> Model | None:
    return next((m for name, m in _MODELS.items() if row["workload"].startswith(name)), None)


def family(row: Measurement) -> str | None:
    """`stencil triad`, `stencil heat`, `stencil heat pod` of more than two chips, which take the figure of two, and
    `stencil other`."""
    work = row["workload"]
    if work.startswith("STREAM Triad"):
        return "stencil triad"
    if _model(row) is not None:
        if "Aliev" in work:
            return "stencil aliev"
        return "stencil heat" if row.ipus <= 2 else "stencil heat pod"
    return "stencil other" if re.search(r"stencil|blur", work, re.IGNORECASE) else None


def _mesh(row: Measurement, dims: int) -> tuple[int, ...]:
    """`8000x8000`, `360^3`, `360x360x360`."""
    text = row["params"]
    if found := re.search(r"(\d+)\^(\d)", text):
        mesh = (int(found[1]),) * int(found[2])
    elif found := re.search(r"\b\d+(?:x\d+)+\b", text):
        mesh = tuple(int(x) for x in found[0].split("x"))
    else:
        raise NotRebuilt("the mesh is not given")
    if len(mesh) != dims:
        raise NotRebuilt(f"a mesh of {len(mesh)} dimensions for {dims}")
    return mesh


@cache
def partition(shape: tuple[int, ...], tiles: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Parts per dimension, all tiles used, and the largest cell, as the source chooses them: the factors whose cells
    have the smallest faces in some order, in 3-D the largest first whatever the order was."""
    best: tuple[float, tuple[int, ...]] | None = None
    for parts in _factors(tiles, len(shape)):
        cell = [s / p for s, p in zip(shape, parts, strict=True)]
        faces = sum(float(np.prod(cell)) / c for c in cell)
        if best is None or faces <= best[0] * (1 + 1e-9):
            best = faces, parts
    assert best is not None
    chosen = best[1] if len(shape) == 2 else tuple(sorted(best[1], reverse=True))
    return chosen, tuple(-(-s // p) for s, p in zip(shape, chosen, strict=True))


def _factors(n: int, parts: int) -> list[tuple[int, ...]]:
    if parts == 1:
        return [(n,)]
    return [(i, *rest) for i in range(1, n + 1) if n % i == 0 for rest in _factors(n // i, parts - 1)]


def step_seconds(model: Model, mesh: tuple[int, ...], chips: int, target: Target) -> float:
    """Seconds of a step: faces exchanged, one compute set."""
    if model.pair is None:
        return target.cycles_to_seconds(_heat_step(mesh, chips, target))
    parts, cell = partition(tuple(x - 2 for x in mesh), target.tiles)
    rows, points = -(-cell[0] // target.workers), cell[1]
    work = kernel_cycles(Rows(model.pair), {"rows": rows, "points": points}, target, target.tiles)
    faces = phase_cycles(halo(parts, cell, 4, target.tiles), target)
    return target.cycles_to_seconds(work + faces + target.phase_cycles)


@cache
def _heat_step(mesh: tuple[int, ...], chips: int, target: Target) -> int:
    """Cycles of a step of the builder's program. Of more than two chips, two neighbours stand for all: the source cuts
    the last dimension among them."""
    if chips > 2:
        mesh, chips = (*mesh[:-1], 2 + 2 * -(-(mesh[-1] - 2) // chips)), 2
    return heat(target.linked(chips), mesh, 2).cycles.total // 2


def _machine(row: Measurement) -> Target:
    from dataclasses import replace

    target = load_target(row.machine)
    return replace(target, clock_hz=_GHZ) if row.machine == "gc200" else target


def _seconds(row: Measurement) -> float:
    model = _model(row)
    assert model is not None
    return step_seconds(model, _mesh(row, model.dims), row.ipus, _machine(row))


def _in_unit(row: Measurement, seconds: float) -> float:
    """A step in the unit of the row: the source's own counts of operations and bytes."""
    model = _model(row)
    assert model is not None
    mesh = _mesh(row, model.dims)
    points = float(np.prod([x - 2 for x in mesh]))
    if row["unit"] == "s":
        return seconds * _STEPS
    if row["unit"] == "TFLOP/s":
        # In 3-D the source counts the border too.
        return model.flops * (points if model.dims == 2 else prod(mesh)) / seconds / 1e12
    if row["unit"] == "TB/s":
        inner = [x - 2 for x in mesh]
        inner[-1] = -(-inner[-1] // row.ipus)
        target = _machine(row)
        parts, cell = partition(tuple(inner), target.tiles)
        # Faces between tiles are loaded and stored once more.
        moved = halo(parts, cell, 4, target.tiles)
        shared = float(moved.size.sum()) / 4 * row.ipus if model.pair is None else 0.0
        return (model.floats * points + 2 * shared) * 4 / seconds / 1e12
    raise NotRebuilt(f"unit {row['unit']} of a stencil")


def group(row: Measurement) -> str:
    """Rows of one mesh are of one program."""
    return f"stencil {row.ipus} {row['params']}"


def simulate(row: Measurement) -> tuple[float, int | None]:
    """The figure in the row's unit, and cycles of a step."""
    name = family(row)
    if name == "stencil other":
        raise NotRebuilt(_other(row))
    if name == "stencil triad":
        return _triad(row)
    seconds = _seconds(row)
    return _in_unit(row, seconds), round(seconds * _machine(row).clock_hz)


def _other(row: Measurement) -> str:
    if "via Poplibs" in row["workload"]:
        return "iterations are not given, and the library's convolution plan for one channel is not rebuilt"
    if "blur" in row["workload"]:
        return "other versions of compiled codelets, whose iterations are not given"
    return "generated code, whose loops and partition are not published"


def _triad(row: Measurement) -> tuple[float, int]:
    target = _machine(row)
    # A third of a tile's memory each, less what a program needs.
    elements = target.tile_bytes // 4 // 4 // (2 * target.workers) * 2 * target.workers
    cycles = kernel_cycles(Triad(), {"elements": elements}, target, target.tiles)
    seconds = target.cycles_to_seconds(cycles)
    every = elements * target.tiles
    figures = {
        "TFLOP/s": 2 * every / seconds / 1e12, "TB/s": 12 * every / seconds / 1e12,
        "%": 100 * 12 * every / seconds / (24 * target.tiles * target.clock_hz),
    }  # fmt: skip
    if row["unit"] not in figures:
        raise NotRebuilt(f"unit {row['unit']} of the triad")
    return figures[row["unit"]], cycles
