"""Pooling gives the same numbers on every cut of its axes."""

import numpy as np
import pytest
from onnx import helper

from ipucc.diagnostics import CompileError

FORMS = {
    "2x2": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "3x3-pad": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "asymmetric": {"kernel_shape": [3, 2], "strides": [1, 3], "pads": [0, 1, 2, 0]},
    "ceil": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "ceil-pad": {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    "dilated": {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 1, 1]},
    "steps-in-common": {"kernel_shape": [3, 2], "dilations": [2, 4], "strides": [4, 2], "pads": [1, 1, 2, 1]},
    "same-upper": {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same-lower": {"kernel_shape": [2, 4], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "counting", "LpPool"])
def test_pool(assert_right, op, form):
    x = np.random.default_rng(1).normal(size=(2, 6, 10, 12)).astype(np.float32)
    attributes = dict(FORMS[form])
    if op == "counting":
        op, attributes["count_include_pad"] = "AveragePool", 1
    if op == "LpPool":
        attributes["p"] = 3
    assert_right(op, {"x": x}, against=("ort",), tolerance=2e-5 if op == "LpPool" else 2e-6, **attributes)


@pytest.mark.parametrize("rank", [1, 3])
def test_pool_of_other_ranks(assert_right, rank):
    x = np.random.default_rng(2).normal(size=(1, 5, *[9, 7, 8][:rank])).astype(np.float32)
    for op in ("MaxPool", "AveragePool"):
        assert_right(op, {"x": x}, against=("ort",), kernel_shape=[3] * rank, strides=[2] * rank, pads=[1] * 2 * rank)


def test_padding_never_wins_a_maximum(assert_right):
    rng = np.random.default_rng(3)
    x = rng.integers(-128, -100, size=(1, 3, 7, 7)).astype(np.int8)
    assert_right("MaxPool", {"x": x}, against=("ort",), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    y = -np.ones((1, 1, 6, 6), np.float32)
    assert_right("MaxPool", {"x": y}, against=("ort",), kernel_shape=[2, 2], pads=[1, 1, 1, 1])


def test_pool_behind_a_convolution_keeps_its_grains_on_the_channels(assert_right):
    rng = np.random.default_rng(4)
    x, w = (rng.normal(size=s).astype(np.float32) for s in [(1, 5, 12, 12), (8, 5, 3, 3)])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("MaxPool", ["c"], ["y"], name="pool", kernel_shape=[3, 3], strides=[2, 2]),
    ]
    graph = assert_right(nodes, {"x": x}, {"w": w}, times=5)
    assert [op.kind for op in graph.ops] == ["Conv", "MaxPool"]
    assert graph.ops[1].operands[0].grain_dim == 1


def test_positions_of_maxima_are_refused(assert_right):
    x = np.zeros((1, 1, 4, 4), np.float32)
    nodes = [
        helper.make_node("MaxPool", ["x"], ["m", "i"], name="pool", kernel_shape=[2, 2]),
        helper.make_node("Cast", ["i"], ["y"], name="cast", to=1),
    ]
    with pytest.raises(CompileError, match="second result"):
        assert_right(nodes, {"x": x})
