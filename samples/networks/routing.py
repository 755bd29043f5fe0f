"""Networks whose data says what is read: graph attention, a mixture of experts, a detector."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from networks.builder import GraphBuilder


def graph_attention(nodes: int, edges: int, features: int, hidden: int, heads: int, classes: int, seed: int
                    ) -> onnx.ModelProto:  # fmt: skip
    """Two layers of graph attention (Velickovic et al., arXiv 1710.10903); 2708, 10556, 1433, 8, 8, 7 are Cora's.

    `x` [nodes, features] and `edges` int64 [2, edges], from and to -> `y` [nodes, classes]. Weights of edges are a
    softmax over those that end in one node, by scatters of their maximum and their sum.
    """
    g = GraphBuilder(seed)
    at_from = g.add("Gather", ["edges", g.constant("row0", np.int64(0)[...])], "from", axis=0)
    at_to = g.add("Gather", ["edges", g.constant("row1", np.int64(1)[...])], "to", axis=0)
    column = g.shape("column", 1)
    to_rows = g.add("Unsqueeze", [at_to, column], "to.rows")

    def layer(x: str, name: str, inputs: int, size: int, count: int) -> str:
        h = g.linear(x, f"{name}.linear", inputs, count * size, bias=False)
        h = g.add("Reshape", [h, g.shape(f"{name}.shape", nodes, count, size)], f"{name}.heads")
        scores = []
        for side, at in (("from", at_from), ("to", at_to)):
            weight = g.normal(f"{name}.{side}.weight", 1, count, size, std=size**-0.5)
            parts, axis = g.add("Mul", [h, weight], f"{name}.{side}.parts"), g.shape(f"{name}.{side}.axis", 2)
            own = g.add("ReduceSum", [parts, axis], f"{name}.{side}.score", keepdims=0)
            scores.append(g.add("Gather", [own, at], f"{name}.{side}.edges", axis=0))
        e = g.add("LeakyRelu", [g.add("Add", scores, f"{name}.sum")], f"{name}.scores", alpha=0.2)
        index = g.add("Expand", [to_rows, g.shape(f"{name}.edges", edges, count)], f"{name}.index")
        low = g.constant(f"{name}.low", np.full((nodes, count), -1e30, np.float32))
        top = g.add("ScatterElements", [low, index, e], f"{name}.top", axis=0, reduction="max")
        e = g.add("Sub", [e, g.add("Gather", [top, at_to], f"{name}.top.edges", axis=0)], f"{name}.shifted")
        e = g.add("Exp", [e], f"{name}.exp")
        none = g.constant(f"{name}.none", np.zeros((nodes, count), np.float32))
        whole = g.add("ScatterElements", [none, index, e], f"{name}.total", axis=0, reduction="add")
        e = g.add("Div", [e, g.add("Gather", [whole, at_to], f"{name}.total.edges", axis=0)], f"{name}.weights")
        sent = g.add("Gather", [h, at_from], f"{name}.sent", axis=0)
        each = g.add("Unsqueeze", [e, g.shape(f"{name}.last", 2)], f"{name}.each")
        sent = g.add("Mul", [sent, each], f"{name}.weighted")
        zero = g.constant(f"{name}.zero", np.zeros((nodes, count, size), np.float32))
        return g.add("ScatterND", [zero, to_rows, sent], f"{name}.received", reduction="add")

    y = g.add(
        "Reshape", [layer("x", "layer0", features, hidden, heads), g.shape("joined", nodes, heads * hidden)], "flat"
    )
    y = layer(g.add("Elu", [y], "elu"), "layer1", heads * hidden, classes, 1)
    y = g.add("Squeeze", [y, column], "logits")
    g.add("Softmax", [y], "y", axis=1)
    inputs = [("x", TensorProto.FLOAT, [nodes, features]), ("edges", TensorProto.INT64, [2, edges])]
    return g.model("graph-attention", inputs, [("y", [nodes, classes])])


def experts(tokens: int, hidden: int, inner: int, count: int, seed: int) -> onnx.ModelProto:
    """A sparsely gated layer (Shazeer et al., arXiv 1701.06538), with the two best of `count` experts for each token.

    `x` [tokens, hidden] -> `y` of the same shape. All experts compute all tokens, as on a machine that cannot send
    tokens to experts while it runs; those that were not chosen weigh nothing.
    """
    g = GraphBuilder(seed)
    logits = g.linear("x", "router", hidden, count, bias=False)
    g.nodes.append(helper.make_node("TopK", [logits, g.shape("two", 2)], ["best", "which"], name="best", axis=1))
    weights = g.add("Softmax", ["best"], "weights", axis=1)
    none = g.constant("none", np.zeros((tokens, count), np.float32))
    gates = g.add("ScatterElements", [none, "which", weights], "gates", axis=1)
    up = g.normal("up", count, hidden, inner, std=hidden**-0.5)
    gate = g.normal("gate", count, hidden, inner, std=hidden**-0.5)
    down = g.normal("down", count, inner, hidden, std=inner**-0.5)
    h = g.add("Einsum", ["x", gate], "gated", equation="th,ehi->eti")
    h = g.add("Mul", [h, g.add("Sigmoid", [h], "sigmoid")], "silu")
    h = g.add("Mul", [h, g.add("Einsum", ["x", up], "wide", equation="th,ehi->eti")], "inner")
    y = g.add("Einsum", [h, down], "each", equation="eti,eih->eth")
    g.add("Einsum", [y, gates], "y", equation="eth,te->th")
    return g.model("experts", [("x", TensorProto.FLOAT, [tokens, hidden])], [("y", [tokens, hidden])])


def detector(size: int, width: int, classes: int, boxes: int, batch: int, seed: int) -> onnx.ModelProto:
    """A detector of one scale: convolutions, boxes and scores for every place, the best `boxes` of each class without
    those that overlap better ones.

    `image` [batch, 3, size, size] -> `found` [batch, count, 6]: the `boxes` best places as x, y, x, y, score, class,
    and `selected` int64 [n, 3]: image, class and place of what is left behind non-maximum suppression of those.
    """
    g = GraphBuilder(seed)
    x, inputs = "image", 3
    for i, channels in enumerate((width, 2 * width, 4 * width)):
        x = g.conv(x, f"conv{i}", inputs, channels, 3, stride=2, gain=1.4)
        x, inputs = g.add("Relu", [g.batch_norm(x, f"norm{i}", channels)], f"relu{i}"), channels
    side = size // 8
    places = side * side
    y = g.conv(x, "head", inputs, 4 + classes, 1, pad=0, bias=True)
    y = g.add("Reshape", [y, g.shape("shape.places", batch, 4 + classes, places)], "places")
    y = g.add("Transpose", [y], "rows", perm=[0, 2, 1])
    last = g.shape("last", 2)
    offsets = g.add("Slice", [y, g.shape("zero", 0), g.shape("four", 4), last], "offsets")
    scores = g.add("Slice", [y, g.shape("four.begin", 4), g.shape("end", 4 + classes), last], "logits")
    scores = g.add("Sigmoid", [scores], "scores")
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    centre = ((np.stack([columns, rows], -1).reshape(1, places, 2) + 0.5) * 8).astype(np.float32)
    corner = g.constant("places.centre", np.concatenate([centre - 12, centre + 12], axis=-1))
    moved = g.add("Mul", [g.add("Tanh", [offsets], "tanh"), g.scalar("reach", 6.0)], "moved")
    all_boxes = g.add("Add", [corner, moved], "boxes")
    best = g.add("ReduceMax", [scores, last], "best", keepdims=0)
    g.nodes.append(helper.make_node("TopK", [best, g.shape("count", boxes)], ["top", "which"], name="top", axis=1))
    wide = g.add("Unsqueeze", ["which", last], "which.rows")
    boxes_of = g.add("Expand", [wide, g.shape("wide.boxes", batch, boxes, 4)], "which.boxes")
    kept = g.add("GatherElements", [all_boxes, boxes_of], "kept.boxes", axis=1)
    marks_of = g.add("Expand", [wide, g.shape("wide.scores", batch, boxes, classes)], "which.scores")
    marks = g.add("GatherElements", [scores, marks_of], "kept.scores", axis=1)
    kind = g.add("Cast", [g.add("ArgMax", [marks], "class", axis=2, keepdims=1)], "class.float", to=TensorProto.FLOAT)
    g.add("Concat", [kept, g.add("Unsqueeze", ["top", last], "top.rows"), kind], "found", axis=2)
    by_class = g.add("Transpose", [marks], "marks.classes", perm=[0, 2, 1])
    g.nodes.append(
        helper.make_node(
            "NonMaxSuppression",
            [kept, by_class, g.constant("most", np.array([boxes], np.int64)), g.scalar("overlap", 0.5),
             g.scalar("least", 0.3)],
            ["selected"], name="selected",
        )
    )  # fmt: skip
    model = g.model("detector", [("image", TensorProto.FLOAT, [batch, 3, size, size])], [("found", [batch, boxes, 6])])
    model.graph.output.append(helper.make_tensor_value_info("selected", TensorProto.INT64, ["n", 3]))
    return model
