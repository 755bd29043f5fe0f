"""Sequence models: the encoder of Whisper, the decoder of T5, Mamba, and a decoder that writes tokens in a loop."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from networks.builder import GraphBuilder, Named
from networks.transformers import LOWEST, pre_norm_block


def whisper_encoder(
    layers: int, hidden: int, heads: int, mels: int, frames: int, batch: int, seed: int
) -> onnx.ModelProto:
    """The encoder of Whisper (Radford et al., arXiv 2212.04356): 4, 384, 6, 80, 3000 are its tiny one.

    `mel` [batch, mels, frames] -> `last_hidden_state` [batch, frames / 2, hidden]. Two convolutions over time, the
    second with stride 2, sinusoids for positions, layers normalised in front.
    """
    g = GraphBuilder(seed)
    x, inputs = "mel", mels
    for i, stride in ((1, 1), (2, 2)):
        w = g.normal(f"conv{i}.weight", hidden, inputs, 3, std=1.4 / np.sqrt(3 * inputs))
        b = g.near(f"conv{i}.bias", hidden, 0.0)
        x = g.add("Conv", [x, w, b], f"conv{i}", kernel_shape=[3], strides=[stride], pads=[1, 1])
        x, inputs = g.add("Gelu", [x], f"gelu{i}"), hidden
    seq = frames // 2
    angles = np.arange(seq)[:, None] * np.exp(-np.log(10000.0) * np.arange(hidden // 2) / (hidden // 2 - 1))
    places = g.constant("positions", np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32))
    x = g.add("Add", [g.add("Transpose", [x], "frames", perm=[0, 2, 1]), places], "embeddings")
    for layer in range(layers):
        x = pre_norm_block(g, x, f"layer{layer}", layers, hidden, heads, batch, seq, epsilon=1e-5, gelu="none")
    x = g.layer_norm(x, "last_hidden_state", hidden, 1e-5)
    return g.model("whisper", [("mel", TensorProto.FLOAT, [batch, mels, frames])], [(x, [batch, seq, hidden])])


def t5_decoder(
    layers: int, hidden: int, heads: int, inner: int, vocabulary: int, seq: int, source: int, batch: int, seed: int
) -> onnx.ModelProto:
    """The decoder of T5 (Raffel et al., arXiv 1910.10683): 6, 512, 8, 2048, 32128 are T5-small's.

    `input_ids` int64 [batch, seq] and `encoder_hidden_states` [batch, source, hidden] -> `logits` [batch, seq,
    vocabulary]. RMS norms, scores that are not scaled, a bias by the distance of two tokens that all layers share,
    attention to the encoder's states, a head tied to the embedding.
    """
    g = GraphBuilder(seed)
    size = hidden // heads
    last, two, epsilon = g.shape("last", -1), g.scalar("two", 2), g.scalar("epsilon", 1e-6)
    distance = np.maximum(np.arange(seq)[:, None] - np.arange(seq)[None], 0)
    far = 16 + (np.log(np.maximum(distance, 1) / 16) / np.log(128 / 16) * 16).astype(np.int64)
    buckets = g.constant("buckets", np.where(distance < 16, distance, np.minimum(far, 31)).astype(np.int64))
    bias = g.add("Gather", [g.normal("relative", 32, heads, std=0.3), buckets], "bias.rows", axis=0)
    bias = g.add("Unsqueeze", [g.add("Transpose", [bias], "bias.heads", perm=[2, 0, 1]), g.shape("one", 0)], "bias")
    mask = g.constant("causal", np.tril(np.ones((1, 1, seq, seq), bool)))
    lowest = g.scalar("lowest", LOWEST)

    def norm(x: str, at: str) -> str:
        mean = g.add("ReduceMean", [g.add("Pow", [x, two], f"{at}.square"), last], f"{at}.mean", keepdims=1)
        root = g.add("Sqrt", [g.add("Add", [mean, epsilon], f"{at}.guarded")], f"{at}.root")
        return g.add("Mul", [g.near(f"{at}.scale", hidden, 1.0), g.add("Div", [x, root], f"{at}.normal")], at)

    def attend(x: str, other: str, length: int, at: str, own: bool) -> str:
        def heads_of(value: str, kind: str, count: int, perm: list[int], gain: float = 1.0) -> str:
            y = g.linear(value, f"{at}.{kind}", hidden, hidden, gain, bias=False)
            y = g.add("Reshape", [y, g.shape(f"{at}.{kind}.shape", batch, count, heads, size)], f"{at}.{kind}.split")
            return g.add("Transpose", [y], f"{at}.{kind}.heads", perm=perm)

        q = heads_of(x, "query", seq, [0, 2, 1, 3], size**-0.5)
        k = heads_of(other, "key", length, [0, 2, 3, 1])
        v = heads_of(other, "value", length, [0, 2, 1, 3])
        scores = g.add("MatMul", [q, k], f"{at}.scores")
        if own:
            scores = g.add("Add", [scores, bias], f"{at}.biased")
            scores = g.add("Where", [mask, scores, lowest], f"{at}.masked")
        mixed = g.add("MatMul", [g.add("Softmax", [scores], f"{at}.weights", axis=-1), v], f"{at}.mixed")
        mixed = g.add("Transpose", [mixed], f"{at}.merged", perm=[0, 2, 1, 3])
        mixed = g.add("Reshape", [mixed, g.shape(f"{at}.shape", batch, seq, hidden)], f"{at}.context")
        return g.linear(mixed, f"{at}.output", hidden, hidden, 0.5, bias=False)

    words = g.normal("embeddings", vocabulary, hidden, std=1.0)
    x = g.add("Gather", [words, "input_ids"], "tokens", axis=0)
    for layer in range(layers):
        at = f"layer{layer}"
        y = norm(x, f"{at}.norm1")
        x = g.add("Add", [x, attend(y, y, seq, f"{at}.self", True)], f"{at}.residual1")
        y = attend(norm(x, f"{at}.norm2"), "encoder_hidden_states", source, f"{at}.cross", False)
        x = g.add("Add", [x, y], f"{at}.residual2")
        y = g.add("Relu", [g.linear(norm(x, f"{at}.norm3"), f"{at}.up", hidden, inner, bias=False)], f"{at}.relu")
        x = g.add("Add", [x, g.linear(y, f"{at}.down", inner, hidden, 0.7, bias=False)], f"{at}.residual3")
    x = g.add("Mul", [norm(x, "norm"), g.scalar("tied", hidden**-0.5)], "scaled")
    g.add("MatMul", [x, g.add("Transpose", [words], "head", perm=[1, 0])], "logits")
    inputs = [
        ("input_ids", TensorProto.INT64, [batch, seq]),
        ("encoder_hidden_states", TensorProto.FLOAT, [batch, source, hidden]),
    ]
    return g.model("t5-decoder", inputs, [("logits", [batch, seq, vocabulary])])


def mamba(layers: int, hidden: int, states: int, vocabulary: int, seq: int, batch: int, seed: int) -> onnx.ModelProto:
    """Mamba (Gu and Dao, arXiv 2312.00752): 24, 768, 16, 50280 are the model of 130M parameters.

    `input_ids` int64 [batch, seq] -> `logits` [batch, seq, vocabulary]. The selective scan is a Scan over tokens that
    carries [batch, 2 hidden, states].
    """
    g = GraphBuilder(seed)
    inner, rank = 2 * hidden, -(-hidden // 16)
    last, two, epsilon = g.shape("last", -1), g.scalar("two", 2), g.scalar("epsilon", 1e-5)
    words = g.normal("embeddings", vocabulary, hidden, std=1.0)
    x = g.add("Gather", [words, "input_ids"], "tokens", axis=0)

    def norm(x: str, at: str) -> str:
        mean = g.add("ReduceMean", [g.add("Pow", [x, two], f"{at}.square"), last], f"{at}.mean", keepdims=1)
        root = g.add("Sqrt", [g.add("Add", [mean, epsilon], f"{at}.guarded")], f"{at}.root")
        return g.add("Mul", [g.near(f"{at}.scale", hidden, 1.0), g.add("Div", [x, root], f"{at}.normal")], at)

    def part(x: str, name: str, begin: int, end: int) -> str:
        bounds = [g.shape(f"{name}.begin", begin), g.shape(f"{name}.end", end)]
        return g.add("Slice", [x, *bounds, last], name)

    def by_token(x: str) -> str:
        return g.add("Transpose", [x], f"{x}.tokens", perm=[1, 0, 2])

    for layer in range(layers):
        at = f"layer{layer}"
        both = g.linear(norm(x, f"{at}.norm"), f"{at}.in", hidden, 2 * inner, bias=False)
        u, gate = g.split(both, [f"{at}.u", f"{at}.gate"], axis=2)
        u = g.add("Transpose", [u], f"{at}.channels", perm=[0, 2, 1])
        w = g.normal(f"{at}.conv.weight", inner, 1, 4, std=0.6)
        u = g.add("Conv", [u, w, g.near(f"{at}.conv.bias", inner, 0.0)], f"{at}.conv", kernel_shape=[4],
                  pads=[3, 0], group=inner)  # fmt: skip
        u = g.add("Transpose", [g.add("Mul", [u, g.add("Sigmoid", [u], f"{at}.sigmoid")], f"{at}.silu")],
                  f"{at}.rows", perm=[0, 2, 1])  # fmt: skip
        chosen = g.linear(u, f"{at}.select", inner, rank + 2 * states, bias=False)
        delta = g.linear(part(chosen, f"{at}.rank", 0, rank), f"{at}.delta", rank, inner)
        delta = g.add("Softplus", [delta], f"{at}.step")
        b = part(chosen, f"{at}.b", rank, rank + states)
        c = part(chosen, f"{at}.c", rank + states, rank + 2 * states)
        a = g.constant(f"{at}.a", -np.tile(np.arange(1, states + 1, dtype=np.float32), (inner, 1)))
        zero = g.constant(f"{at}.zero", np.zeros((batch, inner, states), np.float32))
        body = _selection(at, a, batch, inner, states)
        scanned = [by_token(v) for v in (delta, u, b, c)]
        g.nodes.append(
            helper.make_node(
                "Scan", [zero, *scanned], [f"{at}.end", f"{at}.scan"], name=f"{at}.scan", body=body, num_scan_inputs=4
            )
        )
        y = g.add("Transpose", [f"{at}.scan"], f"{at}.scanned", perm=[1, 0, 2])
        y = g.add("Add", [y, g.add("Mul", [u, g.near(f"{at}.d", inner, 1.0)], f"{at}.skip")], f"{at}.both")
        gate = g.add("Mul", [gate, g.add("Sigmoid", [gate], f"{at}.gate.sigmoid")], f"{at}.gate.silu")
        y = g.linear(g.add("Mul", [y, gate], f"{at}.gated"), f"{at}.out", inner, hidden, 0.5, bias=False)
        x = g.add("Add", [x, y], f"{at}.residual")
    g.add("MatMul", [norm(x, "norm"), g.add("Transpose", [words], "head", perm=[1, 0])], "wide")
    g.add("Mul", ["wide", g.scalar("tied", hidden**-0.5)], "logits")
    return g.model("mamba", [("input_ids", TensorProto.INT64, [batch, seq])], [("logits", [batch, seq, vocabulary])])


def _selection(at: str, a: str, batch: int, inner: int, states: int) -> onnx.GraphProto:
    """One token: the state decays by exp(delta a), takes delta b u, and is read through c."""
    g = GraphBuilder(0)
    column, row = g.shape(f"{at}.column", 2), g.shape(f"{at}.row", 1)
    step = g.add("Unsqueeze", [f"{at}.t.delta", column], f"{at}.t.step")
    decay = g.add("Exp", [g.add("Mul", [step, a], f"{at}.t.rate")], f"{at}.t.decay")
    drive = g.add("Mul", [f"{at}.t.delta", f"{at}.t.u"], f"{at}.t.drive")
    taken = g.add("Mul", [g.add("Unsqueeze", [drive, column], f"{at}.t.column"),
                          g.add("Unsqueeze", [f"{at}.t.b", row], f"{at}.t.row")], f"{at}.t.taken")  # fmt: skip
    kept = g.add("Mul", [decay, f"{at}.t.h"], f"{at}.t.kept")
    h = g.add("Add", [kept, taken], f"{at}.t.next")
    y = g.add("MatMul", [h, g.add("Unsqueeze", [f"{at}.t.c", column], f"{at}.t.read")], f"{at}.t.out")
    y = g.add("Squeeze", [y, column], f"{at}.t.y")
    values: list[tuple[str, list[int]]] = [
        (f"{at}.t.h", [batch, inner, states]), (f"{at}.t.delta", [batch, inner]), (f"{at}.t.u", [batch, inner]),
        (f"{at}.t.b", [batch, states]), (f"{at}.t.c", [batch, states]),
    ]  # fmt: skip
    return _body(f"{at}.token", g, values, [(h, [batch, inner, states]), (y, [batch, inner])])


def generate(
    layers: int, hidden: int, heads: int, vocabulary: int, tokens: int, end: int | None, seed: int
) -> onnx.ModelProto:
    """A decoder with a cache of keys and values that writes `tokens` tokens in a Loop, each the likeliest.

    `first` int64 [1] -> `written` int64 [tokens, 1] and the caches `keys` and `values` [layers, heads, tokens, hidden /
    heads]. With `end` the loop goes on until that token is written: `written` then is as long as it took.
    """
    g = GraphBuilder(seed)
    size, residual = hidden // heads, 1 / np.sqrt(2 * layers)
    words = g.normal("embeddings", vocabulary, hidden, std=1.0)
    places = g.normal("positions", tokens, hidden, std=1.0)
    head = g.normal("head", hidden, vocabulary, std=1 / np.sqrt(hidden))
    empty = g.constant("empty", np.zeros((layers, heads, tokens, size), np.float32))
    go, most = g.constant("go", np.bool_(True)[...]), g.constant("most", np.int64(tokens)[...])
    numbers = g.constant("numbers", np.arange(tokens, dtype=np.int64))
    lowest, root = g.scalar("lowest", LOWEST), g.scalar("root", np.sqrt(size))
    axes, to_heads = g.shape("axes", 0), g.shape("shape.heads", heads, 1, size)
    to_row, as_mask = g.shape("shape.row", 1, hidden), g.shape("shape.mask", 1, tokens, 1)
    outer, g.nodes = g.nodes, []
    now = g.add("Reshape", [g.add("Equal", [numbers, "i"], "now"), as_mask], "now.rows")
    past = g.add("Reshape", [g.add("LessOrEqual", [numbers, "i"], "past"), g.shape("flat", 1, 1, tokens)], "past.row")
    at = g.add("Unsqueeze", ["i", axes], "place")
    x = g.add("Add", [g.add("Gather", [words, "token"], "word", axis=0),
                      g.add("Gather", [places, at], "where", axis=0)], "embedded")  # fmt: skip
    grown: dict[str, list[str]] = {"key": [], "value": []}
    for layer in range(layers):
        name = f"layer{layer}"
        qkv = g.linear(g.layer_norm(x, f"{name}.norm1", hidden, 1e-5), f"{name}.qkv", hidden, 3 * hidden)
        parts = g.split(qkv, [f"{name}.query", f"{name}.key", f"{name}.value"], axis=1)
        q, k, v = (g.add("Reshape", [part, to_heads], f"{part}.heads") for part in parts)
        index = g.constant(f"{name}.index", np.int64(layer)[...])
        for kind, new in (("key", k), ("value", v)):
            old = g.add("Gather", [f"{kind}s.in", index], f"{name}.{kind}.cache", axis=0)
            grown[kind].append(g.add("Where", [now, new, old], f"{name}.{kind}.grown"))
        keys = g.add("Transpose", [grown["key"][-1]], f"{name}.columns", perm=[0, 2, 1])
        scores = g.add("Div", [g.add("MatMul", [q, keys], f"{name}.scores"), root], f"{name}.scaled")
        scores = g.add("Where", [past, scores, lowest], f"{name}.masked")
        mixed = g.add("MatMul", [g.add("Softmax", [scores], f"{name}.weights", axis=-1), grown["value"][-1]],
                      f"{name}.mixed")  # fmt: skip
        y = g.linear(g.add("Reshape", [mixed, to_row], f"{name}.context"), f"{name}.output", hidden, hidden, residual)
        x = g.add("Add", [x, y], f"{name}.residual1")
        y = g.add("Gelu", [g.linear(g.layer_norm(x, f"{name}.norm2", hidden, 1e-5), f"{name}.up", hidden, 4 * hidden)],
                  f"{name}.gelu")  # fmt: skip
        x = g.add("Add", [x, g.linear(y, f"{name}.down", 4 * hidden, hidden, 1.5 * residual)], f"{name}.residual2")
    for kind, caches in grown.items():
        rows = [g.add("Unsqueeze", [c, axes], f"{c}.layer") for c in caches]
        g.add("Concat", rows, f"{kind}s.out", axis=0)
    logits = g.add("MatMul", [g.layer_norm(x, "norm", hidden, 1e-5), head], "logits")
    g.add("ArgMax", [logits], "next", axis=1, keepdims=0)
    if end is None:
        g.add("Identity", ["more"], "again")
    else:
        stop = g.constant("end", np.array([end], np.int64))
        unlike = g.add("Not", [g.add("Equal", ["next", stop], "ended")], "goes_on")
        g.add("Squeeze", [unlike, axes], "again")
    cache = [layers, heads, tokens, size]
    body, g.nodes = g.nodes, outer
    formal = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("more", TensorProto.BOOL, []),
        helper.make_tensor_value_info("token", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("keys.in", TensorProto.FLOAT, cache),
        helper.make_tensor_value_info("values.in", TensorProto.FLOAT, cache),
    ]
    body.append(helper.make_node("Identity", ["next"], ["written.token"], name="written.token"))
    results = [
        helper.make_tensor_value_info("again", TensorProto.BOOL, []),
        helper.make_tensor_value_info("next", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("keys.out", TensorProto.FLOAT, cache),
        helper.make_tensor_value_info("values.out", TensorProto.FLOAT, cache),
        helper.make_tensor_value_info("written.token", TensorProto.INT64, [1]),
    ]
    step = helper.make_graph(body, "token", formal, results)
    g.nodes.append(
        helper.make_node(
            "Loop", [most, go, "first", empty, empty], ["last", "keys", "values", "written"], name="tokens", body=step
        )
    )
    model = g.model("generate", [("first", TensorProto.INT64, [1])], [("keys", cache), ("values", cache)])
    written = helper.make_tensor_value_info("written", TensorProto.INT64, [tokens if end is None else "length", 1])
    model.graph.output.insert(0, written)
    return model


def _body(name: str, g: GraphBuilder, inputs: list[tuple[str, list[int]]], outputs: list[Named]) -> onnx.GraphProto:
    def typed(values: list[tuple[str, list[int]]] | list[Named]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape) for value, shape in values]

    return helper.make_graph(g.nodes, name, typed(inputs), typed(outputs), g.weights)
