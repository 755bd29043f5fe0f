"""Train the digits network and write digits.onnx and test_images.npz beside this file.

The 8x8 handwritten digits come with scikit-learn; the network is trained here in numpy, in about a minute:

    conv 3x3 1->32, relu, conv 3x3 32->64, relu, max pool 2x2, linear 1024->256, relu, linear 256->10

A penalty on the norm of every 16x16 block of the two linear layers (group lasso, by its proximal step)
drives the blocks that matter least towards zero, so that a compiler may drop three of four blocks
afterwards. The blocks are not cut here: the network is written dense. Needs scikit-learn, numpy and onnx.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

Array = NDArray[np.float32]

BLOCK = 16
BATCH = 64  # the batch of the exported network; the test images are a multiple of it
TEST_IMAGES = 7 * BATCH


class Layer(Protocol):
    """Forward keeps what backward needs; backward returns the gradient of the input and fills `gradients`."""

    weights: dict[str, Array]
    gradients: dict[str, Array]

    def forward(self, x: Array) -> Array: ...
    def backward(self, g: Array) -> Array: ...


@dataclass
class Conv:
    """Convolution 3x3, stride 1, padding 1, on [n, channels, height, width]."""

    weights: dict[str, Array]
    gradients: dict[str, Array] = field(default_factory=dict)

    def forward(self, x: Array) -> Array:
        n, c, h, w = x.shape
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        self.columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)
        self.shape = x.shape
        kernel = self.weights["w"].reshape(-1, c * 9)
        y = self.columns @ kernel.T + self.weights["b"]
        return y.reshape(n, h, w, -1).transpose(0, 3, 1, 2)

    def backward(self, g: Array) -> Array:
        n, c, h, w = self.shape
        rows = g.transpose(0, 2, 3, 1).reshape(n * h * w, -1)
        kernel = self.weights["w"].reshape(-1, c * 9)
        self.gradients["w"] = (rows.T @ self.columns).reshape(self.weights["w"].shape)
        self.gradients["b"] = rows.sum(axis=0)
        columns = (rows @ kernel).reshape(n, h, w, c, 3, 3)
        padded = np.zeros((n, c, h + 2, w + 2), np.float32)
        for i in range(3):
            for j in range(3):
                padded[:, :, i : i + h, j : j + w] += columns[..., i, j].transpose(0, 3, 1, 2)
        return padded[:, :, 1:-1, 1:-1]


@dataclass
class Linear:
    """y = x w^T + b on [n, features], with w as [outputs, inputs]."""

    weights: dict[str, Array]
    gradients: dict[str, Array] = field(default_factory=dict)

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        self.x = x.reshape(len(x), -1)
        return self.x @ self.weights["w"].T + self.weights["b"]

    def backward(self, g: Array) -> Array:
        self.gradients["w"] = g.T @ self.x
        self.gradients["b"] = g.sum(axis=0)
        return (g @ self.weights["w"]).reshape(self.shape)


@dataclass
class Relu:
    weights: dict[str, Array] = field(default_factory=dict)
    gradients: dict[str, Array] = field(default_factory=dict)

    def forward(self, x: Array) -> Array:
        self.positive = x > 0
        return x * self.positive

    def backward(self, g: Array) -> Array:
        return g * self.positive


@dataclass
class MaxPool:
    """Maximum of each 2x2 square, stride 2."""

    weights: dict[str, Array] = field(default_factory=dict)
    gradients: dict[str, Array] = field(default_factory=dict)

    def forward(self, x: Array) -> Array:
        n, c, h, w = x.shape
        squares = x.reshape(n, c, h // 2, 2, w // 2, 2)
        y: Array = squares.max(axis=(3, 5), keepdims=True)
        # Where pixels of a square tie, which they do at zero behind a relu, the gradient is shared.
        self.winners = squares == y
        self.share = 1 / self.winners.sum(axis=(3, 5), keepdims=True, dtype=np.float32)
        return y[:, :, :, 0, :, 0]

    def backward(self, g: Array) -> Array:
        n, c, h, w = g.shape
        spread: Array = self.winners * (self.share * g[:, :, :, None, :, None])
        return spread.reshape(n, c, h * 2, w * 2)


def initial(rng: np.random.Generator, *shape: int) -> dict[str, Array]:
    """Weights of variance 2 / fan-in, and biases of zero."""
    fan_in = int(np.prod(shape[1:]))
    w = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))
    return {"w": w, "b": np.zeros(shape[0], np.float32)}


def build(rng: np.random.Generator) -> list[Layer]:
    return [
        Conv(initial(rng, 32, 1, 3, 3)),
        Relu(),
        Conv(initial(rng, 64, 32, 3, 3)),
        Relu(),
        MaxPool(),
        Linear(initial(rng, 256, 1024)),
        Relu(),
        Linear(initial(rng, 10, 256)),
    ]


def logits_of(layers: list[Layer], images: Array) -> Array:
    for layer in layers:
        images = layer.forward(images)
    return images


def accuracy(layers: list[Layer], images: Array, labels: NDArray[np.int64]) -> float:
    return float((logits_of(layers, images).argmax(axis=1) == labels).mean())


def block_norms(w: Array) -> Array:
    """Sum of magnitudes of each 16x16 block; the last row of blocks may be shorter."""
    rows = -(-w.shape[0] // BLOCK) * BLOCK
    padded = np.pad(np.abs(w), ((0, rows - w.shape[0]), (0, 0)))
    blocks = padded.reshape(rows // BLOCK, BLOCK, -1, BLOCK)
    norms: Array = blocks.sum(axis=(1, 3))
    return norms


def scale_blocks(w: Array, factors: Array) -> Array:
    """Multiply each block of `w` by its factor."""
    spread: Array = np.kron(factors, np.ones((BLOCK, BLOCK), np.float32))[: w.shape[0]]
    return w * spread


def shrink_weak_blocks(layer: Linear, free: float, amount: np.float32) -> None:
    """Take `amount` off the mean magnitude of every block but the strongest ones, a share `free` of all."""
    norms = block_norms(layer.weights["w"]) / (BLOCK * BLOCK)
    weak = norms < np.quantile(norms, 1 - free)
    kept = np.maximum(0, 1 - weak * amount / np.maximum(norms, np.float32(1e-12)))
    layer.weights["w"] = scale_blocks(layer.weights["w"], kept)


def shift(rng: np.random.Generator, images: Array) -> Array:
    """Every image moved by -1, 0 or 1 pixels each way, the border filled with background."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    moved = np.empty_like(images)
    for image, source, (i, j) in zip(moved, padded, rng.integers(0, 3, (len(images), 2)), strict=True):
        image[:] = source[:, i : i + 8, j : j + 8]
    return moved


