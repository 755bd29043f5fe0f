"""Write full-size networks with random weights as ONNX: ResNet-50, BERT-base, BERT-large.

    python samples/make_models.py resnet50 --batch 1 -o resnet50.onnx
    python samples/make_models.py bert-base --seq 128 --batch 1 -o bert.onnx
    python samples/make_models.py bert-large --seq 384 --external -o large.onnx

Weights are float32 and keep the variance of what passes through them, so that values stay of the order of
one in every layer and half precision does not overflow. The same seed gives the same file. Weights lie in a
second file beside the model (NAME.onnx.data) with --external, and always from 2 GB on, where ONNX has no
other way. Needs numpy and onnx.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

MAX_INLINE_BYTES = 2**31 - 2**20  # a protobuf message ends at 2 GiB; a mebibyte is left for the nodes
OPSET = 20
IR_VERSION = 10

Attribute = int | float | str | list[int]


class GraphBuilder:
    """Collects nodes and weights; every method returns the name of the value it adds."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, op: str, operands: Sequence[str], name: str, **attributes: Attribute) -> str:
        self.nodes.append(helper.make_node(op, operands, [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, name: str, *shape: int, std: float) -> str:
        """A weight of independent normal values."""
        values = self.rng.standard_normal(shape, np.float32)
        values *= np.float32(std)
        return self.constant(name, values)

    def near(self, name: str, size: int, centre: float, std: float = 0.02) -> str:
        """A vector close to `centre`: a bias, a scale."""
        return self.constant(name, (centre + std * self.rng.standard_normal(size, np.float32)).astype(np.float32))

    def linear(self, x: str, name: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        """x @ w + b on the last dimension, variance times `gain` squared."""
        w = self.normal(f"{name}.weight", inputs, outputs, std=gain / np.sqrt(inputs))
        b = self.near(f"{name}.bias", outputs, 0.0)
        return self.add("Add", [self.add("MatMul", [x, w], f"{name}.matmul"), b], name)

    def model(
        self,
        name: str,
        inputs: Sequence[tuple[str, int, Sequence[int]]],
        outputs: Sequence[tuple[str, Sequence[int]]],
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


def resnet50(batch: int, seed: int) -> onnx.ModelProto:
    """ResNet-50 (He et al., arXiv 1512.03385) for images of 224x224, strides in the 3x3 convolutions.

    `image` [batch, 3, 224, 224] -> `logits` [batch, 1000].
    """
    g = GraphBuilder(seed)

    def conv(x: str, name: str, inputs: int, outputs: int, size: int, stride: int, scale: float) -> str:
        """Convolution without bias, then batch normalisation whose scale is `scale`."""
        w = g.normal(f"{name}.weight", outputs, inputs, size, size, std=float(np.sqrt(2 / (inputs * size * size))))
        pad = size // 2
        y = g.add("Conv", [x, w], f"{name}.conv", kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4)
        # The statistics are those of the values that arrive: a relu in front leaves a mean square near one
        # half.
        parameters = [
            g.near(f"{name}.scale", outputs, scale),
            g.near(f"{name}.shift", outputs, 0.0),
            g.near(f"{name}.mean", outputs, 0.0),
            g.constant(f"{name}.variance", np.exp(g.rng.normal(0, 0.1, outputs)).astype(np.float32)),
        ]
        return g.add("BatchNormalization", [y, *parameters], name, epsilon=1e-5)

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
    x = g.add("Flatten", [g.add("GlobalAveragePool", [x], "pool")], "features", axis=1)
    w = g.normal("fc.weight", 1000, channels, std=1 / np.sqrt(channels))
    g.add("Gemm", [x, w, g.near("fc.bias", 1000, 0.0)], "logits", transB=1)
    return g.model("resnet50", [("image", TensorProto.FLOAT, [batch, 3, 224, 224])], [("logits", [batch, 1000])])


def bert(
    name: str, layers: int, hidden: int, heads: int, batch: int, seq: int, pooler: bool, seed: int
) -> onnx.ModelProto:
    """The encoder of BERT (Devlin et al., arXiv 1810.04805), as exporters spell it.

    `input_ids`, `token_type_ids`, `attention_mask`, all int64 [batch, seq] -> `last_hidden_state` [batch,
    seq, hidden] and, with `pooler`, `pooled` [batch, hidden]. Ids lie in 0..30521 and 0..1; the mask is 1
    where a token counts.
    """
    vocabulary, positions = 30522, 512
    if seq > positions:
        raise SystemExit(f"BERT has {positions} positions, --seq {seq} is longer")
    g = GraphBuilder(seed)
    size = hidden // heads
    to_heads = g.constant("shape.heads", np.array([batch, seq, heads, size], np.int64))
    to_hidden = g.constant("shape.hidden", np.array([batch, seq, hidden], np.int64))

    def norm(x: str, label: str) -> str:
        scale, shift = g.near(f"{label}.scale", hidden, 1.0), g.near(f"{label}.shift", hidden, 0.0)
        return g.add("LayerNormalization", [x, scale, shift], label, axis=-1, epsilon=1e-12)

    def split_heads(x: str, label: str, order: list[int]) -> str:
        return g.add("Transpose", [g.add("Reshape", [x, to_heads], f"{label}.split")], label, perm=order)

    words = g.normal("embeddings.word", vocabulary, hidden, std=0.5)
    kinds = g.normal("embeddings.type", 2, hidden, std=0.5)
    places = g.normal("embeddings.position", positions, hidden, std=0.5)
    rows = g.constant("positions", np.arange(seq, dtype=np.int64)[None])
    x = g.add("Gather", [words, "input_ids"], "embeddings.words", axis=0)
    x = g.add("Add", [x, g.add("Gather", [kinds, "token_type_ids"], "embeddings.types", axis=0)], "embeddings.add1")
    x = g.add("Add", [x, g.add("Gather", [places, rows], "embeddings.places", axis=0)], "embeddings.add2")
    x = norm(x, "embeddings.norm")

    mask = g.add("Cast", ["attention_mask"], "mask.float", to=TensorProto.FLOAT)
    mask = g.add("Unsqueeze", [mask, g.constant("mask.axes", np.array([1, 2], np.int64))], "mask.rows")
    mask = g.add("Sub", [g.constant("one", np.float32(1)[...]), mask], "mask.off")
    mask = g.add("Mul", [mask, g.constant("mask.low", np.float32(-10000)[...])], "mask")
    root = g.constant("root", np.sqrt(np.float32(size))[...])

    for layer in range(layers):
        at = f"layer{layer}"
        q = split_heads(g.linear(x, f"{at}.query", hidden, hidden), f"{at}.q", [0, 2, 1, 3])
        k = split_heads(g.linear(x, f"{at}.key", hidden, hidden), f"{at}.k", [0, 2, 3, 1])
        v = split_heads(g.linear(x, f"{at}.value", hidden, hidden), f"{at}.v", [0, 2, 1, 3])
        scores = g.add("Div", [g.add("MatMul", [q, k], f"{at}.scores"), root], f"{at}.scaled")
        weights = g.add("Softmax", [g.add("Add", [scores, mask], f"{at}.masked")], f"{at}.weights", axis=-1)
        mixed = g.add("Transpose", [g.add("MatMul", [weights, v], f"{at}.mixed")], f"{at}.merged", perm=[0, 2, 1, 3])
        y = g.linear(g.add("Reshape", [mixed, to_hidden], f"{at}.context"), f"{at}.output", hidden, hidden)
        x = norm(g.add("Add", [y, x], f"{at}.residual1"), f"{at}.norm1")
        y = g.add("Gelu", [g.linear(x, f"{at}.up", hidden, 4 * hidden)], f"{at}.gelu")
        y = g.linear(y, f"{at}.down", 4 * hidden, hidden, gain=1.5)
        last = "last_hidden_state" if layer == layers - 1 else f"{at}.norm2"
        x = norm(g.add("Add", [y, x], f"{at}.residual2"), last)
    outputs: list[tuple[str, Sequence[int]]] = [(x, [batch, seq, hidden])]
    if pooler:
        first = g.add("Gather", [x, g.constant("first", np.int64(0)[...])], "pooler.first", axis=1)
        g.add("Tanh", [g.linear(first, "pooler.linear", hidden, hidden)], "pooled")
        outputs.append(("pooled", [batch, hidden]))
    ids = ["input_ids", "token_type_ids", "attention_mask"]
    return g.model(name, [(value, TensorProto.INT64, [batch, seq]) for value in ids], outputs)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["resnet50", "bert-base", "bert-large"])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq", type=int, default=128, help="tokens per sequence (BERT)")
    parser.add_argument("--pooler", action="store_true", help="add the pooled output (BERT)")
    parser.add_argument("--external", action="store_true", help="weights in a second file, OUTPUT.data")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    if o.batch < 1 or o.seq < 1:
        parser.error("--batch and --seq are at least 1")
    makers: dict[str, Callable[[], onnx.ModelProto]] = {
        "resnet50": lambda: resnet50(o.batch, o.seed),
        "bert-base": lambda: bert("bert-base", 12, 768, 12, o.batch, o.seq, o.pooler, o.seed),
        "bert-large": lambda: bert("bert-large", 24, 1024, 16, o.batch, o.seq, o.pooler, o.seed),
    }
    size = save(makers[o.model](), o.output, o.external)
    onnx.checker.check_model(o.output)
    print(f"wrote {o.output}: {size / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    main()
