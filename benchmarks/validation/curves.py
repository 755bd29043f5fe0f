"""Simulated curves where nobody measured: smooth, monotone, with the limits that the machine has."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from conv_plans import ConvShape, conv_plan
from poplibs_plans import dense_plan

from ipucc.codelets.matmul import MatMul
from ipucc.target import load_target
from validation.claims import Claim
from validation.kernel import Gelu, LayerNorm, Reduction
from validation.phases import halo, phase_cycles
from validation.stencil import Triad
from validation.tile import kernel_cycles

__all__ = ["curves"]


def _amp() -> tuple[str, bool]:
    bow = load_target("bow").plain
    rows = np.arange(18, 20000, 37)
    cycles = np.array([kernel_cycles(MatMul((), "float16", "float16"), {"m": int(m), "k": 16, "n": 16}, bow)
                       for m in rows])  # fmt: skip
    limit = float(rows[-1] / cycles[-1] * 4)
    return f"{limit:.1%} of the peak at {rows[-1]:,} rows", bool((np.diff(cycles) > 0).all()) and 0.97 < limit < 1


def _dense() -> tuple[str, bool]:
    bow = load_target("bow")
    worst, peak = 0.0, 0.0
    for dtype in ("fp16", "fp32"):
        top = bow.peak_flops(dtype, dtype) / 1e12  # type: ignore[arg-type]
        for m in (512, 2048, 8192):
            n = [1 << i for i in range(2, 14)]
            cycles = [dense_plan(m, m, x, dtype, bow).cycles for x in n]
            worst = max(worst, *(a / b for a, b in pairwise(cycles)))
            rates = [2e-12 * m * m * x / bow.cycles_to_seconds(c) for x, c in zip(n, cycles, strict=True)]
            peak = max(peak, max(rates) / top)
    return f"time falls at most x{worst:.3f} where n doubles; {peak:.0%} of peak at most", worst <= 1.02 and peak < 1


def _kernels() -> tuple[str, bool]:
    target = load_target("c600")
    sizes = range(48, 6000, 48)
    good = True
    for codelet, extents in (
        (Reduction(), lambda x: {"elements": x, "partials": 4}), (Gelu(85, 330), lambda x: {"elements": x}),
        (LayerNorm(("moments", "apply"), False, 2, 132, 1400), lambda x: {"rows": 1, "width": x}),
    ):  # fmt: skip
        cycles = np.array([kernel_cycles(codelet, extents(x), target) for x in sizes])
        steps = np.diff(cycles)
        good &= bool((steps >= 0).all()) and steps.max() <= 8 * max(1, np.median(steps[steps > 0]))
    return "reduction, GELU and layer norm by 48 elements from 48 to 6,000", good


def _halo() -> tuple[str, bool]:
    target = load_target("gc200")
    cycles = [phase_cycles(halo((32, 46), (c, c), 4, target.tiles), target) for c in (64, 128, 256, 512)]
    ratios = [b / a for a, b in pairwise(cycles)]
    return "faces twice as long: " + ", ".join(f"x{r:.2f}" for r in ratios), all(1.9 < r < 2.1 for r in ratios)


def _triad() -> tuple[str, bool]:
    target = load_target("gc200")
    share = [12 * e / (24 * kernel_cycles(Triad(), {"elements": e}, target)) for e in (120, 1200, 12000, 48000)]
    return ", ".join(f"{s:.1%}" for s in share) + " of the issue bound as vectors grow", share == sorted(share) < [1.0]


def _conv() -> tuple[str, bool]:
    target = load_target("c600")
    total = [conv_plan(ConvShape(b, 64, 64, 56, 56, (3, 3), 1), "fp16", target).total for b in (1, 2, 4, 8, 16, 32)]
    each = [t / b for t, b in zip(total, (1, 2, 4, 8, 16, 32), strict=True)]
    return "cycles an image " + ", ".join(f"{x:,.0f}" for x in each), total == sorted(total) and each == sorted(
        each, reverse=True
    )


_CURVES: dict[str, tuple[str, Callable[[], tuple[str, bool]]]] = {
    "C1": ("time of the matrix unit rises with every row, its rate approaches the peak", _amp),
    "C2": ("dense products take no less time for more columns, and stay below the peak", _dense),
    "C3": ("kernels rise without jumps", _kernels),
    "C4": ("exchanged faces take as long as they are", _halo),
    "C5": ("the triad approaches the issue bound from below", _triad),
    "C6": ("a convolution takes longer for more images, and less for each", _conv),
}


def curves() -> list[Claim]:
    """Every check with what was found."""
    made = []
    for name, (text, check) in _CURVES.items():
        found, holds = check()
        made.append(Claim(name, text, found, bool(holds)))
    return made
