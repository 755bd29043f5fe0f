"""Lower bounds on the cycles of a matmul M x K x N: no plan of any kind takes less on the machine.

**Compute.** A tile that does v multiply-accumulates takes at least kappa v cycles, with the least kappa of:

- the matrix unit with B stationary. A block of B, `input channels` x `units`, is loaded in `weight_cycles`, then rows
  of A pass at `position_cycles` each. At most M rows pass a block, and a block holds at most min(channels, K)
  min(units, N) useful elements: kappa = (position_cycles + weight_cycles / M) / (min(channels, K) min(units, N));
- the same with A stationary, M and N exchanged;
- the vector unit: `VECTOR_MACS` a cycle.

The busiest tile has v >= MKN / tiles, so compute >= kappa MKN / tiles. `amp_cycles` is the weaker figure that leaves
out the loading and the ragged edges: MKN / (tiles x multiply-accumulates per cycle).

**Exchange.** Let a tile that does v multiply-accumulates touch a elements of A, b of B, and c of C (its sums, complete
or not). Then a b c >= v^2 (Loomis and Whitney), a >= v / N, b >= v / M, c >= v / K. What it touches and does not hold
from the start it receives; it holds at most R bytes, its usable memory. Of an element of C to which p tiles contribute,
at least p - 1 sums are received by somebody. The activation A rests in one copy, weights lie wherever the plan wants,
as often as memory allows. So all tiles together receive at least sum h(v_t) - F bytes, with s bytes per element and

    h(v) = min s a + s max(0, b - R/s) + s c,  F = s (MK + MN)

The v_t sum to MKN and none exceeds the largest, v. So sum h(v_t) >= tiles x H(MKN / tiles) with H the lower convex hull
of h on [0, v]. A tile receives at most `pair_bytes_per_cycle`. Nothing overlaps in a program of supersteps, and moving
anything takes a phase:

    cycles >= min over v >= MKN / tiles of: kappa v + x + (phase_cycles if x > 0 else 0),
    x = max(0, tiles H(MKN / tiles) - F) / (tiles x pair_bytes_per_cycle)

It leaves out the fitted factor on exchange bytes, the control of fragments, all overheads of kernels, and what adding
partial sums takes. Minima are taken over grids of GRID points, each interval at its better end, so that they stay lower
bounds.

**Memory.** Inputs and the result have to lie somewhere: s (MK + KN + MN) <= tiles x usable bytes, or nothing fits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipucc.target import AmpType, Target

__all__ = ["VECTOR_MACS", "Bound", "gemm_bound", "least_cycles_per_mac"]

Floats = NDArray[np.float64]

VECTOR_MACS = 8.0
"""Multiply-accumulates per cycle of the vector unit, all workers together: more than any kernel of ipucc reaches."""
GRID = 400
ITEM_BYTES = {"fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Bound:
    """Cycles that no plan goes below, and what they consist of; `exchange_cycles` at the v that attains them.

    `memory_bytes` is what inputs and result take of an average tile; `fits` says whether that is there.
    """

    cycles: int
    amp_cycles: int
    compute_cycles: int
    exchange_cycles: int
    memory_bytes: int
    fits: bool


def gemm_bound(m: int, k: int, n: int, dtype: AmpType, target: Target) -> Bound:
    """The bounds of the module's text. Partial sums are of the type of A."""
    s, macs, tiles = ITEM_BYTES[dtype], float(m) * k * n, target.tiles
    kappa = least_cycles_per_mac(m, k, n, dtype, target)
    share, room = macs / tiles, target.usable_bytes / s
    # From one tile's share to all of it on one tile; a plan that puts more than a thousand shares on a tile takes a
    # thousand times as long to compute.
    most = share * np.geomspace(1, min(tiles, 1000), GRID)
    v = np.concatenate([share * np.geomspace(1e-3, 1, GRID)[:-1], most])
    touched = s * _touched(v, (m, k, n), room)
    free = s * (m * k + m * n)
    hull = _hull(v, touched, share)
    received = np.maximum(0.0, tiles * hull - free) / (tiles * target.pair_bytes_per_cycle)
    # For a largest share between the point before and this one: computing is taken at the former, and what is
    # received, which shrinks as more may lie on one tile, at the latter.
    computed = kappa * np.append(most[:1], most[:-1])
    total = computed + received + np.where(received > 0, target.phase_cycles, 0)
    best = int(total.argmin())
    least, moved = min(total[best], kappa * most[-1]), received[best]
    amp = share / target.amp_macs_per_cycle(dtype, "fp16" if dtype == "fp16" else "fp32")
    size = s * (m * k + k * n + m * n)
    return Bound(
        int(least), int(amp), int(kappa * share), int(moved), -(-size // tiles), size <= tiles * target.usable_bytes
    )


def least_cycles_per_mac(m: int, k: int, n: int, dtype: AmpType, target: Target) -> float:
    """kappa: the least cycles that a tile takes for one multiply-accumulate."""
    partials: AmpType = "fp16" if dtype == "fp16" else "fp32"
    channels, units = target.amp_input_channels(dtype), target.amp.units(dtype, partials)
    position, load = target.amp.position_cycles(dtype), target.amp_weight_cycles(dtype, partials)
    stationary = [
        (position + load / rows) / (min(channels, k) * min(units, columns)) for rows, columns in ((m, n), (n, m))
    ]
    return min(*stationary, 1 / VECTOR_MACS)


def _touched(v: Floats, sizes: tuple[int, int, int], room: float) -> Floats:
    """h of every v, in elements: the least a tile receives, counting all of its sums."""
    m, k, n = sizes
    share = np.linspace(0, 1, GRID)
    low = v[:, None] / k
    c = low * np.maximum(1.0, m * n / low) ** share  # from v / K to all of C
    product = v[:, None] ** 2 / c[:, 1:]  # a b, with the upper end of every interval of c
    least_a, least_b = v[:, None] / n, v[:, None] / m
    # Beyond what is held, elements of A and B cost alike: equal numbers are best.
    b = np.minimum(np.maximum(room, np.sqrt(product)), float(k) * n)
    b = np.maximum(np.minimum(b, product / least_a), least_b)
    inputs = np.maximum(product / b, least_a) + np.maximum(0.0, b - room)
    return np.asarray((inputs + c[:, :-1]).min(axis=1))


def _hull(x: Floats, y: Floats, at: float) -> Floats:
    """The lower convex hull, at one point, of a nondecreasing function known at `x`: over [0, e] for every e >= at."""
    # The value at the left end of an interval stands for all of it, so it is taken at the right end.
    px, py = np.concatenate([[0.0], x]), np.concatenate([[0.0, 0.0], y[:-1]])
    left, right = px <= at, px >= at
    lx, ly, rx, ry = px[left][:, None], py[left][:, None], px[right][None, :], py[right][None, :]
    share = np.where(rx > lx, (at - lx) / np.where(rx > lx, rx - lx, 1.0), 1.0)
    return np.minimum.accumulate((ly + (ry - ly) * share).min(axis=0))
