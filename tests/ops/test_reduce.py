"""Reductions give the same numbers on every cut, the reduced axis included."""

import numpy as np
import pytest
from onnx import helper

FLOAT_OPS = [
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
]


@pytest.mark.parametrize("op", FLOAT_OPS)
def test_reduce(assert_right, op):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 6, 10)).astype(np.float32)
    if op == "ReduceLogSum":
        x = np.abs(x) + np.float32(0.1)
    for axes, keep in (([1], 1), ([0, 2], 0), ([-1, 0, 1], 1), ([], 0)):
        consts = {"axes": np.array(axes, np.int64)} if axes else {}
        assert_right(op, {"x": x}, consts, keepdims=keep, tolerance=1e-5)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"])
def test_reduce_integers(assert_right, op):
    x = np.random.default_rng(2).integers(-2, 3, size=(4, 5, 7)).astype(np.int32)
    # The reference evaluator rounds means of integers another way.
    assert_right(op, {"x": x}, {"axes": np.array([0, 2], np.int64)}, against=("ort",), times=4)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_reduce_bools_and_bytes(assert_right, op):
    rng = np.random.default_rng(3)
    assert_right(op, {"x": rng.random((6, 9)) > 0.7}, {"axes": np.array([0], np.int64)}, against=("ort",), times=4)
    assert_right(
        op, {"x": rng.integers(-9, 9, size=(9, 33)).astype(np.int8)}, {"axes": np.array([1], np.int64)}, times=4
    )


def test_nothing_to_reduce(assert_right):
    x = np.random.default_rng(4).normal(size=(3, 4)).astype(np.float32)
    graph = assert_right("ReduceSum", {"x": x}, {"axes": np.zeros(0, np.int64)}, noop_with_empty_axes=1)
    assert [op.kind for op in graph.ops] == ["Copy"]


def test_log_sum_exp_of_large_and_infinite_values(assert_right):
    x = np.array([[1e4, 1e4 + 1, -1e4], [-np.inf, -np.inf, -np.inf], [np.inf, 1, 2]], np.float32)
    assert_right("ReduceLogSumExp", {"x": x}, {"axes": np.array([1], np.int64)}, keepdims=0, against=("ort",), times=4)


def test_half_precision_sums_in_single_precision(assert_right):
    x = np.full((2, 4096), 1.0, np.float16)
    x[:, 0] = 0.5
    assert_right(
        "ReduceMean", {"x": x}, {"axes": np.array([1], np.int64)}, keepdims=0, against=("ort",), times=5, tolerance=0
    )


def test_reduction_of_channels_in_grains_copies_nothing(assert_right):
    rng = np.random.default_rng(5)
    x, w = (rng.normal(size=s).astype(np.float16) for s in [(1, 8, 5, 5), (16, 8, 1, 1)])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("ReduceMax", ["c", "axes"], ["y"], name="max", keepdims=0),
    ]
    graph = assert_right(
        nodes, {"x": x}, {"w": w, "axes": np.array([1, 2, 3], np.int64)}, against=("ref",), tolerance=5e-3
    )
    assert [op.kind for op in graph.ops] == ["Conv", "ReduceMax"]


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool(assert_right, op):
    x = np.random.default_rng(6).normal(size=(2, 5, 4, 6)).astype(np.float32)
    assert_right(op, {"x": x}, against=("ort",), tolerance=1e-5, times=4)


def test_global_norm_pool(assert_right):
    x = np.random.default_rng(6).normal(size=(2, 5, 4, 6)).astype(np.float32)
    norm = (np.abs(x.astype(np.float64)) ** 3).sum(axis=(2, 3), keepdims=True) ** (1 / 3)
    # No oracle has a kernel for it at this opset.
    assert_right("GlobalLpPool", {"x": x}, wanted=[norm], tolerance=1e-5, times=4, p=3)
