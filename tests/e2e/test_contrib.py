"""What onnxruntime's optimiser and its quantiser write into models, against onnxruntime itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ipucc
from ipucc.diagnostics import CompileError

RNG = np.random.default_rng(0)
Arrays = Mapping[str, np.ndarray]
FLOAT, UINT8, INT8 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8


def model_of(
    op: str, inputs: Arrays, constants: Arrays, outputs: int = 1, kind: int = FLOAT, domain: str = "com.microsoft",
    order: Sequence[str] = (), **attributes: object,
) -> onnx.ModelProto:  # fmt: skip
    """A model of one op, whose operands are its inputs and then its constants, or in the given order."""
    names = list(order) or [*inputs, *constants]
    results = ["y", *("" for _ in range(outputs - 2)), "z"][: max(outputs, 1)]
    node = helper.make_node(op, names, results, "it", domain=domain, **attributes)
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    graph = helper.make_graph(
        [node], "g", ports,
        [helper.make_tensor_value_info(n, kind, None) for n in results if n],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def agree(
    model: onnx.ModelProto, feeds: Arrays, machine: str, steps: int = 0, precision: Literal["model", "fp16"] = "model"
) -> None:
    """Numbers as onnxruntime has them; quantised ones within so many steps, where it rounds sums of another order."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    exe = ipucc.compile(model, target=machine, solver="greedy", effort="fast", precision=precision)
    found = exe.run(feeds).outputs
    for port, wanted in zip(session.get_outputs(), session.run(None, dict(feeds)), strict=True):
        got = found[port.name]
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        if np.issubdtype(wanted.dtype, np.integer):
            assert np.ptp(wanted) > 3
            assert np.abs(got.astype(int) - wanted).max() <= steps
        else:
            assert np.abs(got - wanted).max() <= 2e-6 * max(1.0, np.abs(wanted).max())


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def bytes_of(dtype: type, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


@pytest.fixture(scope="module")
def machine(machine_file) -> str:  # type: ignore[no-untyped-def]
    return str(machine_file(tiles=16))


X, B = floats(3, 6), floats(6)
FUSED = {
    "gelu": ("Gelu", {"x": X}, {}, {}),
    "bias-gelu": ("BiasGelu", {"x": X}, {"b": B}, {}),
    "fast-gelu": ("FastGelu", {"x": X}, {"b": B}, {}),
    "fast-gelu-alone": ("FastGelu", {"x": X}, {}, {}),
    "quick-gelu": ("QuickGelu", {"x": X}, {}, {"alpha": 1.5}),
    "matmul": ("FusedMatMul", {"x": floats(2, 4, 3), "w": floats(2, 5, 4)},
               {}, {"alpha": 0.5, "transA": 1, "transB": 1}),
    "gemm": ("FusedGemm", {"x": X}, {"w": floats(6, 4), "c": floats(4)},
             {"activation": "LeakyRelu", "activation_alpha": 0.25}),
    "conv": ("FusedConv", {"x": floats(1, 3, 6, 6)}, {"w": floats(4, 3, 3, 3), "c": floats(4)},
             {"activation": "Clip", "activation_params": [-1.0, 1.5], "pads": [1, 1, 1, 1]}),
    "conv-sum": ("FusedConv", {"x": floats(1, 3, 6, 6)},
                 {"w": floats(4, 3, 3, 3), "c": floats(4), "s": floats(1, 4, 4, 4)}, {"activation": "Relu"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_fused_ops(name: str, machine: str) -> None:
    op, inputs, constants, attributes = FUSED[name]
    agree(model_of(op, inputs, constants, **attributes), inputs, machine)


@pytest.mark.parametrize("bias", [False, True])
def test_a_normalised_sum_and_the_sum(bias: bool, machine: str) -> None:
    inputs = {"x": floats(1, 3, 6), "s": floats(1, 3, 6)}
    constants = {"g": B, "b": floats(6), **({"c": floats(6)} if bias else {})}
    agree(model_of("SkipLayerNormalization", inputs, constants, 4, epsilon=1e-5), inputs, machine)
    less = {name: constants[name] for name in constants if name != "b"}
    agree(model_of("SkipSimplifiedLayerNormalization", inputs, less, 4, epsilon=1e-5), inputs, machine)


SCALES = {"xs": np.float32(0.05), "xz": np.uint8(120), "ys": np.float32(0.04), "yz": np.uint8(131)}
X8 = bytes_of(np.uint8, 1, 4, 6, 6)
UNARY = {
    "QLinearSigmoid": {},
    "QLinearLeakyRelu": {"alpha": 0.125},
    "QLinearAveragePool": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "QLinearGlobalAveragePool": {},
}


@pytest.mark.parametrize("op", UNARY)
def test_quantised_ops_of_one_tensor(op: str, machine: str) -> None:
    # A sigmoid is between 0 and 1: its steps are finer.
    scales = SCALES if op != "QLinearSigmoid" else {**SCALES, "ys": np.float32(1 / 256), "yz": np.uint8(0)}
    agree(model_of(op, {"x": X8}, scales, kind=UINT8, **UNARY[op]), {"x": X8}, machine, steps=1)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_quantised_ops_of_two_tensors(op: str, machine: str) -> None:
    inputs = {"a": X8, "b": bytes_of(np.uint8, 6)}
    constants = {**SCALES, "bs": np.float32(0.02), "bz": np.uint8(99)}
    order = ["a", "xs", "xz", "b", "bs", "bz", "ys", "yz"]
    agree(model_of(op, inputs, constants, kind=UINT8, order=order), inputs, machine, steps=1)


def test_quantised_tensors_behind_each_other(machine: str) -> None:
    inputs = {"a": X8, "b": bytes_of(np.uint8, 1, 2, 6, 6)}
    constants = {**SCALES, "bs": np.float32(0.02), "bz": np.uint8(99)}
    order = ["ys", "yz", "a", "xs", "xz", "b", "bs", "bz"]
    agree(model_of("QLinearConcat", inputs, constants, kind=UINT8, order=order, axis=1), inputs, machine, steps=1)


@pytest.mark.parametrize("precision", ["model", "fp16"])
@pytest.mark.parametrize("form", ["quantised", "floats", "per-column"])
def test_quantised_gemm(form: str, precision: Literal["model", "fp16"], machine: str) -> None:
    x = bytes_of(np.uint8, 3, 7)
    per = form == "per-column"
    constants = {
        "xs": np.float32(0.05), "xz": np.uint8(120), "w": bytes_of(np.int8, 5, 7),
        "ws": np.linspace(0.01, 0.02, 5, dtype=np.float32) if per else np.float32(0.01),
        "wz": np.array([0, 3, -2, 5, 1], np.int8) if per else np.int8(2), "c": np.arange(5, dtype=np.int32) * 100,
    }  # fmt: skip
    if form != "floats":
        constants |= {"ys": np.float32(0.25), "yz": np.uint8(131)}
    kind = FLOAT if form == "floats" else UINT8
    model = model_of("QGemm", {"x": x}, constants, kind=kind, transB=1, alpha=2.0 if per else 1.0)
    agree(model, {"x": x}, machine, steps=1, precision=precision)


@pytest.mark.parametrize("precision", ["model", "fp16"])
@pytest.mark.parametrize("extreme", [False, True])
def test_sums_of_deep_quantised_convolutions_are_exact(
    extreme: bool, precision: Literal["model", "fp16"], machine: str
) -> None:
    """576 terms, and as large as they can be: in float32, sums would be rounded, in float16 infinite."""
    x = np.full((1, 64, 5, 5), 255, np.uint8) if extreme else bytes_of(np.uint8, 1, 64, 5, 5)
    w = np.full((4, 64, 3, 3), -128, np.int8) if extreme else bytes_of(np.int8, 4, 64, 3, 3)
    if extreme:
        w.reshape(4, -1)[:, ::5] = 127
        x.reshape(-1)[::7] = 254
    for op, constants in (
        ("ConvInteger", {"w": w, "xz": np.uint8(1)}),
        ("QLinearConv", {"xs": np.float32(0.5), "xz": np.uint8(1), "w": w, "ws": np.float32(0.25), "wz": np.int8(0),
                         "ys": np.float32(20000 if extreme else 1500), "yz": np.uint8(100),
                         "b": np.array([7, -9, 70001, 2**25 + 1], np.int32)}),
    ):  # fmt: skip
        order = ["x", *constants]
        kind = TensorProto.INT32 if op == "ConvInteger" else UINT8
        if op == "ConvInteger":
            order = ["x", "w", "xz"]
        model = model_of(op, {"x": x}, constants, kind=kind, domain="", order=order)
        agree(model, {"x": x}, machine, precision=precision)


def test_what_reads_a_scaled_sum_is_in_half_precision_again(machine: str) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (uint8[3, 40] x, float[3, 6] z) => (float[3, 5] y, float[3, 6] s) {
        xz = Constant<value: tensor = uint8 {7}>()  small = Constant<value: tensor = float {0.0001}>()
        p = MatMulInteger(x, w, xz)  f = Cast<to = 1>(p)  scaled = Mul(f, small)
        s = Add(scaled, z)  r = Relu(s)  y = MatMul(r, v)
    }"""
    model = onnx.parser.parse_model(text)
    w, v = RNG.integers(-128, 128, (40, 6)).astype(np.int8), floats(6, 5)
    model.graph.initializer.extend([numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")])
    exe = ipucc.compile(model, target=machine, precision="fp16", solver="greedy", effort="fast")
    x, z = bytes_of(np.uint8, 3, 40), floats(3, 6)
    found = exe.run({"x": x, "z": z}).outputs
    sums = (x.astype(np.int64) - 7) @ w.astype(np.int64)
    assert np.abs(sums).max() > 65504  # beyond float16
    assert np.abs(found["s"] - (sums * 1e-4 + z)).max() <= 2e-3 * np.abs(found["s"]).max()
    assert np.abs(found["y"] - np.maximum(sums * 1e-4 + z, 0) @ v).max() <= 5e-3 * np.abs(found["y"]).max()


def test_weights_that_are_inputs_may_be_as_large_as_their_type(machine: str) -> None:
    inputs = {
        "x": RNG.integers(240, 256, (1, 32, 4, 4)).astype(np.uint8), "w": np.full((3, 32, 3, 3), 255, np.uint8)
    }  # fmt: skip
    agree(model_of("ConvInteger", inputs, {}, kind=TensorProto.INT32, domain=""), inputs, machine)


def test_a_kernel_that_may_round_is_refused_by_its_size() -> None:
    inputs = {"x": np.zeros((1, 1, 20, 20), np.uint8), "w": np.zeros((1, 1, 17, 17), np.uint8)}
    with pytest.raises(CompileError) as caught:
        ipucc.compile(model_of("ConvInteger", inputs, {}, kind=TensorProto.INT32, domain=""))
    assert [d.id for d in caught.value.diagnostics] == ["IPU0201"]
    assert "17x17" in str(caught.value)


def test_what_follows_from_an_unsupported_op_is_not_called_unsupported() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (float[2, 4] x) => (float[2, 4] y) {
        [strange] a = com.microsoft.LongformerAttention(x)
        [behind] b = com.microsoft.FastGelu(a)
        [also] s, scale, zero = DynamicQuantizeLinear(b)
        [too] y = Relu(b)
        }"""
    )
    with pytest.raises(CompileError) as caught:
        ipucc.compile(model)
    assert [d.node for d in caught.value.diagnostics] == ["strange"]


def test_a_network_that_onnxruntime_quantised(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"image": images}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    digits = Path(__file__).parents[2] / "samples" / "digits"
    images = np.load(digits / "test_images.npz")["images"][:64].astype(np.float32)
    file = tmp_path / "q.onnx"
    quantization.quantize_static(
        digits / "digits.onnx", file, Images(), quant_format=quantization.QuantFormat.QOperator,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    exe = ipucc.compile(file)
    found = exe.run({"image": images}).outputs["logits"]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (wanted,) = onnxruntime.InferenceSession(file, options).run(None, {"image": images})
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_activations_that_are_not_known_are_refused_by_name() -> None:
    inputs = {"x": floats(1, 3, 6, 6)}
    model = model_of("FusedConv", inputs, {"w": floats(4, 3, 3, 3)}, activation="Cosine")
    with pytest.raises(CompileError) as caught:
        ipucc.compile(model)
    assert "Cosine" in str(caught.value)


def test_a_fused_product_that_ends_in_another_type_is_refused() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 26, "ipucc": 1]> g (float[2, 4] x, float[4, 3] w) => (float16[2, 3] y) {
        y = ipucc.FusedMatMul <expr = "Cast(x, to=\\"float16\\")"> (x, w)
        }"""
    )
    with pytest.raises(CompileError) as caught:
        ipucc.compile(model)
    assert [d.id for d in caught.value.diagnostics] == ["IPU0203"]
