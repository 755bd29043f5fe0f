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


def test_a_row_behind_a_cache_does_not_keep_the_copy_from_being_cut(
    model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    # The row's elements are heads x size in one dimension, so that one group of its view spans three of the result.
    model = model_of("""grow (float16[1, 64] x, float16[1, 4, 33, 16] past) => (float16[1, 4, 34, 16] present) {
        shape = Constant <value_ints = [1, 4, 1, 16]> ()
        row = Add(x, x)
        heads = Reshape(row, shape)
        present = Concat <axis = 2> (past, heads)
    }""")
    exe = ipucc.compile(model, target=str(machine_file(tiles=64)))
    (copy,) = (op for op in exe.program.ops if op.kind == "Copy")
    assert copy.result_bytes * 16 < 4 * 34 * 16 * 2
    rng = np.random.default_rng(0)
    x, past = (rng.standard_normal(shape).astype(np.float16) for shape in ((1, 64), (1, 4, 33, 16)))
    result = exe.run({"x": x, "past": past}, checked=True)
    expected = np.concatenate([past, (x + x).reshape(1, 4, 1, 16)], axis=2)
    np.testing.assert_array_equal(result.outputs["present"], expected)


def test_an_operand_begins_where_the_first_dimension_of_a_group_says() -> None:
    # 4 heads x 5 rows x 3, of which row 2 comes from 12 elements in one dimension; cells cut all of the three.
    index = np.full((4, 5, 3), -1)
    index[:, 2] = np.arange(12).reshape(4, 3)
    codelet = Copy((4, 5, 3), (((12,), 0, (((0,), (0, 1, 2), tuple(index.reshape(-1).tolist())),)),), "float32", -1.0)
    source = np.arange(12, dtype=np.float32)
    lo, n = (
        [np.array(v) for v in ((0, 2, 2), (0, 1, 2), (0, 1, 2))],
        [np.array(v) for v in ((2, 2, 1), (3, 4, 1), (3, 2, 1))],
    )
    operand = np.zeros((3, 8), np.float32)
    for i, (begin, end) in enumerate(((0, 6), (6, 12), (6, 9))):
        # A layout of float32 cuts on grains of 4.
        operand[i, : end - begin // 4 * 4] = source[begin // 4 * 4 : end]
    names = ("d0", "d1", "d2")
    (out,) = codelet.compute([operand], Cells(dict(zip(names, lo, strict=True)), dict(zip(names, n, strict=True))))
    whole = np.where(index < 0, -1.0, source[np.maximum(index, 0)])
    for i in range(3):
        box = tuple(slice(a[i], a[i] + b[i]) for a, b in zip(lo, n, strict=True))
        np.testing.assert_array_equal(out[i][tuple(slice(0, b[i]) for b in n)], whole[box])
