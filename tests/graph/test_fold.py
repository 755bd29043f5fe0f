"""Constant folding: every listed op gives the numbers of onnxruntime; what must stay stays."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from ipucc.frontend.shapes import infer_shapes
from ipucc.graph.fold import FOLDED_OPS, fold_constants, lift_constants
from ipucc.graph.onnx_api import run_inference
from ipucc.graph.tensors import MissingTensor

HEADER = '<ir_version: 10, opset_import: ["": 26]>\n'

F = np.array([[-2.5, -1.0, 0.5], [1.5, 2.5, 7.0]], np.float32)
INTS = np.array([[-7, 5, 3], [2, -3, 9]], np.int64)
J = np.array([[2, -3, 2], [3, 2, -4]], np.int64)
P = np.abs(F)
U = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
L = np.array([[True, False, True], [False, False, True]])
M = ~L[:, ::-1]
NAN = np.array([1, np.nan, np.inf, -np.inf], np.float32)
BLOCK = np.arange(32, dtype=np.float32).reshape(1, 8, 2, 2)


UNARY = [
    "Abs",
    "Ceil",
    "Cos",
    "Erf",
    "Exp",
    "Floor",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Sigmoid",
    "Sign",
    "Sin",
]
COMPARISONS = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
BINARY = ["Add", "Div", "Max", "Min", "Mul", "Sub", *COMPARISONS]


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def scalar(number: float, kind: type = np.float32) -> np.ndarray:
    return np.array(number, kind)


# op, operands, attributes. Integer division, modulo and shifts with negative operands are where evaluators differ.
CASES: list[tuple[str, list[np.ndarray], dict[str, object]]] = [
    *[(op, [F], {}) for op in [*UNARY, "Tanh"]],
    *[(op, [P], {}) for op in ("Log", "Sqrt")],
    *[(op, [INTS], {}) for op in ("Abs", "Neg", "Sign")],
    *[(op, [F, P], {}) for op in [*BINARY, "Pow", "Sum"]],
    *[(op, [INTS, J], {}) for op in [*BINARY, "Mod"]],
    *[(op, [L, M], {}) for op in ("And", "Or", "Xor", "Equal")],
    *[(op, [INTS, J], {}) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")],
    ("Not", [L], {}),
    ("BitwiseNot", [INTS], {}),
    ("BitShift", [U, U], {"direction": "LEFT"}),
    ("BitShift", [U, U], {"direction": "RIGHT"}),
    ("Mod", [F, P], {"fmod": 1}),
    ("Mod", [INTS, J], {"fmod": 1}),
    ("Pow", [INTS * 0 + 3, scalar(2, np.int64)], {}),
    ("Pow", [F, scalar(2)], {}),
    *[("Cast", [F], {"to": kind}) for kind in (1, 6, 7, 9, 10, 11)],
    *[("Cast", [INTS], {"to": kind}) for kind in (1, 6, 9, 10)],
    ("Cast", [L], {"to": 1}),
    ("CastLike", [F, INTS], {}),
    ("Clip", [F, scalar(-1), scalar(2)], {}),
    ("Clip", [INTS, scalar(-1, np.int64)], {}),
    ("IsNaN", [NAN], {}),
    ("IsInf", [NAN], {}),
    ("IsInf", [NAN], {"detect_negative": 0}),
    ("Where", [L, F, P], {}),
    ("Where", [L, F, scalar(9)], {}),
    ("Concat", [F, P], {"axis": -1}),
    ("DepthToSpace", [BLOCK], {"blocksize": 2}),
    ("DepthToSpace", [BLOCK], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [BLOCK], {"blocksize": 2}),
    ("Expand", [F[:, :1], ints(4, 1, 3)], {}),
    ("Flatten", [BLOCK], {"axis": 2}),
    ("Gather", [F, ints(-1, 0)], {"axis": 1}),
    ("Gather", [F, scalar(1, np.int64)], {"axis": 0}),
    ("GatherElements", [F, INTS % 2], {"axis": 0}),
    ("GatherND", [F, ints(1, 2).reshape(1, 2)], {}),
    ("Identity", [F], {}),
    ("Pad", [F, ints(0, 1, 2, 0)], {}),
    ("Pad", [F, ints(1, 1), scalar(7), ints(1)], {}),
    ("Pad", [F, ints(0, 1, 1, 2)], {"mode": "reflect"}),
    ("Reshape", [F, ints(0, -1, 1)], {}),
    ("Reshape", [F[:0], ints(3, 0)], {"allowzero": 1}),
    ("ReverseSequence", [F, ints(2, 3)], {"batch_axis": 0, "time_axis": 1}),
    ("ScatterElements", [F, INTS % 2, P], {"axis": 0}),
    ("ScatterND", [F, ints(1).reshape(1, 1), P[:1]], {}),
    ("Slice", [F, ints(-1), ints(-100), ints(1), ints(-2)], {}),
    ("Slice", [F, ints(0, 1), ints(1, 100)], {}),
    ("Split", [F, ints(1, 2)], {"axis": 1}),
    ("Split", [F], {"axis": 1, "num_outputs": 2}),
    ("Squeeze", [F[:1]], {}),
    ("Squeeze", [F[:1, :1], ints(0)], {}),
    ("Tile", [F, ints(2, 1)], {}),
    ("Transpose", [BLOCK], {"perm": [2, 0, 3, 1]}),
    ("Transpose", [F], {}),
    ("Trilu", [F], {"upper": 0}),
    ("Trilu", [F, scalar(1, np.int64)], {}),
    ("Unsqueeze", [F, ints(0, -1)], {}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.array([3], np.int64))}),
    ("ConstantOfShape", [ints()], {}),
    ("EyeLike", [INTS], {"k": 1}),
    ("MelWeightMatrix", [*(scalar(n, np.int64) for n in (8, 16, 8192)), scalar(0.0), scalar(4096.0)], {}),
    ("NonZero", [INTS * (INTS > 0)], {}),
    ("OneHot", [ints(0, 2, -1), scalar(3, np.int64), np.array([2, 5], np.float32)], {"axis": 0}),
    ("Range", [scalar(10, np.int64), scalar(-1, np.int64), scalar(-3, np.int64)], {}),
    ("Range", [scalar(0.0), scalar(1.0), scalar(0.25)], {}),
    ("ArgMax", [F], {"axis": 1, "keepdims": 0}),
    ("ArgMin", [F], {"axis": 0}),
    ("CumSum", [F, scalar(1, np.int64)], {"exclusive": 1, "reverse": 1}),
    ("MatMul", [F, P.T.copy()], {}),
    *[(f"Reduce{op}", [F, ints(-1)], {"keepdims": 0}) for op in ("Max", "Mean", "Min", "Prod", "Sum")],
    *[(f"Reduce{op}", [INTS], {}) for op in ("Max", "Min", "Prod", "Sum")],
    ("ReduceSum", [F], {"noop_with_empty_axes": 1}),
]  # fmt: skip


def single(op: str, operands: list[np.ndarray], attributes: dict[str, object]) -> onnx.ModelProto:
    """The op on inputs a, b, ..., and an Identity behind every result, since results of the graph stay."""
    names = [chr(ord("a") + index) for index in range(len(operands))]
    count = 2 if op == "Split" else 1
    nodes = [helper.make_node(op, names, [f"r{i}" for i in range(count)], "it", **attributes)]
    nodes += [helper.make_node("Identity", [f"r{i}"], [f"y{i}"]) for i in range(count)]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, operands, strict=True)
    ]
    bare = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info(f"y{i}") for i in range(count)])
    return helper.make_model(bare, opset_imports=[helper.make_opsetid("", 26)], ir_version=10)


def folded(proto: onnx.ModelProto, operands: list[np.ndarray]) -> tuple[ir.Model, int]:
    constant = onnx.ModelProto()
    constant.CopyFrom(proto)
    del constant.graph.input[:]
    for value, array in zip(proto.graph.input, operands, strict=True):
        constant.graph.initializer.append(numpy_helper.from_array(array, value.name))
    model = ir.from_proto(constant)
    infer_shapes(model)
    return model, fold_constants(model)


def test_every_folded_op_has_a_case() -> None:
    assert {op for op, _, _ in CASES} == FOLDED_OPS


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_numbers_of_onnxruntime(case: tuple[str, list[np.ndarray], dict[str, object]]) -> None:
    op, operands, attributes = case
    proto = single(op, operands, attributes)
    model, count = folded(proto, operands)
    assert count == 1
    inferred = run_inference(ir.from_proto(proto))
    for got, wanted in zip(proto.graph.output, inferred.graph.output, strict=True):
        got.CopyFrom(wanted)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    feeds = {value.name: array for value, array in zip(proto.graph.input, operands, strict=True)}
    for index, wanted in enumerate(session.run(None, feeds)):
        tensor = model.graph.initializers[f"r{index}"].const_value
        assert tensor is not None
        got = tensor.numpy()
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def parsed(body: str, *tensors: ir.TensorProtocol) -> ir.Model:
    proto = parser.parse_model(f"{HEADER} g (float[4] x) => (float[?] y) {{ {body} }}")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    constants = [value for value in tensors if value.name]
    for tensor in constants:
        array = np.zeros(tensor.shape.numpy(), tensor.dtype.numpy())
        proto.graph.initializer.append(numpy_helper.from_array(array, tensor.name))
    model = ir.from_proto(proto)
    infer_shapes(model)
    for tensor in constants:
        model.graph.initializers[tensor.name or ""].const_value = tensor
    return model


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_shapes_of_static_values_are_constants() -> None:
    model = parsed(
        "s = Shape<start=-1>(x) n = Size(x) t = Concat<axis=0>(s, s) m = Mul(n, t) z = Cast<to=1>(m) y = Tile(z, s)"
    )
    assert fold_constants(model) == 5
    assert ops(model) == ["Tile"]
    assert model.graph.initializers["n"].const_value.numpy().shape == ()


@pytest.mark.parametrize(
    "body",
    [
        "a = RandomNormal<shape=[4]>() y = Add(a, x)",
        "s = Constant<value_float=0.5>() a = QuantizeLinear(w, s) b = DequantizeLinear(a, s) y = Add(x, b)",
        "a = Softmax(w) y = Add(x, a)",
    ],
)
def test_what_is_never_folded(body: str) -> None:
    model = parsed(body, ir.tensor(np.ones(4, np.float32), name="w"))
    lift_constants(model)
    before = ops(model)
    assert fold_constants(model) == 0
    assert ops(model) == before


def test_a_constant_output_is_an_identity_of_a_constant() -> None:
    model = parsed("y = Abs(w)", ir.tensor(np.ones(4, np.float32), name="w"))
    assert fold_constants(model) == 1
    assert ops(model) == ["Identity"]
    assert model.graph.outputs[0].name == "y"
    assert fold_constants(model) == 0


def test_caps() -> None:
    weight = ir.tensor(np.ones((64, 64), np.float32), name="w")
    body = "a = Exp(w) b = ReduceSum<keepdims=0>(a) y = Add(x, b)"
    assert fold_constants(parsed(body, weight), max_input_elements=4095) == 0
    assert fold_constants(parsed(body, weight), max_output_elements=4095) == 0
    assert fold_constants(parsed(body, weight), max_input_elements=4096, max_output_elements=4096) == 2


def test_large_movements_are_recipes() -> None:
    array = np.arange(1200 * 1000, dtype=np.float32).reshape(1200, 1000)
    reads = 0

    def read() -> ir.TensorProtocol:
        nonlocal reads
        reads += 1
        return ir.tensor(array)

    weight = ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape(array.shape), name="w")
    model = parsed("t = Transpose(w) s = Shape(t) r = Reshape(t, s) m = ReduceMax<keepdims=0>(r) y = Add(x, m)", weight)
    assert fold_constants(model, max_input_elements=1000) == 3
    assert reads == 0
    tensor = model.graph.initializers["r"].const_value
    np.testing.assert_array_equal(tensor.numpy(), array.T)
    assert reads == 1


def test_a_large_constant_of_one_number_takes_no_memory() -> None:
    model = parsed(
        "c = Constant<value_ints=[2000,2000]>() a = ConstantOfShape(c) b = Expand(a, c) "
        "m = ReduceMax<keepdims=0>(b) y = Add(x, m)"
    )
    assert fold_constants(model, max_input_elements=1000) == 3
    array = model.graph.initializers["b"].const_value.numpy()
    assert array.shape == (2000, 2000)
    assert array.strides == (0, 0)


def test_a_shared_large_weight_is_not_stored_twice() -> None:
    weight = ir.tensor(np.zeros((300, 300), np.float32), name="w")
    shared = "i = Cast<to=7>(x) e = Gather(w, i) t = Transpose(w) a = MatMul(e, t) y = ReduceMax<keepdims=0>(a)"
    assert fold_constants(parsed(shared, weight)) == 0
    small = ir.tensor(np.zeros((30, 30), np.float32), name="w")
    assert fold_constants(parsed(shared, small)) == 1
    alone = "i = Cast<to=7>(x) t = Transpose(w) e = Gather(t, i) y = ReduceMax<keepdims=0>(e)"
    assert fold_constants(parsed(alone, weight)) == 1


def test_weights_without_data_stay_without_data() -> None:
    weight = MissingTensor("w", ir.DataType.FLOAT, ir.Shape([2, 4]), "its file is absent")
    model = parsed(
        "t = Transpose(w) s = Cast<to=10>(t) c = Cast<to=1>(s) d = ReduceMax(c) y = Add(x, d)".replace(
            "<axes=[1]>(c)", "(c)"
        ),
        weight,
    )
    assert fold_constants(model) == 4
    tensor = model.graph.initializers["s"].const_value
    assert isinstance(tensor, MissingTensor)
    assert tensor.dtype == ir.DataType.FLOAT16
    assert tensor.shape == [4, 2]


def test_scalars_stay_scalars() -> None:
    model = parsed("a = Constant<value_float=2.0>() b = Mul(a, a) y = Mul(x, b)")
    fold_constants(model)
    tensor = model.graph.initializers["b"].const_value
    assert tensor.shape == []
    assert tensor.numpy().shape == ()


@pytest.mark.parametrize(
    "body",
    [
        "i = Constant<value_ints=[9]>() a = Gather(w, i) y = Add(x, a)",  # an index outside
        "i = Constant<value_ints=[-1, 0]>() a = Pad(w, i) y = ReduceSum(a)",  # the evaluator cannot
    ],
)
def test_what_cannot_be_computed_stays(body: str) -> None:
    model = parsed(body, ir.tensor(np.ones(4, np.float32), name="w"))
    lift_constants(model)
    before = ops(model)
    assert fold_constants(model) == 0
    assert ops(model) == before
