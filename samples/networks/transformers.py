"""Transformers on whole sequences: BERT, GPT-2, ViT."""

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from networks.builder import GraphBuilder, Named

Head = Literal["tied", "untied", "none"]
LOWEST = float(np.finfo(np.float32).min)  # what exporters put where attention must not look


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
    block = BertBlock(g, hidden, heads, batch, seq)

    words = g.normal("embeddings.word", vocabulary, hidden, std=0.5)
    kinds = g.normal("embeddings.type", 2, hidden, std=0.5)
    places = g.normal("embeddings.position", positions, hidden, std=0.5)
    rows = g.constant("positions", np.arange(seq, dtype=np.int64)[None])
    x = g.add("Gather", [words, "input_ids"], "embeddings.words", axis=0)
    x = g.add("Add", [x, g.add("Gather", [kinds, "token_type_ids"], "embeddings.types", axis=0)], "embeddings.add1")
    x = g.add("Add", [x, g.add("Gather", [places, rows], "embeddings.places", axis=0)], "embeddings.add2")
    x = block.norm(x, "embeddings.norm")

    block.attend(masked=True)
    for layer in range(layers):
        x = block.layer(x, f"layer{layer}", "last_hidden_state" if layer == layers - 1 else f"layer{layer}.norm2")
    outputs: list[Named] = [(x, [batch, seq, hidden])]
    if pooler:
        first = g.add("Gather", [x, g.constant("first", np.int64(0)[...])], "pooler.first", axis=1)
        g.add("Tanh", [g.linear(first, "pooler.linear", hidden, hidden)], "pooled")
        outputs.append(("pooled", [batch, hidden]))
    ids = ["input_ids", "token_type_ids", "attention_mask"]
    return g.model(name, [(value, TensorProto.INT64, [batch, seq]) for value in ids], outputs)


def bert_layer(hidden: int, heads: int, batch: int, seq: int, seed: int) -> onnx.ModelProto:
    """One layer of that encoder, without a mask: `x` float32 [batch, seq, hidden] -> `y` of the same shape."""
    g = GraphBuilder(seed)
    block = BertBlock(g, hidden, heads, batch, seq)
    block.attend(masked=False)
    y = block.layer("x", "layer", "y")
    return g.model("bert_layer", [("x", TensorProto.FLOAT, [batch, seq, hidden])], [(y, [batch, seq, hidden])])


class BertBlock:
    """Layers of an encoder of BERT's kind, normalised behind every residual. Where to attend comes first."""

    def __init__(self, g: GraphBuilder, hidden: int, heads: int, batch: int, seq: int) -> None:
        self.g, self.hidden, self.size = g, hidden, hidden // heads
        self.to_heads = g.shape("shape.heads", batch, seq, heads, self.size)
        self.to_hidden = g.shape("shape.hidden", batch, seq, hidden)
        self.mask: str | None = None
        self.root = ""

    def attend(self, masked: bool) -> None:
        """Attention to all tokens, or to those that `attention_mask` counts."""
        g = self.g
        if masked:
            mask = g.add("Cast", ["attention_mask"], "mask.float", to=TensorProto.FLOAT)
            mask = g.add("Unsqueeze", [mask, g.shape("mask.axes", 1, 2)], "mask.rows")
            mask = g.add("Sub", [g.scalar("one", 1), mask], "mask.off")
            self.mask = g.add("Mul", [mask, g.scalar("mask.low", -10000)], "mask")
        self.root = g.constant("root", np.sqrt(np.float32(self.size))[...])

    def norm(self, x: str, label: str) -> str:
        return self.g.layer_norm(x, label, self.hidden, 1e-12)

    def split_heads(self, x: str, label: str, order: list[int]) -> str:
        return self.g.add("Transpose", [self.g.add("Reshape", [x, self.to_heads], f"{label}.split")], label, perm=order)

    def layer(self, x: str, at: str, result: str) -> str:
        """Attention and the two products behind it; `result` is the name of what comes out."""
        g, hidden = self.g, self.hidden
        q = self.split_heads(g.linear(x, f"{at}.query", hidden, hidden), f"{at}.q", [0, 2, 1, 3])
        k = self.split_heads(g.linear(x, f"{at}.key", hidden, hidden), f"{at}.k", [0, 2, 3, 1])
        v = self.split_heads(g.linear(x, f"{at}.value", hidden, hidden), f"{at}.v", [0, 2, 1, 3])
        scores = g.add("Div", [g.add("MatMul", [q, k], f"{at}.scores"), self.root], f"{at}.scaled")
        if self.mask is not None:
            scores = g.add("Add", [scores, self.mask], f"{at}.masked")
        weights = g.add("Softmax", [scores], f"{at}.weights", axis=-1)
        mixed = g.add("Transpose", [g.add("MatMul", [weights, v], f"{at}.mixed")], f"{at}.merged", perm=[0, 2, 1, 3])
        y = g.linear(g.add("Reshape", [mixed, self.to_hidden], f"{at}.context"), f"{at}.output", hidden, hidden)
        x = self.norm(g.add("Add", [y, x], f"{at}.residual1"), f"{at}.norm1")
        y = g.add("Gelu", [g.linear(x, f"{at}.up", hidden, 4 * hidden)], f"{at}.gelu")
        y = g.linear(y, f"{at}.down", 4 * hidden, hidden, gain=1.5)
        return self.norm(g.add("Add", [y, x], f"{at}.residual2"), result)


