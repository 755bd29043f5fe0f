"""Products of one left side as one product: the numbers are those of the products apart, and the better way wins."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.parser import parse_model

from ipucc.compiler import CompileOptions
from ipucc.graph.schemas import oracle_model
from ipucc.ops.siblings import combined_kinds, find_siblings
from ipucc.optimise import lower_ops, optimise_model
from ipucc.passes.program.fit import fit
from ipucc.program.verify import verify_program
from ipucc.runtime.checked import checked_engine
from ipucc.target import load_target

TEXT = """
<ir_version: 9, opset_import: ["" : 20]>
m (float[4,10,64] x) => (float[4,10,64] qb, float[4,10,64] kb, float[4,10,32] v) {
    q = MatMul(x, wq)
    qb = Add(q, bq)
    k = MatMul(x, wk)
    kb = Add(k, bk)
    v0 = MatMul(x, wv)
    v = Add(v0, bv)
}
"""

TARGET = replace(load_target("gc200"), tiles=24)
OPTIONS = CompileOptions(precision="fp16")
WIDTHS = {"q": 64, "k": 64, "v": 32}


@pytest.fixture
def model() -> onnx.ModelProto:
    made = parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, n in WIDTHS.items():
        for label, shape in ((f"w{name}", (64, n)), (f"b{name}", (n,))):
            values = (rng.integers(-8, 9, shape) / 16).astype(np.float32)
            made.graph.initializer.append(onnx.numpy_helper.from_array(values, label))
    return made


def test_siblings_are_found_by_left_side_and_expression(model: onnx.ModelProto) -> None:
    graph = optimise_model(model, OPTIONS, target=TARGET).model.graph
    (group,) = find_siblings(graph)
    assert len(group.nodes) == 3
    assert combined_kinds(graph) == [(group.kind,)]


def test_a_joined_product_gives_the_numbers_of_its_parts(model: onnx.ModelProto) -> None:

    ready = optimise_model(model, OPTIONS, target=TARGET).model
    (kinds,) = combined_kinds(ready.graph)
    graph = lower_ops(ready, TARGET, OPTIONS, kinds)
    (product,) = [op for op in graph.ops if op.kind == "MatMul"]
    assert product.axis("n").size == sum(WIDTHS.values())
    fitted = fit([graph], TARGET, 8, "greedy", "fast", lambda name: None)
    verify_program(fitted.program)
    x = (np.random.default_rng(1).integers(-16, 17, (4, 10, 64)) / 16).astype(np.float32)
    got = checked_engine(fitted.program).run({"x": x})
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(["qb", "kb", "v"], {"x": x})
    for name, value in zip(("qb", "kb", "v"), wanted, strict=True):
        np.testing.assert_allclose(got[name], value, rtol=0, atol=4e-3 * np.abs(value).max())


def test_the_better_of_both_graphs_is_taken(model: onnx.ModelProto) -> None:
    ready = optimise_model(model, OPTIONS, target=TARGET).model
    (kinds,) = combined_kinds(ready.graph)
    graphs = [lower_ops(ready, TARGET, OPTIONS), lower_ops(ready, TARGET, OPTIONS, kinds)]
    alone = [fit([g], TARGET, 8, "cpsat", "fast", lambda name: None).placement for g in graphs]
    both = fit(graphs, TARGET, 8, "cpsat", "fast", lambda name: None)
    best = min(range(2), key=lambda i: alone[i].objective)
    assert both.graph is graphs[best]
    assert both.placement.objective == alone[best].objective
    assert both.placement.bound == min(p.bound for p in alone)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("k = MatMul(x, wk)", "k0 = Relu(x)\n    k = MatMul(k0, wk)"),
        ("kb = Add(k, bk)", "k1 = Add(k, bk)\n    kb = Relu(k1)"),
    ],
    ids=["left side", "expression"],
)
def test_a_product_that_differs_stays_apart(old: str, new: str, model: onnx.ModelProto) -> None:
    changed = parse_model(TEXT.replace(old, new))
    changed.graph.initializer.extend(model.graph.initializer)
    (group,) = find_siblings(optimise_model(changed, OPTIONS, target=TARGET).model.graph)
    assert len(group.nodes) == 2


def test_block_sparse_products_of_one_left_side_are_one(model: onnx.ModelProto) -> None:
    sparse = "clean-up,fuse,precision{to=fp16},sparsify{block=%d,density=0.5}"
    for block in (8, 16, 4):
        options = replace(OPTIONS, passes=sparse % block)
        ready = optimise_model(model, options, target=TARGET).model
        (group,) = find_siblings(ready.graph)
        assert group.sparse
        assert len(group.nodes) == 3
        assert combined_kinds(ready.graph) == []
        graph = lower_ops(ready, TARGET, options)
        assert len([op for op in graph.ops if op.name.endswith(".partials")]) == 1
        fitted = fit([graph], TARGET, 8, "greedy", "fast", lambda name: None)
        verify_program(fitted.program)
        x = (np.random.default_rng(1).integers(-16, 17, (4, 10, 64)) / 16).astype(np.float32)
        got = checked_engine(fitted.program).run({"x": x})
        oracle = onnxruntime.InferenceSession(oracle_model(ready).SerializeToString())
        wanted = oracle.run(["qb", "kb", "v"], {"x": x.astype(np.float16)})
        for name, value in zip(("qb", "kb", "v"), wanted, strict=True):
            np.testing.assert_allclose(got[name], value, rtol=0, atol=4e-3 * np.abs(value).max())
    # Each with blocks of its own, all alike, or with a distribution of its own: apart.
    assert len([op for op in lower_ops(ready, TARGET, options, alike=True).ops if op.name.endswith(".partials")]) == 3
    for node in ready.graph:
        if node.op_type == "BlockSparseMatMul":
            node.attributes.add(ir.AttrString("distribution", "plain 2x2"))
    assert not find_siblings(ready.graph)
