"""Results whose extent depends on data: computed at their bound, carried through other ops, cut for the host."""

import numpy as np
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator

import ipucc
from ipucc.diagnostics import CompileError

RNG = np.random.default_rng(5)
X = (RNG.integers(-2, 3, (4, 6)) * RNG.integers(0, 2, (4, 6))).astype(np.float32)
HEAD = '<ir_version: 10, opset_import: ["" : 26]>'


def both(machine_file, body, outputs, x=X):
    """A program, its outputs, and the model for the reference."""
    ports = ", ".join(f"{kind} {name}" for name, kind in outputs.items())
    model = parser.parse_model(f"{HEAD} g (float[{x.shape[0]},{x.shape[1]}] x) => ({ports}) {{ {body} }}")
    exe = ipucc.compile(model, target=str(machine_file(tiles=8)), solver="greedy", effort="fast")
    return exe, exe.run({"x": x}).outputs, ReferenceEvaluator(model)


THROUGH = {
    "itself": "y = NonZero (x)",
    "transposed and gathered": "n = NonZero (x) t = Transpose (n) y = GatherND (x, t)",
    "rows of a table": """n = NonZero (x) zero = Constant<value_int=0> () r = Gather (n, zero)
        y = Gather (x, r)""",
    "a chain": """c = Greater (x, half) n = NonZero (c) t = Transpose (n) v = GatherND (x, t)
        m = Mul (v, half) open = Constant<value_ints=[-1, 1]> () y = Reshape (m, open)""",
    "products of rows": """n = NonZero (x) zero = Constant<value_int=0> () r = Gather (n, zero) t = Gather (x, r)
        w = Transpose (x) p = MatMul (t, w) y = Softmax<axis=1> (p)""",
    "sums along it": """n = NonZero (x) t = Transpose (n) v = GatherND (x, t)
        y = ReduceSum<keepdims=0> (v)""",
    "the largest along it": """n = NonZero (x) t = Transpose (n) v = GatherND (x, t)
        y = ReduceMax<keepdims=1> (v)""",
    "the first three": """n = NonZero (x) b = Constant<value_ints=[0]> () e = Constant<value_ints=[3]> ()
        one = Constant<value_ints=[1]> () y = Slice (n, b, e, one)""",
    "how many": "n = NonZero (x) y = Shape (n)",
    "back to where they were": """n = NonZero (x) t = Transpose (n) v = GatherND (x, t) m = Neg (v)
        y = ScatterND (x, t, m)""",
    "joined": "n = NonZero (x) m = Neg (n) y = Concat<axis=0> (n, m)",
}


@pytest.mark.parametrize("text", THROUGH.values(), ids=THROUGH)
def test_extents_go_through_ops(machine_file, text):
    half = "half = Constant<value_float=0.5> ()" if "half" in text else ""
    integer = text.startswith("y =") or "Shape (n)" in text or "Slice (n" in text or "Concat" in text
    _, got, reference = both(machine_file, half + text, {"y": "int64[?]" if integer else "float[?]"})
    wanted = reference.run(["y"], {"x": X})
    np.testing.assert_array_equal(got["y"].shape, wanted[0].shape)
    np.testing.assert_allclose(got["y"], wanted[0], rtol=1e-6, atol=1e-6)


def test_a_program_says_the_bound_and_hides_what_counts(machine_file, tmp_path):
    exe, got, reference = both(machine_file, "y = NonZero (x) z = Neg (y)", {"y": "int64[2,?]", "z": "int64[2,?]"})
    assert [port[0] for port in exe.outputs] == ["y", "z"]
    assert exe.outputs[0][2] == (2, 24)
    assert len(exe.program.counters) == 1  # both are cut alike
    exe.save(tmp_path / "p.ipux")
    again = ipucc.load(tmp_path / "p.ipux").run({"x": np.zeros_like(X)}).outputs
    assert again["y"].shape == (2, 0)
    np.testing.assert_array_equal(got["z"], reference.run(["z"], {"x": X})[0])


@pytest.mark.parametrize("is_sorted", [0, 1])
@pytest.mark.parametrize("axis", ["", "axis=0,", "axis=1,"])
def test_unique(machine_file, is_sorted, axis):
    x = RNG.integers(0, 2, (7, 3)).astype(np.float32)
    x[2, 1] = -1.0
    names = {"y": "float[?,?]" if axis else "float[?]", "i": "int64[?]", "v": "int64[?]", "c": "int64[?]"}
    _, got, _ = both(machine_file, f"y, i, v, c = Unique<{axis} sorted={is_sorted}> (x)", names, x)
    dim = {"": None, "axis=0,": 0, "axis=1,": 1}[axis]
    # Not against the reference: it takes rows of a matrix where elements are wanted.
    rows, first, inverse, counts = np.unique(x, True, True, True, axis=dim)
    order = np.arange(first.size) if is_sorted else np.argsort(first)
    np.testing.assert_array_equal(got["y"], np.take(rows, order, axis=dim or 0))
    np.testing.assert_array_equal(got["i"], first[order])
    np.testing.assert_array_equal(got["v"], np.argsort(order)[inverse.reshape(-1)])
    np.testing.assert_array_equal(got["c"], counts[order])


def test_rows_alike_but_for_nan_are_one(machine_file):
    x = np.array([[np.nan, 1.0, np.nan, 0.0]], np.float32)
    _, got, _ = both(machine_file, "y = Unique<sorted=1> (x)", {"y": "float[?]"}, x)
    np.testing.assert_array_equal(got["y"], [0.0, 1.0, np.nan])


def test_an_op_that_takes_no_such_operand_is_named():
    text = f"{HEAD} g (float[4,6] x) => (int64[?] y) {{ n = NonZero (x) [it] y = Flatten (n) }}"
    with pytest.raises(CompileError) as caught:
        ipucc.compile(parser.parse_model(text))
    assert [(d.id, d.node) for d in caught.value.diagnostics] == [("IPU0324", "it")]


def test_a_count_that_is_known_is_no_extent(machine_file):
    text = f"""{HEAD} g (float[4,6] x) => (float[?,6] y) {{
        c = Constant<value_ints=[1, 0, 1, 1]> () b = Cast<to=9> (c) z = Compress<axis=0> (x, b) y = Relu (z) }}"""
    exe = ipucc.compile(parser.parse_model(text), target=str(machine_file(tiles=8)), solver="greedy", effort="fast")
    assert exe.outputs == (("y", "float32", (3, 6)),)
    np.testing.assert_array_equal(exe.run({"x": X}).outputs["y"], np.maximum(X[[0, 2, 3]], 0))
