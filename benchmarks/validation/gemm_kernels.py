"""Products of one tile in osmarks/ipu-stack's kernels (device/gemm_f16_amp.S, its cost model, and its note on
utilisation): panels of 16 columns by 16 (fp16) or 32 (fp8) of k, each loaded once and applied to all rows.

Plain stores: four cycles a row and a fixed part per panel (worker set-up, weights, filling and draining the unit).
Packed stores: rows lie in panels of 16, which workers whose share crosses one enter again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Counts
from ipucc.target import Target
from validation.rows import Measurement, NotRebuilt
from validation.tile import TimedKernel

__all__ = ["gemm_kernel"]

_PANEL = 16


@dataclass(frozen=True)
class PlainGemm(TimedKernel):
    """294 a call; per panel 4 a row and `panel` cycles."""

    deep: int
    panel: int

    name: ClassVar[str] = "validation_gemm"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        panels = -(-n["k"] // self.deep) * -(-n["n"] // _PANEL)
        return 294 + panels * (4 * n["m"] + self.panel)


@dataclass(frozen=True)
class PackedGemm(TimedKernel):
    """342 a call; per panel the busiest worker's 24 a row and 184 for each panel of rows that it enters, and the load
    of the weights, 32 cycles shorter from interleaved memory."""

    deep: int
    interleaved: bool

    name: ClassVar[str] = "validation_gemm_packed"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        w = target.workers
        worker = np.arange(w)
        rows = n["m"][:, None]
        count = rows // w + (worker < rows % w)
        start = worker * (rows // w) + np.minimum(worker, rows % w)
        entered = np.where(count > 0, -(-(start % 16 + count) // 16), 0)
        slowest = (24 * count + 184 * entered).max(axis=1)
        panels = -(-n["k"] // self.deep) * -(-n["n"] // _PANEL)
        return np.asarray(342 + panels * (slowest + (170 if self.interleaved else 202)), np.int64)


def gemm_kernel(row: Measurement) -> tuple[TimedKernel, dict[str, int]]:
    """The kernel of a row and its extents."""
    deep = {"fp16": 16, "fp8": 32}.get(row["dtype"])
    if deep is None:
        raise NotRebuilt(f"no product kernel for {row['dtype']}")
    extents = {"m": row.whole("m"), "k": row.whole("k"), "n": row.whole("n")}
    if "packed" in row["op"].lower():
        return PackedGemm(deep, "standard" not in row["params"]), extents
    # Tuning took a load of a stride from every panel, and the test for idle workers: 16 cycles.
    return PlainGemm(deep, 176 if "before tuning" in row["op"] else 160), extents
