"""Which inputs must be bound to values while compiling."""

from onnx import TensorProto, helper

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
