"""Which inputs must be bound to values while compiling."""

from onnx import TensorProto, helper, parser

from ipucc.frontend.sizing import sizing_inputs


def test_inputs_from_which_sizes_follow_are_found() -> None:
    x, shape = (
        helper.make_tensor_value_info(n, t, [2]) for n, t in (("x", TensorProto.FLOAT), ("s", TensorProto.INT64))
    )
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Add", ["s", "s"], ["t"]), helper.make_node("Reshape", ["x", "t"], ["y"])]
    assert sizing_inputs(helper.make_graph(nodes, "g", [x, shape], [y])) == {"s"}
    # The shape of a tensor does not follow from its elements.
    nodes = [helper.make_node("Shape", ["x"], ["t"]), helper.make_node("Expand", ["x", "t"], ["y"])]
    assert sizing_inputs(helper.make_graph(nodes, "g", [x], [y])) == set()


def test_sizes_that_leave_a_branch_follow_from_what_it_reads() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x, bool c, int64[2] s) => (float[?,?] y) {
          t = If (c) <then_branch = a () => (int64[2] p) { p = Neg (s) },
                      else_branch = b () => (int64[2] q) { q = Abs (s) }>
          y = Reshape (x, t) }"""
    assert sizing_inputs(parser.parse_model(text).graph) == {"c", "s"}
