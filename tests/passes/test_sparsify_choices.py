"""sparsify: blocks kept by masks, patterns, scores that know inputs, and densities per layer; convolutions."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from ipucc.diagnostics import CompileError
from ipucc.graph.schemas import oracle_model
from ipucc.pass_manager import PassContext, run_pipeline
from ipucc.passes.graph.calibrate import layer_inputs
from ipucc.passes.graph.products import find_products
from ipucc.sparsity import banded, block_scores, cut, join

Build = Callable[..., ir.Model]
F32 = np.float32
GEMM = """g (float[6,12] x, float[20,12] w, float[20] b, float[20,9] v) => (float[6,9] y) {
  m = Gemm <transB = 1> (x, w, b)
  r = Relu(m)
  y = MatMul(r, v) }"""
CONV = """g (float[2,10,9,8] x, float[12,10,3,2] w, float[12] b) => (float[2,12,5,4] y) {
  c = Conv <pads = [1, 1, 1, 0], strides = [2, 2]> (x, w, b)
  y = Relu(c) }"""


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def gemm(build: Build) -> ir.Model:
    return build(GEMM, w=numbers(20, 12), b=numbers(20, seed=1), v=numbers(20, 9, seed=2))


def product(x: np.ndarray, w: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(x @ w.T + numbers(20, seed=1), 0) @ v


def layers(model: ir.Model) -> dict[str, ir.Node]:
    return {node.name: node for node in model.graph if "spars" in node.op_type.lower()}


def agrees(model: ir.Model, feeds: dict[str, np.ndarray], wanted: np.ndarray, oracles: object) -> None:
    """The model computes this in onnxruntime with its functions, and in both evaluators without them."""
    for proto, run in (
        (ir.to_proto(model), oracles.ort),
        (oracle_model(model), oracles.ort),
        (oracle_model(model), oracles.reference),
    ):
        oracles.close(run(proto, feeds), [wanted], 1e-5)


@pytest.mark.parametrize("form", ["elements", "blocks", "by node", "numbers"])
def test_a_mask_is_taken_in_the_order_of_the_file(form: str, build: Build, oracles: object, tmp_path: Path) -> None:
    """The Gemm reads its weight transposed; its mask has the axes of the file all the same."""
    model, rng = gemm(build), np.random.default_rng(3)
    elements = rng.random((20, 12)) < 0.3
    blocks = rng.random((5, 3)) < 0.5
    kept = elements if form in ("elements", "numbers") else np.kron(blocks, np.ones((4, 4), bool))
    given = {"elements": elements, "numbers": elements.astype(np.uint8), "blocks": blocks, "by node": blocks}[form]
    np.savez(tmp_path / "m.npz", **{"n0" if form == "by node" else "w": given})
    feeds, ctx = oracles.inputs(model), PassContext()
    run_pipeline(model, f'clean-up,fuse,sparsify{{block=4,mask="{tmp_path}/m.npz"}}', context=ctx)
    assert [n.op_type for n in model.graph] == ["BlockSparseMatMul", "MatMul"]
    assert "kept dense: there is no mask for it" in [r.message for r in ctx.remarks]
    agrees(model, feeds, product(feeds["x"], numbers(20, 12) * kept, numbers(20, 9, seed=2)), oracles)


def test_masks_that_do_not_fit_are_all_told(build: Build, tmp_path: Path) -> None:
    masks = {"w": np.ones((12, 20)), "u": np.ones(3), "v": np.full((20, 9), 2), "n2": np.ones((20, 9))}
    np.savez(tmp_path / "m.npz", **masks)
    with pytest.raises(CompileError) as failure:
        run_pipeline(gemm(build), f'clean-up,sparsify{{block=4,mask="{tmp_path}/m.npz"}}')
    found = {d.id + " " + d.message: d for d in failure.value.diagnostics}
    assert sorted(d.id for d in found.values()) == ["IPU0313", "IPU0314", "IPU0314", "IPU0314"]
    text = str(failure.value)
    assert "[20, 12] (elements) or [5, 3] (blocks)" in text
    assert "weights that can be block-sparse: w, v" in text
    assert "numbers other than 0 and 1" in text
    assert "'v' and 'n2' are for the same weight" in text


@pytest.mark.parametrize("content", ["text", "empty", "pickle", "huge", "folder", "nothing"])
def test_hostile_files_of_masks_are_an_error(content: str, build: Build, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    if content == "folder":
        path.mkdir()
    elif content == "pickle":
        np.savez(path, w=np.array([{"a": 1}], object))
    elif content == "huge":
        np.savez_compressed(path, w=np.zeros((20, 12), bool))
        with zipfile.ZipFile(path) as archive:
            data = archive.read("w.npy").replace(b"(20, 12)", b"(2000000000, 12)")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w.npy", data)
    elif content != "nothing":
        path.write_bytes(b"hello" if content == "text" else b"")
    with pytest.raises(CompileError) as failure:
        run_pipeline(gemm(build), f'clean-up,sparsify{{block=4,mask="{path}"}}')
    ids = {d.id for d in failure.value.diagnostics}
    assert ids == ({"IPU0314"} if content in ("pickle", "huge") else {"IPU0312"})


def test_patterns_are_laid_over_every_layer(build: Build, oracles: object) -> None:
    model = gemm(build)
    feeds = oracles.inputs(model)
    run_pipeline(model, "clean-up,fuse,sparsify{block=4,pattern=banded,density=0.4}")
    w = numbers(20, 12).T * np.kron(banded(3, 5, 0.4), np.ones((4, 4)))
    v = numbers(20, 9, seed=2) * np.kron(banded(5, 3, 0.4), np.ones((4, 4)))[:, :9]
    agrees(model, feeds, product(feeds["x"], w.T, v), oracles)


def test_zeros_keep_the_numbers(build: Build, oracles: object) -> None:
    w = numbers(20, 12)
    w[4:16, :8] = 0
    model = build(GEMM, w=w, b=numbers(20, seed=1), v=numbers(20, 9, seed=2))
    feeds = oracles.inputs(model)
    run_pipeline(model, "clean-up,fuse,sparsify{block=4,pattern=zeros}")
    first, second = layers(model).values()
    assert len(first.attributes["rows"].as_ints()) == 15 - 6
    assert len(second.attributes["rows"].as_ints()) == 15
    agrees(model, feeds, product(feeds["x"], w, numbers(20, 9, seed=2)), oracles)


def test_a_weight_of_zeros_stays_dense(build: Build) -> None:
    model, ctx = build(GEMM, w=np.zeros((20, 12), F32), b=numbers(20), v=numbers(20, 9)), PassContext()
    run_pipeline(model, "clean-up,fuse,sparsify{block=4,pattern=zeros,exclude=[v]}", context=ctx)
    assert not layers(model)
    assert "kept dense: all of its weights are zero" in [r.message for r in ctx.remarks]


def test_densities_by_name_and_pattern(build: Build) -> None:
    model, ctx = gemm(build), PassContext()
    run_pipeline(model, 'clean-up,fuse,sparsify{block=4,density=[[w,0.2],["n*",0.6]]}', context=ctx)
    assert [len(n.attributes["rows"].as_ints()) for n in layers(model).values()] == [3, 9], "the first that fits"
    model, ctx = gemm(build), PassContext()
    run_pipeline(model, "clean-up,fuse,sparsify{block=4,density=[[w,0.2]]}", context=ctx)
    assert len(layers(model)) == 1
    assert "kept dense: no density is given for it" in [r.message for r in ctx.remarks]


def test_erk_keeps_small_layers_denser(build: Build) -> None:
    text = "g (float[4,64] x, float[64,64] w, float[64,4] v) => (float[4,4] y) { a = MatMul(x, w)\n y = MatMul(a, v) }"
    model, ctx = build(text, w=numbers(64, 64), v=numbers(64, 4)), PassContext()
    run_pipeline(model, "sparsify{block=4,density=0.12,distribution=erk}", context=ctx)
    shares = [r.data["density"] for r in ctx.remarks if "density" in r.data]
    # eps = 0.12 * 4352 / 196: 128 and 68 elements per eps.
    eps = 0.12 * 4352 / 196
    assert shares == pytest.approx([128 * eps / 4096, 68 * eps / 256], abs=0.03)
    model, ctx = build(text, w=numbers(64, 64), v=numbers(64, 4)), PassContext()
    run_pipeline(model, "sparsify{block=4,density=0.5,distribution=erk}", context=ctx)
    assert "kept dense: its share by ERK is all of it" in [r.message for r in ctx.remarks]


@pytest.mark.parametrize("pattern", ["w", "w*", "n0", "[wx]"])
def test_layers_are_excluded_by_pattern(pattern: str, build: Build) -> None:
    model = gemm(build)
    run_pipeline(model, f'clean-up,fuse,sparsify{{block=4,exclude=["{pattern}"]}}')
    assert [n.op_type for n in model.graph] == ["FusedMatMul", "BlockSparseMatMul"]


@pytest.mark.parametrize("batches", ["one", "new axis", "along the first"])
def test_wanda_weighs_by_what_the_layer_reads(batches: str, build: Build, tmp_path: Path) -> None:
    model = gemm(build)
    scale = np.where(np.arange(12) < 4, 100, 0.01).astype(F32)
    x = {"one": numbers(6, 12), "new axis": numbers(3, 6, 12), "along the first": numbers(18, 12)}[batches] * scale
    np.savez(tmp_path / "c.npz", x=x)
    run_pipeline(
        model, f'clean-up,fuse,sparsify{{block=4,density=0.34,score=wanda,calibration="{tmp_path}/c.npz"}}'
    )  # fmt: skip
    first, second = layers(model).values()
    assert set(first.attributes["rows"].as_ints()) == {0}, "only the first four inputs are ever large"
    flat = x.reshape(-1, 12)
    read = np.maximum(flat @ numbers(20, 12).T + numbers(20, seed=1), 0)
    weight = numbers(20, 9, seed=2) * np.sqrt((read.astype(float) ** 2).sum(0))[:, None]
    scores = block_scores(weight[None], (4, 4))[0]
    kept = sorted(zip(second.attributes["rows"].as_ints(), second.attributes["cols"].as_ints(), strict=True))
    best = [int(r) for r in scores.argmax(0)]
    assert all((r, c) in kept for c, r in enumerate(best)), "every output keeps its heaviest block"


def test_sparsegpt_changes_weights_so_that_outputs_change_less(build: Build, oracles: object, tmp_path: Path) -> None:
    mixed = numbers(8, 12, seed=5)
    x = (numbers(600, 8, seed=6) @ mixed).reshape(100, 6, 12)
    np.savez(tmp_path / "c.npz", x=x)
    feeds = {"x": x[0]}
    wanted = product(x[0], numbers(20, 12), numbers(20, 9, seed=2))
    errors = {}
    for score in ("l1", "sparsegpt"):
        model = gemm(build)
        options = f'block=4,density=0.6,score={score},calibration="{tmp_path}/c.npz"'
        run_pipeline(model, f"clean-up,fuse,sparsify{{{options}}}")
        (found,) = oracles.ort(ir.to_proto(model), feeds)
        errors[score] = np.linalg.norm(found - wanted)
    assert errors["sparsegpt"] < 0.7 * errors["l1"]


@pytest.mark.parametrize(
    ("arrays", "ids"),
    [
        ({"x": np.ones((6, 13), F32)}, {"IPU0603"}),
        ({"x": np.ones((0, 6, 12), F32)}, {"IPU0603"}),
        ({"x": np.ones((7, 12), F32)}, {"IPU0603"}),
        ({"x": np.ones((6, 12), complex)}, {"IPU0604"}),
        ({"x": np.full((6, 12), "a")}, {"IPU0604"}),
        ({"z": np.ones((6, 12), F32)}, {"IPU0601", "IPU0602"}),
        ({"x": np.full((6, 12), np.nan, F32)}, {"IPU0315"}),
    ],
)
def test_wrong_calibration_inputs_are_refused(arrays: dict, ids: set[str], build: Build, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(CompileError) as failure:
        run_pipeline(gemm(build), f'clean-up,sparsify{{score=wanda,calibration="{tmp_path}/c.npz"}}')
    assert {d.id for d in failure.value.diagnostics} == ids


def test_a_weight_that_others_read_is_pruned_for_the_product_alone(build: Build, oracles: object) -> None:
    """An embedding that is also the last layer: the Gather reads the dense table, the product the blocks."""
    text = """g (int64[5] i, float[16,8] w) => (float[5,16] y) {
      e = Gather(w, i)
      t = Transpose <perm = [1, 0]> (w)
      y = MatMul(e, t) }"""
    table = numbers(16, 8)
    model = build(text, w=table)
    feeds = {"i": np.array([0, 3, 15, 7, 7])}
    run_pipeline(model, "clean-up{fold=false},sparsify{block=4,density=0.5}")
    assert "BlockSparseMatMul" in [n.op_type for n in model.graph]
    kept = join(cut(table.T[None], (4, 4)) * top(table.T, 4)[..., None, None], (8, 16))[0]
    agrees(model, feeds, table[feeds["i"]] @ kept, oracles)


def top(weight: np.ndarray, count: int) -> np.ndarray:
    scores = block_scores(weight[None], (4, 4))
    return (scores >= np.sort(scores.reshape(-1))[-count]).reshape(scores.shape)


@pytest.mark.parametrize("block", [(4, 4), (4, 8), (16, 16), (1, 1)])
@pytest.mark.parametrize("fused", [True, False])
def test_convolutions_keep_channel_blocks_per_tap(
    block: tuple[int, int], fused: bool, build: Build, oracles: object
) -> None:
    text = CONV if fused else CONV.replace(", float[12] b", "").replace(", b)", ")")
    weight, bias = numbers(12, 10, 3, 2), {"b": numbers(12, seed=1)} if fused else {}
    model = build(text, w=weight, **bias)
    feeds = oracles.inputs(model)
    by_tap = np.moveaxis(weight.reshape(12, 10, 6), (0, 1, 2), (2, 1, 0))
    scores = block_scores(by_tap, block)
    count = max(1, int(0.4 * scores.size + 0.5))
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.reshape(-1), kind="stable")[:count]] = True
    kept = join(cut(by_tap, block) * mask.reshape(scores.shape)[..., None, None], (10, 12))
    zeroed = np.moveaxis(kept, (0, 1, 2), (2, 1, 0)).reshape(weight.shape).astype(F32)
    dense = build(text, w=zeroed, **bias)
    wanted = oracles.ort(ir.to_proto(dense), feeds)[0]
    pipeline = f"clean-up,{'fuse,' if fused else ''}sparsify{{block=[{block[0]},{block[1]}],density=0.4,ops=[conv]}}"
    run_pipeline(model, pipeline)
    assert model.graph[0].op_type == "BlockSparseConv"
    assert len(model.graph[0].attributes["taps"].as_ints()) == count
    agrees(model, feeds, wanted, oracles)


def test_masks_of_convolutions_have_the_axes_of_the_file(build: Build, oracles: object, tmp_path: Path) -> None:
    weight, blocks = numbers(12, 10, 3, 2), np.random.default_rng(1).random((3, 3, 3, 2)) < 0.5
    np.savez(tmp_path / "m.npz", w=blocks)
    model = build(CONV, w=weight, b=numbers(12, seed=1))
    feeds = oracles.inputs(model)
    run_pipeline(model, f'clean-up,fuse,sparsify{{block=4,ops=[conv],mask="{tmp_path}/m.npz"}}')
    whole = blocks.repeat(4, 0).repeat(4, 1)[:12, :10]
    wanted = oracles.ort(ir.to_proto(build(CONV, w=weight * whole, b=numbers(12, seed=1))), feeds)[0]
    agrees(model, feeds, wanted, oracles)


@pytest.mark.parametrize("dilations", [[1, 1], [2, 3]])
def test_inputs_of_a_convolution_are_the_windows_of_its_taps(dilations: list[int], build: Build) -> None:
    """Sums of squares of the outputs follow from the inputs' products and the weight, channel by channel."""
    text = CONV.replace("(x, w, b)", "(x, w)").replace(", float[12] b", "")
    text = text.replace("pads", f"dilations = {dilations}, pads")
    if dilations != [1, 1]:
        text = text.replace("5,4] y", "4,3] y")
    weight, x = numbers(12, 10, 3, 2), numbers(2, 10, 9, 8, seed=4)
    model = build(text.replace("y = Relu(c)", "y = Identity(c)"), w=weight)
    (product,) = find_products(model, ["conv"], PassContext())
    (gram,) = layer_inputs(model, [product], [{"x": x}, {"x": x}], whole=True).values()
    y = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})[0].astype(float)
    matrix = np.moveaxis(weight.reshape(12, 10, 6), (0, 1, 2), (2, 1, 0)).reshape(60, 12).astype(float)
    assert gram.samples == 2 * y.size // 12
    assert np.diagonal(matrix.T @ gram.matrix @ matrix) == pytest.approx(2 * (y**2).sum(axis=(0, 2, 3)), rel=1e-4)


def test_grouped_convolutions_stay_dense_with_a_remark(build: Build) -> None:
    text = "g (float[1,8,5,5] x, float[8,4,3,3] w) => (float[1,8,3,3] y) { y = Conv <group = 2> (x, w) }"
    model, ctx = build(text, w=numbers(8, 4, 3, 3)), PassContext()
    assert not run_pipeline(model, "clean-up,sparsify{ops=[matmul,conv]}", context=ctx).changed
    assert ("IPU0410", "kept dense: a convolution of 2 groups") in [(r.id, r.message) for r in ctx.remarks]
