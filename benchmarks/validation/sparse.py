"""Static block-sparse products of the vendor's library, its distribution lowered to a program (../spmm.py).

Speed-ups are over the library's dense product of the same size. Cells of the heat map are medians over all k that were
measured; here k = m. Patterns are random, one per shape and density.
"""

from poplibs_plans import DTYPES, SHARE, sparse_plan
from spmm import Case, dealt, figures_of, measured_row, random_pattern

from ipucc.target import load_target
from validation.dense import best_rate
from validation.rows import Measurement, NotRebuilt

__all__ = ["family", "group", "memory_share", "simulate", "weight"]

COLUMNS = (64, 256, 1024, 4096)
"""The n among which the best is sought; single elements run at one rate from a few columns on."""
_MODES = ("static", "dynamic")


def _mode(row: Measurement) -> str | None:
    """Static or dynamic, for a product that is sparse."""
    first = row["op"].split(" ")[0]
    return first if row["workload"] == "SpMM" and first in _MODES and "law" not in row["op"] else None


def family(row: Measurement) -> str | None:
    """`sparse heat map` for the speed-ups of the published map, `sparse rates` for throughputs and their ratios."""
    mode = _mode(row)
    if mode is None or row["metric"] not in ("speedup over dense", "non-zero throughput"):
        return None
    if mode == "dynamic":
        return "sparse dynamic"
    return "sparse heat map" if row["unit"] == "x" and not row["n"].startswith("best") else "sparse rates"


def group(row: Measurement) -> str:
    """Rows of one pattern, which share what is found out about it."""
    return f"sparse {row['m']} {row['block']} {row['density']}"


def simulate(row: Measurement) -> tuple[float, int | None]:
    """The speed-up or the TFLOP/s of non-zeros, and cycles."""
    if _mode(row) == "dynamic":
        raise NotRebuilt("the library's plan of dynamic products, with its rounds of propagation, is not rebuilt")
    m = row.whole("m")
    k = m if row["k"].startswith("m") else row.whole("k")
    density, block, dtype = row.real("density"), row.whole("block"), row["dtype"]
    if block not in (1, 4, 8, 16) or dtype not in ("fp16", "fp32"):
        raise NotRebuilt(f"no kernel for blocks of {block} in {dtype}")
    if row["n"].startswith("best"):
        columns = COLUMNS[:3] if block == 1 else COLUMNS
        made = [figures_of(Case(m, k, n, block, density, dtype, "static", "vendor"), row.machine) for n in columns]
        if not (best := max((r.tflops or 0.0 for r in made), default=0.0)):
            raise NotRebuilt("does not fit at any n")
        return (best if row["unit"] == "TFLOP/s" else best / density / best_rate(m, k, dtype, row.machine)), None
    case = Case(m, k, row.whole("n"), block, density, dtype, "static", "vendor")
    if row["unit"] == "TFLOP/s":
        made_one = figures_of(case, row.machine)
        found = made_one.tflops
    else:
        made_one = measured_row(case, row.machine)
        found = made_one.speedup
    if found is None:
        raise NotRebuilt(f"does not fit: {made_one.status}")
    return found, made_one.cycles


def memory_share(row: Measurement) -> float:
    """What the fullest tile of the library's plan holds (blocks and their places of 2 bytes, the rows gathered,
    partials in fp32), as a share of what a product may take of a tile."""
    m, n, block, density = row.whole("m"), row.whole("n"), row.whole("block"), row.real("density")
    target, size = load_target(row.machine), DTYPES[row["dtype"]][1]
    runs = dealt(m, m, block, density)
    plan = sparse_plan(random_pattern(m, m, block, density), n, row["dtype"], target, runs)
    f, columns = runs(plan.scheme), -(-n // plan.parts)
    held = f.blocks * (block * block * size + 2) + f.rows * block * columns * size + f.outputs * block * columns * 4
    return held / (SHARE * target.tile_bytes)


def weight(row: Measurement) -> float:
    """How many blocks there are to deal, in thousands."""
    try:
        return row.whole("m") ** 2 * row.real("density") / row.whole("block") ** 2 / 1e3
    except NotRebuilt:
        return 0.0
