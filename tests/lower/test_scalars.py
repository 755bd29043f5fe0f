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
    model = model_of(f"g ({kind}[200,100] x) => ({kind} y) {{ y = {op} <keepdims = 0> (x) }}")
    exe = ipucc.compile(model, target=str(machine_file(tiles=tiles, phase_cycles=tiles)), solver="greedy")
    x = np.random.default_rng(0).integers(-4, 5, (200, 100)).astype("float32" if kind == "float" else kind)
    got = exe.run({"x": x}, checked=True).outputs["y"]
    assert got.shape == ()
    np.testing.assert_allclose(got, OPS[op](x.astype(np.float64)), rtol=1e-3)
    assert any(step.name.endswith(".partials") for step in exe.profile().steps)


@pytest.mark.parametrize(
    ("kind", "op"), [("uint8", "ReduceMax"), ("int8", "ReduceMin"), ("bool", "ReduceMax"), ("bool", "ReduceMin")]
)
def test_partials_of_narrow_types_are_words(
    kind: str, op: str, model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    model = model_of(f"g ({kind}[200,100] x) => ({kind} y) {{ y = {op} <keepdims = 0> (x) }}")
    exe = ipucc.compile(model, target=str(machine_file(tiles=16, phase_cycles=16)))
    values = np.random.default_rng(0)
    x = (values.random((200, 100)) < 0.001) if kind == "bool" else values.integers(3, 99, (200, 100)).astype(kind)
    got = exe.run({"x": x}, checked=True).outputs["y"]
    np.testing.assert_array_equal(got, x.max() if op == "ReduceMax" else x.min())
    assert any(step.name.endswith(".partials") for step in exe.profile().steps)


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


@pytest.mark.parametrize("tiles", [3, 16])
def test_single_halves_move_in_whole_words(
    tiles: int, model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    weights = {"odd": np.array(3), "even": np.array(4), "one": np.array([1]), "all": np.array([0])}
    model = model_of(
        """g (float16[17] x) => (float16 y, float16 z, float16[18] v, float16[19] w) {
            a = Add(x, x)
            b = Gather <axis = 0> (a, odd)
            c = Gather <axis = 0> (a, even)
            y = Neg(b)
            z = Mul(b, c)
            d = ReduceMax <keepdims = 1> (x, all)
            e = Neg(d)
            v = Concat <axis = 0> (e, x)
            f = Reshape(y, one)
            w = Concat <axis = 0> (x, f, f)
        }""",
        weights,
    )
    exe = ipucc.compile(model, target=str(machine_file(tiles=tiles, phase_cycles=tiles)))
    x = np.random.default_rng(0).integers(-4, 5, 17).astype(np.float16)
    got = exe.run({"x": x}, checked=True).outputs
    np.testing.assert_array_equal(got["y"], -2 * x[3])
    np.testing.assert_array_equal(got["z"], 4 * x[3] * x[4])
    np.testing.assert_array_equal(got["v"], [-x.max(), *x])
    np.testing.assert_array_equal(got["w"], [*x, -2 * x[3], -2 * x[3]])


@pytest.mark.parametrize("kind", ["float", "float16", "int8"])
def test_numbers_without_dimensions_are_repeated_in_a_loop(
    kind: str, model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., Path]
) -> None:
    names = [f"{n}" for n in range(9)]
    model = model_of(
        f"g ({', '.join(f'{kind} x{n}' for n in names)}) => ({', '.join(f'{kind} y{n}' for n in names)}) "
        f"{{ {' '.join(f'y{n} = Abs(x{n})' for n in names)} }}"
    )
    exe = ipucc.compile(model, target=str(machine_file(tiles=3, phase_cycles=3)), solver="greedy")
    dtype = {"float": np.float32, "float16": np.float16, "int8": np.int8}[kind]
    got = exe.run({f"x{n}": dtype(-int(n)) for n in names}, checked=True).outputs
    assert [int(got[f"y{n}"]) for n in names] == list(range(9))
