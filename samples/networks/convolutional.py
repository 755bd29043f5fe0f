"""Image classifiers: ResNet-50, MobileNetV2, EfficientNet-B0. Batch normalisation is present, as in most exports."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from networks.builder import GraphBuilder

RELU_GAIN = np.sqrt(2)
SWISH_GAIN = 1.68  # the mean square of swish on normal values is 0.36
GATE_GAIN = 2 * SWISH_GAIN  # squeeze and excite multiplies by a sigmoid near one half

MOBILENET_V2 = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 3, 2, 32, 3), (6, 3, 2, 64, 4), (6, 3, 1, 96, 3), (6, 3, 2, 160, 3),
    (6, 3, 1, 320, 1),
)  # fmt: skip
"""Stages of inverted bottlenecks: expansion, window, stride of the first block, channels, blocks."""
EFFICIENTNET_B0 = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip

Stages = Sequence[tuple[int, int, int, int, int]]


def resnet50(batch: int, seed: int) -> onnx.ModelProto:
    """ResNet-50 (He et al., arXiv 1512.03385) for images of 224x224, strides in the 3x3 convolutions.

    `image` [batch, 3, 224, 224] -> `logits` [batch, 1000].
    """
    g = GraphBuilder(seed)

    def conv(x: str, name: str, inputs: int, outputs: int, size: int, stride: int, scale: float) -> str:
        """Convolution without bias, then batch normalisation whose scale is `scale`."""
        y = g.conv(x, f"{name}.conv", inputs, outputs, size, stride=stride, gain=RELU_GAIN)
        return g.batch_norm(y, name, outputs, scale)

    def relu(x: str) -> str:
        return g.add("Relu", [x], f"{x}.relu")

    def bottleneck(x: str, name: str, inputs: int, width: int, stride: int) -> str:
        y = relu(conv(x, f"{name}.conv1", inputs, width, 1, 1, 1.0))
        y = relu(conv(y, f"{name}.conv2", width, width, 3, stride, 1.0))
        # Branch and shortcut share the variance, so that it does not grow from block to block.
        y = conv(y, f"{name}.conv3", width, 4 * width, 1, 1, 0.3)
        if inputs != 4 * width:
            x = conv(x, f"{name}.shortcut", inputs, 4 * width, 1, stride, 0.8)
        return relu(g.add("Add", [y, x], f"{name}.add"))

    x = relu(conv("image", "stem", 3, 64, 7, 2, 1.0))
    x = g.add("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            x = bottleneck(x, f"layer{stage}.{block}", channels, width, stride)
            channels = 4 * width
    return classifier(g, "resnet50", x, channels, batch, 224, 1000)


def mobilenet_v2(batch: int, size: int, classes: int, seed: int, stages: Stages = MOBILENET_V2) -> onnx.ModelProto:
    """MobileNetV2 at width 1 (Sandler et al., arXiv 1801.04381).

    `image` [batch, 3, size, size] -> `logits` [batch, classes].
    """
    g = GraphBuilder(seed)
    low, high = g.scalar("clip.low", 0.0), g.scalar("clip.high", 6.0)

    def conv(
        x: str, name: str, inputs: int, outputs: int, window: int, stride: int = 1, groups: int = 1,
        gain: float = RELU_GAIN,
    ) -> str:  # fmt: skip
        """Convolution, batch normalisation, ReLU6."""
        y = g.conv(x, f"{name}.conv", inputs, outputs, window, stride=stride, groups=groups, gain=gain)
        return g.add("Clip", [g.batch_norm(y, f"{name}.norm", outputs), low, high], name)

    x = conv("image", "stem", 3, 32, 3, 2, gain=1.0)
    channels = 32
    for stage, (expand, window, stride, width, blocks) in enumerate(stages, 1):
        for block in range(blocks):
            at, y, inner, step = f"stage{stage}.{block}", x, expand * channels, stride if block == 0 else 1
            if expand > 1:
                y = conv(x, f"{at}.expand", channels, inner, 1, gain=1.0)
            y = conv(y, f"{at}.depthwise", inner, inner, window, step, groups=inner)
            residual = step == 1 and channels == width
            y = g.conv(y, f"{at}.project.conv", inner, width, 1, gain=RELU_GAIN)
            y = g.batch_norm(y, f"{at}.project", width, 0.3 if residual else 1.0)
            x = g.add("Add", [x, y], f"{at}.add") if residual else y
            channels = width
    x = conv(x, "head", channels, 1280, 1, gain=1.0)
    return classifier(g, "mobilenet-v2", x, 1280, batch, size, classes)


def efficientnet_b0(
    batch: int, size: int, classes: int, seed: int, stages: Stages = EFFICIENTNET_B0, group: int = 1
) -> onnx.ModelProto:
    """EfficientNet-B0 (Tan and Le, arXiv 1905.11946): swish, squeeze and excite, windows of 3 and 5, in groups of
    `group` channels: 1 as published, 16 after Masters et al., arXiv 2106.03640.

    `image` [batch, 3, size, size] -> `logits` [batch, classes]. Windows are padded by half on all sides.
    """
    g = GraphBuilder(seed)

    def swish(x: str) -> str:
        return g.add("Mul", [x, g.add("Sigmoid", [x], f"{x}.sigmoid")], f"{x}.swish")

    def conv(
        x: str, name: str, inputs: int, outputs: int, window: int, stride: int = 1, groups: int = 1, gain: float = 1.0
    ) -> str:
        """Convolution, batch normalisation, swish."""
        y = g.conv(x, f"{name}.conv", inputs, outputs, window, stride=stride, groups=groups, gain=gain)
        return swish(g.batch_norm(y, name, outputs))

    def excite(x: str, name: str, channels: int, reduced: int) -> str:
        """x times a gate per channel, computed from the mean of every channel."""
        y = g.add("GlobalAveragePool", [x], f"{name}.pool")
        y = swish(g.conv(y, f"{name}.reduce", channels, reduced, 1, gain=SWISH_GAIN, bias=True))
        y = g.conv(y, f"{name}.expand", reduced, channels, 1, gain=SWISH_GAIN, bias=True)
        return g.add("Mul", [x, g.add("Sigmoid", [y], f"{name}.gate")], name)

    x = conv("image", "stem", 3, 32, 3, 2)
    channels, gain = 32, SWISH_GAIN
    for stage, (expand, window, stride, width, blocks) in enumerate(stages, 1):
        for block in range(blocks):
            at, y, inner, step = f"stage{stage}.{block}", x, expand * channels, stride if block == 0 else 1
            if expand > 1:
                y = conv(x, f"{at}.expand", channels, inner, 1)
                gain = SWISH_GAIN
            y = conv(y, f"{at}.depthwise", inner, inner, window, step, groups=inner // group, gain=gain)
            y = excite(y, f"{at}.excite", inner, max(1, channels // 4))
            residual = step == 1 and channels == width
            y = g.conv(y, f"{at}.project.conv", inner, width, 1, gain=GATE_GAIN)
            y = g.batch_norm(y, f"{at}.project", width, 0.3 if residual else 1.0)
            x = g.add("Add", [x, y], f"{at}.add") if residual else y
            channels = width
    x = conv(x, "head", channels, 1280, 1)
    return classifier(g, "efficientnet-b0", x, 1280, batch, size, classes)


def classifier(
    g: GraphBuilder, name: str, x: str, channels: int, batch: int, size: int, classes: int
) -> onnx.ModelProto:
    """The model whose last feature maps are `x`: their means, and one linear layer."""
    x = g.add("Flatten", [g.add("GlobalAveragePool", [x], "pool")], "features", axis=1)
    w = g.normal("fc.weight", classes, channels, std=1 / np.sqrt(channels))
    g.add("Gemm", [x, w, g.near("fc.bias", classes, 0.0)], "logits", transB=1)
    return g.model(name, [("image", TensorProto.FLOAT, [batch, 3, size, size])], [("logits", [batch, classes])])
