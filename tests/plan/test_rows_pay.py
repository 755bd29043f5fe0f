"""Rows are cut over tiles where that is faster: what it must be worth on a GC200."""

from collections.abc import Callable

import numpy as np
import onnx

from ipucc.codelets.normalise import Normalise
from ipucc.compiler import CompileOptions, compile_model
from ipucc.target import load_target


def chosen(model: onnx.ModelProto) -> tuple[int, dict[str, int]]:
    """Predicted cycles of a model of one op in fp16, and the parts of the op's axes."""
    compiled = compile_model(model, CompileOptions(precision="fp16"))
    (candidate,) = compiled.placement.chosen
    return compiled.cycles["total"], dict(candidate.plan.parts)


def test_layer_norm_of_a_transformer(model_of: Callable[..., onnx.ModelProto]) -> None:
    cycles, parts = chosen(
        model_of(
            """norm (float[128,768] x) => (float[128,768] y) {
                y = LayerNormalization <axis = -1, epsilon = 1e-12> (x, scale, shift)
            }""",
            {"scale": (768,), "shift": (768,)},
        )
    )
    assert parts["d1"] > 1
    assert cycles < 2_500
    row = {"d0": np.ones(1, np.int64), "d1": np.full(1, 768)}
    codelet = Normalise(("d0", "d1"), ("d1",), 1e-12, True, True, True, "float16")
    assert codelet.cycles(row, load_target("gc200")).tolist() == [4_370]


def test_one_long_row(model_of: Callable[..., onnx.ModelProto]) -> None:
    cycles, parts = chosen(model_of("softmax (float[1,32768] x) => (float[1,32768] y) { y = Softmax <axis = -1> (x) }"))
    assert parts["d1"] > 100
    assert cycles < 8_000


def test_short_rows_stay_whole(model_of: Callable[..., onnx.ModelProto]) -> None:
    # Two rows on each of 768 tiles: another exchange costs more than it saves.
    _, parts = chosen(
        model_of("softmax (float[12,128,128] x) => (float[12,128,128] y) { y = Softmax <axis = -1> (x) }")
    )
    assert parts["d2"] == 1
