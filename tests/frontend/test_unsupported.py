"""Everything that cannot be compiled is named at once, with what could be done."""

import onnx_ir as ir
import pytest
from onnx import parser

from ipucc.diagnostics import CompileError
from ipucc.frontend import load_model, unsupported_nodes

HEADER = '<ir_version: 10, opset_import: ["": 26, "my.ops": 1, "com.microsoft": 1]>\n'
TEXT = """g (bool c, float[2,4] x) => (float[2,4] y) {
  [u] a = my.ops.Foo (x)
  [m] b = com.microsoft.MultiHeadAttention (a, x)
  [d] e = Multinomial (b2)
  [k] b2 = Relu (x)
  [i] y = If (c) <then_branch = t () => (float[2,4] p) { [in] p = Selu (x) },
                  else_branch = e () => (float[2,4] q) { q = Neg (b2) }>
}"""


def refuse(*kinds: str) -> object:
    def supported(node: ir.Node) -> str | None:
        return "no codelet" if node.op_type in kinds else None

    return supported


def test_unsupported_nodes_are_collected_in_order() -> None:
    model = ir.from_proto(parser.parse_model(HEADER + TEXT))
    found = unsupported_nodes(model, refuse("Foo", "MultiHeadAttention", "Multinomial", "Selu"))
    assert [(problem.node, problem.op) for problem in found] == [
        ("u", "my.ops.Foo"),
        ("m", "com.microsoft.MultiHeadAttention"),
        ("d", "Multinomial"),
        ("in", "Selu"),
    ]
    assert all(problem.id == "IPU0201" and "no codelet" in problem.message for problem in found)
    assert found[1].help == ("use Attention of opset 23",)
    assert found[2].help


def test_nodes_inside_an_unsupported_node_are_left_out() -> None:
    model = ir.from_proto(parser.parse_model(HEADER + TEXT))
    assert [problem.node for problem in unsupported_nodes(model, refuse("If", "Selu"))] == ["i"]


def test_the_import_reports_them_together_with_what_has_no_shape() -> None:
    text = """g (float[2,4] x, int64[1] n) => (float[2,4] y) {
      [unknown] a = my.ops.Foo (x) [behind] b = Relu (a) [list] i = NonZero (x) [flat] v = Flatten (i)
      [open] r = Reshape (x, n)
      f = Cast<to=1> (v) s = ReduceSum<keepdims=0> (f) t = ReduceSum<keepdims=0>(r) [no] z = Sinh (x)
      p = Add (b, s) q = Add (p, t) y = Add (q, z)
    }"""
    proto = parser.parse_model(HEADER + text)
    with pytest.raises(CompileError) as caught:
        load_model(proto, supported=refuse("Sinh", "Foo"))  # type: ignore[arg-type]
    assert [(problem.id, problem.node) for problem in caught.value.diagnostics] == [
        ("IPU0201", "unknown"),
        ("IPU0201", "no"),
        ("IPU0324", "flat"),
        ("IPU0206", "open"),
    ]
    reshape = caught.value.diagnostics[3]
    assert '"n"' in reshape.notes[0]


@pytest.mark.parametrize(
    ("body", "id"),
    [
        ("[it] a = my.ops.Foo (x) y = Relu (a)", "IPU0201"),
        ("[it] a = Nonsense (x) y = Relu (a)", "IPU0201"),
        ("[it] a = SequenceConstruct (x) y = ConcatFromSequence<axis=0>(a)", "IPU0119"),
        ("n = NonZero (x) f = Cast<to=1> (n) [it] a = Flatten (f) y = Relu (a)", "IPU0324"),
        ("[it] y = Relu<slope=1.0> (x)", "IPU0120"),
        ("[it] y = Concat (x, x)", "IPU0114"),
    ],
)
def test_kinds_of_refusal(body: str, id: str) -> None:
    proto = parser.parse_model(f"{HEADER} g (float[2,4] x) => (float[?,?] y) {{ {body} }}")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(CompileError) as caught:
        load_model(proto)
    assert [(problem.id, problem.node) for problem in caught.value.diagnostics] == [(id, "it")]
