"""The plans worth keeping are those of a full sort and a full search."""

import numpy as np
import pytest

from ipucc.passes.plan.bargains import bargains, best_of, fastest_of, undominated


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_missed_without_the_sort(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few values, so that there are ties.
    n, most = int(rng.integers(1, 300)), int(rng.choice([3, 20, 100_000]))
    score, temp, resident = (rng.integers(0, most, n) for _ in range(3))
    memory, alike = temp + resident, int(rng.integers(1, 13))
    rows = np.flatnonzero(rng.random(n) < 0.8)
    if not rows.size:
        rows = np.arange(n)
    order = rows[np.lexsort((memory[rows], score[rows]))]
    front = undominated(rows, score, memory, resident, alike)
    assert (
        front[bargains(score[front], temp[front], resident[front], alike)].tolist()
        == order[bargains(score[order], temp[order], resident[order], alike)].tolist()
    )
    for count in (1, 5, n):
        assert fastest_of(rows, score, memory, count).tolist() == order[:count].tolist()
    for figure in (memory, resident, memory + (alike - 1) * resident):
        assert best_of(rows, figure, score, memory) == order[figure[order].argmin()]


def test_what_takes_more_of_everything_is_no_bargain() -> None:
    rows = np.arange(3)
    score, memory, resident = np.array([10, 10, 9]), np.array([8, 9, 30]), np.array([2, 2, 20])
    assert undominated(rows, score, memory, resident, 1).tolist() == [2, 0]
