"""One step of a decoder of the Llama family: one token in, its logits and the grown cache out."""

import numpy as np
import onnx
from onnx import TensorProto

from networks.builder import GraphBuilder, Named

BASE = 10000.0  # of the rotary frequencies


def llama_step(
    layers: int, hidden: int, heads: int, kv_heads: int, inner: int, vocabulary: int, batch: int, context: int,
    seed: int,
) -> onnx.ModelProto:  # fmt: skip
    """A decoder step (Touvron et al., arXiv 2307.09288): RMS normalisation, rotary positions, grouped-query
    attention over a cache of `context` tokens, SwiGLU, an untied head.

    `input_ids` and `position_ids` int64 [batch, 1], `attention_mask` int64 [batch, context + 1], and per layer
    `past.L.key` and `past.L.value` [batch, kv_heads, context, hidden / heads] -> `logits` [batch, 1, vocabulary] and
    per layer `present.L.key` and `present.L.value`, one token longer. Positions lie in 0..context.
    """
    g = GraphBuilder(seed)
    size, group = hidden // heads, heads // kv_heads
    if hidden % heads or heads % kv_heads or size % 2:
        raise SystemExit("--hidden is a multiple of the heads, and these of the heads of keys and values")
    angles = np.arange(context + 1)[:, None] * BASE ** (-np.arange(0, size, 2) / size)
    angles = np.concatenate([angles, angles], axis=1)

    def rows(table: str, values: np.ndarray) -> str:
        """The table's row of the position, for all heads: [batch, 1, 1, size]."""
        weight = g.constant(f"rotary.{table}s", values.astype(np.float32))
        row = g.add("Gather", [weight, "position_ids"], f"rotary.{table}.row", axis=0)
        return g.add("Unsqueeze", [row, g.shape(f"rotary.{table}.axes", 1)], f"rotary.{table}")

    cos, sin = rows("cos", np.cos(angles)), rows("sin", np.sin(angles))
    low, middle, high = (
        g.shape(f"rotary.{name}", at) for name, at in (("low", 0), ("middle", size // 2), ("high", size))
    )
    last, two, epsilon = g.shape("last", -1), g.scalar("two", 2), g.scalar("epsilon", 1e-5)
    to_query, to_key = g.shape("shape.query", batch, 1, heads, size), g.shape("shape.key", batch, 1, kv_heads, size)
    between = g.shape("group.axis", 2)
    grouped = g.shape("shape.grouped", batch, kv_heads, group, context + 1, size)
    repeated = g.shape("shape.repeated", batch, heads, context + 1, size)
    to_hidden = g.shape("shape.hidden", batch, 1, hidden)
    root = g.constant("root", np.sqrt(np.float32(size))[...])

    mask = g.add("Cast", ["attention_mask"], "mask.float", to=TensorProto.FLOAT)
    mask = g.add("Unsqueeze", [mask, g.shape("mask.axes", 1, 2)], "mask.rows")
    mask = g.add("Sub", [g.scalar("one", 1), mask], "mask.off")
    mask = g.add("Mul", [mask, g.scalar("mask.low", -10000)], "mask")

    def norm(x: str, at: str) -> str:
        """x over the root of its mean square, times a scale."""
        mean = g.add("ReduceMean", [g.add("Pow", [x, two], f"{at}.square"), last], f"{at}.mean", keepdims=1)
        y = g.add("Sqrt", [g.add("Add", [mean, epsilon], f"{at}.guarded")], f"{at}.root")
        y = g.add("Mul", [x, g.add("Reciprocal", [y], f"{at}.factor")], f"{at}.normal")
        return g.add("Mul", [g.near(f"{at}.scale", hidden, 1.0), y], at)

    def linear(x: str, at: str, inputs: int, outputs: int, gain: float = 1.0) -> str:
        return g.linear(x, at, inputs, outputs, gain, bias=False)

    def to_heads(x: str, shape: str) -> str:
        return g.add("Transpose", [g.add("Reshape", [x, shape], f"{x}.split")], f"{x}.heads", perm=[0, 2, 1, 3])

    def rotate(x: str) -> str:
        """Halves of every head as the two parts of complex numbers, turned by the angles of the position."""
        left = g.add("Slice", [x, low, middle, last], f"{x}.left")
        right = g.add("Neg", [g.add("Slice", [x, middle, high, last], f"{x}.right")], f"{x}.minus")
        turned = g.add("Mul", [g.add("Concat", [right, left], f"{x}.halves", axis=-1), sin], f"{x}.sin")
        return g.add("Add", [g.add("Mul", [x, cos], f"{x}.cos"), turned], f"{x}.rotated")

    def grow(x: str, layer: int, kind: str) -> str:
        """The cache with the new token behind it: an output, and for every query head what it attends to."""
        name = f"present.{layer}.{kind}"
        g.add("Concat", [f"past.{layer}.{kind}", x], name, axis=2)
        y = g.add("Expand", [g.add("Unsqueeze", [name, between], f"{x}.single"), grouped], f"{x}.expanded")
        return g.add("Reshape", [y, repeated], f"{x}.repeated")

    x = g.add("Gather", [g.normal("embeddings", vocabulary, hidden, std=1.0), "input_ids"], "tokens", axis=0)
    residual = 1 / np.sqrt(2 * layers)
    for layer in range(layers):
        at = f"layer{layer}"
        y = norm(x, f"{at}.norm1")
        q = rotate(to_heads(linear(y, f"{at}.query", hidden, hidden), to_query))
        k = rotate(to_heads(linear(y, f"{at}.key", hidden, kv_heads * size), to_key))
        v = to_heads(linear(y, f"{at}.value", hidden, kv_heads * size), to_key)
        k, v = grow(k, layer, "key"), grow(v, layer, "value")
        scores = g.add("MatMul", [q, g.add("Transpose", [k], f"{at}.columns", perm=[0, 1, 3, 2])], f"{at}.scores")
        scores = g.add("Add", [g.add("Div", [scores, root], f"{at}.scaled"), mask], f"{at}.masked")
        mixed = g.add("MatMul", [g.add("Softmax", [scores], f"{at}.weights", axis=-1), v], f"{at}.mixed")
        mixed = g.add("Transpose", [mixed], f"{at}.merged", perm=[0, 2, 1, 3])
        mixed = g.add("Reshape", [mixed, to_hidden], f"{at}.context")
        y = linear(mixed, f"{at}.output", hidden, hidden, residual)
        x = g.add("Add", [x, y], f"{at}.residual1")
        y = norm(x, f"{at}.norm2")
        gate = linear(y, f"{at}.gate", hidden, inner)
        gate = g.add("Mul", [gate, g.add("Sigmoid", [gate], f"{at}.sigmoid")], f"{at}.swish")
        y = g.add("Mul", [gate, linear(y, f"{at}.up", hidden, inner)], f"{at}.gated")
        x = g.add("Add", [x, linear(y, f"{at}.down", inner, hidden, 1.7 * residual)], f"{at}.residual2")
    linear(norm(x, "norm"), "logits", hidden, vocabulary)

    caches = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    inputs = [(name, TensorProto.INT64, [batch, 1]) for name in ("input_ids", "position_ids")]
    inputs.append(("attention_mask", TensorProto.INT64, [batch, context + 1]))
    inputs += [(f"past.{cache}", TensorProto.FLOAT, [batch, kv_heads, context, size]) for cache in caches]
    outputs: list[Named] = [("logits", [batch, 1, vocabulary])]
    outputs += [(f"present.{cache}", [batch, kv_heads, context + 1, size]) for cache in caches]
    return g.model("llama-step", inputs, outputs)
