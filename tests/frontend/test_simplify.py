"""Clean-up during import: identities, decided branches, shape chains, duplicates, names."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import parser

from ipucc.diagnostics import CompileError
from ipucc.frontend import Branch, Part, load_model, load_module, parts_of
from ipucc.graph.edit import describe

HEADER = '<ir_version: 10, opset_import: ["": %d]>\n'


def load(text: str, opset: int = 26, **dims: int) -> ir.Model:
    return load_model(parser.parse_model(HEADER % opset + text), dims=dims)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def names(values: list[ir.Value]) -> list[str]:
    return [value.name or "" for value in values]


def test_identities_go_and_the_interface_stays() -> None:
    model = load(
        "g (float[2] x) => (float[2] y, float[2] z, float[2] w) "
        "{ a = Identity(x) b = Relu(a) c = Identity(b) y = Identity(c) z = Identity(b) w = Identity(x) }"
    )
    assert ops(model) == ["Relu", "Identity", "Identity"]
    assert names(list(model.graph.outputs)) == ["y", "z", "w"]
    assert [describe(node) for node in model.graph] == ["b", "z", "w"]


def test_dropout_of_inference_is_an_identity() -> None:
    assert ops(load("g (float[2] x) => (float[2] y) { a = Dropout(x) y = Relu(a) }")) == ["Relu"]
    assert ops(load("g (float[2] x) => (float[2] y) { a, m = Dropout(x) y = Relu(a) }", 9)) == ["Relu"]
    train = "g (float[2] x) => (float[2] y) <float r = {0.5}, bool t = {1}> { a = Dropout(x, r, t) y = Relu(a) }"
    assert ops(load(train)) == ["Dropout", "Relu"]
    mask = "g (float[2] x) => (float[2] y, bool[2] m) { a, m = Dropout(x) y = Relu(a) }"
    # The mask is a constant.
    assert ops(load(mask)) == ["Identity", "Relu"]


IF = """g (float[1,3] x) => (float[?] y) <int64[1] k = {%d}> {
  r = Shape(x) n = Gather<axis=0>(r, k) one = Constant<value_ints=[1]>() is_one = Equal(n, one) b = Relu(x)
  y = If (is_one) <then_branch = t () => (float[?] p) { a0 = Constant<value_ints=[0]>() q = Neg(b) p = Squeeze(q, a0) },
                   else_branch = e () => (float[?] p) { p = Identity(b) }>
}"""


@pytest.mark.parametrize(("axis", "expected"), [(0, ["Relu", "Neg", "Squeeze"]), (1, ["Relu", "Identity"])])
def test_a_decided_branch_takes_the_place_of_its_if(axis: int, expected: list[str]) -> None:
    proto = parser.parse_model(HEADER % 17 + IF % axis)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = load_model(proto)
    # The Identity that keeps the name of an output goes if its operand is nothing else.
    assert ops(model) == [op for op in expected if op != "Identity"]
    assert names(list(model.graph.outputs)) == ["y"]
    feeds = {"x": np.array([[1, -2, 3]], np.float32)}
    got = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, feeds)
    wanted = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    np.testing.assert_array_equal(got[0], wanted[0])


def test_an_open_branch_stays() -> None:
    text = "g (bool c, float[2] x) => (float[2] y) { o = Identity(x) y = If (c) <then_branch = t () => (float[2] p) "
    text += "{ p = Identity(o) }, else_branch = e () => (float[2] p) "
    text += "{ k = Constant<value_floats=[1.0,2.0]>() p = Add(x, k) }> }"
    module = load_module(parser.parse_model(HEADER % 17 + text))
    head, branch = module.region
    assert isinstance(head, Part)
    assert isinstance(branch, Branch)
    assert ops(head.model) == ["Reshape"]
    assert [ops(part.model) for part in parts_of(branch.then)] == [["Identity"]]
    assert [ops(part.model) for part in parts_of(branch.otherwise)] == [["Add"]]
    # The input of the model is no value that a part hands to another.
    assert all(not part.received for part in parts_of(module.region))


def test_the_shape_chain_of_an_exporter_becomes_one_reshape() -> None:
    model = load(
        """g (float[n,4,6] x) => (float[?,?] y) {
          s = Shape(x) i0 = Constant<value_int=0>() d = Gather<axis=0>(s, i0) a0 = Constant<value_ints=[0]>()
          u = Unsqueeze(d, a0) m = Constant<value_ints=[-1]>() t = Concat<axis=0>(u, m) c = Cast<to=7>(t)
          r = Reshape(x, c) f = Cast<to=1>(d) g = Div(r, f) w = Constant<value_ints=[1,24]>() z = ConstantOfShape(w)
          y = Add(g, z)
        }""",
        n=3,
    )
    assert ops(model) == ["Reshape", "Div", "Add"]
    assert model.graph.outputs[0].shape == [3, 24]


def test_duplicates_are_merged_but_not_random_numbers() -> None:
    model = load(
        "g (float[2] x) => (float[2] y) { a = Exp(x) b = Exp(x) p = RandomNormalLike(x) q = RandomNormalLike(x) "
        "s = Add(a, b) t = Sub(p, q) y = Add(s, t) }"
    )
    assert sorted(ops(model)) == ["Add", "Add", "Exp", "RandomNormalLike", "RandomNormalLike", "Sub"]


def test_omitted_results_stay_omitted() -> None:
    model = load('g (float[5] x) => (int64[2] y) <int64[1] k = {2}> { "", y = TopK(x, k) }')
    assert ops(model) == ["TopK"]
    assert [bool(value.name) for value in next(iter(model.graph)).outputs] == [False, True]


def test_unused_optional_results_go() -> None:
    model = load("g (float[1,1,4,4] x) => (float[1,1,3,3] y) { y, i = MaxPool<kernel_shape=[2,2]>(x) }")
    assert len(next(iter(model.graph)).outputs) == 1


def test_contradicting_shapes_name_the_node() -> None:
    with pytest.raises(CompileError) as caught:
        load("g (float[2,3] x, float[4] z) => (float[2,3] y) { [sum] a = Add(x, z) y = Relu(a) }")
    (problem,) = caught.value.diagnostics
    assert (problem.id, problem.node, problem.op) == ("IPU0114", "sum", "Add")


def test_unnamed_nodes_are_named_after_their_results() -> None:
    model = load("g (float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }")
    assert [node.name for node in model.graph] == ["a", "y"]
