"""Masks: from scores, from zeros, from users; patterns; densities per layer; the scan."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.sparsity import (
    PATTERNS,
    banded,
    block_diagonal,
    blocks_with_any,
    butterfly,
    choose,
    erk,
    kept_count,
    read_mask,
    scan,
    uniform,
)

grids = st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24))
densities = st.floats(0.001, 1)


@settings(max_examples=80, deadline=None)
@given(grids, densities, st.integers(0, 50), st.booleans())
def test_the_highest_scores_are_kept(grid, density, seed, ties):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, grid).astype(float) if ties else rng.random(grid)
    mask = choose(scores, density)
    assert mask.sum() == kept_count(scores.size, density) >= 1
    kept, dropped = scores[mask], scores[~mask]
    assert not dropped.size or kept.min() >= dropped.max()
    edge = np.flatnonzero(scores.reshape(-1) == kept.min())
    taken = mask.reshape(-1)[edge]
    assert (np.diff(taken.astype(int)) <= 0).all(), "equal scores go by place"


@settings(max_examples=80, deadline=None)
@given(grids, densities, st.integers(0, 50))
def test_every_output_keeps_the_same_number(grid, density, seed):
    scores = np.random.default_rng(seed).random(grid)
    mask = choose(scores, density, within="output")
    assert mask.sum() == kept_count(scores.size, density)
    each = mask.sum(axis=(0, 1))
    assert np.ptp(each) <= 1
    for j in range(grid[2]):
        kept, dropped = scores[..., j][mask[..., j]], scores[..., j][~mask[..., j]]
        assert not kept.size or not dropped.size or kept.min() > dropped.max()


def test_the_columns_with_one_more_are_those_that_want_it_most():
    scores = np.array([[[9, 5, 9], [1, 8, 7]]], float)
    mask = choose(scores, 4 / 6, within="output")
    assert mask.tolist() == [[[True, False, True], [False, True, True]]]


def test_zeros_keep_what_is_not_zero():
    weight = np.zeros((1, 9, 9))
    weight[0, 0, 5] = 1
    weight[0, 8, 8] = np.nan
    assert blocks_with_any(weight, (4, 4))[0].astype(int).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_a_users_mask_is_taken_as_it_is():
    elements = np.zeros((1, 8, 6), int)
    elements[0, 1, 1] = elements[0, 5, 5] = 1
    blocks, kept = read_mask(elements, (1, 8, 6), (4, 4))
    assert blocks[0].tolist() == [[True, False], [False, True]]
    assert kept is not None
    assert (kept == elements).all()
    blocks, kept = read_mask(np.array([[[1.0, 0.0], [0.0, 0.0]]]), (1, 8, 6), (4, 4))
    assert kept is None
    assert blocks.sum() == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((1, 8, 7)), "the shape"),
        (np.full((1, 8, 6), 2), "other than 0 and 1"),
        (np.full((1, 8, 6), np.nan), "other than 0 and 1"),
        (np.full((1, 8, 6), -1), "other than 0 and 1"),
        (np.zeros((1, 8, 6)), "keeps nothing"),
        (np.full((1, 8, 6), "x"), "element type"),
        (np.ones((1, 8, 6), complex), "element type"),
    ],
)
def test_masks_that_are_none_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        read_mask(given, (1, 8, 6), (4, 4))


sides = st.integers(1, 40)


@settings(max_examples=80, deadline=None)
@given(sides, sides, densities, st.sampled_from(sorted(PATTERNS)))
def test_no_input_is_ignored_and_no_output_is_empty(rows, columns, density, name):
    """Of butterfly and block-diagonal: it is what they are for."""
    mask = PATTERNS[name](rows, columns, density)
    assert mask.shape == (rows, columns)
    if name != "banded":
        assert mask.any(axis=0).all()
        assert mask.any(axis=1).all()
        assert (mask == PATTERNS[name](columns, rows, density).T).all(), "sides are treated alike"


@settings(max_examples=60, deadline=None)
@given(sides, sides, densities)
def test_bands_have_the_density_asked_for(rows, columns, density):
    assert banded(rows, columns, density).sum() == kept_count(rows * columns, density)


def test_a_band_is_nearest_to_the_diagonal():
    assert banded(4, 4, 10 / 16).astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    wide = banded(2, 8, 0.5)
    assert wide.astype(int).tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]]


def test_a_butterfly_is_a_diagonal_and_its_strides():
    assert butterfly(8, 8, 1 / 8).astype(int).tolist() == np.eye(8, dtype=int).tolist()
    i, j = np.indices((8, 8))
    apart = i ^ j
    assert (butterfly(8, 8, 4 / 8) == np.isin(apart, [0, 1, 2, 4])).all()
    assert (butterfly(8, 8, 3 / 8) == np.isin(apart, [0, 1, 2])).all()
    assert butterfly(8, 8, 1.0).all()
    # Stretched: 3 x 2 blocks to a cell.
    assert (butterfly(24, 16, 4 / 8) == np.kron(np.isin(apart, [0, 1, 2, 4]), np.ones((3, 2), bool))).all()


@settings(max_examples=60, deadline=None)
@given(sides, sides, densities)
def test_a_butterfly_stays_below_its_density_if_any_does(rows, columns, density):
    mask = butterfly(rows, columns, density)
    limit = kept_count(rows * columns, density)
    p = 1 << (min(rows, columns).bit_length() - 1)
    finest = (np.arange(rows) * p // rows)[:, None] == (np.arange(columns) * p // columns)[None]
    assert mask.sum() <= max(limit, finest.sum())


def test_block_diagonal_has_as_many_parts_as_the_density_says():
    mask = block_diagonal(8, 12, 0.25)
    assert (mask == np.kron(np.eye(4, dtype=bool), np.ones((2, 3), bool))).all()
    assert block_diagonal(2, 9, 0.01).sum() == 9


def test_uniform_is_uniform():
    assert uniform([(3, 4), (5, 6)], 0.3).tolist() == [0.3, 0.3]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(1, 512), min_size=2, max_size=4), min_size=1, max_size=12), st.floats(0.01, 1))
def test_erk_keeps_the_density_of_all_and_its_proportions(shapes, density):
    shares = erk(shapes, density)
    sizes = np.array([np.prod(s) for s in shapes], float)
    assert (shares > 0).all()
    assert (shares <= 1 + 1e-12).all()
    assert (shares * sizes).sum() == pytest.approx(density * sizes.sum())
    free = shares < 1 - 1e-9
    eps = shares[free] * sizes[free] / np.array([sum(s) for s in shapes])[free]
    if free.any():
        assert eps == pytest.approx(np.full(eps.size, eps[0]))
        # Those at 1 would exceed it with the same eps.
        assert all(eps[0] * sum(s) / np.prod(s) >= 1 - 1e-9 for s, f in zip(shapes, free, strict=True) if not f)


def test_erk_figures():
    """Two layers of a small network by hand: the second would exceed 1, so the first gets what is left."""
    shares = erk([(784, 300), (300, 10)], 0.1)
    assert shares[1] == 1, "eps * 310 / 3000 is above 1"
    assert shares[0] == pytest.approx((0.1 * 238200 - 3000) / 235200)


def test_a_scan_counts_blocks_of_every_size():
    weight = np.zeros((2, 32, 48), np.float16)
    weight[0, :16, :16] = 1
    weight[1, 16:24, 32:48] = 2
    found = scan(weight)
    assert found.elements == pytest.approx((256 + 128) / weight.size)
    assert found.densities[16, 16] == pytest.approx(2 / 12)
    assert found.densities[8, 16] == pytest.approx(3 / 24)
    assert found.densities[16, 8] == pytest.approx(4 / 24)
    assert found.densities[4, 4] == found.elements
    assert found.best == (8, 16), "as tight as the smallest, and the largest that is"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_a_scan_agrees_with_masks(k, n, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((1, k, n)) * (rng.random((1, k, n)) < 0.1)
    for block, density in scan(weight).densities.items():
        assert density == pytest.approx(blocks_with_any(weight, block).mean())
