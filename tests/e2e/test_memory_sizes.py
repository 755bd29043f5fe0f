"""What fits in some memory fits in more."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from ipucc.compiler import CompileOptions, compile_model
from ipucc.diagnostics import DoesNotFit

SIZES = (16_384, 16_896, 17_920, 18_944, 19_968, 20_480, 22_016, 22_528, 24_576, 28_672)


@pytest.mark.parametrize("solver", ["greedy", "cpsat"])
def test_a_model_that_fits_also_fits_in_more_memory(
    solver: str, model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    """A perceptron on 8 tiles, around the least memory that it needs."""
    text = "g (float[32,64] x) => (float[32,64] y) { a = MatMul(x, v) b = Relu(a) c = MatMul(b, w) y = Relu(c) }"
    model = model_of(text, {"v": (64, 96), "w": (96, 64)})
    fits = []
    for size in SIZES:
        target = machine_file(tiles=8, tile_bytes=size, executable_bytes=size, interleaved_bytes=0)
        try:
            compile_model(model, CompileOptions(target=str(target), solver=solver))  # type: ignore[arg-type]
        except DoesNotFit:
            fits.append(False)
        else:
            fits.append(True)
    assert fits == sorted(fits)
    assert set(fits) == {False, True}
