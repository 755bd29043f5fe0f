"""Buckets: which patterns fit, where their blocks lie, and how many slots random patterns need."""

import sys
from itertools import combinations, pairwise
from math import comb

import networkx as nx
import numpy as np
import pytest

from ipucc.sparsity import BeyondCapacity, Buckets, capacity_for
from ipucc.sparsity.buckets import _tail

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def same_numbers(monkeypatch):
    """Every test draws its own numbers, whichever ran before it."""
    monkeypatch.setattr(sys.modules[__name__], "RNG", np.random.default_rng(3))


def random_mask(buckets: Buckets, share: float) -> np.ndarray:
    return RNG.random(buckets.blocks) < share


def matched(buckets: Buckets, mask: np.ndarray) -> int:
    """How many blocks of a mask find a slot, by maximum flow."""
    graph = nx.DiGraph()
    bands, groups = buckets.grid
    for b, g in np.ndindex(bands, groups):
        graph.add_edge(("bucket", b, g), "end", capacity=buckets.capacity)
    for row, col in zip(*np.nonzero(mask), strict=True):
        block, b, g = ("block", row, col), row // buckets.cell[0], col // buckets.cell[1]
        graph.add_edge("start", block, capacity=1)
        for back in range(buckets.reach):
            graph.add_edge(block, ("bucket", b, (g - back) % groups), capacity=1)
    return int(nx.maximum_flow_value(graph, "start", "end")) if mask.any() else 0


@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize(("cell", "capacity"), [((2, 3), 3), ((3, 5), 4), ((1, 2), 1), ((6, 7), 12)])
def test_a_pattern_fits_exactly_if_every_block_can_be_matched_to_a_slot(reach, cell, capacity):
    seen = set()
    for share in np.linspace(0.1, 0.9, 20):
        buckets = Buckets((24, 50), (4, 4), cell, capacity, reach)
        mask = random_mask(buckets, share) & (RNG.random(buckets.blocks[1]) < 0.6)
        fits = matched(buckets, mask) == mask.sum()
        assert buckets.fits(mask) == fits
        seen.add(fits)
    assert seen == {True, False}


@pytest.mark.parametrize("reach", [1, 2])
def test_a_capped_mask_keeps_as_many_blocks_as_can_be_matched(reach):
    for share in np.linspace(0.2, 0.9, 12):
        buckets = Buckets((24, 50), (4, 4), (3, 3), 3, reach)
        mask = random_mask(buckets, share)
        kept = buckets.capped(mask, np.ones(mask.shape))
        assert buckets.fits(kept)
        assert not (kept & ~mask).any()
        assert kept.sum() == matched(buckets, mask)


def test_a_capped_mask_keeps_the_highest_sum_of_scores():
    buckets = Buckets((1, 6), (1, 1), (1, 2), 1, 2)
    scores = RNG.random((1, 6))
    best = max(
        scores[0, list(some)].sum()
        for count in range(4)
        for some in combinations(range(6), count)
        if buckets.fits(np.isin(np.arange(6), some)[None])
    )
    kept = buckets.capped(np.ones((1, 6), bool), scores)
    assert kept.sum() == 3
    assert scores[kept].sum() == pytest.approx(best)


@pytest.mark.parametrize(("block", "reach"), [((1, 1), 1), ((4, 4), 2), ((16, 8), 2)])
def test_what_is_encoded_is_decoded(block, reach):
    buckets = Buckets((70, 90), block, (3, 4), 9, reach)
    weight = RNG.standard_normal(buckets.shape).astype(np.float32)
    wanted = random_mask(buckets, 0.6)
    wanted[:3, :4] = True  # a cell of 12 blocks, three more than its bucket holds
    wanted[:3, -4:] &= np.arange(4) < 2
    mask = buckets.capped(wanted, RNG.random(buckets.blocks))
    made = buckets.encode(mask, weight)
    back, found = buckets.decode(made.values, made.places)
    elements = np.kron(mask, np.ones(block))[:70, :90]
    assert (found == mask).all()
    assert (back == weight * elements).all()
    assert made.held.sum() == mask.sum()
    assert made.held.max() <= 9
    b, g, slot = np.nonzero(made.places[..., 0] >= 0)
    row, col = made.places[b, g, slot].T
    away = (col // 4 - g) % buckets.grid[1]
    assert (row // 3 == b).all()
    assert away.max() == reach - 1
    assert (away == 1).sum() == made.spilled.sum()
    # A bucket has its blocks column by column, those of the next group last.
    for place in made.places.reshape(-1, 9, 2):
        used = place[place[:, 0] >= 0]
        assert all(a[1] != b[1] or a[0] < b[0] for a, b in pairwise(used.tolist()))


def test_blocks_overflow_only_where_they_must():
    buckets = Buckets((4, 16), (1, 1), (4, 4), 8, 2)
    mask = np.zeros((4, 16), bool)
    mask[:2, :] = True
    assert buckets.encode(mask, np.ones((4, 16))).spilled.sum() == 0
    mask[2, 5] = True
    made = buckets.encode(mask & (np.arange(16) != 0), np.ones((4, 16)))
    assert made.spilled.tolist() == [[1, 0, 0, 0]]


def test_what_does_not_fit_is_told():
    weight, few, many = np.ones((8, 8)), np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    few[:3, 4:7] = True
    with pytest.raises(BeyondCapacity, match="bucket 0, 1 gets 9 blocks and holds 8"):
        Buckets((8, 8), (1, 1), (4, 4), 8).encode(few, weight)
    many[4:] = True
    with pytest.raises(BeyondCapacity, match="block rows of band 1 have 32 blocks, their 2 buckets hold 30"):
        Buckets((8, 8), (1, 1), (4, 4), 15, 2).encode(many, weight)


@pytest.mark.parametrize(
    "wrong",
    [{"capacity": 0}, {"reach": 3}, {"reach": 2, "cell": (2, 8)}, {"cell": (0, 1)}, {"shape": (1 << 16, 4)}],
)
def test_figures_that_make_no_buckets_are_refused(wrong):
    given = {"shape": (8, 8), "block": (1, 1), "cell": (2, 2), "capacity": 1, "reach": 1} | wrong
    with pytest.raises(ValueError, match=r"capacity|must|reaches|places"):
        Buckets(**given)


def test_the_tail_is_the_hypergeometric_one():
    for total, marked, drawn, limit in [(40, 10, 12, 5), (200, 30, 50, 14), (50, 25, 10, 9)]:
        want = sum(comb(marked, x) * comb(total - marked, drawn - x) for x in range(limit + 1, drawn + 1))
        assert _tail(total, marked, drawn, limit) == pytest.approx(want / comb(total, drawn), rel=1e-4)


@pytest.mark.parametrize("reach", [1, 2])
def test_random_patterns_fit_the_capacity_and_need_most_of_it(reach):
    blocks, count, cell = (64, 64), 410, (8, 8)
    capacity = capacity_for(blocks, count, cell, reach, 1e-3)
    masks = []
    for _ in range(300):
        mask = np.zeros(blocks[0] * blocks[1], bool)
        mask[RNG.permutation(mask.size)[:count]] = True
        masks.append(mask.reshape(blocks))
    fit = [sum(Buckets(blocks, (1, 1), cell, c, reach).fits(m) for m in masks) for c in (capacity, capacity - 4)]
    assert fit[0] >= 298
    assert fit[1] < 290


def test_reaching_the_next_group_saves_slots():
    alone, shared = (capacity_for((256, 256), 4096, (11, 16), reach) for reach in (1, 2))
    assert shared < 0.6 * alone
