"""Functions: local ones and those of ONNX schemas are inlined, with equal numbers and the caller's origin."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator

from ipucc.diagnostics import CompileError
from ipucc.frontend import NATIVE_OPS, load_model
from ipucc.graph.edit import describe

LOCAL = """<ir_version: 10, opset_import: ["": %d, "f": 1]>
g (float[2,3] x) => (float[2,3] y) { [outer] a = f.twice<by=3.0>(x) [again] b = f.twice(a) y = Neg(b) }
<domain: "f", opset_import: ["": %d, "f": 1]>
twice <by: float = 2.0> (x) => (y) { k = Constant<value_float: float = @by>() [inner] z = f.scale(x, k) y = Abs(z) }
<domain: "f", opset_import: ["": %d]>
scale (x, k) => (y) { y = Mul(x, k) }
"""


def test_local_functions_are_inlined_with_their_attributes() -> None:
    model = load_model(parser.parse_model(LOCAL % (26, 26, 26)))
    assert not model.functions
    assert [node.op_type for node in model.graph] == ["Mul", "Abs", "Mul", "Abs", "Neg"]
    assert [describe(node) for node in model.graph] == ["outer", "outer", "again", "again", "y"]
    x = np.array([[1, -2, 3], [4, 5, -6]], np.float32)
    (y,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    np.testing.assert_array_equal(y, -np.abs(x) * 6)


def test_origins_of_functions_survive_an_opset_conversion() -> None:
    model = load_model(parser.parse_model(LOCAL % (17, 17, 17)))
    assert [describe(node) for node in model.graph] == ["outer", "outer", "again", "again", "y"]


def test_functions_of_another_opset_need_ops_that_did_not_change() -> None:
    # Mul, Abs and Constant of opset 14 and of 18: Constant changed at 19 and 13, none of the three in between.
    assert load_model(parser.parse_model(LOCAL % (18, 17, 14)))
    text = LOCAL % (18, 18, 11)
    changed = text.replace("{ y = Mul(x, k) }", "{ z = Unsqueeze<axes=[0]>(x) w = Mul(z, k) y = Squeeze<axes=[0]>(w) }")
    with pytest.raises(CompileError, match="Unsqueeze of opset 11") as caught:
        load_model(parser.parse_model(changed))
    assert caught.value.diagnostics[0].id == "IPU0116"


@pytest.mark.parametrize(
    "functions",
    [
        '<domain: "f", opset_import: ["": 26, "f": 1]> foo (x) => (y) { y = f.foo(x) }',
        '<domain: "f", opset_import: ["": 26, "f": 1]> foo (x) => (y) { y = f.bar(x) } '
        '<domain: "f", opset_import: ["": 26, "f": 1]> bar (x) => (y) { y = f.foo(x) }',
        '<domain: "f", opset_import: ["": 26]> foo () => (y) { y = Constant<value_float=1.0>() }',
    ],
)
def test_recursion_and_wrong_calls(functions: str) -> None:
    text = '<ir_version: 10, opset_import: ["": 26, "f": 1]> g (float[2] x) => (float[2] y) { y = f.foo(x) }'
    with pytest.raises(CompileError) as caught:
        load_model(parser.parse_model(f"{text} {functions}"))
    assert caught.value.diagnostics[0].id == "IPU0116"


SCHEMA_CASES = [
    "y = MeanVarianceNormalization<axes=[0, 2]>(x)",
    "y = Shrink<lambd=0.3, bias=0.1>(x)",
    "y = LayerNormalization<axis=-1>(x, s)",
    "y = Gelu<approximate=\"tanh\">(x)",
    "y = Elu(x)",
    "y = Clip(x)",
    "y = Softmax<axis=1>(x)",
    "y = HardSwish(x)",
    "y = ReduceLogSumExp<keepdims=1>(x)",
    "y = RMSNormalization(x, s)",
    "a = CastLike(x, s) y = PRelu(a, s)",
]  # fmt: skip


@pytest.mark.parametrize("body", SCHEMA_CASES)
def test_schema_functions_give_the_numbers_of_the_op(body: str) -> None:
    text = f'<ir_version: 10, opset_import: ["": 26]> g (float[2,3,4] x, float[4] s) => (float[?,?,?] y) {{ {body} }}'
    proto = parser.parse_model(text)
    inlined = load_model(proto, native=())
    kept = load_model(proto, native=[*NATIVE_OPS, "MeanVarianceNormalization", "Shrink"])
    assert {node.op_type for node in kept.graph} == {node.op_type for node in proto.graph.node}
    assert not {node.op_type for node in inlined.graph} & {node.op_type for node in proto.graph.node}
    random = np.random.default_rng(0)
    feeds = {
        "x": random.standard_normal((2, 3, 4)).astype(np.float32),
        "s": random.random(4).astype(np.float32),
    }
    (wanted,) = ReferenceEvaluator(proto).run(None, feeds)
    (got,) = ReferenceEvaluator(ir.to_proto(inlined)).run(None, feeds)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_range_is_never_turned_into_a_loop() -> None:
    text = '<ir_version: 10, opset_import: ["": 26]> g (float[4] x) => (float[4] y) {{ {} y = Mul(x, r) }}'
    constants = "a = Constant<value_float=0.0>() b = Constant<value_float=4.0>() c = Constant<value_float=1.0>()"
    model = load_model(parser.parse_model(text.format(f"{constants} r = Range(a, b, c)")), native=())
    assert [node.op_type for node in model.graph] == ["Mul"]
    (y,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": np.ones(4, np.float32)})
    np.testing.assert_array_equal(y, [0, 1, 2, 3])


def test_a_loss_without_its_optional_result() -> None:
    proto: onnx.ModelProto = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 26]> g (float[3,5] x, int64[3] t) => (float y) '
        "{ y = SoftmaxCrossEntropyLoss(x, t) }"
    )
    model = load_model(proto)
    feeds = {
        "x": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32),
        "t": np.array([0, 4, 2]),
    }
    (wanted,) = ReferenceEvaluator(proto).run(None, feeds)
    (got,) = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
