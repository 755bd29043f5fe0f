"""Block-sparse matmul end to end: the numbers of the masked dense layer, whatever the block, shape and type."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ipucc
from ipucc.codelets.sparse import BlockSparse
from ipucc.diagnostics import CompileError
from ipucc.ops.distribution import Pattern, banded_runs, deal, grid_runs
from ipucc.program.model import Compute, walk


def layer(m: int, k: int, n: int, seed: int = 0) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((k, n)) / np.sqrt(k)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="fc"),
        helper.make_node("Add", ["p", "b"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", 1, [m, k])], [helper.make_tensor_value_info("y", 1, [m, n])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def masked(model: onnx.ModelProto, block: int, density: float, precision: str) -> onnx.ModelProto:
    """The layer with all but the blocks of largest L1 norm, in the precision that runs, set to zero."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    weight = numpy_helper.to_array(out.graph.initializer[0])
    weight = weight.astype(np.float16 if precision == "fp16" else np.float32).astype(np.float32)
    k, n = weight.shape
    rows, cols = -(-k // block), -(-n // block)
    padded = np.zeros((rows * block, cols * block))
    padded[:k, :n] = np.abs(weight)
    score = padded.reshape(rows, block, cols, block).sum(axis=(1, 3)).reshape(-1)
    keep = np.zeros(score.size, bool)
    keep[np.argsort(-score, kind="stable")[: max(1, round(score.size * density))]] = True
    mask = np.kron(keep.reshape(rows, cols), np.ones((block, block)))[:k, :n]
    out.graph.initializer[0].CopyFrom(numpy_helper.from_array((weight * mask).astype(np.float32), "w"))
    return out


@pytest.mark.parametrize("block", [16, 8, 4, 1])
@pytest.mark.parametrize("shape", [(64, 128, 96), (33, 70, 50), (7, 40, 200)])
@pytest.mark.parametrize(("precision", "limit"), [("model", 1e-4), ("fp16", 2e-2)])
def test_numbers_of_the_masked_layer(block, shape, precision, limit):
    model = layer(*shape)
    exe = ipucc.compile(model, block=block, density=0.3, precision=precision, solver="greedy")
    steps = walk(exe.program.steps, exe.program.functions)
    assert any(isinstance(s, Compute) and isinstance(s.codelet, BlockSparse) for s in steps)
    x = np.random.default_rng(1).standard_normal(shape[:2]).astype(np.float32)
    want = ReferenceEvaluator(masked(model, block, 0.3, precision)).run(None, {"x": x})[0]
    got = exe.run({"x": x}).outputs["y"]
    assert np.abs(got - want).max() <= limit * np.abs(want).max()


def scattered(seed: int = 2) -> Pattern:
    keep = np.flatnonzero(np.random.default_rng(seed).random(40 * 30) < 0.2)
    rows, cols = np.divmod(keep, 30)
    return Pattern(rows, cols, (40, 30), (16, 16))


@pytest.mark.parametrize("bands", [1, 3, 8])
def test_runs_of_bands_are_equal_and_cover_every_block(bands):
    pattern = scattered()
    run = banded_runs(pattern, bands, 12)
    runs = deal(pattern, run, bands * 12)
    if bands == 1:
        assert np.ptp(np.diff(runs.start)) <= 1
    assert sorted(runs.order.tolist()) == list(range(pattern.size))
    for r in range(bands * 12):
        for i in range(runs.start[r], runs.start[r + 1]):
            block = runs.order[i]
            assert run[block] == r
            assert runs.rows[runs.row_start[r] + runs.place[i]] == pattern.rows[block]
            assert runs.columns[r, runs.slot[i]] == pattern.cols[block]
    # A band has block rows of its own.
    band = run // 12
    owners = [set(band[pattern.rows == row].tolist()) for row in range(40)]
    assert all(len(o) <= 1 for o in owners)


def test_a_permuted_grid_is_fuller_by_less_than_a_plain_one():
    pattern = scattered()
    made = np.bincount(grid_runs(pattern, 5, 6), minlength=30)
    plain = np.bincount(pattern.rows // 8 * 6 + pattern.cols // 5, minlength=30)
    assert made.sum() == plain.sum() == pattern.size
    assert made.max() < plain.max()
    assert made.max() <= pattern.size / 30 * 1.3


@pytest.mark.parametrize(("block", "shape"), [(16, (9, 70, 50)), (8, (17, 44, 36)), (4, (5, 30, 41)), (1, (6, 25, 31))])
@pytest.mark.parametrize(("precision", "limit"), [("model", 1e-4), ("fp16", 2e-2)])
def test_numbers_of_ten_random_patterns(block, shape, precision, limit, tmp_path):
    m, k, n = shape
    model = layer(m, k, n)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    x = np.random.default_rng(1).standard_normal((m, k)).astype(np.float32)
    half = "precision{to=fp16}," if precision == "fp16" else ""
    for seed in range(10):
        mask = np.random.default_rng(seed).random((-(-k // block), -(-n // block))) < 0.3
        mask[seed % mask.shape[0], 0] = True
        np.savez(tmp_path / "mask.npz", w=mask)
        pruned = f'clean-up,fuse,{half}sparsify{{block={block},mask="{tmp_path / "mask.npz"}"}}'
        exe = ipucc.compile(model, passes=pruned, precision=precision, solver="greedy")
        assert exe.cycles.total == exe.run({"x": x}).cycles.total
        kept = weight * np.kron(mask, np.ones((block, block)))[:k, :n]
        bias = numpy_helper.to_array(model.graph.initializer[1])
        want = np.maximum(x @ kept + bias, 0)
        assert np.abs(exe.run({"x": x}).outputs["y"] - want).max() <= limit * np.abs(want).max()


def test_a_large_sparse_layer_is_faster_than_dense():
    model = layer(512, 1024, 1024)
    dense = ipucc.compile(model, precision="fp16", solver="greedy").cycles.total
    sparse = ipucc.compile(model, precision="fp16", block=16, density=0.1, solver="greedy").cycles.total
    assert sparse < 0.6 * dense


def test_a_layer_where_it_does_not_pay_stays_dense_and_says_why():
    model = layer(256, 256, 256)
    exe = ipucc.compile(model, passes="clean-up,fuse,sparsify{block=4,density=0.9,when=pays}")
    steps = walk(exe.program.steps, exe.program.functions)
    assert not any(isinstance(s, Compute) and isinstance(s.codelet, BlockSparse) for s in steps)
    reasons = [r for r in exe.remarks if r.id == "IPU0411"]
    assert len(reasons) == 1
    assert "cycles" in reasons[0].message


@pytest.mark.parametrize(
    ("text", "reason"),
    [("plain 1x64", "more parts"), ("grid 64x1", "more parts"), ("banded 1x9999", "more runs"), ("rows 2x2", "is not")],
)
def test_a_distribution_that_cannot_be_is_told(text, reason):
    at = np.arange(16)
    node = helper.make_node(
        "BlockSparseMatMul", ["x", "v"], ["y"], name="product", domain="ipucc", expr="x", rows=(at // 4).tolist(),
        cols=(at % 4).tolist(), block=[16, 16], shape=[64, 64], distribution=text,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, [8, 64])],
        [helper.make_tensor_value_info("y", 1, [8, 64])],
        [numpy_helper.from_array(np.ones((16, 16, 16), np.float32), "v")],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("ipucc", 1)]
    with pytest.raises(CompileError, match=reason) as failure:
        ipucc.compile(helper.make_model(graph, opset_imports=imports, ir_version=10))
    assert failure.value.diagnostics[0].id == "IPU0120"
