"""fuse-epilogue: what joins a contraction, what joins an expression, and what must stay apart."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from ipucc.pass_manager import PassContext, run_pipeline

Build = Callable[..., ir.Model]
Check = Callable[..., list[str]]
F32 = np.float32
W = "float[2,4] x, float[4,4] w"
CONV = "float[1,2,5,5] x, float[3,2,3,3] w"

CASES: list[tuple[str, str, list[str]]] = [
    (
        "bias, residual, activation",
        f"""g ({W}, float[4] b, float[2,4] r) => (float[2,4] y) {{
          m = MatMul(x, w)
          a = Add(m, b)
          c = Add(r, a)
          y = Relu(c) }}""",
        ["FusedMatMul: Relu(Add(Add(x, a0), a1))"],
    ),
    (
        "operand order is canonical",
        f"g ({W}, float[4] b) => (float[2,4] y) {{ m = MatMul(x, w)\n a = Add(b, m)\n y = Tanh(a) }}",
        ["FusedMatMul: Tanh(Add(x, a0))"],
    ),
    (
        "the later of two products takes the op between them",
        f"""g ({W}, float[4,4] v) => (float[2,4] y) {{
          m = MatMul(x, w)
          s = Sigmoid(m)
          n = MatMul(x, v)
          y = Mul(s, n) }}""",
        ["FusedMatMul: Sigmoid(x)", "FusedMatMul: Mul(x, a0)"],
    ),
    (
        "a result used twice on the way to one value",
        f"""g ({W}, float[4] b) => (float[2,4] y) {{
          m = MatMul(x, w)
          a = Add(m, b)
          s = Sigmoid(a)
          y = Mul(a, s) }}""",
        ["FusedMatMul: Mul(Add(x, a0), Sigmoid(Add(x, a0)))"],
    ),
    (
        "a costly op is not computed twice",
        f"g ({W}) => (float[2,4] y) {{ m = MatMul(x, w)\n a = Erf(m)\n s = Sigmoid(a)\n y = Mul(a, s) }}",
        ["FusedMatMul: Erf(x)", "FusedElementwise: Mul(Sigmoid(a0), a0)"],
    ),
    (
        "a result with other users stays",
        f"g ({W}) => (float[2,4] y, float[2,4] z) {{ m = MatMul(x, w)\n y = Relu(m)\n z = Softmax(m) }}",
        ["MatMul", "FusedElementwise: Relu(a0)", "Softmax"],
    ),
    (
        "a graph output is not passed over",
        f"g ({W}) => (float[2,4] y, float[2,4] a) {{ m = MatMul(x, w)\n a = Relu(m)\n y = Exp(a) }}",
        ["FusedMatMul: Relu(x)", "FusedElementwise: Exp(a0)"],
    ),
    (
        "an operand larger than the result stays outside",
        f"g ({W}, float[3,2,4] r) => (float[3,2,4] y) {{ m = MatMul(x, w)\n a = Relu(m)\n y = Add(a, r) }}",
        ["FusedMatMul: Relu(x)", "FusedElementwise: Add(a0, a1)"],
    ),
    (
        "a comparison stays outside",
        f"g ({W}, float[2,4] r) => (bool[2,4] y) {{ m = MatMul(x, w)\n y = Less(m, r) }}",
        ["MatMul", "FusedElementwise: Less(a0, a1)"],
    ),
    (
        "a result of another type stays outside",
        f"g ({W}) => (float16[2,4] y) {{ m = MatMul(x, w)\n r = Relu(m)\n y = Cast<to = 10>(r) }}",
        ["FusedMatMul: Relu(x)", 'FusedElementwise: Cast(a0, to="float16")'],
    ),
    (
        "a mask inside",
        f"""g ({W}, bool[1,4] k) => (float[2,4] y) {{
          m = MatMul(x, w)
          z = Sub(m, m)
          y = Where(k, m, z) }}""",
        ["FusedMatMul: Where(a0, x, Sub(x, x))"],
    ),
    (
        "the bias of a convolution",
        f"g ({CONV}, float[3] b) => (float[1,3,3,3] y) {{ c = Conv(x, w, b)\n y = Relu(c) }}",
        ["Reshape", "FusedConv: Relu(Add(x, a0))"],
    ),
    (
        "a residual of a convolution",
        f"g ({CONV}, float[1,3,3,3] r) => (float[1,3,3,3] y) {{ c = Conv(x, w)\n a = Add(c, r)\n y = Relu(a) }}",
        ["FusedConv: Relu(Add(x, a0))"],
    ),
    ("a convolution alone stays", f"g ({CONV}) => (float[1,3,3,3] y) {{ y = Conv(x, w) }}", ["Conv"]),
    ("a product alone stays", f"g ({W}) => (float[2,4] y) {{ y = MatMul(x, w) }}", ["MatMul"]),
    (
        "a chain",
        "g (float[2,4] x, float[4] b) => (float[2,4] y) { a = Exp(x)\n c = Add(a, b)\n y = Sqrt(c) }",
        ["FusedElementwise: Sqrt(Add(Exp(a0), a1))"],
    ),
    (
        "a tree",
        "g (float[2,4] x, float[2,4] z) => (float[2,4] y) { a = Exp(x)\n c = Abs(z)\n y = Sub(a, c) }",
        ["FusedElementwise: Sub(Exp(a0), Abs(a1))"],
    ),
    (
        "a producer that broadcasts stays by itself",
        "g (float[2,4] x, float[4] z) => (float[2,4] y) { a = Exp(z)\n y = Mul(a, x) }",
        ["FusedElementwise: Exp(a0)", "FusedElementwise: Mul(a0, a1)"],
    ),
    (
        "a diamond",
        "g (float[2,4] x) => (float[2,4] y) { a = Neg(x)\n b = Exp(a)\n c = Abs(a)\n y = Mul(b, c) }",
        ["FusedElementwise: Mul(Abs(Neg(a0)), Exp(Neg(a0)))"],
    ),
    (
        "integers and comparisons",
        "g (int64[4] x, int64[4] z) => (float[4] y) { a = Mod(x, z)\n c = Equal(a, x)\n y = Cast<to = 1>(c) }",
        ['FusedElementwise: Cast(Equal(Mod(a0, a1), a0), to="float32")'],
    ),
    (
        "scaled heads behind views",
        f"""g ({W}, float h, float[4] b, int64[3] s) => (float[2,2,2] y) {{
          m = MatMul(x, w)
          a = Add(m, b)
          r = Reshape(a, s)
          t = Transpose<perm = [1, 0, 2]>(r)
          y = Mul(t, h) }}""",
        ["FusedMatMul: Mul(Add(x, a0), 0.125)", "Reshape", "Transpose"],
    ),
    (
        "scaled operands of a product",
        """g (float[2,4] x, float[4,2] w, float h) => (float[2,2] y) {
          e = Softmax(x)
          a = Mul(e, h)
          f = Softmax(w)
          c = Mul(h, f)
          y = MatMul(a, c) }""",
        ["Softmax", "Softmax", "FusedMatMul: Mul(Mul(x, 0.125), 0.125)"],
    ),
]


@pytest.mark.parametrize(("text", "left"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_what_is_fused(text: str, left: list[str], build: Build, check: Check, oracles: object) -> None:
    constants = {"h": F32(0.125)} if "float h" in text else {}
    if "int64[3] s" in text:
        constants["s"] = np.array([2, 2, 2])
    model = build(text, **constants)
    feeds = oracles.inputs(model)
    if "Mod(" in text:
        feeds["z"] = feeds["z"] + 1
    assert check(model, "fuse-epilogue", feeds=feeds) == left


def test_constants_become_literals_of_their_own_text(build: Build, check: Check) -> None:
    text = f"""g ({W}, float a, float[1,1] b, float c) => (float[2,4] y) {{
      m = MatMul(x, w)
      n = Mul(m, a)
      o = Max(n, b)
      y = Min(o, c) }}"""
    model = build(text, a=F32(0.1), b=F32([[-3.4028235e38]]), c=F32(np.inf))
    assert check(model, "fuse-epilogue") == ["FusedMatMul: Min(Max(Mul(x, 0.1), -3.4028235e+38), inf)"]


def test_a_constant_that_adds_an_axis_is_no_literal(build: Build, check: Check) -> None:
    model = build("g (float[2] x, float[1,1] b) => (float[1,2] y) { y = Add(x, b) }", b=F32([[1]]))
    assert check(model, "fuse-epilogue") == ["FusedElementwise: Add(a0, a1)"]


def test_literals_alone_keep_their_type(build: Build, check: Check) -> None:
    text = "g (bool[4] k, float16 a, float16 b) => (float16[4] y) { y = Where(k, a, b) }"
    model = build(text, a=np.float16(0), b=np.float16(-65504))
    assert check(model, "fuse-epilogue") == ['FusedElementwise: Where(a0, Cast(0.0, to="float16"), -65504.0)']


def test_an_integer_power_keeps_its_exponent(build: Build, check: Check) -> None:
    model = build("g (int32[4] x, float e) => (int32[4] y) { y = Pow(x, e) }", e=F32(2))
    assert check(model, "fuse-epilogue") == ["FusedElementwise: Pow(a0, a1)"]


@pytest.mark.parametrize(
    ("call", "left"),
    [
        ("Clip(m, l)", "Max(x, -0.5)"),
        ("Clip(m, , h)", "Min(x, 0.5)"),
        ("Clip(m, l, h)", "Clip(x, -0.5, 0.5)"),
        ("LeakyRelu<alpha = 0.1>(m)", "LeakyRelu(x, alpha=0.1)"),
        ("LeakyRelu(m)", "LeakyRelu(x)"),
        ('Gelu<approximate = "tanh">(m)', 'Gelu(x, approximate="tanh")'),
    ],
)
def test_attributes_and_optional_operands(call: str, left: str, build: Build, check: Check) -> None:
    text = f"g ({W}, float l, float h) => (float[2,4] y) {{ m = MatMul(x, w)\n y = {call} }}"
    model = build(text, l=F32(-0.5), h=F32(0.5))
    assert check(model, "fuse-epilogue", tolerance=2e-3) == [f"FusedMatMul: {left}"]


def test_limits(build: Build, check: Check) -> None:
    text = f"""g ({W}, float[4] a, float[4] b) => (float[2,4] y) {{
      m = MatMul(x, w)
      n = Add(m, a)
      o = Mul(n, b)
      y = Relu(o) }}"""
    assert check(build(text), "fuse-epilogue{max-operands=1}") == [
        "FusedMatMul: Add(x, a0)",
        "FusedElementwise: Relu(Mul(a0, a1))",
    ]
    assert check(build(text), "fuse-epilogue{max-ops=2}") == [
        "FusedMatMul: Mul(Add(x, a0), a1)",
        "FusedElementwise: Relu(a0)",
    ]


def test_fusing_again_takes_what_came_later(build: Build, check: Check) -> None:
    text = f"g ({W}, float[4] b) => (float[2,4] y) {{ m = MatMul(x, w)\n n = Add(m, b)\n y = Relu(n) }}"
    model = build(text)
    check(model, "fuse-epilogue{max-ops=1}")
    assert check(model, "fuse-epilogue") == ["FusedMatMul: Relu(Add(x, a0))"]
    assert not run_pipeline(model, "fuse-epilogue").changed


def test_remarks_say_what_was_fused_and_what_was_not(build: Build) -> None:
    text = (
        f"g ({W}) => (float[2,4] y, float[2,4] z) {{ m = MatMul(x, w)\n n = MatMul(m, w)\n y = Relu(n)\n z = Exp(m) }}"
    )
    ctx = PassContext()
    run_pipeline(build(text), "fuse-epilogue", context=ctx)
    assert [(r.id, r.node, r.message) for r in ctx.remarks] == [
        ("IPU0320", "n1,n2", "fused MatMul, Relu"),
        ("IPU0321", "n0", "Exp stays outside: the result before it has other users"),
    ]


def test_names_and_provenance(build: Build) -> None:
    text = f"g ({W}) => (float[2,4] z) {{ m = MatMul(x, w)\n y = Relu(m)\n z = Softmax(y) }}"
    model = build(text)
    run_pipeline(model, "fuse-epilogue")
    node = model.graph[0]
    assert (node.name, node.outputs[0].name) == ("n1", "y")
    assert node.metadata_props["ipucc.origin"] == "n0,n1"


def test_fuse_runs_its_parts_and_switches_them_off(build: Build, check: Check) -> None:
    text = f"g ({W}) => (float[2,4] y) {{ m = MatMul(x, w)\n s = Sigmoid(m)\n y = Mul(m, s) }}"
    assert check(build(text), "fuse") == ["FusedMatMul: Swish(x)"]
    assert check(build(text), "fuse{activation=false}") == ["FusedMatMul: Mul(Sigmoid(x), x)"]
    assert check(build(text), "fuse{activation=false epilogue=false}") == ["MatMul", "Sigmoid", "Mul"]
