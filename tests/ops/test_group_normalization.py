"""GroupNormalization before opset 21: scale and bias by group."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

import ipucc


def test_scale_and_bias_by_group(model_of: Callable[..., onnx.ModelProto]) -> None:
    model = model_of(
        "g (float[2,4,3,3] x, float[2] s, float[2] b) => (float[2,4,3,3] y) "
        "{ y = GroupNormalization <num_groups = 2> (x, s, b) }"
    )
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal(d).astype(np.float32) for n, d in (("x", (2, 4, 3, 3)), ("s", 2), ("b", 2))}
    got = ipucc.compile(model, solver="greedy").run(feeds).outputs["y"]
    np.testing.assert_allclose(got, ReferenceEvaluator(model).run(None, feeds)[0], rtol=1e-4, atol=1e-5)
