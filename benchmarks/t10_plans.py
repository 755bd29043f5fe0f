"""Compute-shift plans of a matmul, as T10 makes them, priced with the cycles of ipucc's own machine.

T10 (Liu et al., SOSP 2024, arXiv 2408.04808) cuts the loops m, k and n over the tiles; a tensor that has not all three
is then shared by the tiles along the missing one, and may be cut again among them: every tile holds a part and the
parts rotate while it computes. Restated here from the paper's terms, searched as a whole in numpy:

- spatial factors (pm, pk, pn), their product between `USED` of the tiles and all of them;
- temporal factors of A over (m, k), whose product divides pn; of B over (k, n), dividing pm; of the partial sums C over
  (m, n), dividing pk. The factors of one loop divide each other. The loop takes as many steps as the larger says, and
  what rotates along it moves by the smaller of the pieces (the rotating pace);
- all orders of the loops. A ring turns back at its end, so that an outer step costs no extra shift.

Weights rest where the plan begins; the activation A rests in one copy, and what several tiles hold of it when the plan
begins is fetched first. Fetching, and collecting and reducing the partial sums that rings do not join, cost what they
cost in ipucc: a phase, the bytes that arrive, a copy of what is on the tile already. Pieces are whole grains, as all of
ipucc's: 16 bytes of a row, and along k what one pass of the matrix unit reduces. Kernels are ipucc's, by any method.

Priced in favour of such plans: the kernel accumulates over steps for free, and transposes sums once; a tensor whose
pieces have an even number of holders moves at the rate of tile pairs (one tensor at a time: a pair shares one of
them); shifts have no control of fragments. Every change of a step is one exchange phase.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.matmul import METHODS, MatMul, scratch_bytes
from ipucc.codelets.reduce import Reduce
from ipucc.target import Target
from ipucc.tiles.cuts import useful_parts

__all__ = ["Plan", "fastest_plan"]

Ints = NDArray[np.int64]

USED = 0.6
"""Least share of the tiles that a plan uses."""
CHUNK = 1 << 20
GRAIN_BYTES = 16
DTYPES = {"fp16": ("float16", 2), "fp32": ("float32", 4)}
LOOPS = ("m", "k", "n")
TENSORS = {"A": ("m", "k", "n"), "B": ("k", "n", "m"), "C": ("m", "n", "k")}
"""Per tensor its two loops and the one along which tiles share it."""


@dataclass(frozen=True)
class Plan:
    """A compute-shift plan and its cycles; `memory_bytes` is what the fullest tile holds while it runs. `sums`: nothing
    rotates but the partial sums, cut along one loop into so many pieces."""

    cycles: int
    compute: int
    exchange: int
    sync: int
    memory_bytes: int
    text: str
    parts: dict[str, int]
    rotates: bool
    sums: tuple[str, int] | None


def fastest_plan(m: int, k: int, n: int, dtype: str, target: Target) -> Plan | None:
    """The fastest plan whose pieces fit a tile beside what ipucc allows for code, None if none does."""
    limit = target.usable_bytes - target.tile_bytes // 16
    best: Plan | None = None
    for parts, factors in candidates(m, k, n, dtype, target):
        plan = priced((m, k, n), parts, factors, dtype, target, limit)
        if plan is not None and (best is None or plan.cycles < best.cycles):
            best = plan
    return best


def grains(dtype: str, target: Target) -> tuple[int, int, int]:
    """The least piece of m, k and n, in elements."""
    return 1, target.amp_input_channels(dtype), GRAIN_BYTES // DTYPES[dtype][1]


def candidates(m: int, k: int, n: int, dtype: str, target: Target) -> Iterator[tuple[dict[str, Ints], dict[str, Ints]]]:
    """Spatial factors by loop and temporal factors by tensor and loop ("Am", "Ak", ...), some `CHUNK` rows at once."""
    sizes = [-(-size // grain) for size, grain in zip((m, k, n), grains(dtype, target), strict=True)]
    grid = np.meshgrid(*(useful_parts(size, target.tiles) for size in sizes), indexing="ij")
    table = np.stack([axis.reshape(-1) for axis in grid], axis=1).astype(np.int64)
    used = table.prod(axis=1)
    most = int(used[used <= target.tiles].max())
    table = table[(used <= target.tiles) & (used >= USED * most)]
    spatial, temporal, rows = [], [], 0
    for pm, pk, pn in table.tolist():
        inner = _temporal(pm, pk, pn)
        spatial.append(np.broadcast_to(np.array([pm, pk, pn]), (len(inner), 3)))
        temporal.append(inner)
        rows += len(inner)
        if rows >= CHUNK:
            yield _columns(spatial, temporal)
            spatial, temporal, rows = [], [], 0
    if rows:
        yield _columns(spatial, temporal)


def _columns(spatial: list[Ints], temporal: list[Ints]) -> tuple[dict[str, Ints], dict[str, Ints]]:
    parts, factors = np.concatenate(spatial), np.concatenate(temporal)
    names = ("Am", "Ak", "Bk", "Bn", "Cm", "Cn")
    return dict(zip(LOOPS, parts.T, strict=True)), dict(zip(names, factors.T, strict=True))


@cache
def _pairs(shared: int) -> Ints:
    """All pairs of factors whose product divides `shared`."""
    divisors = [d for d in range(1, shared + 1) if shared % d == 0]
    return np.array([(a, b) for a in divisors for b in divisors if shared % (a * b) == 0], np.int64)


@cache
def _temporal(pm: int, pk: int, pn: int) -> Ints:
    """[combinations, (Am, Ak, Bk, Bn, Cm, Cn)] for one choice of spatial factors."""
    a, b, c = _pairs(pn), _pairs(pm), _pairs(pk)
    i, j, h = (axis.reshape(-1) for axis in np.indices((len(a), len(b), len(c))))
    found = np.concatenate([a[i], b[j], c[h]], axis=1)
    keep = np.ones(len(found), bool)
    for one, other in ((1, 2), (0, 4), (3, 5)):
        low, high = np.sort(found[:, [one, other]], axis=1).T
        keep &= high % low == 0
    return found[keep]


def priced(
    sizes: tuple[int, int, int], parts: dict[str, Ints], f: dict[str, Ints], dtype: str, target: Target, limit: int
) -> Plan | None:
    """The fastest of these plans that takes at most `limit` bytes of a tile."""
    element, item = DTYPES[dtype]
    least = dict(zip(LOOPS, grains(dtype, target), strict=True))
    cell = {loop: -(-size // (least[loop] * parts[loop])) for loop, size in zip(LOOPS, sizes, strict=True)}  # in grains

    def piece(loop: str, factor: Ints) -> Ints:
        """Elements of a cell's largest piece, where it is cut into `factor` pieces of whole grains."""
        return -(-cell[loop] // factor) * least[loop]

    held = {t: piece(x, f[t + x]) * piece(y, f[t + y]) * item for t, (x, y, _) in TENSORS.items()}
    turns = {t: f[t + x] * f[t + y] > 1 for t, (x, y, _) in TENSORS.items()}
    left = parts["k"] // (f["Cm"] * f["Cn"])  # partial sums of a piece that no ring has joined
    holders = parts["n"] // (f["Am"] * f["Ak"])  # tiles that begin with the same piece of A
    memory = sum(np.where(turns[t], 2, 1) * held[t] for t in TENSORS) + np.where(left > 1, held["C"], 0)
    memory = memory + np.where(holders > 1, -(-held["A"] // holders), 0)
    fits = memory <= limit
    if not fits.any():
        return None
    parts, f, cell, held = ({key: value[fits] for key, value in group.items()} for group in (parts, f, cell, held))
    left, holders, memory = left[fits], holders[fits], memory[fits]
    steps = {
        "m": np.maximum(f["Am"], f["Cm"]), "k": np.maximum(f["Ak"], f["Bk"]), "n": np.maximum(f["Bn"], f["Cn"]),
    }  # fmt: skip
    pace = {loop: piece(loop, steps[loop]) for loop in LOOPS}
    pieces = {t: (piece(x, f[t + x]), piece(y, f[t + y])) for t, (x, y, _) in TENSORS.items()}
    rounds = steps["m"] * steps["k"] * steps["n"]
    compute = _kernels(pace, rounds, rounds // steps["k"], limit - memory, element, target)
    outputs = -(-(held["C"] // item) // left)
    one = np.ones_like(left)
    reduce = Reduce("sum", ("k",), ("m", "n"), element).cycles({"k": left, "m": outputs, "n": one}, target)
    compute = compute + np.where(left > 1, reduce, 0)
    collected = np.where(left > 1, held["C"] * (left - 1) / left, 0.0) / target.exchange_bytes_per_cycle
    rate = np.where(holders % 2 == 0, target.pair_bytes_per_cycle, target.exchange_bytes_per_cycle)
    fetched = held["A"] * (holders - 1) / holders / rate
    kept = np.where(holders > 1, held["A"] / holders, 0) + np.where(left > 1, held["C"] / left, 0)
    compute = compute + np.ceil(kept / target.copy_bytes_per_cycle).astype(np.int64)
    phases = rounds - 1 + (left > 1) + (holders > 1)
    best, bits = None, None
    for order in permutations(LOOPS):
        bits = _shifted(order, steps, pace, pieces, parts, f, item, target)
        best = bits if best is None else np.minimum(best, bits)
    exchange = ((best + collected + fetched) * target.exchange_factor).astype(np.int64)
    sync = phases * target.phase_cycles
    total = compute + exchange + sync
    i = int(np.lexsort((memory, total))[0])
    return Plan(
        int(total[i]), int(compute[i]), int(exchange[i]), int(sync[i]), int(memory[i]),
        _text({x: int(parts[x][i]) for x in LOOPS}, {x: int(v[i]) for x, v in f.items()}, int(rounds[i])),
        {x: int(parts[x][i]) for x in LOOPS}, int(rounds[i]) > 1, _sums({x: int(v[i]) for x, v in f.items()}),
    )  # fmt: skip


def _kernels(pace: dict[str, Ints], rounds: Ints, finished: Ints, room: Ints, element: str, target: Target) -> Ints:
    """Cycles of the best method for all rounds of a plan; sums of `finished` of them are complete. `room` is the
    memory left for sums that are transposed."""

    def cycles(method: str, m: Ints, n: Ints) -> Ints:
        return MatMul((), element, element, method=method).cycles({"m": m, "k": pace["k"], "n": n}, target)

    streamed = cycles("amp", pace["n"], pace["m"])
    transposed = cycles("swapped", pace["m"], pace["n"]) - streamed
    scratch = scratch_bytes("swapped", np.ones_like(room), pace["m"], pace["n"], element, element, target)
    found = np.where(scratch <= room, rounds * streamed + finished * transposed, np.iinfo(np.int64).max)
    for method in METHODS:
        if method != "swapped":
            found = np.minimum(found, rounds * cycles(method, pace["m"], pace["n"]))
    return found


def _shifted(
    order: tuple[str, ...], steps: dict[str, Ints], pace: dict[str, Ints], pieces: dict[str, tuple[Ints, Ints]],
    parts: dict[str, Ints], f: dict[str, Ints], item: int, target: Target,
) -> NDArray[np.float64]:  # fmt: skip
    """Cycles at a port for all shifts of a plan, its loops nested in `order`, outermost first."""
    changes, outer = {}, np.ones_like(steps["m"])
    for loop in order:
        changes[loop] = outer * (steps[loop] - 1)
        outer = outer * steps[loop]
    moved = {}
    for t, (x, y, shared) in TENSORS.items():
        along_x = np.where(f[t + x] > 1, changes[x] * pace[x] * pieces[t][1], 0)
        along_y = np.where(f[t + y] > 1, changes[y] * pace[y] * pieces[t][0], 0)
        # Partial sums differ from tile to tile; only operands have several holders.
        even = (parts[shared] // (f[t + x] * f[t + y])) % 2 == 0 if t != "C" else np.zeros_like(outer, bool)
        moved[t] = (along_x + along_y) * item, even
    rate, pair = target.exchange_bytes_per_cycle, target.pair_bytes_per_cycle
    saved = [np.where(even, size * (1 / rate - 1 / pair), 0.0) for size, even in moved.values()]
    return sum(size for size, _ in moved.values()) / rate - np.maximum.reduce(saved)


def _sums(f: dict[str, int]) -> tuple[str, int] | None:
    turning = [key for key, factor in f.items() if factor > 1]
    return (turning[0][1], f[turning[0]]) if turning in (["Cm"], ["Cn"]) else None


def _text(parts: dict[str, int], f: dict[str, int], rounds: int) -> str:
    """Parts per loop, and per tensor that rotates the pieces that its share is cut into."""
    cut = " ".join(f"{loop}/{parts[loop]}" for loop in LOOPS)
    turning = [f"{t} in {f[t + x]}x{f[t + y]}" for t, (x, y, _) in TENSORS.items() if f[t + x] * f[t + y] > 1]
    return cut + (f", {', '.join(turning)}, {rounds} rounds" if turning else "")
