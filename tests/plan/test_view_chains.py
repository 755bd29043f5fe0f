"""Views against numpy, alone and in chains."""

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.tiles.view import View

Step = tuple[View, Callable[[np.ndarray], np.ndarray]]
GAP = -7


@st.composite
def steps(draw: st.DrawFn, shape: tuple[int, ...]) -> Step:
    """A view of a tensor of this shape, and what numpy makes of it."""
    rank = len(shape)
    kinds = ["identity", "reshape", "broadcast", *(["transpose", "take", "pad"] if rank else [])]
    kind = draw(st.sampled_from(kinds))
    if kind == "transpose":
        perm = draw(st.permutations(range(rank)))
        return View.transpose(shape, perm), lambda x: x.transpose(perm)
    if kind == "reshape":
        sizes, left = [], prod(shape)
        for _ in range(draw(st.integers(0, 3))):
            sizes.append(draw(st.sampled_from([d for d in range(1, left + 1) if left % d == 0])))
            left //= sizes[-1]
        sizes.append(left)
        return View.reshape(shape, sizes), lambda x: x.reshape(sizes)
    if kind == "broadcast":
        wide = (draw(st.integers(1, 3)), *(draw(st.integers(1, 3)) if n == 1 else n for n in shape))
        return View.broadcast(shape, wide), lambda x: np.broadcast_to(x, wide)
    if kind == "take":
        dim = draw(st.integers(0, rank - 1))
        index = draw(st.lists(st.integers(0, shape[dim] - 1), min_size=1, max_size=5))
        return View.take(shape, dim, index), lambda x: x.take(index, dim)
    if kind == "pad":
        dim = draw(st.integers(0, rank - 1))
        before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        pads = [(before, after) if d == dim else (0, 0) for d in range(rank)]
        index = [-1] * before + list(range(shape[dim])) + [-1] * after
        return View.take(shape, dim, index), lambda x: np.pad(x, pads, constant_values=GAP)
    return View.identity(shape), lambda x: x


@st.composite
def chains(draw: st.DrawFn) -> tuple[np.ndarray, list[Step]]:
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=3)))
    found = []
    array = np.arange(prod(shape)).reshape(shape)
    at = shape
    for _ in range(draw(st.integers(1, 4))):
        step = draw(steps(at))
        if prod(step[0].dst) > 2_000:
            break
        found.append(step)
        at = step[0].dst
    return array, found


@settings(max_examples=300, deadline=None, derandomize=True)
@given(chains())
def test_a_chain_is_one_view(case: tuple[np.ndarray, list[Step]]) -> None:
    array, chain = case
    view, wanted = View.identity(array.shape), array
    for step, by_numpy in chain:
        view, wanted = view.then(step), by_numpy(wanted)
        assert view.src == array.shape
        assert view.dst == wanted.shape
        np.testing.assert_array_equal(view.apply(array, GAP), wanted)
        assert view.is_total == (GAP not in wanted)
    same = wanted.shape == array.shape and np.array_equal(wanted, array)
    # A view that says it is the identity is it.
    assert same or not view.is_identity


@settings(max_examples=100, deadline=None, derandomize=True)
@given(chains())
def test_equal_digests_mean_equal_views(case: tuple[np.ndarray, list[Step]]) -> None:
    array, chain = case
    views = [View.identity(array.shape)]
    for step, _ in chain:
        views.append(views[-1].then(step))
    again = View.identity(array.shape)
    for step, _ in chain:
        again = again.then(step)
    assert again.digest == views[-1].digest
    for other in views:
        if other.digest == again.digest and other.dst == again.dst:
            np.testing.assert_array_equal(other.apply(array, GAP), again.apply(array, GAP))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot view"):
        View.reshape((2, 3), (4,))
    with pytest.raises(ValueError, match="outside dimension"):
        View.take((2, 3), 1, [3])
    with pytest.raises(ValueError, match="outside dimension"):
        View.take((2, 3), 1, [-2])
    with pytest.raises(ValueError, match="cannot broadcast"):
        View.broadcast((2, 3), (2, 4))
    with pytest.raises(ValueError, match="cannot view"):
        View.identity((2, 3)).then(View.identity((3, 2)))


def test_dimensions_of_one_join_nothing() -> None:
    """The heads of one sequence: batches of 1 come and go, features and rows stay apart."""
    heads = View.reshape((128, 768), (1, 128, 12, 64)).then(View.transpose((1, 128, 12, 64), (0, 2, 1, 3)))
    heads = heads.then(View.reshape((1, 12, 128, 64), (12, 128, 64)))
    assert sorted((g.src, g.dst) for g in heads.groups) == [((0,), (1,)), ((1,), (0, 2))]
    assert all(g.is_identity for g in heads.groups)
