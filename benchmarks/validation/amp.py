"""The matrix unit alone: every tile multiplies [N, 16] by [16, 16], as tessellate-ipu's notebook does.

The vertex is poplibs' ConvPartial1x1, fp16 with fp16 partials, weights loaded 64 bits at a time: the operands of the
notebook lie in plain memory, and the curve rules out the 128-bit load (its fixed part would be 32 cycles shorter).
"""

from collections.abc import Sequence
from statistics import median

from ipucc.codelets.matmul import MatMul
from ipucc.target import Target, load_target
from validation.fit import constant
from validation.rows import Measurement, NotRebuilt
from validation.tile import kernel_cycles

__all__ = ["family", "fit", "simulate"]

_TYPES = {"fp16": "float16", "fp32": "float32"}


def family(row: Measurement) -> str | None:
    """`amp` for rows of the microbenchmark."""
    return "amp" if "amp" in row["workload"].lower() and "on-tile" in row["workload"].lower() else None


def _vertex(row: Measurement) -> tuple[float, int, Target]:
    """Operations of all tiles, cycles of the vertex, and the machine."""
    if row["unit"] != "TFLOP/s":
        raise NotRebuilt(f"unit {row['unit']} of the microbenchmark")
    if row["dtype"] not in _TYPES:
        raise NotRebuilt(f"no kernel of the matrix unit for {row['dtype']}")
    partials = row["partials"] or row["dtype"]
    m, k, n = row.whole("m"), row.whole("k"), row.whole("n")
    target = load_target(row.machine).plain
    codelet = MatMul((), _TYPES[row["dtype"]], _TYPES.get(partials, partials))
    cycles = kernel_cycles(codelet, {"m": m, "k": k, "n": n}, target, target.tiles)
    return 2.0 * m * k * n * target.tiles, cycles, target


def simulate(row: Measurement) -> tuple[float, int]:
    """TFLOP/s over all tiles, and cycles of a tile."""
    work, vertex, target = _vertex(row)
    cycles = vertex + constant("amp", "call_cycles")
    return work / target.cycles_to_seconds(cycles) / 1e12, round(cycles)


def fit(rows: Sequence[Measurement]) -> dict[str, tuple[float, str]]:
    """What entering the compute set takes."""
    residuals = []
    for row in rows:
        work, vertex, target = _vertex(row)
        residuals.append(work / (row.value * 1e12) * target.clock_hz - vertex)
    what = "cycles of entering the compute set, beyond the estimate of the vertex: median of the residuals"
    return {"call_cycles": (round(median(residuals), 2), what)}
