"""Softmax and normalisations, whole rows and cut ones."""

import numpy as np
import pytest

from ipucc.diagnostics import CompileError


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax(assert_right, op, axis):
    x = (5 * np.random.default_rng(1).normal(size=(4, 6, 9))).astype(np.float32)
    assert_right(op, {"x": x}, axis=axis, times=4, against=("ort",) if op == "Hardmax" else ("ort", "ref"))


def test_softmax_of_masked_rows(assert_right):
    x = np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)
    x[0, 3:] = -np.inf
    x[1] = -np.inf
    assert_right("Softmax", {"x": x}, times=4)


def test_softmax_in_half_precision(assert_right):
    x = (3 * np.random.default_rng(4).normal(size=(5, 24))).astype(np.float16)
    for op in ("Softmax", "LogSoftmax"):
        assert_right(op, {"x": x}, against=("ort",), tolerance=2e-3, times=4)


def normal(*shape):
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_norm(assert_right, axis):
    shape = (5, 6, 8)
    scale, bias = normal(*shape[axis:]), normal(*shape[axis:]) / 3
    assert_right(
        "LayerNormalization", {"x": normal(*shape) + 2}, {"s": scale, "b": bias}, axis=axis, times=4, tolerance=4e-6
    )
    assert_right("LayerNormalization", {"x": normal(*shape)}, {"s": scale[..., :1]}, axis=axis, against=("ref",))


def test_rms_norm(assert_right):
    consts = {"s": normal(24)}
    assert_right("RMSNormalization", {"x": normal(3, 5, 24)}, consts, epsilon=1e-6, times=4, tolerance=4e-6)


def test_rms_norm_of_half_precision_does_not_overflow(assert_right):
    x = (300 * normal(3, 32)).astype(np.float16)
    assert_right(
        "RMSNormalization", {"x": x}, {"s": normal(32).astype(np.float16)}, against=("ort",), tolerance=3e-3, times=4
    )


def test_instance_norm(assert_right):
    consts = {"s": normal(6), "b": normal(6)}
    assert_right("InstanceNormalization", {"x": normal(2, 6, 5, 7)}, consts, times=4, tolerance=4e-6)


def test_group_norm(assert_right):
    consts = {"s": normal(12), "b": normal(12)}
    assert_right("GroupNormalization", {"x": normal(2, 12, 5, 3)}, consts, num_groups=3, times=4, tolerance=4e-6)


def test_batch_norm(assert_right):
    consts = {"s": normal(6), "b": normal(6), "m": normal(6), "v": np.abs(normal(6))}
    assert_right("BatchNormalization", {"x": normal(2, 6, 5, 7)}, consts, epsilon=1e-3, times=4, tolerance=4e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_norm(assert_right, p):
    x = normal(4, 5, 8)
    x[1, 2] = 0
    assert_right("LpNormalization", {"x": x}, axis=-1, p=p, against=("ort",), times=4)


def test_mean_variance_norm(assert_right):
    assert_right("MeanVarianceNormalization", {"x": normal(2, 3, 4, 5)}, axes=[0, 2, 3], tolerance=4e-6, times=4)


def test_statistics_as_results_are_refused(assert_right):
    consts = {"s": normal(8)}
    with pytest.raises(CompileError, match="mean and deviation"):
        assert_right("LayerNormalization", {"x": normal(4, 8)}, consts, outputs=["y", "mean"])
