"""Forms of layers under one budget: the optimum, its bound, and what does not fit."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.sparsity.budget import Form, allocate

forms = st.lists(
    st.builds(Form, st.floats(0, 100, allow_subnormal=False), st.integers(0, 50)), min_size=1, max_size=4
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(forms, min_size=1, max_size=5), st.integers(0, 150))
def test_nothing_within_the_budget_loses_less(layers, budget):
    best = min(
        (sum(f.loss for f in choice) for choice in product(*layers) if sum(f.cycles for f in choice) <= budget),
        default=None,
    )
    found = allocate(layers, budget)
    assert (found is None) == (best is None)
    if found is None:
        return
    taken = [layer[i] for layer, i in zip(layers, found.chosen, strict=True)]
    assert sum(f.cycles for f in taken) == found.cycles <= budget
    assert sum(f.loss for f in taken) == pytest.approx(found.loss)
    most = sum(max(f.loss for f in layer) for layer in layers)
    assert found.loss <= best + 1e-8 * most
    assert found.bound <= best + 1e-12
    assert found.bound >= best - 1e-8 * most


def test_a_large_case_is_solved_to_its_bound():
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(72):
        size = float(rng.uniform(1, 10))
        sparse = [
            Form(size * (1 - d) ** 2 * rng.uniform(0.9, 1.1), int(1500 + 9000 * d**0.8))
            for d in np.geomspace(0.02, 0.9, 30)
        ]
        layers.append([Form(0.0, 10_000), *sparse])
    budget = 72 * 4000
    found = allocate(layers, budget)
    assert found is not None
    assert found.gap < 1e-3
    # No uniform choice is as good.
    uniform = [sum(layer[i].loss for layer in layers) for i in range(31) if sum(x[i].cycles for x in layers) <= budget]
    assert found.loss < min(uniform)
    assert allocate(layers, budget).chosen == found.chosen
