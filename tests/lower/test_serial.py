"""Too little memory for all of a cell at once: serial rounds compute the same numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from ipucc.api import Executable
from ipucc.compiler import CompileOptions, compile_model
from ipucc.diagnostics import DoesNotFit

MODELS: dict[str, tuple[str, dict[str, tuple[int, ...]], int]] = {
    "products": (
        """products (float[96,64] x) => (float[96,64] y) {
            a = MatMul(x, w0)
            b = MatMul(a, w1)
            y = Softmax <axis = -1> (b)
        }""",
        {"w0": (64, 64), "w1": (64, 64)},
        98_304,
    ),
    "convolutions": (
        """convolutions (float[1,8,16,16] x) => (float[1,8,16,16] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w0)
            b = Relu(a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w1)
            y = Tanh(c)
        }""",
        {"w0": (16, 8, 3, 3), "w1": (8, 16, 3, 3)},
        65_536,
    ),
}


@pytest.mark.parametrize("precision", ["model", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_numbers_stay_right_while_memory_shrinks(
    name: str, precision: str, model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    text, weights, room = MODELS[name]
    model = model_of(text, weights)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).integers(-8, 9, shape).astype(np.float32) / 8
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    room //= 2 if precision == "fp16" else 1
    serial, peaks = set[str](), list[int]()
    while room > 8_192:
        target = machine_file(
            tiles=2, tile_bytes=room, executable_bytes=8_192, interleaved_bytes=1_024, reserved_bytes=1_024
        )
        options = CompileOptions(target=str(target), precision=precision, solver="greedy")  # type: ignore[arg-type]
        try:
            compiled = compile_model(model, options)
        except DoesNotFit:
            break
        peaks.append(compiled.placement.peak_bytes)
        assert peaks[-1] <= room
        serial |= {str(c.plan.serial) for c in compiled.placement.chosen if c.plan.serial is not None}
        result = Executable(compiled.program).run({"x": x}, checked=True)
        (got,) = result.outputs.values()
        assert np.abs(got - wanted).max() <= (1e-4 if precision == "model" else 2e-2) * np.abs(wanted).max()
        assert result.cycles.total == compiled.cycles["total"]
        room = room * 7 // 8 // 16 * 16
    assert serial
    assert peaks[-1] < peaks[0]
