"""sparsify: which blocks are kept, what is written, and which layers stay dense."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from ipucc.diagnostics import CompileError
from ipucc.graph.schemas import oracle_model
from ipucc.graph.tensors import MissingTensor
from ipucc.pass_manager import PassContext, run_pipeline
from ipucc.sparsity import block_scores, choose, cut, join

Build = Callable[..., ir.Model]
F32 = np.float32
TEXT = """g (float[2,10] x, float[10,7] w, float[7] b) => (float[2,7] y) {
  m = MatMul(x, w)
  a = Add(m, b)
  y = Relu(a) }"""


def weight(k: int = 10, n: int = 7) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((k, n)).astype(F32)


def pruned(dense: np.ndarray, block: tuple[int, int], density: float) -> np.ndarray:
    """The dense weight with the dropped blocks set to zero."""
    kept = choose(block_scores(dense[None], block), density)
    return join(cut(dense[None], block) * kept[..., None, None], dense.shape)[0]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("options", "block", "density"),
    [("block=4,density=0.5", (4, 4), 0.5), ("block=[4,8],density=0.4", (4, 8), 0.4), ("block=16", (16, 16), 0.1)],
)
def test_the_product_is_that_of_the_kept_blocks(
    options: str, block: tuple[int, int], density: float, fused: bool, build: Build, oracles: object
) -> None:
    dense, bias = weight(), np.arange(7, dtype=F32)
    model = build(TEXT, w=dense, b=bias)
    feeds = oracles.inputs(model)
    run_pipeline(model, ("fuse," if fused else "") + f"sparsify{{{options}}}")
    wanted = np.maximum(feeds["x"] @ pruned(dense, block, density) + bias, 0)
    assert [n.op_type for n in model.graph] == ["BlockSparseMatMul", *([] if fused else ["Add", "Relu"])]
    assert "w" not in model.graph.initializers
    for proto, run in (
        (ir.to_proto(model), oracles.ort),
        (oracle_model(model), oracles.ort),
        (oracle_model(model), oracles.reference),
    ):
        oracles.close(run(proto, feeds), [wanted], 1e-5)


def test_remarks_give_the_density(build: Build) -> None:
    ctx = PassContext()
    run_pipeline(build(TEXT, w=weight(), b=np.zeros(7, dtype=F32)), "fuse,sparsify{block=4,density=0.5}", context=ctx)
    (remark,) = [r for r in ctx.remarks if r.where == "pass sparsify"]
    assert remark.message == "3 of 6 blocks of 4 x 4 kept, density 0.5000"
    assert remark.data["density"] == 0.5


@pytest.mark.parametrize("name", ["w", "n0"])
def test_excluded_layers_stay_dense(name: str, build: Build) -> None:
    ctx = PassContext()
    model = build(TEXT, w=weight(), b=np.zeros(7, dtype=F32))
    run_pipeline(model, f"fuse,sparsify{{exclude=[{name}]}}", context=ctx)
    assert model.graph[0].op_type == "FusedMatMul"
    assert "kept dense: excluded by name" in [r.message for r in ctx.remarks]


def test_when_pays_asks_the_planner(build: Build) -> None:
    asked: list[tuple[str, int]] = []

    def predict(node: ir.Node) -> int:
        sparse = node.op_type == "BlockSparseMatMul"
        asked.append((node.op_type, len(node.attributes["rows"].as_ints()) if sparse else 0))
        return asked[-1][1] * 10 if sparse else 25

    for density, op_type in ((0.2, "BlockSparseMatMul"), (0.9, "FusedMatMul")):
        ctx = PassContext(predict=predict)
        model = build(TEXT, w=weight(), b=np.zeros(7, dtype=F32))
        run_pipeline(model, f"fuse,sparsify{{block=4,density={density},when=pays}}", context=ctx)
        assert model.graph[0].op_type == op_type
        assert len(model.graph.initializers["b"].uses()) == 1, "the planner's node leaves no trace"
    assert asked == [("FusedMatMul", 0), ("BlockSparseMatMul", 1), ("FusedMatMul", 0), ("BlockSparseMatMul", 5)]
    text = "kept dense: predicted 50 cycles block-sparse, 25 dense"
    assert ("IPU0411", text) in [(r.id, r.message) for r in ctx.remarks]


def test_products_of_two_inputs_and_of_batches_stay(build: Build) -> None:
    text = """g (float[2,4] x, float[4,4] v, float[2,4,4] w) => (float[2,2,4] y) {
      a = MatMul(x, v)
      y = MatMul(a, w) }"""
    model = build(text, w=np.ones((2, 4, 4), dtype=F32))
    assert not run_pipeline(model, "sparsify").changed


def test_a_shared_weight_is_stored_once(build: Build) -> None:
    text = "g (float[2,8] x, float[8,8] w) => (float[2,8] y) { a = MatMul(x, w)\n y = MatMul(a, w) }"
    model = build(text, w=weight(8, 8))
    run_pipeline(model, "sparsify{block=4,density=0.5}")
    assert len(model.graph.initializers) == 1


def test_absent_weights_stay_dense(build: Build) -> None:
    model = build(TEXT, w=weight(), b=np.zeros(7, dtype=F32))
    value = model.graph.initializers["w"]
    value.const_value = MissingTensor("w", ir.DataType.FLOAT, ir.Shape([10, 7]), "its file is absent")
    ctx = PassContext()
    run_pipeline(model, "sparsify", context=ctx)
    assert [r.id for r in ctx.remarks] == ["IPU0410"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("block=5", "a block is 1 x 1, or 4, 8 or 16 long and wide, not 5 x 5"),
        ("block=[4,5]", "not 4 x 5"),
        ("block=[1,4]", "not 1 x 4"),
        ("ops=[matmul,gemm]", "ops are matmul and conv, not gemm"),
        ("score=wanda", "the score wanda needs inputs of the model"),
        ("density=[[w,0.5]],distribution=erk", "shares out one density"),
        ("density=[[w,0.5],[v,0.5]]", "densities are given for v"),
        ("density=[[w,0]]", "density must be above 0"),
        ("mask=m.npz,pattern=banded", "a mask says which blocks are kept"),
        ("density=0", "density must be above 0"),
        ("density=1.5", "density must be above 0 and at most 1"),
        ("when=pays", "needs a planner"),
        ("exclude=[v]", "excludes v, but no product"),
    ],
)
def test_wrong_options_are_refused(options: str, message: str, build: Build) -> None:
    model = build(TEXT, w=weight(), b=np.zeros(7, dtype=F32))
    with pytest.raises(CompileError, match=message):
        run_pipeline(model, f"sparsify{{{options}}}")
