"""clean-up: what goes, what stays, and that the numbers stay."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from ipucc.pass_manager import run_pipeline

Build = Callable[..., ir.Model]
Check = Callable[..., list[str]]

I64 = np.int64
F32 = np.float32
TRUE = np.ones((1, 4), dtype=np.bool_)

# name, graph, constants, the ops that are left
CASES: list[tuple[str, str, dict[str, object], list[str]]] = [
    ("identity", "g (float[2] x) => (float[2] y) { t = Identity(x)\n y = Neg(t) }", {}, ["Neg"]),
    ("identity of an input", "g (float[2] x) => (float[2] y) { y = Identity(x) }", {}, ["Identity"]),
    ("dropout", "g (float[2] x) => (float[2] y) { t = Dropout(x)\n y = Neg(t) }", {}, ["Neg"]),
    ("cast to itself", "g (float[2] x) => (float[2] y) { t = Cast<to = 1>(x)\n y = Neg(t) }", {}, ["Neg"]),
    ("cast", "g (float[2] x) => (int32[2] y) { y = Cast<to = 6>(x) }", {}, ["Cast"]),
    (
        "cast of cast",
        "g (int32[2] x) => (float16[2] y) { t = Cast<to = 7>(x)\n y = Cast<to = 10>(t) }",
        {},
        ["Cast"],
    ),
    (
        "cast that rounds",
        "g (float[2] x) => (float[2] y) { t = Cast<to = 6>(x)\n y = Cast<to = 1>(t) }",
        {},
        ["Cast", "Cast"],
    ),
    (
        "reshape to the same shape",
        "g (float[2,3] x, int64[2] s) => (float[2,3] y) { t = Reshape(x, s)\n y = Neg(t) }",
        {"s": [0, -1]},
        ["Neg"],
    ),
    (
        "reshape of reshape",
        "g (float[2,6] x, int64[1] a, int64[3] b) => (float[3,2,2] y) { t = Reshape(x, a)\n y = Reshape(t, b) }",
        {"a": [12], "b": [3, 2, 2]},
        ["Reshape"],
    ),
    (
        "squeeze and unsqueeze",
        """g (float[2,1,3] x, int64[1] a, int64[1] b) => (float[1,2,3] y) {
           t = Squeeze(x, a)
           y = Unsqueeze(t, b) }""",
        {"a": [1], "b": [0]},
        ["Reshape"],
    ),
    ("flatten", "g (float[2,3,4] x) => (float[2,12] y) { y = Flatten(x) }", {}, ["Reshape"]),
    (
        "transpose and back",
        "g (float[2,3] x) => (float[2,3] y) { t = Transpose<perm = [1, 0]>(x)\n u = Transpose(t)\n y = Neg(u) }",
        {},
        ["Neg"],
    ),
    (
        "transpose of transpose",
        """g (float[2,3,4] x) => (float[4,2,3] y) {
           t = Transpose<perm = [1, 2, 0]>(x)
           y = Transpose<perm = [1, 2, 0]>(t) }""",
        {},
        ["Transpose"],
    ),
    (
        "transpose of a single axis",
        "g (float[2,1,3] x) => (float[1,2,3] y) { y = Transpose<perm = [1, 0, 2]>(x) }",
        {},
        ["Reshape"],
    ),
    (
        "transpose of merged axes",
        """g (float[1,2,3,4] x, int64[3] a, int64[4] b) => (float[1,2,4,3] y) {
           t = Reshape(x, a)
           u = Transpose<perm = [0, 2, 1]>(t)
           y = Reshape(u, b) }""",
        {"a": [2, 3, 4], "b": [1, 2, 4, 3]},
        ["Transpose"],
    ),
    (
        "expand to the same shape",
        "g (float[2,3] x, int64[2] s) => (float[2,3] y) { t = Expand(x, s)\n y = Neg(t) }",
        {"s": [2, 1]},
        ["Neg"],
    ),
    (
        "expand before an op that broadcasts",
        "g (float[1,3] x, float[2,3] z, int64[2] s) => (float[2,3] y) { t = Expand(x, s)\n y = Sub(z, t) }",
        {"s": [2, 3]},
        ["Sub"],
    ),
    (
        "expand that makes the shape",
        "g (float[1,3] x, float[1,3] z, int64[2] s) => (float[2,3] y) { t = Expand(x, s)\n y = Sub(z, t) }",
        {"s": [2, 3]},
        ["Expand", "Sub"],
    ),
    (
        "slice of everything",
        """g (float[2,3] x, int64[1] a, int64[1] b, int64[1] c) => (float[2,3] y) {
           t = Slice(x, a, b, c)
           y = Neg(t) }""",
        {"a": [0], "b": [99], "c": [1]},
        ["Neg"],
    ),
    (
        "slice backwards",
        """g (float[2,3] x, int64[1] a, int64[1] b, int64[1] c, int64[1] d) => (float[2,3] y) {
           y = Slice(x, a, b, c, d) }""",
        {"a": [2], "b": [-99], "c": [1], "d": [-1]},
        ["Slice"],
    ),
    (
        "pad of nothing",
        "g (float[2] x, int64[2] p) => (float[2] y) { t = Pad(x, p)\n y = Neg(t) }",
        {"p": [0, 0]},
        ["Neg"],
    ),
    ("concat of one", "g (float[2] x) => (float[2] y) { t = Concat<axis = 0>(x)\n y = Neg(t) }", {}, ["Neg"]),
    ("sum of two", "g (float[2] x, float[2] z) => (float[2] y) { y = Sum(x, z) }", {}, ["Add"]),
    (
        "over powers of two",
        "g (float[2,2] x, float[2] z) => (float[2,2] y) { y = Div(x, z) }",
        {"z": F32([8, -0.25])},
        ["Mul"],
    ),
    ("over three", "g (float[2] x, float z) => (float[2] y) { y = Div(x, z) }", {"z": F32(3)}, ["Div"]),
    ("over zero", "g (float[2] x, float z) => (float[2] y) { y = Div(x, z) }", {"z": F32(0)}, ["Div"]),
    (
        "whole numbers over two",
        "g (int32[2] x, int32 z) => (int32[2] y) { y = Div(x, z) }",
        {"z": np.int32(2)},
        ["Div"],
    ),
    (
        "plus zero, times one",
        """g (float[2] x, float z, float o) => (float[2] y) {
           a = Add(z, x)
           b = Sub(a, z)
           c = Mul(b, o)
           d = Div(c, o)
           e = Pow(d, o)
           y = Neg(e) }""",
        {"z": F32(0), "o": F32(1)},
        ["Neg"],
    ),
    (
        "plus a zero that broadcasts",
        "g (float[2] x, float[1,1] z) => (float[1,2] y) { y = Add(x, z) }",
        {"z": F32([[0]])},
        ["Add"],
    ),
    (
        "plus almost zero",
        "g (float[2] x, float z) => (float[2] y) { y = Add(x, z) }",
        {"z": F32(1e-12)},
        ["Add"],
    ),
    (
        "twice negated",
        "g (float[2] x) => (float[2] y) { a = Neg(x)\n b = Neg(a)\n y = Relu(b) }",
        {},
        ["Relu"],
    ),
    ("relu twice", "g (float[2] x) => (float[2] y) { a = Relu(x)\n y = Relu(a) }", {}, ["Relu"]),
    (
        "where all true",
        "g (float[3,4] x, float[4] z, bool[1,4] m) => (float[3,4] y) { t = Where(m, x, z)\n y = Neg(t) }",
        {"m": TRUE},
        ["Neg"],
    ),
    (
        "and with all true",
        "g (bool[3,4] x, bool[1,4] m) => (bool[3,4] y) { t = And(x, m)\n y = Not(t) }",
        {"m": TRUE},
        ["Not"],
    ),
    (
        "gemm",
        "g (float[2,3] x, float[4,3] w, float[4] b) => (float[2,4] y) { y = Gemm<transB = 1>(x, w, b) }",
        {"w": F32(np.arange(12).reshape(4, 3)), "b": F32([1, 2, 3, 4])},
        ["MatMul", "Add"],
    ),
    (
        "gemm with everything",
        """g (float[3,2] x, float[3,4] w, float[1,4] b) => (float[2,4] y) {
           y = Gemm<transA = 1, alpha = 0.5, beta = 2.0>(x, w, b) }""",
        {},
        ["Transpose", "MatMul", "Mul", "Mul", "Add"],
    ),
    (
        "global average pool",
        "g (float[1,2,3,4] x) => (float[1,2] y) { t = GlobalAveragePool(x)\n y = Flatten(t) }",
        {},
        ["ReduceMean"],
    ),
    (
        "average over the whole image",
        "g (float[1,2,3,4] x) => (float[1,2,1,1] y) { y = AveragePool<kernel_shape = [3, 4]>(x) }",
        {},
        ["ReduceMean"],
    ),
    (
        "common sub-expressions",
        """g (float[2] x, float a, float b) => (float[2] y) {
           s = Mul(x, a)
           t = Mul(x, b)
           y = Add(s, t) }""",
        {"a": F32(3), "b": F32(3)},
        ["Mul", "Add"],
    ),
    ("dead code", "g (float[2] x) => (float[2] y) { t = Neg(x)\n y = Relu(x) }", {}, ["Relu"]),
    (
        "constants",
        "g (float[2] x, float[2] a, float[2] b) => (float[2] y) { t = Add(a, b)\n y = Mul(x, t) }",
        {"a": F32([1, 2]), "b": F32([3, 4])},
        ["Mul"],
    ),
    (
        "rows flattened around a product",
        """g (float[2,3,4] x, float[4,5] w, float[5] b, int64[2] f, int64[3] u) => (float[2,3,5] y) {
           r = Reshape(x, f)
           m = MatMul(r, w)
           a = Add(m, b)
           t = Reshape(a, u)
           y = Neg(t) }""",
        {"f": [6, 4], "u": [2, 3, 5], "b": F32([1, 2, 3, 4, 5])},
        ["MatMul", "Add", "Neg"],
    ),
]


@pytest.mark.parametrize(("text", "constants", "left"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_is_left(text: str, constants: dict[str, object], left: list[str], build: Build, check: Check) -> None:
    arrays = {n: np.array(v, dtype=I64) if isinstance(v, list) else np.asarray(v) for n, v in constants.items()}
    assert check(build(text, **arrays), "clean-up") == left


@pytest.mark.parametrize(
    ("mode", "size", "dilation", "pads"),
    [
        ("SAME_UPPER", "3,4", "1, 1", [0, 0, 1, 1]),
        ("SAME_LOWER", "3,4", "1, 1", [1, 1, 0, 0]),
        ("VALID", "2,2", "1, 2", [0, 0, 0, 0]),
    ],
)
def test_pads_become_explicit(mode: str, size: str, dilation: str, pads: list[int], build: Build, check: Check) -> None:
    model = build(
        f"""g (float[1,1,6,8] x, float[2,1,3,3] w) => (float[1,2,{size}] y) {{
           y = Conv<auto_pad = "{mode}", strides = [2, 2], dilations = [{dilation}]>(x, w) }}"""
    )
    assert check(model, "clean-up") == ["Conv"]
    assert "auto_pad" not in model.graph[0].attributes
    assert list(model.graph[0].attributes["pads"].as_ints()) == pads


def test_a_pad_that_shifts_stays(build: Build) -> None:
    model = build("g (float[2] x, int64[2] p) => (float[2] y) { y = Pad(x, p) }", p=np.array([1, -1]))
    run_pipeline(model, "clean-up")
    assert [node.op_type for node in model.graph] == ["Pad"]


def test_options_switch_parts_off(build: Build, check: Check) -> None:
    text = "g (float[2] x, float[2] a) => (float[2] y) { t = Neg(a)\n s = Mul(x, t)\n u = Mul(x, t)\n y = Add(s, u) }"
    a = F32([1, 2])
    assert check(build(text, a=a), "clean-up{fold=false}") == ["Neg", "Mul", "Add"]
    assert check(build(text, a=a), "clean-up{cse=false}") == ["Mul", "Mul", "Add"]


def test_running_it_again_changes_nothing(build: Build) -> None:
    model = build(CASES[4][1])
    run_pipeline(model, "clean-up")
    assert not run_pipeline(model, "clean-up").changed
