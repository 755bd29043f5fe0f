"""The plans of the vendor's library (poplibs), restated: dense products, and static block-sparse ones.

Not a part of the compiler: what ipucc's own plans are held against, and what a measurement of the vendor's library is
to be compared with. Restated from facts of the sources (lib/poplin/ConvPlan.cpp,
lib/popsparse/StaticMatMulPartitioner.cpp).

Dense, [n, k] x [k, m] with m x k the stationary weights: parts of n, k and m in space and steps of k or of m in time,
found by its own estimate (exchange, codelet, reduction and slices, no cost of a phase) within its share of a tile;
priced with ipucc's formulas and its cost of a phase. Activations arrive at the rate of tile pairs where m is cut into
an even number of parts, and once for all steps of m; weights at the rate of one tile.

Sparse: the dense side in at most 32 parts, the block rows in at most 128 bands of equal counts of blocks, each dealt to
its share of the tiles in runs of equal count; the dense side gathered at the rate of tile pairs, partials in fp32, and
the result moved to where the caller wants it and put in order there. The last two are inferred: with them, and nothing
fitted, the published heat map comes out (spmm.py --heat-map); what they cost is not charged to ipucc's own plans, whose
partials are those that the user asks for, and whose readers take results as they lie.
"""

from dataclasses import dataclass

import numpy as np
from banded import BandedFigures
from numpy.typing import NDArray

from ipucc.codelets.copy import Copy
from ipucc.codelets.matmul import product_cycles
from ipucc.codelets.reduce import Reduce
from ipucc.codelets.sparse import block_sparse_cycles
from ipucc.ops.distribution import Pattern, Scheme, figures_of, runs_of
from ipucc.target import Target
from ipucc.tiles.cuts import useful_parts

__all__ = [
    "DTYPES", "SHARE", "DensePlan", "SparsePlan", "dense_plan", "joined_partials", "moved_result", "shared_gather",
    "sparse_plan",
]  # fmt: skip

Ints = NDArray[np.int64]

DTYPES = {"fp16": ("float16", 2), "fp32": ("float32", 4)}
_TWO_STAGES = 16
"""From so many partials on, the library adds them in two stages (lib/poplin, reduction)."""
_UNIT = 16
"""Channels that the matrix unit takes at once."""
SHARE = 0.6
"""availableMemoryProportion: what a product may take of a tile."""


_SERIAL = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32)
"""Steps in time that are tried, of k or of m: one of both only, as there."""


@dataclass(frozen=True)
class DensePlan:
    """Parts of n, k and m in space, steps of k and m in time, the cycles under ipucc's machine, and whether it keeps
    within the library's share of a tile."""

    parts: tuple[int, int, int]
    serial: tuple[int, int]
    cycles: int
    compute: int
    exchange: int
    reduce: int
    sync: int
    fits: bool


def dense_plan(m: int, k: int, n: int, dtype: str, target: Target) -> DensePlan:
    """The library's plan of [n, k] x [k, m] with fp16 or fp32 partials, as the operands: the one with the least
    estimate, exchange and phases at the library's rates, that fits into its share of a tile."""
    found = [_cut(m, k, n, dtype, (1, s), target) for s in _SERIAL]
    found += [_cut(m, k, n, dtype, (s, 1), target) for s in _SERIAL[1:]]
    fitting = [f for f in found if f[1].fits] or found
    return min(fitting, key=lambda f: f[0])[1]


