"""Trilu, OneHot, ArgMax, running sums, and ops that are made of other families."""

import numpy as np
import pytest


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, -2, 1, 9])
def test_trilu(assert_right, upper, k):
    consts = {} if k is None else {"k": np.array(k)}
    assert_right("Trilu", {"x": normal(2, 5, 7)}, consts, upper=upper)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(assert_right, axis):
    index = np.array([[0, 3, -1], [2, -4, 9]])
    consts = {"d": np.array(4), "v": np.array([-1, 2.5], np.float32)}
    assert_right("OneHot", {"i": index}, consts, axis=axis, times=4)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_arg_extreme(assert_right, op, last):
    x = np.random.default_rng(2).integers(0, 4, size=(5, 6, 9)).astype(np.float32)
    for axis, keep in ((0, 1), (1, 0), (-1, 0)):
        assert_right(op, {"x": x}, axis=axis, keepdims=keep, select_last_index=last, times=4)
    # The reference evaluator cannot select the last index of a vector without keeping its dimension.
    assert_right(op, {"x": x[0, 0]}, axis=0, keepdims=0, select_last_index=last, against=("ort",))


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sum(assert_right, exclusive, reverse):
    for axis in (0, 1):
        form = {"exclusive": exclusive, "reverse": reverse, "times": 4, "against": ("ort",)}
        assert_right("CumSum", {"x": normal(5, 9)}, {"a": np.array(axis)}, **form)
        assert_right("CumSum", {"x": np.arange(12, dtype=np.int32).reshape(3, 4)}, {"a": np.array(axis)}, **form)


def test_cumulative_product(assert_right):
    assert_right("CumProd", {"x": normal(4, 6)}, {"a": np.array(1)}, against=("ref",), times=4, reverse=1)


def test_lrn(assert_right):
    assert_right("LRN", {"x": normal(2, 10, 4, 5)}, size=5, alpha=0.1, bias=2.0, times=4, against=("ort",))


def test_lrn_over_an_even_number_of_channels_has_the_larger_half_behind(assert_right):
    x = normal(1, 6, 2, 3)
    square = np.pad(x.astype(np.float64) ** 2, [(0, 0), (1, 2), (0, 0), (0, 0)])
    total = sum(square[:, k : k + 6] for k in range(4))
    # onnxruntime wants odd sizes, and the reference evaluator sums one channel too few.
    assert_right("LRN", {"x": x}, wanted=[x / (1 + 0.5 / 4 * total) ** 0.75], size=4, alpha=0.5, times=4)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(assert_right, transposed):
    a, w = (normal(6, 9), normal(9, 5)) if not transposed else (normal(9, 6), normal(5, 9))
    form = {"transA": transposed, "transB": transposed, "alpha": 0.5, "beta": 2.0}
    assert_right("Gemm", {"a": a}, {"w": w, "c": normal(5)}, times=5, **form)
    assert_right("Gemm", {"a": a}, {"w": w}, times=3, transA=transposed, transB=transposed)


def test_cast_like(assert_right):
    assert_right("CastLike", {"x": normal(3, 4) * 5, "t": np.zeros(1, np.int32)})
