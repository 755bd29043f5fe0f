"""Scatters and TopK on random cuts."""

import numpy as np
import pytest

RNG = np.random.default_rng(3)


def table(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_elements(assert_right, reduction):
    # No index twice: which of two updates wins is not defined.
    index = np.stack([RNG.permutation(9)[:4] for _ in range(6)])
    index[0, 1] -= 9
    graph = assert_right(
        "ScatterElements", {"x": table(6, 9), "u": table(6, 4)}, {"i": index}, order=["x", "i", "u"], axis=1,
        reduction=reduction, times=4,
    )  # fmt: skip
    assert [op.kind for op in graph.ops] == ["Scatter"]


def test_scatter_elements_into_a_part_of_the_table(assert_right):
    index = np.array([[0, 2, 1], [4, 3, 0]])
    data = {"x": table(5, 4), "u": table(2, 3)}
    assert_right("ScatterElements", data, {"i": index}, order=["x", "i", "u"], axis=0, times=4)


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_scatter_nd(assert_right, reduction):
    index = np.array([[[0, 1], [2, -1]], [[1, 0], [2, 2]]])
    data = {"x": table(3, 4, 7), "u": table(2, 2, 7)}
    assert_right("ScatterND", data, {"i": index}, order=["x", "i", "u"], reduction=reduction, times=4)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_top_k(assert_right, largest, axis):
    x = RNG.integers(0, 5, (6, 7, 5)).astype(np.float32)  # many are equal
    assert_right(
        "TopK",
        {"x": x},
        {"k": np.array([3])},
        order=["x", "k"],
        outputs=("y", "at"),
        largest=largest,
        axis=axis,
        times=3,
    )
