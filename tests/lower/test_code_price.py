"""The least price of exchange code at which a placement fits."""

import pytest

from ipucc.ops.graph import TileGraph
from ipucc.passes.plan.grid import Plan
from ipucc.passes.plan.place import Placement, place
from ipucc.passes.plan.problem import Candidate, Problem
from ipucc.passes.program.code_price import HIGHEST, cheapest_that_fits, first_level, price_of
from ipucc.target import load_target

TARGET = load_target("gc200")
OPS = 6


def problem() -> Problem:
    """Ops whose plans take ever less code and ever more cycles, from 40,000 bytes each down to 2,500."""
    plans = [
        Candidate(0, Plan(()), (), 10_000 + 300 * (v + 2) * 2**x, 0, 0, 0, code=40_000 >> x)
        for v in range(OPS)
        for x in range(5)
    ]
    choices = [plans[5 * v : 5 * v + 5] for v in range(OPS)]

    return Problem(TileGraph(), TARGET, list(range(OPS)), [1] * OPS, choices, [], [], 0, {}, {})


def found(room: float, begin: int) -> tuple[Placement, int, list[int]]:
    """The placement, its level, and all levels that were tried."""
    whole, tried = problem(), []

    def placing(level: int) -> Placement:
        tried.append(level)
        return place(whole, 1, "cpsat", "default", whole.at_code_price(price_of(level)))

    placement, level = cheapest_that_fits(placing, room, begin)
    return placement, level, tried


@pytest.mark.parametrize("room", [16_000, 61_000, 100_000, 239_000])
@pytest.mark.parametrize("begin", [0, 15, HIGHEST])
def test_the_least_price_that_fits_is_found_from_anywhere(room: int, begin: int) -> None:
    placement, level, tried = found(room, begin)
    whole = placement.problem
    assert whole.code_bytes(placement.choice) <= room
    assert placement.objective == whole.evaluate(placement.choice).cycles
    assert len(set(tried)) == len(tried) <= 12
    # No lower price has a choice that fits and saves more than a thousandth.
    for lower in range(level):
        other = place(whole, 1, "cpsat", "default", whole.at_code_price(price_of(lower)))
        fits = whole.code_bytes(other.choice) <= room
        assert not fits or other.objective >= 0.999 * placement.objective


def test_the_highest_price_is_the_answer_where_nothing_fits() -> None:
    placement, level, tried = found(10_000, 15)
    assert level == tried[-1] == HIGHEST
    assert placement.problem.code_bytes(placement.choice) == OPS * 2_500


def test_the_first_level_follows_the_cycles() -> None:
    assert price_of(first_level(1_000_000, 100_000) - 1) < 1 <= price_of(first_level(1_000_000, 100_000))
    assert first_level(10**12, 1) == HIGHEST
