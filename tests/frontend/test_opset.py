"""Older opsets are converted with equal numbers; what the converter does not know keeps its form."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, parser
from onnx.backend.test.loader import load_model_tests

from ipucc.diagnostics import CompileError
from ipucc.frontend import load_model, load_module, parts_of
from ipucc.frontend.opset import changed
from ipucc.graph.edit import describe


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return list(session.run(None, feeds))


CASES = [
    (7, "y = Softmax<axis=1>(x)"),
    (7, "a = Upsample<mode=\"nearest\", scales=[1.0,1.0,2.0,2.0]>(x) y = Relu(a)"),
    (9, "a = Clip<min=-0.5, max=0.5>(x) y = Abs(a)"),
    (10, "a = Squeeze<axes=[0]>(x) b = Unsqueeze<axes=[1]>(a) y = ReduceSum<axes=[2], keepdims=0>(b)"),
    (11, "a, b = Split<axis=1, split=[1,2]>(x) y = Concat<axis=1>(b, a)"),
    (12, "y = Dropout<seed=1>(x)"),
    (12, "y = LogSoftmax<axis=2>(x)"),
    (13, "y = ReduceMean<axes=[1,-1]>(x)"),
    (17, "y = ReduceMax<axes=[0], keepdims=0>(x)"),
]  # fmt: skip


@pytest.mark.parametrize(("opset", "body"), CASES)
def test_numbers_survive_the_conversion(opset: int, body: str) -> None:
    header = f'<ir_version: 4, opset_import: ["": {opset}]>\n'
    proto = parser.parse_model(f"{header} g (float[2,3,4,4] x) => (float[?,?,?,?] y) {{ {body} }}")
    if "[2]" in body or "keepdims=0" in body:
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    if "axes=[0]>" in body and "Squeeze" in body:
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model = load_model(proto)
    assert model.graph.opset_imports[""] == 26
    shape = model.graph.inputs[0].shape
    assert shape is not None
    feeds = {"x": np.random.default_rng(0).standard_normal(shape.numpy()).astype(np.float32)}
    for got, wanted in zip(run(ir.to_proto(model), feeds), run(proto, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_converter_leaves_alone_what_is_not_given_to_it() -> None:
    """One of onnx's own models for every op and opset for which no conversion is thought to be needed."""
    with np.errstate(all="ignore"):
        cases = load_model_tests(kind="node")
    seen: set[tuple[str, int]] = set()
    for case in cases:
        version = next((e.version for e in case.model.opset_import if e.domain == ""), 26)
        ops = {(node.op_type, version) for node in case.model.graph.node if node.domain == ""}
        bodies = any(a.HasField("g") for node in case.model.graph.node for a in node.attribute)
        if version >= 26 or ops <= seen or bodies or any(changed(*op) for op in ops):
            continue
        seen |= ops
        converted = onnx.version_converter.convert_version(case.model, 26)
        for old, new in zip(case.model.graph.node, converted.graph.node, strict=True):
            attributes = [sorted(a.SerializeToString() for a in node.attribute) for node in (old, new)]
            assert (old.op_type, len(old.input), attributes[0]) == (new.op_type, len(new.input), attributes[1])
    assert len(seen) > 250


def test_what_changes_between_opsets_is_converted() -> None:
    assert not any(changed(op, version) for op, version in (("Add", 7), ("Conv", 11), ("Reshape", 13), ("Cast", 9)))
    assert all(changed(op, version) for op, version in (("Softmax", 12), ("Split", 13), ("RoiAlign", 10), ("Add", 6)))


@pytest.mark.parametrize("opset", [26, 27, 28])
def test_newer_opsets_stay(opset: int) -> None:
    proto = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> g (float[2] x) => (float[2] y) {{ y = Relu(x) }}'
    )
    assert load_model(proto).graph.opset_imports[""] == opset


def test_ops_of_a_later_opset_are_accepted() -> None:
    proto = parser.parse_model(
        '<ir_version: 7, opset_import: ["": 12]> g (float[2,4] x, float[4] s) => (float[2,4] y) '
        "{ a = LayerNormalization<axis=-1>(x, s) y = Softmax<axis=1>(a) }"
    )
    model = load_model(proto)
    assert next(node.op_type for node in model.graph) == "LayerNormalization"
    assert all(node.domain == "" for node in model.graph)


