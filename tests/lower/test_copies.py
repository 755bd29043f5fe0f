"""Copy ops on many tiles and of many elements."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

import ipucc
from ipucc.codelets.base import Cells
from ipucc.codelets.copy import Copy


def test_a_copy_picks_the_same_elements_on_every_tile() -> None:
    # More positions than numpy holds in one buffer of an iteration (8192), the last dimension of one element.
    tiles = 1024
    codelet = Copy((1, 16, tiles, 1), (((1, 8, tiles, 1), 1, (
        ((0,), (0,), None), ((1,), (1,), (*range(8), *[-1] * 8)), ((2,), (2,), None), ((3,), (3,), None),
    )),), "float32", 0.5)  # fmt: skip
    x = np.arange(tiles * 8, dtype=np.float32).reshape(tiles, 1, 8, 1, 1)
    zero, one = np.zeros(tiles, np.int64), np.ones(tiles, np.int64)
    cells = Cells(
        {"d0": zero, "d1": zero, "d2": np.arange(tiles), "d3": zero}, {"d0": one, "d1": 16 * one, "d2": one, "d3": one}
    )
    (out,) = codelet.compute([x], cells)
    np.testing.assert_array_equal(out[:, 0, :8, 0, 0], x[:, 0, :, 0, 0])
    np.testing.assert_array_equal(out[:, 0, 8:, 0, 0], 0.5)


def test_a_long_tensor_of_halves_is_reversed(
    model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    # Halves are no machine words: the exchange cannot reverse them, a copy op has to.
    model = model_of("""reverse (float16[10000] x) => (float16[10000] y) {
        start = Constant <value_ints = [-1]> ()
        end = Constant <value_ints = [-10001]> ()
        axis = Constant <value_ints = [0]> ()
        step = Constant <value_ints = [-1]> ()
        twice = Add(x, x)
        turned = Slice(twice, start, end, axis, step)
        y = Sub(turned, x)
    }""")
    exe = ipucc.compile(model, target=str(machine_file(tiles=16)), solver="greedy")
    x = (np.arange(10000) % 1000).astype(np.float16)
    np.testing.assert_array_equal(exe.run({"x": x}).outputs["y"], 2 * x[::-1] - x)
