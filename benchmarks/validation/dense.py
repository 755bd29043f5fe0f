"""Dense products of the vendor's library: its plan, operand roles as there, on ipucc's machine.

The library's plan is restated in ../poplibs_plans.py: W [m, k] is held by the matrix unit, the rows of X [n, k] are
streamed. Of rows that name no n, which is the best one, n runs over powers of two up to 32,768 that fit.
"""

from functools import cache

from poplibs_plans import DTYPES, DensePlan, dense_plan
from spmm import Case
from spmm import figures_of as own_figures

from ipucc.target import load_target
from validation.rows import Measurement, NotRebuilt

__all__ = ["best_rate", "family", "own", "plan_of", "simulate"]

COLUMNS = tuple(1 << i for i in range(2, 16))


def family(row: Measurement) -> str | None:
    """`dense fp16` and `dense fp32`."""
    if row["op"] == "dense" and row["workload"] in ("MatMul", "SpMM"):
        return f"dense {row['dtype']}"
    return None


@cache
def plan_of(m: int, k: int, n: int, dtype: str, machine: str) -> DensePlan:
    """The library's plan of a product."""
    if dtype not in DTYPES:
        raise NotRebuilt(f"no dense plan for {dtype}")
    return dense_plan(m, k, n, dtype, load_target(machine))


def rate(m: int, k: int, n: int, dtype: str, machine: str) -> float:
    """TFLOP/s of the library's plan."""
    seconds = load_target(machine).cycles_to_seconds(plan_of(m, k, n, dtype, machine).cycles)
    return 2.0 * m * k * n / seconds / 1e12


def best_rate(m: int, k: int, dtype: str, machine: str) -> float:
    """The best TFLOP/s over the n whose plan fits."""
    return max(rate(m, k, n, dtype, machine) for n in COLUMNS if plan_of(m, k, n, dtype, machine).fits)


def simulate(row: Measurement) -> tuple[float, int | None]:
    """TFLOP/s, of the non-zeros only where a density is given, and cycles."""
    if row["unit"] != "TFLOP/s":
        raise NotRebuilt(f"unit {row['unit']} of a dense product")
    if row.ipus != 1:
        raise NotRebuilt("dense products of several chips")
    m, k = row.whole("m"), row.whole("k")
    kept = row.real("density") if row["density"] else 1.0
    if row["n"].startswith("best"):
        return best_rate(m, k, row["dtype"], row.machine) * kept, None
    n = row.whole("n")
    return rate(m, k, n, row["dtype"], row.machine) * kept, plan_of(m, k, n, row["dtype"], row.machine).cycles


def own(row: Measurement) -> float | None:
    """TFLOP/s of ipucc's own plan of the same product, found as for any model."""
    if row["n"].startswith("best"):
        return None
    case = Case(row.whole("m"), row.whole("k"), row.whole("n"), 1, 1.0, row["dtype"], "dense", "best")
    return own_figures(case, row.machine).tflops
