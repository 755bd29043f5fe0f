"""Masks under capacities: the best of all that fit, and as many blocks as asked for."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.sparsity import choose
from ipucc.sparsity.balanced import balance_of, balanced, cells_of


@st.composite
def problems(draw):
    taps, high, wide = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    grid = draw(st.integers(1, high)), draw(st.integers(1, wide))
    scores = np.random.default_rng(draw(st.integers(0, 99))).exponential(size=(taps, high, wide))
    return scores, draw(st.floats(0.01, 1.0)), grid, draw(st.sampled_from([0.0, 0.1, 0.5]))


@given(problems(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_count_is_kept_and_loads_are_bounded(problem, sides):
    scores, density, grid, slack = problem
    mask = balanced(scores, density, grid, slack, sides=sides)
    free = choose(scores, density)
    assert mask.sum() == free.sum()
    assert scores[mask].sum() <= scores[free].sum() + 1e-9
    cells = np.broadcast_to(cells_of(scores.shape[1:], grid), scores.shape)
    load = np.bincount(cells[mask], minlength=grid[0] * grid[1])
    size = np.bincount(cells.reshape(-1), minlength=grid[0] * grid[1])
    cap = int(np.ceil(mask.sum() / load.size * (1 + slack)))
    while np.minimum(size, cap).sum() < mask.sum():
        cap += 1
    assert load.max() <= cap


@pytest.mark.parametrize("sides", [False, True])
def test_no_mask_within_the_bounds_scores_higher(sides):
    scores = np.random.default_rng(5).exponential(size=(1, 4, 4)) ** 3
    mask = balanced(scores, 0.5, (2, 2), sides=sides)
    cells = cells_of((4, 4), (2, 2)).reshape(-1)
    best = 0.0
    for kept in combinations(range(16), 8):
        load = np.bincount(cells[list(kept)], minlength=4).reshape(2, 2)
        if load.max() <= 2 and (not sides or max(load.sum(axis=0).max(), load.sum(axis=1).max()) <= 4):
            best = max(best, float(scores.reshape(-1)[list(kept)].sum()))
    assert scores[mask].sum() == pytest.approx(best)


def test_sides_alone_bind_where_cells_have_slack():
    """Heavy rows: with room in the cells, only the flow keeps whole rows of cells even."""
    scores = np.random.default_rng(1).exponential(size=(1, 16, 16)) * np.repeat([8.0, 1.0], 8)[:, None]
    loose = balanced(scores, 0.25, (2, 4), 1.0)
    assert balance_of(loose, (2, 4)).row > 1.4
    both = balanced(scores, 0.25, (2, 4), 0.0, sides=True)
    assert balance_of(both, (2, 4)).row == 1.0
    assert balance_of(both, (2, 4)).cell == 1.0


def test_a_free_mask_overloads_the_fullest_cell():
    rng = np.random.default_rng(0)
    scores = np.abs(rng.standard_normal((1, 64, 64))) * rng.lognormal(0, 0.5, 64)[:, None]
    free, even = choose(scores, 0.1), balanced(scores, 0.1, (8, 8))
    assert balance_of(free, (8, 8)).cell > 1.8
    assert balance_of(even, (8, 8)).cell < 1.1
    assert scores[even].sum() > 0.9 * scores[free].sum()


def test_a_grid_of_more_cells_than_blocks_is_refused():
    with pytest.raises(ValueError, match="does not cut"):
        balanced(np.ones((1, 4, 4)), 0.5, (8, 2))
