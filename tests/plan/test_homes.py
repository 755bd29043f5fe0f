"""Where inputs and weights rest that several ops read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import ipucc
from ipucc.ops.spec import Operand, Source, Span
from ipucc.tiles.view import View

INDEX = {
    "begin": np.array([8]),
    "end": np.array([-12]),
    "rows": np.array([0]),
    "back": np.array([-1]),
    "first": np.array([9, 3, 4, 1, 2]),
    "second": np.array([15, 0, 7]),
    "ones1": np.ones((4, 3, 1, 1), np.float32),
    "ones3": np.ones((4, 3, 3, 3), np.float32),
}


@pytest.mark.parametrize("tiles", [3, 16, 64])
@pytest.mark.parametrize(
    ("text", "used"),
    [
        # The first reader leaves every second row out: what it holds is no home for the other one.
        ("""g (float[1,3,8,8] x) => (float[1,4,4,4] a, float[1,4,8,8] b) {
            a = Conv <strides = [2, 2]> (x, ones1)
            b = Conv <pads = [1, 1, 1, 1]> (x, ones3)
        }""", ["ones1", "ones3"]),
        ("""g (float[1,3,8,8] x) => (float[1,4,4,4] a, float[1,4,8,8] b) {
            b = Conv <pads = [1, 1, 1, 1]> (x, ones3)
            a = Conv <strides = [2, 2]> (x, ones1)
        }""", ["ones1", "ones3"]),
        ("""g (float[16,5] x) => (float[5,5] a, float[3,5] b, float[16,5] c) {
            a = Gather <axis = 0> (x, first)
            b = Gather <axis = 0> (x, second)
            c = Relu(x)
        }""", ["first", "second"]),
        # Rows backwards, in grains that are not full: cells in falling order are no home that others share.
        ("g (float[11,9,2] x) => (float[9,9,2] a) { a = Slice(x, begin, end, rows, back) }",
         ["begin", "end", "rows", "back"]),
        # One op reads the input three times, each time for a part of its result.
        ("g (float[40] x) => (float[120] a) { a = Concat <axis = 0> (x, x, x) }", []),
    ],
)  # fmt: skip
def test_a_shared_input_is_whole_for_all_its_readers(
    text: str, used: list[str], tiles: int, model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    model = model_of(text, {name: INDEX[name] for name in used})
    exe = ipucc.compile(model, target=str(machine_file(tiles=tiles, phase_cycles=tiles)), solver="greedy")
    ((name, _, shape),) = exe.inputs
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    wanted = onnx.reference.ReferenceEvaluator(model).run(None, {name: x})
    for got, value in zip(exe.run({name: x}, checked=True).outputs.values(), wanted, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5)


def test_cells_without_indices_stay_in_order() -> None:
    # Six windows of three in cells of 2, 0, 3, 0 and 1 windows.
    span = Span("o", np.arange(6) - 1, np.arange(6) + 2)
    operand = Operand((Source(0, View.identity((6,))),), (6,), (span,), "float32", 0)
    cells = {"o": (np.array([0, 2, 2, 5, 5], np.int32), np.array([2, 2, 5, 5, 6], np.int32))}
    axis, (lo, hi) = operand.cut(0, cells)
    assert axis == "o"
    # Whole grains of four elements, empty cells empty.
    assert list(zip(lo.tolist(), hi.tolist(), strict=True)) == [(-4, 4), (0, 0), (0, 8), (4, 4), (4, 8)]
