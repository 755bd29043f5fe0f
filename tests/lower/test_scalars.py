"""Results of a single element: whole reductions, and ops on what they leave."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import ipucc

OPS = {"ReduceMax": np.max, "ReduceSum": np.sum, "ReduceMean": np.mean}


@pytest.mark.parametrize("tiles", [3, 16])
@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize("op", OPS)
def test_a_whole_reduction_is_cut_over_tiles(
    op: str, kind: str, tiles: int, model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    model = model_of(f"g ({kind}[40,50] x) => ({kind} y) {{ y = {op} <keepdims = 0> (x) }}")
    exe = ipucc.compile(model, target=str(machine_file(tiles=tiles, phase_cycles=tiles)), solver="greedy")
    x = np.random.default_rng(0).integers(-4, 5, (40, 50)).astype("float32" if kind == "float" else kind)
    got = exe.run({"x": x}, checked=True).outputs["y"]
    assert got.shape == ()
    np.testing.assert_allclose(got, OPS[op](x.astype(np.float64)), rtol=1e-3)
    # Partials of halves would be moved in halves of words: their maximum is taken on one tile.
    spread = [step for step in exe.profile().steps if step.name.endswith(".partials")]
    assert bool(spread) == (kind == "float" or op != "ReduceMax")


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_single_elements_are_computed_with(
    kind: str, model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    model = model_of(f"""g ({kind}[4,5] x, {kind} w) => ({kind}[4,5] y, {kind} z, {kind}[1] v) {{
        shape = Constant <value_ints = [1]> ()
        a = ReduceMax <keepdims = 0> (x)
        b = Tanh(a)
        c = Exp(b)
        y = Sub(x, c)
        z = Mul(w, w)
        e = Neg(a)
        v = Reshape(e, shape)
    }}""")
    exe = ipucc.compile(model, target=str(machine_file(tiles=16, phase_cycles=16)))
    dtype = np.float32 if kind == "float" else np.float16
    x = np.random.default_rng(0).integers(-4, 5, (4, 5)).astype(dtype)
    got = exe.run({"x": x, "w": dtype(3)}, checked=True).outputs
    np.testing.assert_allclose(got["y"], x - np.exp(np.tanh(x.max())), rtol=1e-2)
    np.testing.assert_array_equal(got["z"], 9)
    np.testing.assert_array_equal(got["v"], [-x.max()])
