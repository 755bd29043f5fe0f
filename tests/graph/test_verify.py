"""The verifier: each rule, broken once, is the one that speaks."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from ipucc.diagnostics import CompileError
from ipucc.graph.printing import parse_graph
from ipucc.graph.verify import RULES, verify_graph, verify_structure

TEXT = """<
  ir_version: 10,
  opset_import: ["": 26]
>
g (
  float[2,4] x
) => (
  float[2,3] y
)
<
  float[4,3] w = {},  # elided
  float[3] b = {1.0, 2.0, 3.0}
>
{
  [first] h = MatMul (x, w)  # float[2,3]
  [second] a = Add (h, b)  # float[2,3]
  [third] y = Softmax <axis = -1> (a)  # float[2,3]
}
"""


def nodes(model: ir.Model) -> dict[str, ir.Node]:
    return {node.name or "": node for node in model.graph}


def test_a_sound_graph_passes() -> None:
    verify_graph(parse_graph(TEXT))
    verify_structure(parse_graph(TEXT))


def rename(model: ir.Model) -> None:
    nodes(model)["second"].outputs[0].name = "h"


def unname(model: ir.Model) -> None:
    nodes(model)["second"].outputs[0].name = None


def reorder(model: ir.Model) -> None:
    node = nodes(model)["first"]
    model.graph.remove(node)
    model.graph.append(node)


def cycle(model: ir.Model) -> None:
    nodes(model)["first"].replace_input_with(0, nodes(model)["second"].outputs[0])


def foreign(model: ir.Model) -> None:
    nodes(model)["second"].replace_input_with(1, ir.val("lost", ir.DataType.FLOAT, [3]))


def lost_output(model: ir.Model) -> None:
    model.graph.outputs[0] = ir.val("z", ir.DataType.FLOAT, [2, 3])


def listed_twice(model: ir.Model) -> None:
    model.graph.outputs.append(model.graph.outputs[0])


def no_outputs(model: ir.Model) -> None:
    model.graph.outputs.clear()


def untyped(model: ir.Model) -> None:
    nodes(model)["first"].outputs[0].type = None


def shapeless(model: ir.Model) -> None:
    nodes(model)["first"].outputs[0].shape = None


def symbolic(model: ir.Model) -> None:
    nodes(model)["first"].outputs[0].shape = ir.Shape(["N", 3])


def sequence(model: ir.Model) -> None:
    nodes(model)["first"].outputs[0].type = ir.SequenceType(ir.TensorType(ir.DataType.FLOAT))


def constant_type(model: ir.Model) -> None:
    model.graph.initializers["b"].type = ir.TensorType(ir.DataType.FLOAT16)


def constant_shape(model: ir.Model) -> None:
    model.graph.initializers["b"].shape = ir.Shape([1, 3])


def unknown_op(model: ir.Model) -> None:
    nodes(model)["second"].op_type = "Plus"


def unknown_domain(model: ir.Model) -> None:
    nodes(model)["second"].domain = "elsewhere"


def arity(model: ir.Model) -> None:
    nodes(model)["second"].resize_inputs(1)


def absent_operand(model: ir.Model) -> None:
    nodes(model)["second"].replace_input_with(1, None)


def wrong_attribute(model: ir.Model) -> None:
    nodes(model)["third"].attributes["axes"] = ir.AttrInt64("axes", 1)


def attribute_type(model: ir.Model) -> None:
    nodes(model)["third"].attributes["axis"] = ir.AttrFloat32("axis", 1.0)


def missing_attribute(model: ir.Model) -> None:
    nodes(model)["third"].op_type = "Cast"
    del nodes(model)["third"].attributes["axis"]


def wrong_shape(model: ir.Model) -> None:
    nodes(model)["first"].outputs[0].shape = ir.Shape([2, 5])


def wrong_type(model: ir.Model) -> None:
    for name in ("first", "second"):
        nodes(model)[name].outputs[0].type = ir.TensorType(ir.DataType.INT32)


def shared_shape(model: ir.Model) -> None:
    shape = nodes(model)["first"].outputs[0].shape
    assert shape is not None
    nodes(model)["second"].outputs[0].shape = shape
    shape[0] = 9


BREACHES: list[tuple[Callable[[ir.Model], None], str, str | None]] = [
    (rename, "IPU0105", "second"),
    (unname, "IPU0118", "second"),
    (reorder, "IPU0104", "second"),
    (cycle, "IPU0104", "first"),
    (foreign, "IPU0117", "second"),
    (lost_output, "IPU0117", None),
    (listed_twice, "IPU0105", None),
    (no_outputs, "IPU0103", None),
    (untyped, "IPU0115", "first"),
    (shapeless, "IPU0115", "first"),
    (symbolic, "IPU0115", "first"),
    (sequence, "IPU0119", "first"),
    (constant_type, "IPU0118", None),
    (constant_shape, "IPU0118", None),
    (unknown_op, "IPU0201", "second"),
    (unknown_domain, "IPU0118", "second"),
    (arity, "IPU0120", "second"),
    (absent_operand, "IPU0120", "second"),
    (wrong_attribute, "IPU0120", "third"),
    (attribute_type, "IPU0120", "third"),
    (missing_attribute, "IPU0120", "third"),
    (wrong_shape, "IPU0114", "first"),
    (wrong_type, "IPU0114", None),
    (shared_shape, "IPU0114", "first"),
]


@pytest.mark.parametrize(("breach", "id", "node"), BREACHES, ids=[case[0].__name__ for case in BREACHES])
def test_each_breach_is_named(breach: Callable[[ir.Model], None], id: str, node: str | None) -> None:
    model = parse_graph(TEXT)
    breach(model)
    with pytest.raises(CompileError) as caught:
        verify_graph(model)
    assert id in [problem.id for problem in caught.value.diagnostics]
    if node is not None:
        assert node in [problem.node for problem in caught.value.diagnostics]


def test_every_rule_is_broken_by_some_case() -> None:
    spoken = set()
    for breach, _, _ in BREACHES:
        model = parse_graph(TEXT)
        breach(model)
        for rules in RULES:
            failed = {rule.__name__ for rule in rules if list(rule(model))}
            spoken |= failed
            if failed:
                break
    assert spoken == {rule.__name__ for rules in RULES for rule in rules}


def test_all_breaches_of_a_group_come_at_once() -> None:
    model = parse_graph(TEXT)
    wrong_attribute(model)
    absent_operand(model)
    with pytest.raises(CompileError) as caught:
        verify_graph(model)
    assert {problem.node for problem in caught.value.diagnostics} == {"second", "third"}


def test_names_of_a_subgraph_must_not_hide_outer_ones() -> None:
    text = """<
  ir_version: 10,
  opset_import: ["": 26]
>
g (bool c, float[2] x) => (float[2] y) {
  [branch] y = If (c) <then_branch = t () => (float[2] p) { [in] p = Neg (x) },
    else_branch = e () => (float[2] q) { q = Abs (x) }> # float[2]
}
"""
    model = parse_graph(text)
    verify_structure(model)
    inner = next(node for node in model.graph.all_nodes() if node.name == "in")
    inner.outputs[0].name = "y"
    with pytest.raises(CompileError) as caught:
        verify_structure(model)
    assert [(problem.id, problem.node) for problem in caught.value.diagnostics] == [("IPU0105", "in")]


def test_weights_are_not_read() -> None:
    def refuse() -> ir.TensorProtocol:
        raise AssertionError("the verifier read a weight")

    model = parse_graph(TEXT)
    weight = model.graph.initializers["w"]
    weight.const_value = ir.LazyTensor(refuse, ir.DataType.FLOAT, ir.Shape([400, 3]), name="w")
    weight.shape = ir.Shape([400, 3])
    model.graph.inputs[0].shape = ir.Shape([2, 400])
    verify_graph(model)
    assert np.prod(weight.shape.numpy()) == 1200