def pre_norm_block(
    g: GraphBuilder, x: str, at: str, layers: int, hidden: int, heads: int, batch: int, seq: int, *,
    epsilon: float, gelu: Literal["none", "tanh"], causal: tuple[str, str] | None = None,
) -> str:  # fmt: skip
    """x + attention(norm(x)), then that + mlp(norm(that)); query, key and value are one product, split behind it.

    `causal` names a bool mask [1, 1, seq, seq] and the score that takes the place of what it excludes. What is
    added to x is smaller the more `layers` there are: over all of them its variance grows by about one.
    """
    size, residual = hidden // heads, 1 / np.sqrt(2 * layers)
    to_heads = g.shape(f"{at}.shape.heads", batch, seq, heads, size)
    y = g.linear(g.layer_norm(x, f"{at}.norm1", hidden, epsilon), f"{at}.qkv", hidden, 3 * hidden)
    q, k, v = (
        g.add("Transpose", [g.add("Reshape", [part, to_heads], f"{part}.split")], f"{part}.heads", perm=order)
        for part, order in zip(
            g.split(y, [f"{at}.query", f"{at}.key", f"{at}.value"], axis=2),
            ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]),
            strict=True,
        )
    )
    root = g.constant(f"{at}.root", np.sqrt(np.float32(size))[...])
    scores = g.add("Div", [g.add("MatMul", [q, k], f"{at}.scores"), root], f"{at}.scaled")
    if causal is not None:
        scores = g.add("Where", [causal[0], scores, causal[1]], f"{at}.masked")
    mixed = g.add("MatMul", [g.add("Softmax", [scores], f"{at}.weights", axis=-1), v], f"{at}.mixed")
    mixed = g.add("Transpose", [mixed], f"{at}.merged", perm=[0, 2, 1, 3])
    mixed = g.add("Reshape", [mixed, g.shape(f"{at}.shape.hidden", batch, seq, hidden)], f"{at}.context")
    x = g.add("Add", [x, g.linear(mixed, f"{at}.output", hidden, hidden, gain=residual)], f"{at}.residual1")
    y = g.linear(g.layer_norm(x, f"{at}.norm2", hidden, epsilon), f"{at}.up", hidden, 4 * hidden)
    y = g.add("Gelu", [y], f"{at}.gelu", approximate=gelu)
    y = g.linear(y, f"{at}.down", 4 * hidden, hidden, gain=1.5 * residual)
    return g.add("Add", [x, y], f"{at}.residual2")