def test_the_default_domain_imported_twice() -> None:
    proto = parser.parse_model('<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    proto.opset_import.extend([helper.make_opsetid("ai.onnx", 18), helper.make_opsetid("", 15)])
    assert load_model(proto).graph.opset_imports == {"": 26}


def test_gelu_of_onnxruntime_is_gelu() -> None:
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (float[2,4] x) => (float[2,4] y) '
        "{ y = com.microsoft.Gelu(x) }"
    )
    model = load_model(proto)
    assert [(node.domain, node.op_type) for node in model.graph] == [("", "Gelu")]
    assert "com.microsoft" not in model.graph.opset_imports
    feeds = {"x": np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)}
    np.testing.assert_allclose(run(ir.to_proto(model), feeds)[0], run(proto, feeds)[0], rtol=1e-6)


def test_large_weights_survive_the_conversion() -> None:
    weight = np.arange(1024, dtype=np.float32).reshape(32, 32)
    proto = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 9]> g (float[1,32] x, float[32,32] w) => (float[1,32] y) '
        "{ a = MatMul(x, w) y = Softmax(a) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = load_model(proto)
    assert [value.name for value in model.graph.inputs] == ["x"]
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), weight)


def test_origins_survive_the_conversion() -> None:
    proto = parser.parse_model(
        '<ir_version: 4, opset_import: ["": 9]> g (float[2,3,4] x) => (float[2,3,4] y) '
        "{ [first] a = Softmax<axis=1>(x) [second] b = Abs(a) y = Neg(b) }"
    )
    model = load_model(proto)
    origins = {node.op_type: describe(node) for node in model.graph}
    assert origins["Softmax"] == "first"
    assert origins["Abs"] == "second"
    assert origins["Neg"] == "y"
    assert set(origins.values()) == {"first", "second", "y"}


def test_subgraphs_are_converted_too() -> None:
    proto = parser.parse_model(
        '<ir_version: 6, opset_import: ["": 11]> g (bool c, float[2,3] x) => (float[1,2,3] y) { y = If (c) '
        "<then_branch = t () => (float[1,2,3] p) { p = Unsqueeze<axes=[0]>(x) }, "
        "else_branch = e () => (float[1,2,3] q) { q = Unsqueeze<axes=[0]>(x) }> }"
    )
    module = load_module(proto)
    inner = [node for part in parts_of(module.region) for node in part.model.graph if node.op_type == "Unsqueeze"]
    assert [len(node.inputs) for node in inner] == [2, 2]


def test_a_conversion_that_fails_says_what_the_converter_said() -> None:
    proto = parser.parse_model(
        '<ir_version: 4, opset_import: ["": 7]> g (float[2,3,4,4] x, float[4] s) => (float[2,3,8,8] y) '
        "{ y = Upsample(x) }"
    )
    with pytest.raises(CompileError) as caught:
        load_model(proto)
    assert caught.value.diagnostics[0].id in ("IPU0113", "IPU0114", "IPU0120")


SCAN = """<ir_version: 4, opset_import: ["": 8]>
    g (float[2,3] start, float[2,4,3] x) => (float[2,3] y, float[2,4,3] z) {
      y, z = Scan<num_scan_inputs=1, body = b (float[3] s, float[3] next) => (float[3] t, float[3] out) {
        t = Add (s, next) out = Mul (t, next) }> (%s, start, x) }"""


def test_a_scan_over_a_batch_is_one_for_each_sequence() -> None:
    rng = np.random.default_rng(0)
    feeds = {"start": rng.normal(size=(2, 3)).astype(np.float32), "x": rng.normal(size=(2, 4, 3)).astype(np.float32)}
    y, z = run(ir.to_proto(load_model(parser.parse_model(SCAN % '""'))), feeds)
    sums = feeds["start"][:, None] + np.cumsum(feeds["x"], axis=1)
    np.testing.assert_allclose(y, sums[:, -1], rtol=1e-5)
    np.testing.assert_allclose(z, sums * feeds["x"], rtol=1e-5)


def test_a_scan_of_sequences_with_lengths_is_refused() -> None:
    text = (SCAN % "n").replace("g (float", "g (int64[2] n, float")
    with pytest.raises(CompileError) as caught:
        load_model(parser.parse_model(text))
    assert [(d.id, d.op) for d in caught.value.diagnostics] == [("IPU0113", "Scan")]


def test_slopes_of_an_old_prelu_are_those_of_channels() -> None:
    text = """<ir_version: 4, opset_import: ["": 6]> g (float[2,3,3] x, float[3] s) => (float[2,3,3] y) {
        y = PRelu (x, s) }"""
    x, s = np.linspace(-2, 1, 18, dtype=np.float32).reshape(2, 3, 3), np.array([0.5, 1.0, 2.0], np.float32)
    (y,) = run(ir.to_proto(load_model(parser.parse_model(text))), {"x": x, "s": s})
    np.testing.assert_allclose(y, np.where(x < 0, x * s[:, None], x))
