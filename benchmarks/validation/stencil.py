"""STREAM triad and finite differences on GC200, one chip and two (simehaa/IPU).

The triad is assembly: per two elements one bundle loads two vectors, stores one and multiplies, so that a worker moves
24 bytes an issue. Stencils are partitioned as their source does: over the tiles so that the faces are smallest, then
over the six workers, by rows in 2-D, 2 x 3 in 3-D; every step exchanges faces and runs one compute set. The loops of
the heat equations over pairs of points are compiled; their issue groups are fitted, one figure in 2-D, one in 3-D. The
loop of the Aliev-Panfilov model is counted in the assembly that its source publishes (38 groups a point, a division
among them that takes up to 2 more). What a second chip costs a step is fitted too: links are not modelled.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, median
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Counts
from ipucc.target import Target, load_target
from validation.fit import constant
from validation.phases import halo, phase_cycles
from validation.rows import Measurement, NotRebuilt
from validation.tile import TimedKernel, kernel_cycles

__all__ = ["family", "fit", "simulate", "step_seconds"]

_GHZ = 1.33e9
"""Clock of the GC200 in the runs: its vendor gives 1.325 and 1.33 GHz, and 99.1 % of the triad's bound is at 1.33."""
_POINTER = 5
"""Issue groups to find a row of the mesh, which a codelet does per neighbouring row. Inferred."""
_STEPS = 1000


@dataclass(frozen=True)
class Triad(TimedKernel):
    """a = b + q c, fp32: one issue per two elements of a worker, eight to fill and drain."""

    name: ClassVar[str] = "validation_triad"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return target.launch_cycles + target.workers * (-(-n["elements"] // (2 * target.workers)) + 8)


@dataclass(frozen=True)
class Rows(TimedKernel):
    """Rows of points of the busiest worker: `pair` issue groups per two points, `row` a row. With an `edge` the first
    point of a row, and the last of an even one, go alone, `edge` groups each."""

    pair: int
    row: int = 0
    edge: int = 0

    name: ClassVar[str] = "validation_rows"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        points = n["points"]
        pairs = np.maximum(-(-points // 2) - 1, 0) if self.edge else -(-points // 2)
        alone = self.edge * np.where(points % 2 == 0, 2, 1)
        return target.launch_cycles + target.workers * n["rows"] * (self.row + alone + pairs * self.pair)


@dataclass(frozen=True)
class Model:
    """What a workload computes: dimensions, loads a point, operations a point, and floats that its source counts as the
    least that is moved. `pair` are the issue groups of two points where they are known."""

    dims: int
    loads: int
    flops: int
    floats: int
    pair: int | None = None


_MODELS = {
    "2D heat": Model(2, 5, 6, 5),
    "3D heat": Model(3, 7, 8, 7),
    "Heat equation 3D": Model(3, 7, 8, 7),
    "Aliev-Panfilov": Model(2, 7, 28, 8, 2 * (38 + 2)),
}


def _model(row: Measurement) -> Model | None:
    return next((m for name, m in _MODELS.items() if row["workload"].startswith(name)), None)


def family(row: Measurement) -> str | None:
    """`stencil triad`, `stencil heat`, `stencil heat pod` of more than two chips, which take the second's figure, and
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


def step_seconds(model: Model, mesh: tuple[int, ...], chips: int, pair: float, second: float, target: Target) -> float:
    """Seconds of a step: faces exchanged, one compute set, and what further chips cost."""
    inner = [x - 2 for x in mesh]
    # The source cuts the last dimension over the chips.
    inner[-1] = -(-inner[-1] // chips)
    parts, cell = partition(tuple(inner), target.tiles)
    if model.dims == 2:
        rows = -(-cell[0] // target.workers)
        points = cell[1]
    else:
        rows = -(-cell[0] // 2) * -(-cell[1] // 3)
        points = cell[2]
    if model.pair is not None:
        kernel = Rows(model.pair)
    else:
        # Rows beside, above and below are found once for the pairs, in 3-D once more for the edges.
        pointers = _POINTER * (3 if model.dims == 2 else 10)
        kernel = Rows(round(pair), pointers, 2 * model.loads + 5)
    work = kernel_cycles(kernel, {"rows": rows, "points": points}, target, target.tiles)
    faces = phase_cycles(halo(parts, cell, 4, target.tiles), target)
    return target.cycles_to_seconds(work + faces + target.phase_cycles) + (second if chips > 1 else 0.0)


def _machine(row: Measurement) -> Target:
    from dataclasses import replace

    target = load_target(row.machine)
    return replace(target, clock_hz=_GHZ) if row.machine == "gc200" else target


def _seconds(row: Measurement, pair: float, second: float) -> float:
    model = _model(row)
    assert model is not None
    return step_seconds(model, _mesh(row, model.dims), row.ipus, pair, second, _machine(row))


def _in_unit(row: Measurement, seconds: float) -> float:
    """A step in the unit of the row: the source's own counts of operations and bytes."""
    model = _model(row)
    assert model is not None
    mesh = _mesh(row, model.dims)
    points = float(np.prod([x - 2 for x in mesh]))
    if row["unit"] == "s":
        return seconds * _STEPS
    if row["unit"] == "TFLOP/s":
        return model.flops * points / seconds / 1e12
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


def simulate(row: Measurement) -> tuple[float, int | None]:
    """The figure in the row's unit, and cycles of a step."""
    name = family(row)
    if name == "stencil other":
        raise NotRebuilt(_other(row))
    if name == "stencil triad":
        return _triad(row)
    model = _model(row)
    assert model is not None
    pair = constant("stencil heat", f"pair_{model.dims}d")
    seconds = _seconds(row, pair, constant("stencil heat", "second_chip_us") * 1e-6)
    return _in_unit(row, seconds), round(seconds * _machine(row).clock_hz)


def _other(row: Measurement) -> str:
    if "via Poplibs" in row["workload"]:
        return "iterations are not given, and the library's convolution plan for one channel is not rebuilt"
    if "blur" in row["workload"]:
        return "the rule that partitions the image is not in the data"
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


def fit(rows: Sequence[Measurement]) -> dict[str, tuple[float, str]]:
    """The groups of the compiled loops from steps on one chip, then what a second chip adds."""
    if family(rows[0]) != "stencil heat":
        return {}
    found: dict[str, tuple[float, str]] = {}
    extra = []
    for dims in (2, 3):
        of = [r for r in rows if (m := _model(r)) is not None and m.dims == dims]
        one = [r for r in of if r.ipus == 1]

        def off(pair: float, one: Sequence[Measurement] = one) -> float:
            return fmean(abs(_in_unit(r, _seconds(r, pair, 0.0)) / r.value - 1) for r in one)

        if not one:
            continue
        best = min(range(10, 31), key=off)
        found[f"pair_{dims}d"] = best, f"issue groups of two points of the compiled codelet in {dims}-D"
        for r in of:
            if r.ipus == 2 and r["unit"] != "TB/s":
                alone = _seconds(r, best, 0.0)
                # Rates are the inverse of times.
                ratio = r.value / _in_unit(r, alone)
                extra.append(alone * (ratio if r["unit"] == "s" else 1 / ratio) - alone)
    if extra:
        found["second_chip_us"] = 1e6 * median(extra), "microseconds a step of a second chip"
    return found
