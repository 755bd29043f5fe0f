"""Resize in all its modes."""

import numpy as np
import pytest

from ipucc.diagnostics import CompileError

COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


def image(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def resize(assert_right, x, *, scales=None, sizes=None, roi=None, **attributes):
    consts = {"s": np.array(scales, np.float32)} if scales else {"s": np.array(sizes, np.int64)}
    consts |= {} if roi is None else {"roi": roi}
    order = ["x", "" if roi is None else "roi", *(["s"] if scales else ["", "s"])]
    return assert_right("Resize", {"x": x}, consts, order=order, **attributes)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_nearest(assert_right, coordinates, rounding):
    form = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding, "mode": "nearest"}
    # With aligned corners onnxruntime rounds the length that a scale gives, ONNX does not.
    for scales in ([1, 1, 2, 3], [1, 1, 0.5, 1.6])[: 1 if coordinates == "align_corners" else 2]:
        graph = resize(assert_right, image(1, 3, 6, 7), scales=scales, against=("ort",), times=2, **form)
        assert [op.kind for op in graph.ops] == ["Copy"]
    resize(assert_right, image(1, 3, 6, 7), sizes=[1, 3, 9, 5], against=("ort",), times=2, **form)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation(assert_right, coordinates, mode):
    form = {"coordinate_transformation_mode": coordinates, "mode": mode, "against": ("ort",), "tolerance": 4e-6}
    resize(assert_right, image(1, 5, 6, 7), scales=[1, 1, 2, 3], times=4, **form)
    resize(assert_right, image(2, 3, 9, 8), sizes=[2, 3, 5, 11], times=4, **form)
    if coordinates == "align_corners":
        # onnxruntime rounds the length that a scale gives, ONNX does not.
        form["against"] = ("ref",)
    resize(assert_right, image(1, 2, 5, 6), scales=[1, 1, 1.7, 0.6], times=4, **form)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(assert_right, mode):
    form = {"mode": mode, "antialias": 1, "against": ("ort",), "tolerance": 1e-5}
    resize(assert_right, image(1, 2, 20, 15), scales=[1, 1, 0.4, 0.6], times=4, **form)
    resize(assert_right, image(1, 2, 20, 15), sizes=[1, 2, 7, 15], times=4, **form)


def test_cubic_without_what_lies_outside(assert_right):
    form = {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5, "against": ("ort",), "tolerance": 4e-6}
    resize(assert_right, image(1, 2, 5, 6), scales=[1, 1, 2, 1.5], times=4, **form)


def test_axes_and_aspect_ratio(assert_right):
    form = {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger", "mode": "linear", "tolerance": 4e-6}
    resize(assert_right, image(1, 2, 6, 8), sizes=[9, 9], against=("ort",), **form)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_part_of_the_image(assert_right, mode):
    region = np.array([0, 0, 0.4, 0.2, 1, 1, 1.2, 0.7], np.float32)
    form = {"mode": mode, "extrapolation_value": 10.0, "tolerance": 4e-6, "against": ("ort",)}
    resize(
        assert_right, image(1, 2, 6, 5), sizes=[1, 2, 4, 7], roi=region, times=4,
        coordinate_transformation_mode="tf_crop_and_resize", **form,
    )  # fmt: skip


def test_the_part_must_be_known(assert_right):
    with pytest.raises(CompileError, match="roi"):
        resize(
            assert_right, image(1, 1, 4, 4), scales=[1, 1, 2, 2], coordinate_transformation_mode="tf_crop_and_resize"
        )
