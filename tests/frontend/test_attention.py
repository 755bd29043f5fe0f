"""Attention written out: the numbers of its definition, over all its forms."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from ipucc.diagnostics import CompileError
from ipucc.frontend import load_model

B, HEADS, GROUPS, Q, K, FEATURES, V_FEATURES, PAST = 2, 4, 2, 3, 5, 8, 6, 2
MASKS = {"none": None, "float": [Q, K], "bool": [B, 1, Q, K], "short": [1, K - 2], "rank1": [K]}


def attention(
    *,
    rank: int = 4,
    kv_heads: int = HEADS,
    mask: str = "none",
    past: bool = False,
    outputs: int = 1,
    opset: int = 26,
    **attributes: object,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one Attention node, and inputs for it."""
    random = np.random.default_rng(0)
    past_length = PAST if past else 0

    def floats(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    if rank == 3:
        feeds = {"q": floats(B, Q, HEADS * FEATURES), "k": floats(B, K, kv_heads * FEATURES)}
        feeds["v"] = floats(B, K, kv_heads * V_FEATURES)
        attributes |= {"q_num_heads": HEADS, "kv_num_heads": kv_heads}
    else:
        feeds = {"q": floats(B, HEADS, Q, FEATURES), "k": floats(B, kv_heads, K, FEATURES)}
        feeds["v"] = floats(B, kv_heads, K, V_FEATURES)
    names = ["q", "k", "v", "", "", ""]
    if (shape := MASKS[mask]) is not None:
        shape = [*shape[:-1], shape[-1] + past_length]
        feeds["m"] = random.random(shape) > 0.4 if mask == "bool" else floats(*shape)
        names[3] = "m"
    if past:
        feeds["pk"], feeds["pv"] = floats(B, kv_heads, PAST, FEATURES), floats(B, kv_heads, PAST, V_FEATURES)
        names[4:6] = ["pk", "pv"]
    while not names[-1]:
        names.pop()
    results = ["y", "present_k", "present_v", "scores"][:outputs]
    node = helper.make_node("Attention", names, results, "att", **attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
    graph = helper.make_graph([node], "g", inputs, ends)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), feeds


def expected(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The definition of the op in float64, row by row; nothing of it is taken from the code under test."""
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.graph.node[0].attribute}
    q, k, v = (feeds[name].astype(np.float64) for name in "qkv")
    rank = q.ndim
    if rank == 3:
        q = q.reshape(B, Q, attributes["q_num_heads"], -1).transpose(0, 2, 1, 3)
        k, v = (x.reshape(B, K, attributes["kv_num_heads"], -1).transpose(0, 2, 1, 3) for x in (k, v))
    past = 0
    if "pk" in feeds:
        k, v = np.concatenate([feeds["pk"], k], 2), np.concatenate([feeds["pv"], v], 2)
        past = PAST
    present_k, present_v = k, v
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], 1) for x in (k, v))
    total = k.shape[2]
    raw = attributes.get("scale", FEATURES**-0.5) * np.einsum("bhqf,bhkf->bhqk", q, k)
    softcap = attributes.get("softcap", 0)
    capped = softcap * np.tanh(raw / softcap) if softcap else raw
    bias = np.zeros((B, HEADS, Q, total))
    if "m" in feeds:
        mask = feeds["m"]
        mask = np.where(mask, 0, -np.inf) if mask.dtype == np.bool_ else mask
        padded = np.full((*mask.shape[:-1], total), -np.inf)
        padded[..., : mask.shape[-1]] = mask
        bias = bias + padded
    filled = feeds.get("filled", np.full(B, total))
    left, right = attributes.get("left_window_size", -1), attributes.get("right_window_size", -1)
    for b, i, j in itertools.product(range(B), range(Q), range(total)):
        place = i + (filled[b] - Q if "filled" in feeds else past)
        hidden = j >= filled[b] or (attributes.get("is_causal", 0) and j > place)
        if hidden or (left >= 0 and j < place - left) or (right >= 0 and j > place + right):
            bias[b, :, i, j] = -np.inf
    biased = capped + bias
    weights = np.zeros_like(biased)
    for row in itertools.product(range(B), range(HEADS), range(Q)):
        if not np.isneginf(bias[row]).all():
            exponentials = np.exp(biased[row] - biased[row].max())
            weights[row] = exponentials / exponentials.sum()
    y = weights @ v
    if rank == 3:
        y = y.transpose(0, 2, 1, 3).reshape(B, Q, -1)
    shown = [raw, capped, biased, weights][attributes.get("qk_matmul_output_mode", 0)]
    return [y, present_k, present_v, shown][: len(proto.graph.output)]


def check(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> ir.Model:
    model = load_model(proto)
    assert all(node.op_type != "Attention" for node in model.graph)
    assert [value.name for value in model.graph.outputs] == [value.name for value in proto.graph.output]
    with np.errstate(invalid="ignore"):
        got = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)
    for left, right in zip(got, expected(proto, feeds), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-5, atol=2e-6)
    return model


@pytest.mark.parametrize("kv_heads", [HEADS, GROUPS])
@pytest.mark.parametrize("mask", ["none", "float", "bool"])
def test_the_definition_agrees_with_onnxruntime(kv_heads: int, mask: str) -> None:
    proto, feeds = attention(rank=3, kv_heads=kv_heads, mask=mask, past=True, outputs=3, opset=23)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for got, wanted in zip(session.run(None, feeds), expected(proto, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("rank", "kv_heads", "mask", "causal", "past"),
    list(itertools.product((3, 4), (HEADS, GROUPS, 1), MASKS, (0, 1), (False, True))),
)
def test_all_forms(rank: int, kv_heads: int, mask: str, causal: int, past: bool) -> None:
    check(*attention(rank=rank, kv_heads=kv_heads, mask=mask, past=past, is_causal=causal))


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_the_scores_that_can_be_shown(mode: int) -> None:
    check(*attention(mask="float", past=True, outputs=4, softcap=2.0, qk_matmul_output_mode=mode))


@pytest.mark.parametrize("attributes", [{"scale": 0.5}, {"softcap": 3.0}, {"softmax_precision": 11}])
def test_attributes(attributes: dict[str, float]) -> None:
    check(*attention(mask="float", **attributes))


@pytest.mark.parametrize(("left", "right"), [(1, -1), (-1, 1), (2, 0), (0, 0)])
def test_windows(left: int, right: int) -> None:
    check(*attention(past=True, left_window_size=left, right_window_size=right))


@pytest.mark.parametrize("causal", [0, 1])
def test_an_outer_cache(causal: int) -> None:
    proto, feeds = attention(is_causal=causal)
    proto.graph.node[0].input.extend(["", "", "", "filled"])
    proto.graph.input.append(helper.make_tensor_value_info("filled", TensorProto.INT64, [B]))
    feeds["filled"] = np.array([4, 2])
    check(proto, feeds)


def test_a_row_without_keys_is_zero() -> None:
    proto, feeds = attention(mask="bool")
    feeds["m"][0, 0, 1] = False
    model = check(proto, feeds)
    with np.errstate(invalid="ignore"):
        (y,) = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)
    assert np.all(y[0, :, 1] == 0)
    assert np.isfinite(y).all()


@pytest.mark.parametrize(("scale", "count"), [(0.25, 1), (0.3, 2)])
def test_half_precision_scales_as_exactly_as_the_definition(scale: float, count: int) -> None:
    proto, feeds = attention(scale=scale)
    for value in proto.graph.input:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model = load_model(proto)
    assert [node.op_type for node in model.graph].count("Mul") == count
    halves = {name: array.astype(np.float16) for name, array in feeds.items()}
    (got,) = ReferenceEvaluator(ir.to_proto(model)).run(None, halves)
    (wanted,) = ReferenceEvaluator(proto).run(None, halves)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)


def test_constant_masks_need_no_guard() -> None:
    model = check(*attention(is_causal=1))
    assert "Where" not in {node.op_type for node in model.graph}


def test_opset_23_means_the_same() -> None:
    check(*attention(rank=3, kv_heads=GROUPS, mask="bool", is_causal=1, opset=23))


def test_the_origin_is_the_attention_node() -> None:
    model = load_model(attention(rank=3)[0])
    assert {node.metadata_props["ipucc.origin"] for node in model.graph} == {"att"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kv_heads": 3}, "evenly"),
        ({"qk_matmul_output_mode": 7}, "qk_matmul_output_mode"),
    ],
)
def test_forms_that_do_not_exist(change: dict[str, int], text: str) -> None:
    with pytest.raises(CompileError, match=text) as caught:
        load_model(attention(**change)[0])  # type: ignore[arg-type]
    assert caught.value.diagnostics[0].node == "att"


def test_operands_of_rank_three_need_head_counts() -> None:
    proto, _ = attention(rank=3)
    del proto.graph.node[0].attribute[:]
    with pytest.raises(CompileError) as caught:
        load_model(proto)
    assert caught.value.diagnostics[0].id in ("IPU0207", "IPU0114")


def test_attention_of_what_attention_gives() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 24]> g (float[1,2,3,4] x) => (float[1,2,3,4] y) {
            a = Attention (x, x, x)
            y = Attention <is_causal = 1> (x, a, a)
        }"""
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)}
    (wanted,) = ReferenceEvaluator(model).run(None, feeds)
    (got,) = ReferenceEvaluator(ir.to_proto(load_model(model))).run(None, feeds)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
