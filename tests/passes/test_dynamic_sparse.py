"""The pass dynamic-sparse, and the ops that it makes: schemas, function bodies, buckets that are chosen."""

import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import ipucc
from ipucc.graph import schemas
from ipucc.graph.edit import Editor, static_shape
from ipucc.ops.bucket_choice import choose_buckets
from ipucc.sparsity import Buckets, block_scores, choose
from ipucc.target import load_target

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def same_numbers(monkeypatch):
    """Every test draws its own numbers, whichever ran before it."""
    monkeypatch.setattr(sys.modules[__name__], "RNG", np.random.default_rng(5))


BUCKETS = Buckets((18, 27), (4, 4), (2, 3), 5, 2)


def encoded(dtype: type = np.float32) -> tuple[dict[str, np.ndarray], np.ndarray]:
    mask = BUCKETS.capped(RNG.random(BUCKETS.blocks) < 0.6, RNG.random(BUCKETS.blocks))
    made = BUCKETS.encode(mask, RNG.standard_normal(BUCKETS.shape).astype(dtype))
    return {"values": made.values, "places": made.places}, BUCKETS.decode(made.values, made.places)[0]


def node_model(op: str, inputs: dict[str, np.ndarray], **changes: object) -> ir.Model:
    values = [ir.val(n, ir.DataType.from_numpy(a.dtype), a.shape) for n, a in inputs.items()]
    attrs = {"shape": BUCKETS.shape, "block": BUCKETS.block, "cell": BUCKETS.cell, "reach": 2, **changes}
    node = ir.node(op, values, attributes=attrs, domain="ipucc", name="n")
    node.outputs[0].name = "y"
    model = ir.Model(
        ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 26, "ipucc": 1}, name="g"), ir_version=11
    )
    Editor(model).infer(node)
    return model


@pytest.fixture
def run(oracles) -> Callable[..., np.ndarray]:
    """The result of one node: its body in onnxruntime, inlined in both oracles, all equal."""

    def evaluate(op: str, inputs: dict[str, np.ndarray], **attrs: object) -> np.ndarray:
        model = node_model(op, inputs, **attrs)
        schemas.attach_functions(model)
        fused, inlined = ir.to_proto(model), schemas.oracle_model(model)
        onnx.checker.check_model(fused, full_check=True)
        (wanted,) = oracles.ort(fused, inputs)
        oracles.close(oracles.ort(inlined, inputs), [wanted], 2e-6)
        oracles.close(oracles.reference(inlined, inputs), [wanted], 2e-3 if wanted.dtype == np.float16 else 2e-6)
        value = model.graph.outputs[0]
        assert (value.dtype.numpy(), static_shape(value)) == (wanted.dtype, wanted.shape)
        return wanted

    return evaluate


