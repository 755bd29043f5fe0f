"""Repetitions in a sequence: disjoint, true, and none of the large ones missed."""

from hypothesis import given
from hypothesis import strategies as st

from ipucc.passes.plan.repeats import Repetition, repetitions


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 6))
def test_what_is_found_repeats(keys: list[str], least: int) -> None:
    found = repetitions(keys, least)
    at = 0
    for r in found:
        assert r.start >= at
        at = r.stop
        assert r.stop <= len(keys)
        assert r.count >= 2
        assert r.period * (r.count - 1) >= least
        for i in range(r.start + r.period, r.stop):
            assert keys[i] == keys[i - r.period]


@given(st.integers(0, 5), st.integers(1, 6), st.integers(2, 6), st.integers(0, 5))
def test_layers_between_other_steps_are_found(before: int, period: int, count: int, after: int) -> None:
    # The steps of a layer differ from one another and from all others.
    layer = [("layer", i) for i in range(period)]
    first, last = ([(where, i) for i in range(n)] for where, n in (("before", before), ("after", after)))
    assert repetitions([*first, *layer * count, *last]) == [Repetition(before, period, count)]


def test_the_repetition_that_saves_most_is_taken_first() -> None:
    assert repetitions(list("xyzaabaabaabq")) == [Repetition(3, 3, 3)]
    assert repetitions(list("abcd")) == []
    assert repetitions([]) == []
    assert repetitions(list("aa"), least=2) == []
