"""sparsify: which blocks are kept, what is written, and which layers stay dense."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from ipucc.diagnostics import CompileError
from ipucc.graph.schemas import oracle_model
from ipucc.graph.tensors import MissingTensor
from ipucc.pass_manager import PassContext, run_pipeline
from ipucc.passes.graph.sparsify import choose_blocks, cut

Build = Callable[..., ir.Model]
F32 = np.float32
TEXT = """g (float[2,10] x, float[10,7] w, float[7] b) => (float[2,7] y) {
  m = MatMul(x, w)
  a = Add(m, b)
  y = Relu(a) }"""


def weight(k: int = 10, n: int = 7) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((k, n)).astype(F32)


def pruned(dense: np.ndarray, block: tuple[int, int], density: float) -> np.ndarray:
    """The dense weight with the dropped blocks set to zero, computed block by block."""
    kept = choose_blocks(dense, block, density)
    result = np.zeros_like(dense)
    for r, c in zip(kept.rows, kept.cols, strict=True):
        place = slice(r * block[0], (r + 1) * block[0]), slice(c * block[1], (c + 1) * block[1])
        result[place] = dense[place]
    return result


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


def test_the_heaviest_blocks_are_kept_and_ties_go_by_place() -> None:
    norms = np.array([[1, 3, 2], [3, 0, 3]], dtype=F32)
    dense = np.kron(norms, np.ones((4, 4), dtype=F32))
    for density, wanted in ((0.34, [(0, 1), (1, 0)]), (0.5, [(0, 1), (1, 0), (1, 2)]), (0.01, [(0, 1)])):
        blocks = choose_blocks(dense, (4, 4), density)
        assert list(zip(blocks.rows, blocks.cols, strict=True)) == wanted
        assert blocks.total == 6


def test_the_l1_norm_decides() -> None:
    dense = np.zeros((4, 8), dtype=F32)
    dense[:, :4] = 1  # sum 16, largest 1
    dense[0, 4] = -10  # sum 10, largest 10
    assert choose_blocks(dense, (4, 4), 0.5).cols == (0,)


def test_blocks_are_padded_with_zeros() -> None:
    blocks = cut(np.ones((5, 3), dtype=F32), (4, 4))
    assert blocks.shape == (2, 1, 4, 4)
    assert blocks.sum() == 15
    assert blocks[1, 0, 0].tolist() == [1, 1, 1, 0]


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
    asked = []

    def pays(node: ir.Node, blocks: Sequence[tuple[int, int]], block: tuple[int, int]) -> tuple[bool, str]:
        asked.append((node.op_type, len(blocks), block))
        return len(blocks) < 3, f"{len(blocks)} blocks are too many"

    for density, op_type in ((0.2, "BlockSparseMatMul"), (0.9, "FusedMatMul")):
        ctx = PassContext(pays=pays)
        model = build(TEXT, w=weight(), b=np.zeros(7, dtype=F32))
        run_pipeline(model, f"fuse,sparsify{{block=4,density={density},when=pays}}", context=ctx)
        assert model.graph[0].op_type == op_type
    assert asked == [("FusedMatMul", 1, (4, 4)), ("FusedMatMul", 5, (4, 4))]
    assert ("IPU0411", "kept dense: 5 blocks are too many") in [(r.id, r.message) for r in ctx.remarks]


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
        ("block=5", "a block is 4, 8 or 16 long, not 5 x 5"),
        ("block=[4,5]", "not 4 x 5"),
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