@pytest.mark.parametrize("turned", [0, 1])
def test_the_body_of_a_product(run, turned):
    blocks, weight = encoded()
    weight = weight.T if turned else weight
    a = RNG.standard_normal((2, 3, weight.shape[0])).astype(np.float32)
    bias = RNG.standard_normal(weight.shape[1]).astype(np.float32)
    inputs = {"A": a, **blocks, "a0": bias}
    found = run("DynamicSparseMatMul", inputs, transposed=turned, expr="Relu(Add(x, a0))")
    np.testing.assert_allclose(found, np.maximum(a @ weight + bias, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_body_of_a_sampled_product(run, dtype):
    blocks, _ = encoded()
    a, b = (RNG.standard_normal((2, 3, n)).astype(dtype) for n in BUCKETS.shape)
    found = run("SampledMatMul", {"A": a, "B": b, "places": blocks["places"]})
    dense = np.zeros((20, 28), np.float32)
    dense[:18, :27] = np.einsum("abk,abn->kn", a.astype(np.float32), b.astype(np.float32))
    for at in np.ndindex(blocks["places"].shape[:3]):
        row, col = blocks["places"][at] * 4
        want = dense[row : row + 4, col : col + 4] if row >= 0 else np.zeros((4, 4))
        np.testing.assert_allclose(found[at], want, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("change", "attrs", "message"),
    [
        ({"values": (3, 3, 5, 4, 8)}, {}, "are not buckets of"),
        ({"places": (3, 2, 5, 2), "values": (3, 2, 5, 4, 4)}, {}, "another grid than 3 x 3"),
        ({"places": (3, 3, 5, 3)}, {}, "capacity, 2"),
        ({"A": (2, 19)}, {}, "does not fit"),
        ({}, {"reach": 3}, "reaches 1 or 2"),
        ({}, {"cell": [2]}, "two positive numbers"),
        ({}, {"block": [4, 5]}, "4, 8 or 16"),
        ({}, {"transposed": 1}, "does not fit"),
    ],
)
def test_inference_refuses(change, attrs, message):
    shapes = {"A": (2, 18), "values": (3, 3, 5, 4, 4), "places": (3, 3, 5, 2)} | change
    inputs = {n: np.zeros(s, np.int16 if n == "places" else np.float32) for n, s in shapes.items()}
    with pytest.raises(Exception, match=message):
        node_model("DynamicSparseMatMul", inputs, **{"expr": "x", "transposed": 0, **attrs})


def test_sampled_inference_refuses_operands_that_do_not_fit():
    inputs = {"A": np.zeros((2, 18)), "B": np.zeros((3, 27)), "places": np.zeros((3, 3, 5, 2), np.int16)}
    with pytest.raises(Exception, match="do not fit"):
        node_model("SampledMatMul", inputs)


@pytest.mark.parametrize("turned", [0, 1])
def test_what_follows_a_product_in_a_model_is_fused_into_it(oracles, turned):
    blocks, weight = encoded()
    weight = weight.T if turned else weight
    k, n = weight.shape
    attrs = {"shape": BUCKETS.shape, "block": BUCKETS.block, "cell": BUCKETS.cell, "reach": 2, "transposed": turned}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("DynamicSparseMatMul", ["x", "v", "p"], ["s"], "fc", domain="ipucc", expr="x", **attrs),
            helper.make_node("Add", ["s", "b"], ["t"]), helper.make_node("Relu", ["t"], ["y"]),
        ],
        "layer",
        [
            value("x", 1, [7, k]), value("v", 1, blocks["values"].shape),
            value("p", onnx.TensorProto.INT16, blocks["places"].shape), value("b", 1, [n]),
        ],
        [value("y", 1, [7, n])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ipucc", 1)]
    exe = ipucc.compile(helper.make_model(graph, opset_imports=opsets, ir_version=10), solver="greedy")
    assert exe.patterns == ("v",)
    assert {op.kind for op in exe.program.ops} == {"DynamicSparseMatMul"}
    x, b = RNG.standard_normal((7, k)).astype(np.float32), RNG.standard_normal(n).astype(np.float32)
    got = exe.run({"x": x, "b": b, "v": blocks["values"], "p": blocks["places"]}).outputs["y"]
    np.testing.assert_allclose(got, np.maximum(x @ weight + b, 0), rtol=1e-4, atol=1e-4)


def layers(seed: int = 0) -> onnx.ModelProto:
    """Two layers, bias and activation between, the second weight transposed (a Gemm)."""
    rng = np.random.default_rng(seed)
    w1, w2 = (rng.standard_normal(s).astype(np.float32) / 8 for s in ((64, 96), (40, 96)))
    b1, b2 = (rng.standard_normal(s).astype(np.float32) for s in (96, 40))
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p"], "fc1"), helper.make_node("Add", ["p", "b1"], ["s"]),
        helper.make_node("Relu", ["s"], ["h"]), helper.make_node("Gemm", ["h", "w2", "b2"], ["y"], "fc2", transB=1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "layers", [helper.make_tensor_value_info("x", 1, [12, 64])],
        [helper.make_tensor_value_info("y", 1, [12, 40])],
        [numpy_helper.from_array(a, n) for a, n in ((w1, "w1"), (w2, "w2"), (b1, "b1"), (b2, "b2"))],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


@pytest.mark.parametrize(("precision", "limit"), [("model", 1e-4), ("fp16", 2e-2)])
def test_a_model_runs_with_its_own_pattern_and_then_with_others(precision, limit):
    model = layers()
    half = "precision{to=fp16}," if precision == "fp16" else ""
    passes = f"clean-up,fuse,{half}dynamic-sparse{{block=8,density=0.3}}"
    exe = ipucc.compile(model, passes=passes, precision=precision, solver="greedy")
    assert exe.patterns == ("w1", "w2")
    held = arrays(model)
    weights = {"w1": held["w1"], "w2": held["w2"].T}
    masks = {n: choose(block_scores(w[None], (8, 8), "l1"), 0.3)[0] for n, w in weights.items()}
    x = np.random.default_rng(1).standard_normal((12, 64)).astype(np.float32)
    for turn in range(3):
        one, two = (w * np.kron(masks[n], np.ones((8, 8))) for n, w in weights.items())
        want = np.maximum(x @ one + held["b1"], 0) @ two + held["b2"]
        got = exe.run({"x": x}).outputs["y"]
        assert np.abs(got - want).max() <= limit * np.abs(want).max()
        rng = np.random.default_rng(turn)
        for name, w in weights.items():
            masks[name] = rng.random(masks[name].shape) < 0.1
            weights[name] = rng.standard_normal(w.shape).astype(np.float32) / 8
            exe.set_pattern(name, masks[name], weights[name])


def test_remarks_say_what_was_chosen_and_what_overflow_costs():
    passes = "clean-up,fuse,dynamic-sparse{block=4,density=0.3,cell=[4,6],reach=2,capacity=9,layers=[fc1]}"
    exe = ipucc.compile(layers(), passes=passes, solver="greedy")
    assert exe.patterns == ("w1",)
    (remark,) = [r for r in exe.remarks if r.id == "IPU0320" and "buckets" in r.message]
    assert "16 buckets of 9 slots for 4 x 6 blocks, 144 slots for 115 blocks; predicted" in remark.message
    assert "of them to take overflow" in remark.message
    assert remark.data == {"capacity": 9, "reach": 2, "slots": 144}


def test_blocks_of_the_first_pattern_that_find_no_slot_are_left_out():
    passes = "clean-up,fuse,dynamic-sparse{block=4,density=0.5,cell=[4,6],reach=1,capacity=9,layers=[w1]}"
    exe = ipucc.compile(layers(), passes=passes, solver="greedy")
    assert any("blocks of the first pattern find no slot" in r.message for r in exe.remarks)
    exe.run({"x": np.zeros((12, 64), np.float32)})


@pytest.mark.parametrize(
    "options", ["block=5", "density=0", "capacity=-1", "cell=[3]", "reach=3", "overflow=1", "layers=[nobody]",
                "cell=[4,24],reach=2"],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ipucc.CompileError) as failure:
        ipucc.compile(layers(), passes=f"clean-up,fuse,dynamic-sparse{{block=4,{options}}}".replace("4,block=", ""))
    assert failure.value.diagnostics[0].id == "IPU0304"


def test_chosen_buckets_hold_random_patterns():
    target = load_target("gc200")
    for block, density in ((16, 0.1), (4, 0.25), (1, 0.05)):
        found = choose_buckets(256, (512, 768), (block, block), density, "float16", "float16", target)
        assert found
        for buckets in found:
            assert buckets.grid[0] * buckets.grid[1] <= target.tiles
            mask = np.zeros(buckets.blocks, bool)
            count = round(density * mask.size)
            mask.reshape(-1)[np.random.default_rng(0).permutation(mask.size)[:count]] = True
            assert buckets.fits(mask)
            assert buckets.cell[0] * block % 8 == 0 or block == 1


def test_a_dynamic_layer_is_faster_than_dense_and_not_faster_than_static():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1024, 1024)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")], "layer",
        [helper.make_tensor_value_info("x", 1, [512, 1024])], [helper.make_tensor_value_info("y", 1, [512, 1024])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    cycles = [
        ipucc.compile(
            model, passes=f"clean-up,fuse,precision{{to=fp16}}{more}", precision="fp16", solver="greedy"
        ).cycles.total
        for more in ("", ",dynamic-sparse{density=0.1}", ",sparsify{density=0.1}")
    ]
    dense, dynamic, static = cycles
    assert static <= dynamic < 0.8 * dense
