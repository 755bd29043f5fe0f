"""U-Net for the segmentation of images."""

import numpy as np
import onnx
from onnx import TensorProto

from networks.builder import GraphBuilder


def unet(batch: int, size: int, width: int, depth: int, classes: int, seed: int) -> onnx.ModelProto:
    """U-Net (Ronneberger et al., arXiv 1505.04597) with `depth` levels below the first, `width` channels in the first.

    `image` [batch, 3, size, size] -> `scores` [batch, classes, size, size]. In the form most used since: 3x3
    convolutions padded to keep the size, batch normalisation behind each, upsampling by transposed convolutions
    of 2x2; at depth 4, width 64 and two classes it has 31,037,698 parameters. `size` is a multiple of 2^depth.
    """
    if size % (1 << depth):
        raise SystemExit(f"--size {size} is not a multiple of {1 << depth}, which {depth} levels of U-Net need")
    g = GraphBuilder(seed)
    relu = np.sqrt(2)

    def double(x: str, name: str, inputs: int, outputs: int, gain: float) -> str:
        for half, (channels, factor) in enumerate([(inputs, gain), (outputs, relu)], 1):
            y = g.conv(x, f"{name}.conv{half}", channels, outputs, 3, gain=factor)
            x = g.add("Relu", [g.batch_norm(y, f"{name}.norm{half}", outputs)], f"{name}.relu{half}")
        return x

    x = double("image", "down0", 3, width, 1.0)
    skips = []
    for level in range(1, depth + 1):
        skips.append(x)
        x = g.add("MaxPool", [x], f"down{level}.pool", kernel_shape=[2, 2], strides=[2, 2])
        # The largest of four values behind a ReLU has a mean square near one and a half.
        x = double(x, f"down{level}", width << level - 1, width << level, np.sqrt(2 / 3))
    for level in reversed(range(depth)):
        channels = width << level
        w = g.normal(f"up{level}.weight", 2 * channels, channels, 2, 2, std=1 / np.sqrt(channels))
        b = g.near(f"up{level}.bias", channels, 0.0)
        x = g.add("ConvTranspose", [x, w, b], f"up{level}.transpose", kernel_shape=[2, 2], strides=[2, 2])
        x = g.add("Concat", [skips[level], x], f"up{level}.concat", axis=1)
        x = double(x, f"up{level}", 2 * channels, channels, np.sqrt(4 / 3))
    w = g.normal("scores.weight", classes, width, 1, 1, std=relu / np.sqrt(width))
    g.add("Conv", [x, w, g.near("scores.bias", classes, 0.0)], "scores", kernel_shape=[1, 1])
    return g.model(
        "unet", [("image", TensorProto.FLOAT, [batch, 3, size, size])], [("scores", [batch, classes, size, size])]
    )
