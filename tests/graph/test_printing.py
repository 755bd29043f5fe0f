"""The text of a graph: what it looks like, that it reads back, and that it hides no number silently."""

import hashlib

import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser

from ipucc.diagnostics import CompileError
from ipucc.frontend import load_model
from ipucc.graph.printing import parse_graph, print_graph
from ipucc.graph.tensors import MissingTensor

HEADER = '<ir_version: 10, opset_import: ["": 26]>\n'


def mlp() -> ir.Model:
    model = load_model(
        parser.parse_model(
            HEADER
            + "mlp (float[1,4] x) => (float[1,2] y, int64[1,2] top) <float[4,2] w, float[2] b = {0.5, -1}> "
            "{ [fc] h = MatMul(x, w) [fc_bias] y = Add(h, b) [best] v, top = TopK<axis=-1>(y, k) }".replace(
                "<float[4,2] w", "<int64[1] k = {2}, float[4,2] w = {1,2,3,4,5,6,7,8}"
            )
        )
    )
    model.graph.initializers["w"].const_value = ir.tensor(np.arange(8, dtype=np.float32).reshape(4, 2), name="w")
    return model


TEXT = """\
<
  ir_version: 10,
  opset_import: ["": 26]
>
mlp (
  float[1,4] x
) => (
  float[1,2] y,
  int64[1,2] top
)
<
  int64[1] k = {2},
  float[4,2] w = {0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0},
  float[2] b = {0.5, -1.0}
>
{
  [fc] h = MatMul (x, w)  # float[1,2]
  [fc_bias] y = Add (h, b)  # float[1,2]
  [best] v, top = TopK <axis = -1> (y, k)  # float[1,2], int64[1,2]
}
"""


def test_the_layout_of_the_text() -> None:
    assert print_graph(mlp()) == TEXT


def test_an_inserted_node_changes_one_line() -> None:
    model = mlp()
    add = next(node for node in model.graph if node.name == "fc_bias")
    relu = ir.node("Relu", [add.outputs[0]], name="act")
    relu.outputs[0].name = "r"
    before = print_graph(model).splitlines()
    model.graph.insert_after(add, relu)
    after = print_graph(model).splitlines()
    assert [line for line in after if line not in before] == ["  [act] r = Relu (y)  # ?"]
    assert len(after) == len(before) + 1


def test_large_and_missing_constants_are_elided() -> None:
    model = mlp()
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    constants = model.graph.initializers
    constants["w"].const_value = ir.tensor(array, name="w")
    constants["w"].shape = ir.Shape([4, 3])
    (line,) = [line for line in print_graph(model).splitlines() if " w = " in line]
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:12]
    assert line == f"  float[4,3] w = {{}},  # sha256:{digest}"
    constants["w"].const_value = ir.tensor(array + 1, name="w")
    assert digest not in print_graph(model)
    assert "12.0}" in print_graph(model, elide=False)
    constants["w"].const_value = MissingTensor("w", ir.DataType.FLOAT, ir.Shape([4, 3]), "it is absent")
    assert "  float[4,3] w = {},  # missing" in print_graph(model).splitlines()


def test_elided_constants_raise_when_read() -> None:
    model = mlp()
    model.graph.initializers["w"].const_value = ir.tensor(np.zeros((4, 3), np.float32), name="w")
    model.graph.initializers["w"].shape = ir.Shape([4, 3])
    again = parse_graph(print_graph(model))
    tensor = again.graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.shape == [4, 3]
    with pytest.raises(CompileError, match="sha256"):
        tensor.numpy()
    kept = again.graph.initializers["b"].const_value
    assert kept is not None
    np.testing.assert_array_equal(kept.numpy(), np.array([0.5, -1], np.float32))
    assert [value.name for value in again.graph.inputs] == ["x"]


