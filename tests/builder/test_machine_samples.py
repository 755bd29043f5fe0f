"""The samples that are written with the program builder: their numbers, and what their cycles come to."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ipucc.target import load_target

SAMPLES = Path(__file__).parents[2] / "samples" / "machine"


@pytest.mark.parametrize("script", sorted(p.name for p in SAMPLES.glob("*.py") if p.name != "__init__.py"))
def test_a_sample_runs_and_checks_itself(script: str) -> None:
    done = subprocess.run([sys.executable, str(SAMPLES / script)], capture_output=True, text=True)
    assert "numbers as numpy's" in done.stdout, done.stderr


def test_the_triad_is_bound_by_the_memories() -> None:
    from machine.stream import bandwidth, triad  # It registers a codelet: only while these tests run.

    exe = triad("gc200", 7500, 10)
    assert 0.99 < bandwidth(exe, 7500, 10) / (24 * 1472 * 1.325e9) < 1


def test_meshes_are_cut_as_the_published_ones() -> None:
    """Largest blocks of simehaa/IPU and of TszwangKo/FYP_IPU_DEVITO: 16 x 45 x 45 on one chip, 16 x 23 x 45 and
    18 x 26 x 51 on two."""
    from machine.heat import splits

    one, two = load_target("gc200"), load_target("gc200x2")

    def largest(mesh: tuple[int, ...], target: object) -> tuple[int, ...]:
        shape = tuple(n - 2 for n in mesh)
        return tuple(-(-n // p) for n, p in zip(shape, splits(shape, target), strict=True))

    assert largest((360, 360, 360), one) == (16, 45, 45)
    assert largest((360, 360, 360), two) == (16, 23, 45)
    assert largest((403, 403, 403), two) == (18, 26, 51)


def test_two_chips_compute_what_one_does_and_pay_for_the_link() -> None:
    from machine.heat import heat, reference

    values = np.random.default_rng(0).standard_normal((96, 192), np.float32)
    one, two = heat("gc200", (98, 194), 2), heat("gc200x2", (98, 194), 2)
    got = [exe.run({"x": values}).outputs["x"] for exe in (one, two)]
    assert np.allclose(got[0], reference(values, 2), rtol=1e-5, atol=1e-6)
    assert np.array_equal(*got)
    target = two.target
    assert two.cycles.sync == one.cycles.sync + 2 * target.link_phase_cycles
    assert target.tiles == 2944
