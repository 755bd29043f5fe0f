"""Convolutions give the same numbers on every cut of their axes."""

import numpy as np
import pytest

from ipucc.diagnostics import CompileError

FORMS = {
    "3x3": ((2, 5, 9, 11), (7, 5, 3, 3), {"pads": [1, 1, 1, 1]}),
    "1x1": ((1, 20, 6, 7), (9, 20, 1, 1), {}),
    "1x1-strided": ((1, 20, 7, 8), (9, 20, 1, 1), {"strides": [2, 2]}),
    "7x7-strided": ((1, 3, 20, 21), (8, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    "asymmetric": ((1, 4, 8, 9), (6, 4, 3, 2), {"pads": [2, 0, 1, 3], "strides": [1, 2]}),
    "dilated": ((1, 4, 12, 13), (6, 4, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "depthwise": ((2, 24, 8, 9), (24, 1, 3, 3), {"group": 24, "pads": [1, 1, 1, 1], "strides": [2, 1]}),
    "multiplier": ((1, 6, 8, 9), (12, 1, 3, 3), {"group": 6}),
    "groups": ((1, 12, 7, 7), (18, 4, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "one-dim": ((2, 18, 23), (6, 18, 5), {"pads": [2, 2], "strides": [3]}),
    "three-dim": ((1, 3, 6, 7, 8), (5, 3, 2, 3, 3), {"pads": [0, 1, 1, 1, 1, 0], "strides": [2, 1, 2]}),
    "same-upper": ((1, 3, 8, 9), (4, 3, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same-lower": ((1, 3, 8, 9), (4, 3, 3, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "valid": ((1, 3, 8, 9), (4, 3, 3, 2), {"auto_pad": "VALID"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_conv(assert_right, form):
    shape, weight, attributes = FORMS[form]
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=shape).astype(np.float32), rng.normal(size=weight).astype(np.float32)
    bias = rng.normal(size=weight[0]).astype(np.float32)
    # The reference evaluator pads SAME_LOWER at the wrong side and knows no three-dimensional groups.
    assert_right("Conv", {"x": x}, {"w": w, "b": bias}, against=("ort",), times=5, **attributes)


def test_conv_of_computed_operands_reorders_what_arrives_in_other_grains(assert_right):
    from onnx import helper

    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 8, 10, 16)).astype(np.float32)
    w = rng.normal(size=(12, 8, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Abs", ["w"], ["a"], name="abs"),
        helper.make_node("Conv", ["r", "a"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    graph = assert_right(nodes, {"x": x, "w": w}, times=6)
    conv = graph.ops[-1]
    assert conv.kind == "Conv"
    assert conv.operands[0].grain_dim == 4
    assert conv.operands[0].pack_dim == 2


def test_fused_conv_applies_its_epilogue_behind_the_reduction(assert_right):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 40, 5, 6)).astype(np.float32)
    other = rng.normal(size=(1, 10, 5, 6)).astype(np.float32)
    w = rng.normal(size=(10, 40, 3, 3)).astype(np.float32)
    bias = rng.normal(size=(10, 1, 1)).astype(np.float32)
    assert_right(
        "FusedConv", {"x": x, "a": other}, {"w": w, "b": bias}, order=["x", "w", "b", "a"], domain="ipucc", times=6,
        expr="Relu(Add(Add(x, a0), a1))", pads=[1, 1, 1, 1], strides=[1, 1], dilations=[1, 1], group=1,
        against=("ort",),
    )  # fmt: skip


def test_half_precision_rounds_results_once(assert_right):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(1, 32, 6, 6)).astype(np.float16)
    w = (rng.normal(size=(16, 32, 3, 3)) / 17).astype(np.float16)
    assert_right("Conv", {"x": x}, {"w": w}, tolerance=4e-3, against=("ref",), times=5)
    assert_right("Conv", {"x": x}, {"w": w}, tolerance=1e-3, against=("ref",), times=5, partials="float32")


def test_integer_convolution_is_refused(assert_right):
    x, w = np.ones((1, 1, 3, 3), np.int32), np.ones((1, 1, 1, 1), np.int32)
    with pytest.raises(CompileError, match="int32"):
        assert_right("Conv", {"x": x}, {"w": w})


TRANSPOSED = {
    "plain": ((1, 4, 5, 6), (4, 3, 3, 3), {}),
    "stride": ((2, 4, 5, 6), (4, 3, 2, 2), {"strides": [2, 2]}),
    "pads": ((1, 20, 5, 6), (20, 3, 3, 4), {"strides": [2, 3], "pads": [1, 2, 0, 1], "output_padding": [1, 0]}),
    "groups": ((1, 6, 5, 6), (6, 2, 3, 3), {"strides": [2, 1], "group": 3}),
    "dilated": ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 1], "dilations": [2, 3], "pads": [1, 1, 1, 1]}),
    "gaps": ((1, 4, 5, 6), (4, 3, 1, 2), {"strides": [3, 3]}),
    "one-dim": ((2, 4, 9), (4, 5, 4), {"strides": [2], "pads": [1, 1]}),
    "shape": ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "output_shape": [10, 12]}),
    "same-upper": ((1, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
}


@pytest.mark.parametrize("form", TRANSPOSED)
def test_conv_transpose(assert_right, form):
    shape, weight, attributes = TRANSPOSED[form]
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=shape).astype(np.float32), rng.normal(size=weight).astype(np.float32)
    bias = rng.normal(size=weight[1] * attributes.get("group", 1)).astype(np.float32)
    assert_right("ConvTranspose", {"x": x}, {"w": w, "b": bias}, against=("ort",), times=6, **attributes)


def test_cycles_of_a_1x1_convolution_are_those_of_a_matmul():
    from ipucc.codelets.conv import Conv
    from ipucc.codelets.matmul import MatMul
    from ipucc.target import load_target

    target = load_target("gc200")
    n = {a: np.array([1]) for a in ("n", "g")} | {"oc": np.array([64]), "ic": np.array([128])}
    n |= {"o0": np.array([7]), "o1": np.array([14])}
    conv = Conv((1, 1), (1, 1), (1, 1), (0, 0), (1, 1), "float16", "float16")
    same = MatMul((), "float16", "float16").cycles({"m": np.array([98]), "n": n["oc"], "k": n["ic"]}, target)
    assert (conv.cycles(n, target) == same).all()
