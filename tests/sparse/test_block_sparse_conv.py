"""Block-sparse convolutions end to end: the numbers of the dense convolution with the dropped blocks zeroed."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import ipucc
from ipucc.codelets.sparse_conv import BlockSparseConv
from ipucc.compiler import CompileOptions, compile_model
from ipucc.diagnostics import CompileError
from ipucc.graph.schemas import oracle_model
from ipucc.program.model import Compute, walk


def layer(
    batch: int, channels: tuple[int, int], size: tuple[int, int], kernel: int, stride: int, pad: int, dilation: int = 1
) -> onnx.ModelProto:
    """Conv, bias and Relu."""
    rng = np.random.default_rng(0)
    ic, oc = channels
    weight = (rng.standard_normal((oc, ic, kernel, kernel)) / np.sqrt(ic * kernel**2)).astype(np.float32)
    bias = rng.standard_normal(oc).astype(np.float32)
    out = [(n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for n in size]
    nodes = [
        helper.make_node(
            "Conv", ["x", "w", "b"], ["c"], name="conv", strides=[stride] * 2, pads=[pad] * 4, dilations=[dilation] * 2
        ),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", 1, [batch, ic, *size])],
        [helper.make_tensor_value_info("y", 1, [batch, oc, *out])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def passes(block: int | tuple[int, int], precision: str, density: float = 0.4) -> str:
    to = "precision{to=fp16}," if precision == "fp16" else ""
    size = list(block) if isinstance(block, tuple) else block
    return f"clean-up,fuse,{to}sparsify{{block={size},density={density},ops=[conv]}}"


LAYERS = {
    "3x3": (1, (32, 48), (9, 9), 3, 1, 1),
    "strided, uneven channels": (2, (20, 36), (8, 7), 3, 2, 1),
    "1x1": (1, (64, 32), (6, 6), 1, 1, 0),
    "1x1 strided": (1, (32, 32), (7, 7), 1, 2, 0),
    "dilated": (1, (16, 16), (10, 10), 3, 1, 2, 2),
}


@pytest.mark.parametrize("block", [16, 8, 4, (16, 8)])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("precision", "limit"), [("model", 1e-4), ("fp16", 2e-2)])
def test_numbers_of_the_masked_convolution(block, name, precision, limit):
    model = layer(*LAYERS[name])
    options = CompileOptions(precision=precision, passes=passes(block, precision), solver="greedy")
    compiled = compile_model(model, options)
    steps = walk(compiled.program.steps, compiled.program.functions)
    assert any(isinstance(s, Compute) and isinstance(s.codelet, BlockSparseConv) for s in steps)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    oracle = onnxruntime.InferenceSession(oracle_model(compiled.model).SerializeToString())
    kind = np.float16 if oracle.get_inputs()[0].type == "tensor(float16)" else np.float32
    want = oracle.run(None, {"x": x.astype(kind)})[0].astype(np.float32)
    result = ipucc.Executable(compiled.program).run({"x": x})
    assert np.abs(result.outputs["y"] - want).max() <= limit * np.abs(want).max()
    assert result.cycles.total == compiled.cycles["total"]


def test_a_large_sparse_convolution_is_faster_than_dense():
    model = layer(1, (512, 512), (14, 14), 3, 1, 1)
    dense = compile_model(model, CompileOptions(precision="fp16", solver="greedy")).cycles["total"]
    sparse = compile_model(
        model, CompileOptions(precision="fp16", passes=passes(16, "fp16", 0.1), solver="greedy")
    ).cycles["total"]
    assert sparse < 0.7 * dense


def test_blocks_of_single_channels_are_refused_by_name():
    node = helper.make_node(
        "BlockSparseConv", ["x", "v"], ["y"], name="conv", domain="ipucc", expr="x", rows=[0], cols=[0], taps=[0],
        block=[1, 1], shape=[8, 8, 1, 1], pads=[0] * 4, strides=[1, 1], dilations=[1, 1],
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, [1, 8, 4, 4])],
        [helper.make_tensor_value_info("y", 1, [1, 8, 4, 4])],
        [numpy_helper.from_array(np.ones((1, 1, 1), np.float32), "v")],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("ipucc", 1)]
    with pytest.raises(CompileError, match="1 x 1 channels") as failure:
        compile_model(helper.make_model(graph, opset_imports=imports, ir_version=10), CompileOptions())
    assert failure.value.diagnostics[0].id == "IPU0206"
