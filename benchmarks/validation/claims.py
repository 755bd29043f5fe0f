"""What the sources claim in words, as named checks over simulated figures.

Claims of numbers are held against the table of measurements; no figure of a source stands here. S1 to S7 are those of
../spmm_checks.py, which compile dozens of products.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ipucc.codelets.matmul import MatMul
from ipucc.program.order import Order
from ipucc.target import load_target
from validation import dense, network, scaling, stencil
from validation.fit import constant
from validation.phases import one_to_one, phase_cycles
from validation.rows import Measurement, NotRebuilt
from validation.tile import kernel_cycles

__all__ = ["Claim", "quick_claims", "sparse_claims"]

Rows = Sequence[Measurement]


@dataclass(frozen=True)
class Claim:
    """A claim, what the simulation says, and whether it holds; None where it is not modelled."""

    name: str
    claim: str
    found: str
    holds: bool | None


def _dense(rows: Rows, dtype: str, m: int) -> list[tuple[int, float, float]]:
    """n, measured and simulated TFLOP/s of square products in the table."""
    made = []
    for row in rows:
        if dense.family(row) == f"dense {dtype}" and not row["n"].startswith("best") and row.whole("m") == m:
            made.append((row.whole("n"), row.value, dense.simulate(row)[0]))
    return sorted(made)


def _d1(rows: Rows) -> tuple[str, bool]:
    shares, holds = [], True
    for dtype, partials in (("fp16", "fp16"), ("fp32", "fp32")):
        peak = load_target("bow").peak_flops(dtype, partials) / 1e12  # type: ignore[arg-type]
        found = _dense(rows, dtype, 4096)
        rates = [s for _, _, s in found]
        best, seen = max(rates) / peak, max(v for _, v, _ in found) / peak
        shares.append(f"{dtype} {best:.0%} of peak, measured {seen:.0%}")
        holds &= abs(best - seen) < 0.07 and all(b > 0.97 * a for a, b in pairwise(rates))
    return ", ".join(shares), holds


def _d2(rows: Rows) -> tuple[str, bool]:
    small = [_dense(rows, "fp16", m)[0][2] for m in (1024, 4096)]
    curve = _dense(rows, "fp16", 4096)
    last = curve[-1][2] / curve[-2][2]
    return f"n=4: {small[0]:.1f} and {small[1]:.1f} TFLOP/s; last doubling of n x{last:.2f}", (
        small[1] > 2 * small[0] and last < 1.15
    )


def _d3(rows: Rows) -> tuple[str, bool]:
    best = {d: max(s for m in (1024, 4096) for _, _, s in _dense(rows, d, m)) for d in ("fp16", "fp32")}
    ratio = best["fp16"] / best["fp32"]
    return f"best fp16 over best fp32: {ratio:.2f}", 3.6 < ratio < 4.2


def _k1(rows: Rows) -> tuple[str, bool]:
    bow = load_target("bow").plain
    m = np.arange(48, 2049, 48)
    cycles = [kernel_cycles(MatMul((), "float16", "float16"), {"m": int(x), "k": 16, "n": 16}, bow) for x in m]
    slope, fixed = np.polyfit(m, np.asarray(cycles) + constant("amp", "call_cycles"), 1)
    return f"{slope:.3f} cycles a row, {fixed:.0f} beside", 3.99 < slope < 4.01 and 320 < fixed < 340


def _k3(rows: Rows) -> tuple[str, bool]:
    target = load_target("c600")
    words = 4096
    moved = one_to_one(np.array([0]), np.array([5]), np.array([4 * words]), target.tiles)
    rate = 4 * words / (phase_cycles(moved, target) / target.exchange_factor)
    boundary = constant("exchange scheduled", "boundary_cycles")
    return f"boundary {boundary:.0f} cycles, {rate:.2f} bytes a cycle", 230 <= boundary <= 280 and abs(rate - 4) < 0.01


def _k4(rows: Rows) -> tuple[str, bool]:
    triad = next(r for r in rows if stencil.family(r) == "stencil triad" and r["unit"] == "%")
    found = stencil.simulate(triad)[0]
    return f"{found:.1f} % of the issue bound", found > 98


def _k5(rows: Rows) -> tuple[str, bool]:
    target = load_target("gc2")
    steps = round(constant("scaling kalman", "scalar_steps"))

    def seconds(tiles: int, threads: int) -> float:
        cycles = kernel_cycles(scaling.Track(steps, threads), {"tracks": 400}, target, tiles)
        return target.cycles_to_seconds(cycles) + constant("scaling kalman", "launch_us") * 1e-6

    linear = (1216 / seconds(1216, 6)) / (2 / seconds(2, 6)) / (1216 / 2)
    workers = seconds(2, 1) / seconds(2, 6)
    return f"{linear:.2%} of linear, six workers x{workers:.1f}", linear > 0.999 and 3.5 < workers < 6


def _x1(rows: Rows) -> tuple[str, bool]:
    target = load_target("c600")
    # All tiles of a group send to all of another, every sender in the same order of receivers.
    n = 256
    sender, receiver = np.repeat(np.arange(n), n), n + np.tile(np.arange(n), n)
    moved = one_to_one(sender, receiver, np.full(n * n, 128), target.tiles)
    poor, good = phase_cycles(moved, target, Order("wide", 1, 1)), phase_cycles(moved, target)
    return f"the same transfers in {poor:,} and {good:,} cycles, x{poor / good:.2f}", poor > 1.3 * good


def _n1(rows: Rows) -> tuple[str, bool]:
    batches = sorted(r.whole("batch") for r in rows if network.family(r) == "network resnet50 fp16"
                     and r["unit"] == "samples/s")  # fmt: skip
    target = load_target("c600")
    ms = [1e3 * target.cycles_to_seconds(network.device_cycles(b, "fp16", "c600").total) for b in batches]
    slope, fixed = np.polyfit(batches, ms, 1)
    return f"{fixed:.3f} + {slope:.4f} b ms, first {ms[0]:.3f} ms", fixed > 0 and ms[0] < fixed + slope * batches[0]


def _n2(rows: Rows) -> tuple[str, bool]:
    ratio = {b: network.device_cycles(b, "fp16", "c600").total / network.device_cycles(b, "fp32", "c600").total
             for b in (1, 16)}  # fmt: skip
    return f"{ratio[1]:.2f} at batch 1, {ratio[16]:.2f} at 16", 0.4 < ratio[1] < 0.55 and 0.28 < ratio[16] < ratio[1]


def _oom(rows: Rows) -> tuple[str, bool]:
    """Compiles nothing. What a program takes beside weights and the largest activation is not published; how many times
    as much a chip must hold is read off the fp32 runs that failed, the smallest, and asked of all fp16 runs."""
    share: dict[str, dict[bool, list[tuple[float, str]]]] = {d: {True: [], False: []} for d in ("fp16", "fp32")}
    for row in rows:
        if row["dtype"] in share and network.family(row) is not None:
            ran = "synthetic" if "synthetic" in row["workload"] else "real data"
            taken = network.memory_share(row.whole("batch"), row["dtype"], row.machine)
            share[row["dtype"]][row["value"] == "OOM"].append((taken, f"fp16 batch {row['batch']}, {ran}"))
    times = 1 / min(taken for taken, _ in share["fp32"][True])
    ran = [what for taken, what in share["fp16"][False] if taken * times >= 1]
    missed = [what for taken, what in share["fp16"][True] if taken * times < 1]
    held = all(taken * times < 1 for taken, _ in share["fp32"][False]) and not missed
    failed = len(share["fp16"][True])
    found = f"x{times:.2f} from fp32: of fp16 {failed - len(missed)} of {failed} that failed"
    other = f", of {len(share['fp16'][False])} that ran {len(ran)}: {', '.join(ran)}" if ran else ", none that ran"
    return found + other, held and len(ran) <= 1


def _n4(rows: Rows) -> tuple[str, bool]:
    pairs = []
    for row in rows:
        if (
            network.family(row) == "network resnet50 real data"
            and row["dtype"] == "fp16"
            and row["unit"] == "samples/s"
        ):
            alone = row.whole("batch") / load_target(row.machine).cycles_to_seconds(
                network.device_cycles(row.whole("batch"), "fp16", row.machine).total
            )
            pairs.append(1 - network.simulate(row)[0] / alone)
    return f"{min(pairs):.1%} to {max(pairs):.1%}", min(pairs) > 0.02 and max(pairs) < 0.08


_QUICK: dict[str, tuple[str, Callable[[Rows], tuple[str, bool]]]] = {
    "D1": ("dense products rise with n to two thirds of the peak, fp16 and fp32", _d1),
    "D2": ("at n=4 a larger matrix is faster, and throughput saturates with n", _d2),
    "D3": ("fp16 is about 4 times as fast as fp32 at best", _d3),
    "K1": ("time of the matrix unit is affine in rows: 4 cycles a row, about 331 beside", _k1),
    "K3": ("a phase is its schedule and 230 to 280 cycles; 4 bytes a cycle and tile", _k3),
    "K4": ("the STREAM triad reaches 99 % of the issue bound of memory", _k4),
    "K5": ("six workers are about 4 times as fast as one, tiles scale linearly", _k5),
    "X1": ("the same payload takes much longer in a poor order of transfers", _x1),
    "N1": ("ResNet-50 fp16 is affine in the batch, and batch 1 lies below the line", _n1),
    "N1 memory": ("runs that were out of memory on the chip are so here", _oom),
    "N2": ("fp32 reaches half the throughput of fp16 at batch 1, a third at 16", _n2),
    "N4": ("the host costs 3 to 5 % of throughput", _n4),
}

_NOT_MODELLED = {
    "K6": ("synchronisation and exchange grow over chips (GC2 blur)",
           "phases of the blur over chips are not in the data"),
    "N7": ("YOLOv4-P5 is affine in pixels", "the network is not in the data"),
}  # fmt: skip


def quick_claims(rows: Rows) -> list[Claim]:
    """All but S1 to S7; a claim whose rows are not in the table is left out."""
    made = []
    for name, (text, check) in _QUICK.items():
        try:
            found, holds = check(rows)
        except (StopIteration, IndexError, ValueError, NotRebuilt):
            continue
        made.append(Claim(name, text, found, bool(holds)))
    made.append(_s8(rows))
    return made + [Claim(name, text, why, None) for name, (text, why) in _NOT_MODELLED.items()]


def sparse_claims() -> list[Claim]:
    """S1 to S7 with the vendor's static plans and ours of dynamic products."""
    from spmm_checks import CHECKS, _Asked

    asked = _Asked("bow", "vendor")
    made = []
    for name, (text, check) in CHECKS.items():
        found, holds = check(asked)
        made.append(Claim(name, text, found, holds))
    return made


def _s8(rows: Rows) -> Claim:
    from validation import sparse

    text = "a cell that could not be run does not fit, the others of its size do"
    held: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        if sparse.family(row) == "sparse heat map" and row["block"] == "1" and row.whole("m") >= 4096:
            held[bool(row["value"])].append(sparse.memory_share(row))
    if not held[False]:
        return Claim("S8", text, "no such cell in the table", None)
    least, most = min(held[False]), max(held[True])
    return Claim("S8", text, f"it takes {least:.0%} of what a product may take, they at most {most:.0%}", least > most)
