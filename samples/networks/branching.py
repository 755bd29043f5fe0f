"""A network drawn at random: branches, long skips, hardly two ops alike. Large placements are measured on it."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from networks.builder import GraphBuilder

Value = tuple[str, int]
Range = tuple[int, int]

STEP = 16  # channels and widths are multiples of this
FAR = 6  # results that a block may read, the latest included
RELU_GAIN = np.sqrt(2)


def branching(
    ops: int, batch: int, size: int, seed: int, channels: Sequence[Range] = ((32, 128), (64, 256)),
    widths: Range = (64, 384),
) -> onnx.ModelProto:  # fmt: skip
    """Cells over images, half of the ops, then blocks over the rows of a sequence; kinds, widths and what they read
    are drawn at random.

    At least `ops` convolutions, products, poolings, softmaxes and normalisations, and less than a block beyond that;
    sums, concatenations and activations come on top. `channels` are the least and the most of each level of images,
    every one of half the size of that before, and `widths` those of rows. `image` [batch, 3, size, size] -> `rows`
    [batch, (size / 2^levels)^2, width].
    """
    drawn = _Drawn(batch, seed)
    cells, blocks = (
        (drawn.bottleneck, drawn.inception, drawn.dense, drawn.separable),
        (drawn.attention, drawn.feed_forward, drawn.gated, drawn.arms),
    )
    value: Value = ("image", 3)
    for at, drawn.widths in enumerate(channels, 1):
        value = drawn.grown(
            drawn.conv(value, drawn.width(), 3, stride=2), cells, drawn.conv, ops * at // (2 * len(channels))
        )
    length, (name, count), drawn.widths = (size >> len(channels)) ** 2, value, widths
    name = drawn.g.add("Reshape", [name, drawn.g.shape("flat", batch, count, length)], "image.flat")
    name = drawn.g.add("Transpose", [name], "image.rows", perm=[0, 2, 1])
    value = drawn.grown(drawn.linear((name, count), drawn.width()), blocks, drawn.linear, ops)
    name, width = drawn.norm(value, "rows")
    return drawn.g.model(
        "branching", [("image", TensorProto.FLOAT, [batch, 3, size, size])], [(name, [batch, length, width])]
    )


class _Drawn:
    """The network so far. A value is its name with its channels or width, drawn between `widths`."""

    def __init__(self, batch: int, seed: int) -> None:
        self.g, self.rng = GraphBuilder(seed), np.random.default_rng(seed)
        self.batch, self.ops, self.names = batch, 0, 0
        self.widths: Range = (STEP, STEP)

    def grown(
        self, value: Value, kinds: Sequence[Callable[[Value], Value]], project: Callable[[Value, int], Value], ops: int
    ) -> Value:
        """Block upon block until there are so many ops. Each reads one of the latest results; the very latest is added
        to what it makes, projected where widths differ, so that nothing is left unread."""
        recent = [value]
        while self.ops < ops:
            source = recent[-1 - int(self.rng.integers(min(FAR, len(recent))))]
            made = kinds[int(self.rng.integers(len(kinds)))](source)
            skip = recent[-1] if recent[-1][1] == made[1] else project(recent[-1], made[1])
            recent.append(self.sum(made, skip))
        return recent[-1]

    def width(self) -> int:
        low, high = self.widths
        return STEP * int(self.rng.integers(low // STEP, high // STEP + 1))

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names}"

    def plain(self, kind: str, *values: Value) -> Value:
        """An op that keeps the shape of its operands."""
        return self.g.add(kind, [name for name, _ in values], self.name(kind.lower())), values[0][1]

    def sum(self, first: Value, second: Value) -> Value:
        half = self.g.scalar(self.name("half"), np.sqrt(0.5))
        name, count = self.plain("Add", first, second)
        return self.g.add("Mul", [name, half], self.name("sum")), count

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        name = self.g.add("Concat", [name for name, _ in values], self.name("concat"), axis=axis)
        return name, sum(count for _, count in values)

    # Over images.

    def conv(self, value: Value, outputs: int, window: int = 1, *, stride: int = 1, grouped: bool = False) -> Value:
        self.ops += 1
        groups = value[1] if grouped else 1
        name = self.g.conv(
            value[0], self.name("conv"), value[1], outputs, window, stride=stride, groups=groups, bias=True
        )
        return name, outputs

    def active(self, value: Value, outputs: int, window: int = 1, *, grouped: bool = False) -> Value:
        return self.plain("Relu", self.conv(value, outputs, window, grouped=grouped))

    def pooled(self, value: Value) -> Value:
        self.ops += 1
        shape: dict[str, list[int]] = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4}
        return self.g.add("MaxPool", [value[0]], self.name("pool"), **shape), value[1]

    def bottleneck(self, value: Value) -> Value:
        inner = self.active(self.active(value, self.width()), self.width(), 3)
        return self.plain("Relu", self.conv(inner, value[1]))

    def inception(self, value: Value) -> Value:
        arms = [self.active(value, self.width() // 2 // STEP * STEP + STEP)]
        for depth in range(1, int(self.rng.integers(2, 4))):
            arm = self.active(value, self.width())
            for _ in range(depth):
                arm = self.active(arm, self.width() // 2 // STEP * STEP + STEP, 3)
            arms.append(arm)
        arms.append(self.active(self.pooled(value), self.width() // 2 // STEP * STEP + STEP))
        return self.active(self.concat(arms, 1), self.width())

    def dense(self, value: Value) -> Value:
        for _ in range(int(self.rng.integers(2, 5))):
            value = self.concat([value, self.active(self.active(value, self.width()), 2 * STEP, 3)], 1)
        return self.active(value, self.width())

    def separable(self, value: Value) -> Value:
        inner = self.active(value, self.width())
        window = int(self.rng.choice([3, 5]))
        return self.conv(self.active(inner, inner[1], window, grouped=True), self.width())

    # Over rows.

    def linear(self, value: Value, outputs: int) -> Value:
        self.ops += 1
        return self.g.linear(value[0], self.name("linear"), value[1], outputs), outputs

    def norm(self, value: Value, name: str = "") -> Value:
        self.ops += 1
        return self.g.layer_norm(value[0], name or self.name("norm"), value[1], 1e-5), value[1]

    def attention(self, value: Value) -> Value:
        value, inner = self.norm(value), self.width()
        query, key, mixed = (self.linear(value, count)[0] for count in (inner, inner, inner))
        turned = self.g.add("Transpose", [key], self.name("key"), perm=[0, 2, 1])
        scores = self.g.add("MatMul", [query, turned], self.name("scores"))
        scores = self.g.add("Mul", [scores, self.g.scalar(self.name("root"), inner**-0.5)], self.name("scaled"))
        weights = self.g.add("Softmax", [scores], self.name("softmax"), axis=-1)
        self.ops += 3
        return self.linear((self.g.add("MatMul", [weights, mixed], self.name("mixed")), inner), value[1])

    def feed_forward(self, value: Value) -> Value:
        return self.linear(self.plain("Gelu", self.linear(self.norm(value), 2 * self.width())), value[1])

    def gated(self, value: Value) -> Value:
        inner = self.width()
        gate = self.plain("Sigmoid", self.linear(value, inner))
        return self.linear(self.plain("Mul", gate, self.linear(value, inner)), self.width())

    def arms(self, value: Value) -> Value:
        value = self.norm(value)
        found = []
        for depth in range(1, int(self.rng.integers(3, 5))):
            arm = value
            for _ in range(depth):
                arm = self.plain("Relu", self.linear(arm, self.width()))
            found.append(arm)
        return self.linear(self.concat(found, -1), self.width())