@pytest.mark.parametrize(
    ("dtype", "numbers"),
    [
        ("FLOAT", [0.1, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4028235e38, 1.0]),
        ("DOUBLE", [0.1, 1e300, -1e-300]),
        ("FLOAT16", [0.1, 65504, 6e-8]),
        ("BFLOAT16", [0.1, 3e38]),
        ("FLOAT8E4M3FN", [0.5, 448]),
        ("FLOAT8E5M2", [0.25, 57344]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("UINT64", [2**64 - 1]),
        ("INT8", [-128, 127]),
        ("INT4", [-8, 7]),
        ("BOOL", [True, False]),
    ],
)
def test_numbers_read_back_bit_for_bit(dtype: str, numbers: list[float]) -> None:
    kind = ir.DataType[dtype]
    array = np.array(numbers, np.object_ if "INT" in dtype else np.float64).astype(kind.numpy())
    model = mlp()
    constant = ir.Value(name="c", shape=ir.Shape(array.shape), type=ir.TensorType(kind))
    constant.const_value = ir.tensor(array, kind, name="c")
    model.graph.register_initializer(constant)
    got = parse_graph(print_graph(model)).graph.initializers["c"].const_value
    assert got is not None
    assert got.dtype == kind
    assert got.numpy().tobytes() == array.tobytes()


def test_names_and_attributes_that_need_quotes() -> None:
    text = (
        '"a-graph" (float[2] "x.1") => (float[2] "y/2") { '
        '["n 1"] "m:0" = Foo <zeta = 1.0, alpha = "say \\"hi\\" \\\\ ok", '
        'empty: ints = [], names: strings = ["a", "b"], t: tensor = float[2] {1, 2}> ("x.1", "", "x.1") '
        '["n 2"] "y/2" = Relu("m:0") }'
    )
    model = ir.from_proto(parser.parse_model(HEADER + text))
    printed = print_graph(model)
    assert 'Foo <alpha = "say \\"hi\\" \\\\ ok", empty: ints = [], names' in printed
    assert print_graph(parse_graph(printed)) == printed
    again = next(iter(parse_graph(printed).graph))
    assert again.attributes["alpha"].as_string() == 'say "hi" \\ ok'
    assert [value is None for value in again.inputs] == [False, True, False]


def test_long_attributes_are_elided_and_refused_on_reading() -> None:
    model = mlp()
    node = next(iter(model.graph))
    node.attributes["rows"] = ir.AttrInt64s("rows", list(range(40)))
    node.attributes["table"] = ir.AttrTensor("table", ir.tensor(np.zeros(9, np.float32)))
    text = print_graph(model)
    assert "rows: ints = [], table: tensor = float[9] {}> (x, w)  # float[1,2]; rows elided 40 ints sha256:" in text
    with pytest.raises(CompileError, match="elided") as caught:
        parse_graph(text)
    assert caught.value.diagnostics[0].id == "IPU0121"
    assert parse_graph(print_graph(model, elide=False))


def test_subgraphs_are_indented_and_read_back() -> None:
    text = """g (bool c, float[2] x) => (float[2] y) {
      y = If (c) <then_branch = t () => (float[2] p) <float[2] k = {1,2}> { p = Add (x, k) },
                  else_branch = e () => (float[2] q) { q = Neg (x) }>
    }"""
    printed = print_graph(ir.from_proto(parser.parse_model(HEADER + text)))
    assert "\n      float[2] k = {1.0, 2.0}\n" in printed
    assert print_graph(parse_graph(printed)) == printed


def test_functions_follow_the_graph() -> None:
    text = """<ir_version: 10, opset_import: ["": 26, "ipucc": 1]>
g (float[2] x) => (float[2] y) { a = ipucc.Op:gelu <s = 1> (x) y = ipucc.Op:relu (a) }
<domain: "ipucc", overload: "relu", opset_import: ["": 26]>
Op (x) => (y) { y = Relu (x) }
<domain: "ipucc", overload: "gelu", opset_import: ["": 26]>
Op <s> (x) => (y) { c = Constant <value_int: int = @s> () d = CastLike (c, x) y = Mul (x, d) }
"""
    printed = print_graph(ir.from_proto(parser.parse_model(text)))
    assert printed.index('overload: "gelu"') < printed.index('overload: "relu"')
    assert "value_int: int = @s" in printed
    assert print_graph(parse_graph(printed)) == printed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("float[4,2] w", "flot[4,2] w", "flot"),
        ("MatMul (x, w)", "MatMul (x, w", "cannot be read"),
        ("{0.5, -1.0}", "{0.5, abc}", "abc"),
        ("{0.5, -1.0}", "{0.5}", "needs 2"),
        ("int64[1] k = {2}", "int8[1] k = {300}", "300"),
    ],
)
def test_malformed_text_is_one_diagnostic(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(CompileError, match=message) as caught:
        parse_graph(TEXT.replace(old, new))
    assert [problem.id for problem in caught.value.diagnostics] == ["IPU0121"]