def train(
    layers: list[Layer],
    images: Array,
    labels: NDArray[np.int64],
    rng: np.random.Generator,
    epochs: int,
    rate: float,
    penalty: float,
    free: float,
) -> None:
    """Adam on the cross entropy with a rate that falls to zero, and the proximal step of the group lasso."""
    first = [{name: np.zeros_like(w) for name, w in layer.weights.items()} for layer in layers]
    second = [{name: np.zeros_like(w) for name, w in layer.weights.items()} for layer in layers]
    steps = epochs * (len(images) // BATCH)
    step = 0
    for epoch in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            logits = logits_of(layers, shift(rng, images[chosen]))
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            gradient = exponentials / exponentials.sum(axis=1, keepdims=True)
            gradient[np.arange(BATCH), labels[chosen]] -= 1
            gradient /= BATCH
            for layer in reversed(layers):
                gradient = layer.backward(gradient)
            step += 1
            now = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            for layer, mean, square in zip(layers, first, second, strict=True):
                for name, g in layer.gradients.items():
                    mean[name] += 0.1 * (g - mean[name])
                    square[name] += 0.001 * (g * g - square[name])
                    size = np.sqrt(square[name] / (1 - 0.999**step)) + 1e-8
                    layer.weights[name] -= (now * mean[name] / (1 - 0.9**step) / size).astype(np.float32)
                if isinstance(layer, Linear):
                    shrink_weak_blocks(layer, free, np.float32(now * penalty))
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:3}: train accuracy {accuracy(layers, images, labels):.4f}")


def pruned(layers: list[Layer], density: float) -> list[Layer]:
    """The network with the blocks of smallest L1 norm of each linear layer set to zero."""
    result: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Linear):
            norms = block_norms(layer.weights["w"])
            keep = max(1, round(density * norms.size))
            mask = np.zeros(norms.size, np.float32)
            mask[np.argsort(-norms, axis=None, kind="stable")[:keep]] = 1
            w = scale_blocks(layer.weights["w"], mask.reshape(norms.shape))
            result.append(Linear({"w": w, "b": layer.weights["b"]}))
        else:
            result.append(layer)
    return result


def to_onnx(layers: list[Layer]) -> onnx.ModelProto:
    """The trained network for a batch of 64 images, opset 20."""
    conv1, conv2, linear1, linear2 = (layer.weights for layer in layers if layer.weights)
    named = {"conv1": conv1, "conv2": conv2, "linear1": linear1, "linear2": linear2}
    initializers = [
        numpy_helper.from_array(array, f"{name}.{part}")
        for name, weights in named.items()
        for part, array in (("weight", weights["w"]), ("bias", weights["b"]))
    ]

    def node(op: str, x: str, y: str, layer: str = "", **attributes: int | list[int]) -> onnx.NodeProto:
        operands = [x, f"{layer}.weight", f"{layer}.bias"] if layer else [x]
        return helper.make_node(op, operands, [y], name=layer or y, **attributes)

    nodes = [
        node("Conv", "image", "c1", "conv1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("Conv", "r1", "c2", "conv2", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", "c2", "r2"),
        node("MaxPool", "r2", "p2", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p2", "flat", axis=1),
        node("Gemm", "flat", "l1", "linear1", transB=1),
        node("Relu", "l1", "r3"),
        node("Gemm", "r3", "logits", "linear2", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [BATCH, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [BATCH, 10])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], producer_name="ipucc-samples")
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rate", type=float, default=2e-3, help="first learning rate")
    parser.add_argument("--penalty", type=float, default=0.07, help="strength of the group lasso")
    parser.add_argument("--free", type=float, default=0.1, help="share of the blocks without penalty")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where to write")
    options = parser.parse_args()

    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(options.seed).permutation(len(images))
    test, rest = order[:TEST_IMAGES], order[TEST_IMAGES:]

    rng = np.random.default_rng([options.seed, 1])
    layers = build(rng)
    train(layers, images[rest], labels[rest], rng, options.epochs, options.rate, options.penalty, options.free)

    print(f"test accuracy on {TEST_IMAGES} held-back images")
    print(f"  dense                    {accuracy(layers, images[test], labels[test]):.4f}")
    for density in (0.5, 0.25, 0.1):
        cut = pruned(layers, density)
        print(f"  {density:4.0%} of the 16x16 blocks {accuracy(cut, images[test], labels[test]):.4f}")

    options.folder.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(layers), options.folder / "digits.onnx")
    np.savez_compressed(options.folder / "test_images.npz", images=images[test], labels=labels[test])
    print(f"wrote digits.onnx and test_images.npz to {options.folder}")


if __name__ == "__main__":
    main()
