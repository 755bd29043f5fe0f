"""Symbolic dimensions: bound by name or by whole shapes, all that is open or wrong reported at once."""

from collections.abc import Mapping, Sequence

import onnx
import pytest
from onnx import parser

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.frontend import load_model

HEADER = '<ir_version: 10, opset_import: ["": 26]>\n'
TWO = parser.parse_model(
    HEADER + "g (float[batch,seq,8] x, float[batch,seq] mask, float[8] b) => (float[batch,seq,8] y) "
    "{ m = Cast<to=1>(mask) s = ReduceSum(m) a = Add(x, b) y = Mul(a, s) }"
)


def shapes(proto: onnx.ModelProto, **options: Mapping[str, object]) -> dict[str, list[int]]:
    model = load_model(proto, **options)  # type: ignore[arg-type]
    values = [*model.graph.inputs, *model.graph.outputs]
    return {value.name or "": list(value.shape or []) for value in values}


def problems(
    proto: onnx.ModelProto, dims: Mapping[str, int], input_shapes: Mapping[str, Sequence[int]]
) -> list[Diagnostic]:
    with pytest.raises(CompileError) as caught:
        load_model(proto, dims=dims, input_shapes=input_shapes)
    return list(caught.value.diagnostics)


def test_names_bind_everywhere() -> None:
    expected = {"x": [2, 5, 8], "mask": [2, 5], "b": [8], "y": [2, 5, 8]}
    assert shapes(TWO, dims={"batch": 2, "seq": 5}) == expected
    assert shapes(TWO, input_shapes={"mask": (2, 5)}) == expected
    assert shapes(TWO, dims={"batch": 2}, input_shapes={"x": (2, 5, 8)}) == expected


def test_every_open_dimension_is_listed_with_its_option() -> None:
    (problem,) = problems(TWO, {"seq": 5}, {})
    assert problem.id == "IPU0109"
    assert "--dim batch=N" in problem.message
    assert "seq" not in problem.message
    unnamed = parser.parse_model(HEADER + "g (float[?,3] x, float[] z) => (float[] y) { y = Add(x, z) }")
    unnamed.graph.input[1].type.tensor_type.ClearField("shape")
    (problem,) = problems(unnamed, {}, {})
    assert "--input-shape x=N,3" in problem.message
    assert "--input-shape z=" in problem.message
    assert shapes(unnamed, input_shapes={"x": (2, 3), "z": (3,)})["y"] == [2, 3]


def test_unknown_names_get_a_suggestion() -> None:
    found = problems(TWO, {"bacth": 2}, {"maks": (1, 1)})
    assert [problem.id for problem in found] == ["IPU0110", "IPU0110", "IPU0109"]
    assert found[0].help == ('did you mean "batch"?',)
    assert found[1].help == ('did you mean "mask"?',)


@pytest.mark.parametrize(
    ("dims", "input_shapes", "text"),
    [
        ({"batch": 0, "seq": 1}, {}, "cannot have the size 0"),
        ({"batch": 3}, {"x": (2, 5, 8)}, "sizes 3 and 2"),
        ({}, {"x": (2, 5, 8), "mask": (2, 6)}, "sizes 5 and 6"),
        ({}, {"x": (2, 5)}, "does not agree"),
        ({}, {"x": (2, 5, 9)}, "does not agree"),
        ({}, {"x": (2, -5, 8)}, "cannot have the shape"),
        ({"batch": 1, "seq": 1}, {"b": (4,)}, "does not agree"),
    ],
)
def test_wrong_and_contradicting_sizes(
    dims: Mapping[str, int], input_shapes: Mapping[str, Sequence[int]], text: str
) -> None:
    found = problems(TWO, dims, input_shapes)
    assert any(problem.id == "IPU0111" and text in problem.message for problem in found)


def test_expressions_follow_their_names() -> None:
    proto = parser.parse_model(HEADER + "g (float[n] x, float[m] z) => (float[k] y) { y = Concat<axis=0>(x, z) }")
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "n + 1"
    assert shapes(proto, dims={"n": 4}) == {"x": [4], "z": [5], "y": [9]}
    (problem,) = problems(proto, {}, {})
    assert problem.message.count("--dim n=N") == 2
    (problem,) = problems(proto, {}, {"x": (4,), "z": (7,)})
    assert problem.id == "IPU0111"


@pytest.mark.parametrize("name", ["batch-size", "a b", "1+", "n**n**n**9", "n.0", "é"])
def test_names_that_are_no_identifiers(name: str) -> None:
    proto = parser.parse_model(HEADER + "g (float[n] x) => (float[n] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    assert shapes(proto, dims={name: 4})["y"] == [4]
    assert shapes(proto, input_shapes={"x": (4,)})["y"] == [4]
    assert [problem.id for problem in problems(proto, {}, {})] == ["IPU0109"]


def test_negative_sizes_in_a_file_are_open() -> None:
    proto = parser.parse_model(HEADER + "g (float[7] x) => (float[7] y) { y = Relu(x) }")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert [problem.id for problem in problems(proto, {}, {})] == ["IPU0109"]
    assert shapes(proto, input_shapes={"x": (3,)})["y"] == [3]
