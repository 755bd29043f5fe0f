"""Gathered weights: only what several tiles hold moves out, by one rule for the planner and for placement."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

import ipucc


def test_a_tight_tile_gathers_the_shared_operand_alone(tmp_path):
    """On two tiles the rows of x are cut and w is shared: with both gathered nothing fits, with w alone it does."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 96)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [128, 64])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [128, 96])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    machine = tmp_path / "two.toml"
    machine.write_text(
        'base = "gc200"\ntiles = 2\ntile_bytes = 68000\nexecutable_bytes = 24000\ninterleaved_bytes = 16384\n'
    )
    exe = ipucc.compile(model, target=str(machine))
    x = rng.standard_normal((128, 64)).astype(np.float32)
    got = exe.run({"x": x}).outputs["y"]
    assert np.abs(got - x @ w).max() <= 1e-4 * np.abs(x @ w).max()
