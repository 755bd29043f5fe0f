"""Nodes and weights of a network that is being written, and the blocks that several networks share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MAX_INLINE_BYTES = 2**31 - 2**20  # a protobuf message ends at 2 GiB; a mebibyte is left for the nodes
OPSET = 20
IR_VERSION = 10

Attribute = int | float | str | list[int]
Named = tuple[str, Sequence[int]]


class GraphBuilder:
    """Collects nodes and weights; every method returns the name of the value it adds."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, operands: Sequence[str], name: str, **attributes: Attribute) -> str:
        self.nodes.append(helper.make_node(op, operands, [name], name=name, **attributes))
        return name

    def split(self, x: str, names: Sequence[str], axis: int) -> list[str]:
        """Equal parts of a dimension."""
        node = helper.make_node("Split", [x], list(names), name=f"{x}.split", axis=axis, num_outputs=len(names))
        self.nodes.append(node)
        return list(names)

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.float32(value)[...])

    def shape(self, name: str, *sizes: int) -> str:
        """An int64 vector: the operand of Reshape, Expand, Unsqueeze and their kin."""
        return self.constant(name, np.array(sizes, np.int64))

    def normal(self, name: str, *shape: int, std: float) -> str:
        """A weight of independent normal values."""
        values = self.rng.standard_normal(shape, np.float32)
        values *= np.float32(std)
        return self.constant(name, values)

    def near(self, name: str, size: int, centre: float, std: float = 0.02) -> str:
        """A vector close to `centre`: a bias, a scale."""
        return self.constant(name, (centre + std * self.rng.standard_normal(size, np.float32)).astype(np.float32))

    def linear(self, x: str, name: str, inputs: int, outputs: int, gain: float = 1.0, bias: bool = True) -> str:
        """x @ w, + b with `bias`, on the last dimension, variance times `gain` squared."""
        w = self.normal(f"{name}.weight", inputs, outputs, std=gain / np.sqrt(inputs))
        if not bias:
            return self.add("MatMul", [x, w], name)
        b = self.near(f"{name}.bias", outputs, 0.0)
        return self.add("Add", [self.add("MatMul", [x, w], f"{name}.matmul"), b], name)

    def conv(
        self, x: str, name: str, inputs: int, outputs: int, size: int, *, stride: int = 1, pad: int | None = None,
        groups: int = 1, gain: float = 1.0, bias: bool = False,
    ) -> str:  # fmt: skip
        """A square convolution, padded by half its window if `pad` is not given, variance times `gain` squared."""
        pad = size // 2 if pad is None else pad
        fan_in = inputs // groups * size * size
        operands = [x, self.normal(f"{name}.weight", outputs, inputs // groups, size, size, std=gain / np.sqrt(fan_in))]
        if bias:
            operands.append(self.near(f"{name}.bias", outputs, 0.0))
        return self.add(
            "Conv", operands, name, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4, group=groups
        )

    def batch_norm(self, x: str, name: str, channels: int, scale: float = 1.0) -> str:
        """Batch normalisation in inference form, with the statistics of values of variance one; `scale` is its own."""
        parameters = [
            self.near(f"{name}.scale", channels, scale),
            self.near(f"{name}.shift", channels, 0.0),
            self.near(f"{name}.mean", channels, 0.0),
            self.constant(f"{name}.variance", np.exp(self.rng.normal(0, 0.1, channels)).astype(np.float32)),
        ]
        return self.add("BatchNormalization", [x, *parameters], name, epsilon=1e-5)

    def layer_norm(self, x: str, name: str, size: int, epsilon: float) -> str:
        """Layer normalisation of the last dimension."""
        scale, shift = self.near(f"{name}.scale", size, 1.0), self.near(f"{name}.shift", size, 0.0)
        return self.add("LayerNormalization", [x, scale, shift], name, axis=-1, epsilon=epsilon)

    def model(
        self, name: str, inputs: Sequence[tuple[str, int, Sequence[int]]], outputs: Sequence[Named]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(value, kind, shape) for value, kind, shape in inputs],
            [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape) for value, shape in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="ipucc-samples")
        model.ir_version = IR_VERSION
        return model


def save(model: onnx.ModelProto, path: Path, external: bool) -> int:
    """Write the model, its weights beside it where asked for or needed; return the bytes of the weights."""
    size = sum(len(weight.raw_data) for weight in model.graph.initializer)
    if external or size > MAX_INLINE_BYTES:
        data = path.with_name(path.name + ".data")
        data.unlink(missing_ok=True)  # onnx appends to a file that is there
        onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
    else:
        onnx.save(model, path)
    return size