def gpt2(
    layers: int, hidden: int, heads: int, vocabulary: int, batch: int, seq: int, head: Head, seed: int
) -> onnx.ModelProto:
    """GPT-2 (Radford et al., 2019): `layers` 12, `hidden` 768, `heads` 12, `vocabulary` 50257 are the 124M model.

    `input_ids` int64 [batch, seq], below `vocabulary` -> `logits` [batch, seq, vocabulary]. With the head `tied`
    (the published form) the product in front of the logits reads the transposed embedding, with `untied` a weight
    of its own; with `none` the output is `last_hidden_state` [batch, seq, hidden].
    """
    positions = 1024
    if seq > positions:
        raise SystemExit(f"GPT-2 has {positions} positions, --seq {seq} is longer")
    g = GraphBuilder(seed)
    words = g.normal("embeddings.word", vocabulary, hidden, std=1 / np.sqrt(hidden))
    places = g.normal("embeddings.position", positions, hidden, std=1 / np.sqrt(hidden))
    rows = g.constant("positions", np.arange(seq, dtype=np.int64)[None])
    x = g.add("Gather", [words, "input_ids"], "embeddings.words", axis=0)
    x = g.add("Add", [x, g.add("Gather", [places, rows], "embeddings.places", axis=0)], "embeddings")
    causal = g.constant("causal", np.tril(np.ones((1, 1, seq, seq), bool))), g.scalar("lowest", LOWEST)
    for layer in range(layers):
        x = pre_norm_block(
            g, x, f"layer{layer}", layers, hidden, heads, batch, seq, epsilon=1e-5, gelu="tanh", causal=causal
        )
    x = g.layer_norm(x, "last_hidden_state", hidden, 1e-5)
    inputs = [("input_ids", TensorProto.INT64, [batch, seq])]
    if head == "none":
        return g.model("gpt2", inputs, [(x, [batch, seq, hidden])])
    if head == "tied":
        weight = g.add("Transpose", [words], "head.weight", perm=[1, 0])
    else:
        weight = g.normal("head.weight", hidden, vocabulary, std=1 / np.sqrt(hidden))
    g.add("MatMul", [x, weight], "logits")
    return g.model("gpt2", inputs, [("logits", [batch, seq, vocabulary])])


def vit(
    layers: int, hidden: int, heads: int, batch: int, size: int, patch: int, classes: int, seed: int
) -> onnx.ModelProto:
    """A vision transformer (Dosovitskiy et al., arXiv 2010.11929): 12, 768, 12 at size 224, patch 16 are ViT-Base.

    `image` [batch, 3, size, size] -> `logits` [batch, classes]. Patches are embedded by a convolution; a class
    token stands in front of them.
    """
    if size % patch:
        raise SystemExit(f"--size {size} is not a multiple of the patches of {patch}")
    g = GraphBuilder(seed)
    patches = (size // patch) ** 2
    x = g.conv("image", "patches", 3, hidden, patch, stride=patch, pad=0, bias=True)
    x = g.add("Reshape", [x, g.shape("shape.patches", batch, hidden, patches)], "patches.flat")
    x = g.add("Transpose", [x], "patches.rows", perm=[0, 2, 1])
    token = g.normal("class.token", 1, 1, hidden, std=1.0)
    token = g.add("Expand", [token, g.shape("shape.token", batch, 1, hidden)], "class.tokens")
    x = g.add("Concat", [token, x], "tokens", axis=1)
    x = g.add("Add", [x, g.normal("embeddings.position", 1, patches + 1, hidden, std=0.5)], "embeddings")
    for layer in range(layers):
        x = pre_norm_block(g, x, f"layer{layer}", layers, hidden, heads, batch, patches + 1, epsilon=1e-6, gelu="none")
    x = g.layer_norm(x, "last_hidden_state", hidden, 1e-6)
    first = g.add("Gather", [x, g.constant("first", np.int64(0)[...])], "class.last", axis=1)
    w = g.normal("fc.weight", classes, hidden, std=1 / np.sqrt(hidden))
    g.add("Gemm", [first, w, g.near("fc.bias", classes, 0.0)], "logits", transB=1)
    return g.model("vit", [("image", TensorProto.FLOAT, [batch, 3, size, size])], [("logits", [batch, classes])])