def _cut(
    m: int, k: int, n: int, dtype: str, serial: tuple[int, int], target: Target
) -> tuple[float, DensePlan]:  # fmt: skip
    """The library's estimate of its best parts in space for some steps in time, and the plan."""
    name, size = DTYPES[dtype]
    steps = serial[0] * serial[1]
    inner, outer = -(-k // _UNIT // serial[0]), -(-m // _UNIT // serial[1])
    grid = np.stack(
        np.meshgrid(*(useful_parts(x, target.tiles) for x in (n, inner, outer)), indexing="ij"), axis=-1
    ).reshape(-1, 3)  # fmt: skip
    grid = grid[grid.prod(axis=1) <= target.tiles]
    pn, pk, pm = grid.T
    rows, deep, wide = -(-n // pn), -(-inner // pk) * _UNIT, -(-outer // pm) * _UNIT
    left, right, sums = rows * deep * size, deep * wide * size, rows * wide * size
    one = target.exchange_bytes_per_cycle
    pair = target.pair_bytes_per_cycle
    # What is on the tile already need not move: every tile holds its share of both operands.
    activations = (left * (1 - 1 / pm)) / np.where(pm % 2 == 0, pair, one)
    # They are the same in all steps of m, and fetched before the first.
    fetched = activations / serial[1] + right * (1 - 1 / pn) / one
    work = product_cycles("amp", np.ones_like(rows), rows, deep, wide, name, name, target)
    stages, joined, added = joined_partials(pk, rows * wide, name, size, target)
    last = -(-rows * wide // pk)
    # A step takes its slice of the operand that is cut, and puts its result in place: every byte is copied once.
    sliced = (right / pn + (left / pm if serial[0] > 1 else 0) + last * size) if steps > 1 else np.zeros_like(sums)
    if serial[0] > 1:
        added = added + _added(np.full_like(last, 2), last, name, target)
    copied = sliced / target.copy_bytes_per_cycle
    memory = left + right + sums * (1 + np.where(stages > 0, 1, 0)) + (m * n * size // target.tiles if steps > 1 else 0)
    fits = memory <= SHARE * target.tile_bytes
    estimate = work + added + copied + fetched + joined / one
    estimate = np.where(fits, estimate, np.inf) if fits.any() else estimate
    i = int(estimate.argmin())
    phases = int(steps * (1 + stages[i]))
    exchange = int(steps * (fetched[i] + joined[i] / one) * target.exchange_factor)
    compute, reduce, sync = int(steps * (work[i] + copied[i])), int(steps * added[i]), phases * target.phase_cycles
    parts = int(pn[i]), int(pk[i]), int(pm[i])
    plan = DensePlan(
        parts, serial, compute + exchange + reduce + sync, compute, exchange, reduce, sync, bool(fits.any())
    )
    return float(steps * estimate[i]), plan


def joined_partials(parts: Ints, outputs: Ints, dtype: str, size: int, target: Target) -> tuple[Ints, Ints, Ints]:
    """Of partials of so many parts: in how many stages they are added up, bytes that a tile receives, and cycles."""
    stages = np.where(parts >= _TWO_STAGES, 2, np.where(parts > 1, 1, 0))
    first = np.where(stages == 2, np.ceil(np.sqrt(parts)), parts).astype(np.int64)
    second = np.where(stages == 2, -(-parts // np.maximum(first, 1)), 1)
    share = -(-outputs // first)
    last = -(-share // second)
    joined = np.where(stages > 0, outputs * size * (1 - 1 / first), 0)
    joined = joined + np.where(stages == 2, share * size * (1 - 1 / second), 0)
    added = np.where(stages > 0, _added(first, share, dtype, target), 0)
    return stages, joined, added + np.where(stages == 2, _added(second, last, dtype, target), 0)


def _added(depth: Ints, outputs: Ints, dtype: str, target: Target) -> Ints:
    codelet = Reduce("sum", ("k",), ("o",), dtype)
    return codelet.cycles({"k": depth, "o": outputs}, target)


@dataclass(frozen=True)
class SparsePlan:
    """How blocks are dealt, and the parts of the dense side."""

    scheme: Scheme
    parts: int


def sparse_plan(
    pattern: Pattern, n: int, dtype: str, target: Target, dealt: BandedFigures | None = None
) -> SparsePlan:  # fmt: skip
    """The library's plan of a static block-sparse product with n columns of the dense side: the least of its estimate
    over parts and bands. Gathered rows count at the rate of tile pairs, as there. `dealt` is used
    again where it was made before of the same pattern."""
    name, size = DTYPES[dtype]
    dealt = BandedFigures(pattern) if dealt is None else dealt
    best: tuple[float, SparsePlan] | None = None
    one, pair = target.exchange_bytes_per_cycle, target.pair_bytes_per_cycle
    for parts in (p for p in (1, 2, 3, 4, 6, 8, 11, 16, 23, 32) if p <= n):
        cell = -(-n // parts)
        for bands in (1, 2, 4, 8, 16, 32, 64, 128):
            across = min(target.tiles // parts // bands, -(-pattern.size // bands))
            if bands > pattern.shape[0] or across < 1:
                continue
            scheme = Scheme("banded", bands, across)
            f = dealt(scheme)
            area, depth = pattern.block[0] * pattern.block[1], min(f.holders, 1 + bands)
            made = f.outputs * pattern.block[1] * cell
            cost = float(
                block_sparse_cycles(
                    np.array([cell]), np.array([f.blocks]), np.array([f.outputs]), pattern.block, name, target
                )[0]
            )
            cost += f.rows * pattern.block[0] * cell * size / pair
            cost += f.blocks * area * size / one if parts > 1 else 0
            cost += made * 4 * depth / one + made * depth / 2
            if best is None or cost < best[0]:
                best = cost, SparsePlan(scheme, parts)
    assert best is not None
    return best[1]


def shared_gather(pattern: Pattern, plan: SparsePlan, n: int, dtype: str, target: Target) -> int:
    """Cycles less that gathering the dense side takes where tile pairs share it, as the library counts on, than at the
    rate of one tile."""
    size = DTYPES[dtype][1]
    f = figures_of(pattern, runs_of(pattern, plan.scheme), plan.scheme.count)
    moved = f.rows * pattern.block[0] * -(-n // plan.parts) * size
    rates = 1 / target.exchange_bytes_per_cycle - 1 / target.pair_bytes_per_cycle
    return int(moved * rates * target.exchange_factor)


def moved_result(m: int, n: int, dtype: str, target: Target) -> tuple[int, int, int]:
    """Compute, exchange and phase of handing a result [n, m] over: moved to all tiles evenly, and put in order there
    element by element, which takes what ipucc's own copy codelet takes (10 cycles, measured by ipu-stack)."""
    name, size = DTYPES[dtype]
    elements = -(-m * n // target.tiles)
    ordered = int(Copy((elements,), (), name, 0.0).cycles({"d0": np.array([elements])}, target)[0])
    moved = int(size * elements / target.exchange_bytes_per_cycle * target.exchange_factor)
    return ordered, moved, target.phase_cycles
