"""Kernels on one tile of a C600, as osmarks/ipu-stack measured its own: six workers, the call included.

Each kernel has the loop structure that its source documents (crates/ipu-codegen/src/kernel/cost.rs, device/*.S and the
dated notes in docs/): a worker issues every sixth cycle, so that a loop body of g issue groups costs 6 g cycles, and
the busiest worker sets the pace. What a call costs beside its loops is the source's own figure, which its author
calibrated on some of these measurements; where a later version of a kernel has none, it is fitted (`fit`).

A kernel that a compiler made of C++ is a family of its own: no formula of the vector unit holds for it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Counts
from ipucc.target import Target, load_target
from validation.fit import constant
from validation.gemm_kernels import gemm_kernel
from validation.rows import Measurement, NotRebuilt
from validation.tile import TimedKernel, kernel_cycles

__all__ = ["family", "fit", "simulate"]


@dataclass(frozen=True)
class Reduction(TimedKernel):
    """Sums `partials` vectors of fp16: per 8 elements of a worker 11 issue groups, two more a partial but the first."""

    name: ClassVar[str] = "validation_reduction"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        w = target.workers
        return 282 + -(-n["elements"] // (8 * w)) * w * (11 + 2 * (n["partials"] - 1))


@dataclass(frozen=True)
class Gelu(TimedKernel):
    """tanh GELU: blocks of 16 elements dealt to the workers, `block` issue groups each, 3 more where the length is not
    whole blocks; what is left goes by the pair, 20 groups each. `call` cycles beside, 12 for a tail."""

    block: int
    call: int

    name: ClassVar[str] = "validation_gelu"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        w, worker = target.workers, np.arange(target.workers)
        elements = n["elements"][:, None]
        pairs = np.maximum(-(-elements // 2) - 8 * worker, 0)
        whole = elements % 16 == 0
        blocks = np.where(whole, -(-pairs // (8 * w)), np.where(pairs < 8, 0, (pairs - 8) // (8 * w) + 1))
        tail = np.where(whole, 0, np.maximum(pairs - blocks * 8 * w, 0))
        groups = blocks * np.where(whole, self.block, self.block + 3) + 20 * tail
        return np.asarray((w * groups + np.where(tail > 0, 12, 0)).max(axis=1) + self.call, np.int64)


@dataclass(frozen=True)
class Add(TimedKernel):
    """Adds fp16 vectors, `groups` issue groups per `lanes` elements of a worker."""

    groups: int
    lanes: int
    call: int

    name: ClassVar[str] = "validation_add"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        w = target.workers
        return self.call + -(-n["elements"] // (self.lanes * w)) * w * self.groups


@dataclass(frozen=True)
class LayerNorm(TimedKernel):
    """Passes over rows: mean of 8 elements at a time, centred squares of 4, and application, of pairs in the first
    version and of 4 elements later. `passes` says which of `moments` and `apply` it has, `add` whether a residual is
    read, `version` 0 the first, 1 with wide application, 2 with pipelined statistics."""

    passes: tuple[str, ...]
    add: bool
    version: int
    per_call: int
    per_row: int

    name: ClassVar[str] = "validation_layernorm"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        w, width = target.workers, n["width"]
        row = np.full_like(width, self.per_row)
        if "moments" in self.passes:
            faster = 1 if self.version >= 2 else 0
            mean, square = (6 - faster, 8 - faster) if self.add else (3 - faster, 6 - faster)
            wide = -(-width // (8 * w)) * w * mean + -(-width // (4 * w)) * w * square
            narrow = -(-width // (2 * w)) * w * (12 if self.add else 8)
            row = row + np.where((width >= 96) & (width % 8 == 0), wide, narrow)
        if "apply" in self.passes:
            by_pair = -(-width // (2 * w)) * w * (12 if self.add else 10)
            by_four = -(-width // (4 * w)) * w * (14 if self.add else 12)
            row = row + (by_pair if self.version == 0 else by_four)
        return self.per_call + n["rows"] * row


@dataclass(frozen=True)
class Softmax(TimedKernel):
    """Maximum, exponential and sum of rows, in panels of 16 keys of `panel` issue groups: a row per worker, or, if
    `segments`, each row in three, with two more launches to join them."""

    panel: int
    segments: bool

    name: ClassVar[str] = "validation_softmax"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        w, rows, keys, padded = target.workers, n["rows"], n["keys"], n["padded"]
        if self.segments:
            segment = -(-padded // 48) * self.panel + 128
            return 408 + -(-rows // 2) * w * segment + -(-rows // w) * w * 21
        full, rest = keys // 16, keys % 16
        masked = 5 + 6 * (full > 0) + 21 + np.where(full > 0, 4, 2) + 2 * (rest > 1) + 12 * (rest // 2 + rest % 2)
        masked = masked + 1 + 2 * (8 - -(-rest // 2)) + 10 * np.maximum(padded // 16 - full - 1, 0)
        row = 31 + full * self.panel + np.where(keys == padded, 7, masked)
        return np.where(keys == padded, 216, 234) + -(-rows // w) * w * row


def _version(op: str) -> int:
    """Which version of a kernel a row names: the dated notes call the same one `after` and later `before`."""
    if "pipelined" in op:
        return 2
    return 1 if "optimised" in op or re.search(r"\d+ row \(before\)", op) else 0


def _sizes(row: Measurement) -> tuple[int, int]:
    """Rows and width, from the parameters or from the name of the kernel (`LayerNorm 3x1152`)."""
    found = re.search(r"\b(\d+)x(\d+)\b", row["op"])
    if found:
        return int(found[1]), int(found[2])
    stated = re.search(r"\b(\d+) row\b", row["op"])
    return row.param("rows") or (int(stated[1]) if stated else 1), row.need("width")


def _elements(row: Measurement) -> int:
    """Elements, from the parameters or from the name of the kernel (`GeLU 1408 values`, `add 576`, `1x1152`)."""
    if (found := row.param("elements") or row.param("width")) is not None:
        return found
    text = re.search(r"\b(?:\d+x)?(\d+)(?: values| \(|$)", row["op"])
    if text is None:
        raise NotRebuilt("the number of elements is not given")
    return int(text[1])


def _reduction(row: Measurement) -> tuple[TimedKernel, dict[str, int]]:
    return Reduction(), {"elements": row.need("elements"), "partials": row.need("partials")}


def _gelu(row: Measurement) -> tuple[TimedKernel, dict[str, int]]:
    # Bounds of the clamp loaded in pairs save 8 issue groups of a block; 8-bit results take 9 more.
    block, call = (77 if _version(row["op"]) else 85), 330
    if "fp8" in row["op"].lower():
        block, call = block + 9, int(constant("kernel gelu", "fp8_call_cycles"))
    return Gelu(block, call), {"elements": _elements(row)}


def _add(row: Measurement) -> tuple[TimedKernel, dict[str, int]]:
    # Loads and the addition of one quad, then of several in flight.
    call = 492 + (int(constant("kernel add", "pipeline_cycles")) if _version(row["op"]) == 2 else 0)
    return Add(3 if _version(row["op"]) == 2 else 4, 4, call), {"elements": _elements(row)}


def _compiled(row: Measurement) -> tuple[TimedKernel, dict[str, int]]:
    if "add" not in row["op"]:
        raise NotRebuilt("a kernel compiled from C++, whose loops are not documented")
    # A scalar loop over pairs of elements: 9 issue groups.
    return Add(9, 2, int(constant("kernel compiled", "call_cycles"))), {"elements": _elements(row)}


def _layernorm(row: Measurement) -> tuple[TimedKernel, dict[str, int]]:
    op, version = row["op"].lower(), _version(row["op"])
    rows, width = _sizes(row)
    add = "add" in op.replace("add-", "add+").split("+")[0]
    wide = int(constant("kernel layernorm", "wide_row_cycles")) if version else 0
    pipeline = int(constant("kernel layernorm", "pipeline_cycles")) if version == 2 else 0
    if "moments" in op or "statistics" in op:
        made = LayerNorm(("moments",), add, version, 126, 1080 + pipeline)
    elif "apply" in op:
        parts = row.param("parts") or 1
        made = LayerNorm(("apply",), add, version, 558, 324 + 54 * parts + 4 * wide)
    else:
        made = LayerNorm(("moments", "apply"), add, version, 132, (1386 if add else 1329) + wide + pipeline)
    return made, {"rows": rows, "width": width}


def _softmax(row: Measurement) -> tuple[TimedKernel, dict[str, int]]:
    op = row["op"].lower()
    if "pre-optimisation" in op:
        raise NotRebuilt("a kernel compiled from C++, whose loops are not documented")
    stated = re.search(r"\b(\d+) row\b", op)
    rows = row.param("rows") or (int(stated[1]) if stated else 1)
    keys = row.param("keys") or row.need("width")
    padded = row.param("padded") or -(-keys // 48) * 48
    # Accumulators are cleared once a row and no more once a panel: the first rows of the source are the oldest kernel.
    panel = {0: 47, 1: 43, 2: 41}[_version(row["op"])]
    extents = {"rows": rows, "keys": keys, "padded": padded}
    if "whole" in op:
        return Softmax(panel, False), extents
    return Softmax(panel, "segmented" in op or keys >= 128), extents


_KERNELS: dict[str, Callable[[Measurement], tuple[TimedKernel, dict[str, int]]]] = {
    "kernel compiled": _compiled,
    "kernel reduction": _reduction,
    "kernel gelu": _gelu,
    "kernel layernorm": _layernorm,
    "kernel softmax": _softmax,
    "kernel add": _add,
    "kernel gemm packed": gemm_kernel,
    "kernel gemm": gemm_kernel,
    "kernel utilisation": gemm_kernel,
}


def family(row: Measurement) -> str | None:
    """`kernel NAME` for rows of the tile microbenchmarks."""
    if row["workload"] != "tile kernel microbenchmark":
        return None
    op = row["op"].lower()
    if "c++" in op or "pre-optimisation" in op:
        return "kernel compiled"
    if row["unit"] == "%":
        return "kernel utilisation"
    if "gemm" in op:
        return "kernel gemm packed" if "packed" in op else "kernel gemm"
    for name, words in (
        ("reduction", ("reduction",)), ("gelu", ("gelu",)), ("layernorm", ("layernorm", "ln statistics")),
        ("softmax", ("softmax",)), ("add", ("add",)),
    ):  # fmt: skip
        if any(word in op for word in words):
            return f"kernel {name}"
    return "kernel other"


def simulate(row: Measurement) -> tuple[float, int]:
    """Cycles of the kernel, or the share of the matrix unit's peak that they are."""
    name = family(row)
    if name not in _KERNELS:
        raise NotRebuilt(f"no kernel {row['op']!r}")
    target = load_target(row.machine)
    kernel, extents = _KERNELS[name](row)
    cycles = kernel_cycles(kernel, extents, target)
    if row["unit"] == "%":
        if re.match(r"(QK|PV)\b", row["op"]):
            raise NotRebuilt("counts heads without their padding, whose size the row does not give")
        dtype, partials = ("fp8", "fp16") if row["dtype"] == "fp8" else ("fp16", "fp16")
        macs = row.whole("m") * row.whole("k") * row.whole("n")
        return 100 * macs / target.amp_macs_per_cycle(dtype, partials) / cycles, cycles  # type: ignore[arg-type]
    if row["unit"] != "cycles":
        raise NotRebuilt(f"unit {row['unit']} of a kernel")
    return float(cycles), cycles


