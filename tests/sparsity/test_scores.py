"""Scores of blocks, and the update that makes up for what is dropped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.sparsity import BLOCK_SIDES, Gram, block_scores, check_block, choose, cut, grid_of, join, obs_update
from ipucc.sparsity.scores import element_mask

BLOCKS = [(1, 1)] + [(a, b) for a in BLOCK_SIDES[1:] for b in BLOCK_SIDES[1:]]
shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(BLOCKS))
def test_cut_and_join_are_inverse(shape, block):
    weight = np.random.default_rng(0).standard_normal(shape)
    blocks = cut(weight, block)
    assert blocks.shape == (*grid_of(shape, block), *block)
    assert (join(blocks, shape) == weight).all()
    t, r, c = (n - 1 for n in grid_of(shape, block))
    last = weight[t, r * block[0] :, c * block[1] :]
    assert (blocks[t, r, c][: last.shape[0], : last.shape[1]] == last).all()
    assert np.abs(blocks).sum() == pytest.approx(np.abs(weight).sum()), "padding is zero"


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from(BLOCKS), st.integers(0, 100))
def test_scores_by_their_definition(shape, block, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape)
    x = rng.standard_normal((50, shape[0] * shape[1])) * rng.uniform(0.1, 3, shape[0] * shape[1])
    gram = Gram(x.shape[1])
    gram.add(x)
    norms = np.sqrt((x**2).sum(0)).reshape(shape[0], shape[1])
    t, r, c = (int(rng.integers(0, n)) for n in grid_of(shape, block))
    part = slice(r * block[0], (r + 1) * block[0]), slice(c * block[1], (c + 1) * block[1])
    one = weight[t][part]
    expected = {
        "l1": np.abs(one).sum(),
        "l2": np.sqrt((one**2).sum()),
        "max": np.abs(one).max(),
        "wanda": (np.abs(one) * norms[t][part[0], None]).sum(),
    }
    for score, number in expected.items():
        assert block_scores(weight, block, score, gram)[t, r, c] == pytest.approx(number), score


def test_wanda_needs_norms_only_and_sums_over_batches():
    x = np.random.default_rng(1).standard_normal((6, 4, 8))
    whole, norms = Gram(8), Gram(8, whole=False)
    whole.add(x)
    for part in x:
        norms.add(part)
    assert norms.norms == pytest.approx(whole.norms)
    assert norms.samples == whole.samples == 24
    weight = np.ones((1, 8, 4))
    assert block_scores(weight, (4, 4), "wanda", norms) == pytest.approx(block_scores(weight, (4, 4), "wanda", whole))


def test_sparsegpt_scores_single_weights_by_what_their_loss_costs():
    """For the last input element nothing is left to make up for it: the score is w^2 times its own H."""
    rng = np.random.default_rng(2)
    x, weight = rng.standard_normal((40, 6)), rng.standard_normal((1, 6, 3))
    gram = Gram(6)
    gram.add(x)
    h = x.T @ x
    h += 0.01 * np.diagonal(h).mean() * np.eye(6)
    scores = block_scores(weight, (1, 1), "sparsegpt", gram)
    assert scores[0, -1] == pytest.approx(weight[0, -1] ** 2 * h[-1, -1])
    # The first may use all others: w^2 / [H^-1]_00.
    assert scores[0, 0] == pytest.approx(weight[0, 0] ** 2 / np.linalg.inv(h)[0, 0])


def test_the_update_of_one_dropped_weight_is_the_exact_one():
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((60, 5)), rng.standard_normal((1, 5, 2))
    gram = Gram(5)
    gram.add(x)
    keep = np.ones((1, 5, 2), bool)
    keep[0, 0, 1] = False
    found = obs_update(weight, keep, gram, damping=0)[0]
    inverse = np.linalg.inv(x.T @ x)
    wanted = weight[0].copy()
    wanted[:, 1] -= wanted[0, 1] / inverse[0, 0] * inverse[:, 0]
    assert found == pytest.approx(wanted)
    assert found[0, 1] == 0


@pytest.mark.parametrize("block", [(1, 1), (4, 4), (8, 4), (16, 16)])
@pytest.mark.parametrize("density", [0.7, 0.4, 0.1])
def test_the_update_lies_between_dropping_and_least_squares(block, density):
    """Outputs err less than without the update, and no less than with the best weights for the same mask."""
    rng = np.random.default_rng(4)
    k, n = 96, 16
    x = rng.standard_normal((500, 20)) @ rng.standard_normal((20, k)) + 0.3 * rng.standard_normal((500, k))
    weight = rng.standard_normal((1, k, n))
    gram = Gram(k)
    gram.add(x)
    keep = element_mask(choose(block_scores(weight, block, "sparsegpt", gram), density), block, (1, k, n))
    updated = obs_update(weight, keep, gram)
    assert (updated[~keep] == 0).all()

    def loss(w):
        return np.linalg.norm(x @ (w - weight[0]))

    best = np.zeros((k, n))
    for j in range(n):
        stays = keep[0, :, j]
        if stays.any():
            h = gram.matrix[stays]
            best[stays, j] = np.linalg.solve(h[:, stays], h @ weight[0, :, j])
    assert loss(best) <= loss(updated) * (1 + 1e-9)
    assert loss(updated) < 0.9 * loss(weight[0] * keep[0])


def test_panels_do_not_change_the_update(monkeypatch):
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((300, 150)), rng.standard_normal((3, 50, 7))
    gram = Gram(150)
    gram.add(x)
    keep = rng.random(weight.shape) < 0.5
    wanted = obs_update(weight, keep, gram)
    monkeypatch.setattr("ipucc.sparsity.scores._PANEL", 1)
    assert obs_update(weight, keep, gram) == pytest.approx(wanted)


def test_inputs_that_are_always_zero_do_no_harm():
    x = np.random.default_rng(6).standard_normal((30, 8))
    x[:, 2] = 0
    gram = Gram(8)
    gram.add(x)
    updated = obs_update(np.ones((1, 8, 4)), np.ones((1, 8, 4), bool), gram)
    assert np.isfinite(updated).all()
    assert (updated[0, 2] == 0).all()


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="no score 'l3'"):
        block_scores(np.ones((1, 4, 4)), (4, 4), "l3")
    with pytest.raises(ValueError, match="needs inputs"):
        block_scores(np.ones((1, 4, 4)), (4, 4), "wanda")
    with pytest.raises(ValueError, match="5 elements for a layer that takes 4"):
        Gram(4).add(np.ones((3, 5)))
    with pytest.raises(ValueError, match="not finite"):
        Gram(2).add(np.array([[1, np.nan]]))
    for block in (3, (1, 4), (4, 1), (4, 4, 4), 0, -4):
        with pytest.raises(ValueError, match="a block is"):
            check_block(block)
