"""Small random graphs of all kinds of ops and types, compiled for small machines: the numbers of two oracles, in the
predicted cycles, every word followed. `make fuzz` goes on without end."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from fuzz_check import held_against_the_oracles
from fuzz_net import Net, nets
from fuzz_ops import EXACT, OPS, op_types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Solver = Literal["cpsat", "greedy"]
SOLVERS: tuple[Solver, ...] = ("greedy", "cpsat")


@pytest.fixture(scope="module")
def machines(machine_file: Callable[..., Path]) -> dict[int, str]:
    """Machine files by their number of tiles."""
    return {tiles: str(machine_file(tiles=tiles, phase_cycles=tiles)) for tiles in (3, 16, 64)}


few = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@few
@given(net=nets(OPS), tiles=st.sampled_from([16, 64, 3]), solver=st.sampled_from(SOLVERS))
def test_right_numbers(net: Net, tiles: int, solver: Solver, machines: dict[int, str]) -> None:
    held_against_the_oracles(net, machines[tiles], solver)


@few
@given(net=nets(OPS, halves=True), tiles=st.sampled_from([16, 64, 3]), solver=st.sampled_from(SOLVERS))
def test_right_numbers_in_halves(net: Net, tiles: int, solver: Solver, machines: dict[int, str]) -> None:
    held_against_the_oracles(net, machines[tiles], solver)


@few
@given(net=nets(EXACT), tiles=st.sampled_from([16, 64, 3]), solver=st.sampled_from(SOLVERS))
def test_what_is_moved_arrives_unchanged(net: Net, tiles: int, solver: Solver, machines: dict[int, str]) -> None:
    held_against_the_oracles(net, machines[tiles], solver)


@pytest.mark.slow
@settings(few, max_examples=600)
@given(
    net=st.booleans().flatmap(lambda halves: nets(OPS, halves=halves, most=12)),
    tiles=st.sampled_from([16, 64, 3]), solver=st.sampled_from(SOLVERS),
)  # fmt: skip
def test_right_numbers_of_many(net: Net, tiles: int, solver: Solver, machines: dict[int, str]) -> None:
    held_against_the_oracles(net, machines[tiles], solver)


def test_there_are_many_kinds_of_ops() -> None:
    assert len(op_types()) > 120
