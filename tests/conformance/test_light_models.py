"""The networks that the onnx package ships, with weights that tell channels apart, against onnxruntime.

Their own weights are one constant each, so that the outputs that come with them show little.
"""

import conformance
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import ipucc


def drawn(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its constant weights drawn: by the size of what is summed, variances positive."""
    rng = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    variances = {node.input[4] for node in model.graph.node if node.op_type == "BatchNormalization"}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            made.graph.node.append(node)
            continue
        shape = [int(n) for n in shapes[node.input[0]]]
        values = rng.standard_normal(shape) * np.sqrt(2 / max(1, np.prod(shape[1:])))
        values = 0.5 + np.abs(values) if node.output[0] in variances else values
        made.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "resnet50", "vgg19"])
def test_a_network_with_drawn_weights(name: str) -> None:
    case = conformance.load("real", f"test_{name}")
    model = drawn(case.model)
    held = {tensor.name for tensor in model.graph.initializer}
    (value,) = (v for v in model.graph.input if v.name not in held)
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    feeds = {value.name: np.random.default_rng(1).random(shape, np.float32)}
    exe = ipucc.compile(model, solver="greedy", effort="fast")
    (found,) = exe.run(feeds).outputs.values()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)
    assert np.ptp(wanted) > 1e-4  # it does tell classes apart
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