def fit(rows: Sequence[Measurement]) -> dict[str, tuple[float, str]]:
    """What later versions of kernels take beside their loops, where their source gives no figure."""
    name = family(rows[0])

    def left(chosen: list[Measurement], *known: str) -> float:
        """The median of what is measured beyond the simulation with the constants `known` set to nothing."""
        off = [row.value - simulate(row)[0] + sum(constant(str(name), k) for k in known) for row in chosen]
        return median(off) if off else 0.0

    if name == "kernel gelu":
        of = [r for r in rows if "fp8" in r["op"].lower()]
        return {"fp8_call_cycles": (left(of, "fp8_call_cycles"), "cycles of a call with 8-bit results")}
    if name == "kernel add":
        of = [r for r in rows if _version(r["op"]) == 2]
        return {"pipeline_cycles": (left(of, "pipeline_cycles"), "cycles to fill the pipeline of quads")}
    if name == "kernel compiled":
        of = [r for r in rows if "add" in r["op"]]
        return {"call_cycles": (left(of, "call_cycles"), "cycles of a call")}
    if name == "kernel layernorm":
        whole = [r for r in rows if not re.search("apply|moments|statistics", r["op"].lower())]
        wide = [r for r in whole if _version(r["op"]) == 1 and _sizes(r)[0] == 1]
        late = [r for r in rows if _version(r["op"]) == 2 and re.search("statistics", r["op"].lower())]
        return {
            "wide_row_cycles": (left(wide, "wide_row_cycles"), "cycles a row of application by four, beyond pairs"),
            "pipeline_cycles": (left(late, "pipeline_cycles"), "cycles a row of pipelined statistics"),
        }
    return {}
