"""use-zeros: pruned weights become block-sparse where that pays, others say why not, dense models do not change."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import ipucc
from ipucc.compiler import CompileOptions
from ipucc.diagnostics import CompileError
from ipucc.graph.schemas import oracle_model
from ipucc.graph.tensors import MissingTensor
from ipucc.limits import weights_fit
from ipucc.pass_manager import PassContext, run_pipeline
from ipucc.program.printing import print_program
from ipucc.target import load_target

Build = Callable[..., ir.Model]
F32 = np.float32
TEXT = """g (float[64,256] x, float[256,192] w) => (float[64,192] y) {
  m = MatMul(x, w)
  y = Relu(m) }"""


@dataclass
class Planner:
    """Dense products cost 1000; block-sparse ones so much per block by its size, of which half can be told at once."""

    per_block: dict[tuple[int, ...], float]
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, node: ir.Node) -> int:
        if node.op_type not in ("BlockSparseMatMul", "BlockSparseConv"):
            return 1000
        self.asked.append(tuple(node.attributes["block"].as_ints()))
        return 2 * self.floor(node)

    def floor(self, node: ir.Node) -> int:
        block = tuple(node.attributes["block"].as_ints())
        return int(self.per_block.get(block, 10**6) * len(node.attributes["rows"].as_ints()))


def pruned(block: tuple[int, int], density: float, k: int = 256, n: int = 192) -> np.ndarray:
    rng = np.random.default_rng(0)
    keep = rng.random((-(-k // block[0]), -(-n // block[1]))) < density
    return (rng.standard_normal((k, n)) * np.kron(keep, np.ones(block))[:k, :n]).astype(F32)


def messages(ctx: PassContext) -> list[tuple[str, str]]:
    return [(r.id, r.message) for r in ctx.remarks if r.where == "pass use-zeros"]


@pytest.mark.parametrize("block", [(16, 16), (8, 8), (4, 4)])
def test_the_block_of_fewest_cycles_is_taken(block: tuple[int, int], build: Build, oracles: object) -> None:
    weight = pruned(block, 0.1)
    model, count = build(TEXT, w=weight), int(np.ceil(256 / block[0] * 192 / block[1]))
    feeds = oracles.inputs(model)
    # Per element all blocks cost the same: the tightest is best.
    planner = Planner({(a, b): 900 * a * b / (256 * 192) for a in (4, 8, 16) for b in (4, 8, 16)})
    if block != (4, 4):
        planner.per_block[block] *= 0.9
    ctx = PassContext(predict=planner)
    run_pipeline(model, "clean-up,fuse,use-zeros", context=ctx)
    (node,) = model.graph
    assert node.op_type == "BlockSparseMatMul"
    assert tuple(node.attributes["block"].as_ints()) == block
    assert len(node.attributes["rows"].as_ints()) < 0.2 * count
    assert "predicted" in messages(ctx)[0][1]
    oracles.close(oracles.ort(oracle_model(model), feeds), [np.maximum(feeds["x"] @ weight, 0)], 1e-5)


def test_blocks_whose_arithmetic_is_too_long_are_not_asked_about(build: Build) -> None:
    planner = Planner({(16, 16): 3, (8, 8): 100})
    run_pipeline(build(TEXT, w=pruned((16, 16), 0.1)), "use-zeros", context=PassContext(predict=planner))
    assert planner.asked == [(16, 16)]


def test_scattered_zeros_stay_dense_and_say_why(build: Build) -> None:
    rng = np.random.default_rng(1)
    weight = (rng.standard_normal((256, 192)) * (rng.random((256, 192)) < 0.7)).astype(F32)
    ctx = PassContext(predict=Planner({(16, 16): 4}))
    model = build(TEXT, w=weight)
    assert not run_pipeline(model, "use-zeros", context=ctx).changed
    ((id, text),) = messages(ctx)
    assert id == "IPU0411"
    share = 1 - np.count_nonzero(weight) / weight.size
    assert text == (
        f"kept dense: {share:.1%} of the elements are zero, of the blocks 4x4 0.0%, 8x8 0.0%, 16x16 0.0%; "
        "predicted 1,536 cycles with blocks of 16 x 16, 1,000 dense"
    )


def test_a_gain_below_five_percent_is_none(build: Build) -> None:
    weight = pruned((16, 16), 0.5)
    blocks = np.count_nonzero(np.abs(weight).reshape(16, 16, 12, 16).sum(axis=(1, 3)))
    for cycles, changed in ((980, False), (940, True)):
        ctx = PassContext(predict=Planner({(16, 16): cycles / 2 / blocks}))
        assert run_pipeline(build(TEXT, w=weight), "use-zeros", context=ctx).changed is changed
        assert ("less than 5% saved" in messages(ctx)[0][1]) is not changed


def test_dense_weights_are_neither_scanned_nor_told_about(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipucc.passes.graph.use_zeros.scan", lambda _: pytest.fail("scanned"))
    weight = pruned((4, 4), 2.0)
    weight[1, :] = 0  # a row of zeros is in no zero block
    ctx = PassContext(predict=Planner({}))
    assert not run_pipeline(build(TEXT, w=weight), "use-zeros", context=ctx).changed
    assert not messages(ctx)


def test_absent_weights_excluded_layers_and_runs_without_a_planner_change_nothing(build: Build) -> None:
    planner = Planner({(16, 16): 1})
    weight = pruned((16, 16), 0.1)
    assert not run_pipeline(build(TEXT, w=weight), "use-zeros").changed
    context = PassContext(predict=planner)
    assert not run_pipeline(build(TEXT, w=weight), "use-zeros{exclude=[w]}", context=context).changed
    model = build(TEXT, w=weight)
    missing = MissingTensor("w", ir.DataType.FLOAT, ir.Shape([256, 192]), "its file is absent")
    model.graph.initializers["w"].const_value = missing
    assert not run_pipeline(model, "use-zeros", context=context).changed
    assert not run_pipeline(build(TEXT, w=np.zeros((256, 192), F32)), "use-zeros", context=context).changed


def test_zeros_of_a_shared_weight_are_stored_once(build: Build) -> None:
    text = "g (float[8,64] x, float[64,64] w) => (float[8,64] y) { a = MatMul(x, w)\n y = MatMul(a, w) }"
    model = build(text, w=pruned((16, 16), 0.3, 64, 64))
    run_pipeline(model, "use-zeros", context=PassContext(predict=Planner({(16, 16): 1})))
    assert [n.op_type for n in model.graph] == ["BlockSparseMatMul"] * 2
    assert len(model.graph.initializers) == 1


@pytest.mark.parametrize("precision", ["model", "fp16"])
def test_a_model_pruned_elsewhere_compiles_to_sparse_without_a_flag(precision: str, model_of: Callable) -> None:
    weight = pruned((16, 16), 0.1, 1024, 512)
    model = model_of("g (float[256,1024] x) => (float[256,512] y) { y = MatMul(x, w) }", {"w": weight})
    exe = ipucc.compile(model, precision=precision, solver="greedy")
    dense = ipucc.compile(model, precision=precision, solver="greedy", passes="clean-up,fuse")
    assert exe.cycles.total < 0.7 * dense.cycles.total
    assert any("blocks of 16 x 16 are not zero" in r.message for r in exe.remarks)
    x = np.random.default_rng(0).standard_normal((256, 1024), np.float32)
    wanted, found = x @ weight, exe.run({"x": x}).outputs["y"]
    assert np.abs(found - wanted).max() <= (1e-4 if precision == "model" else 2e-2) * np.abs(wanted).max()


@pytest.mark.parametrize("zeros", [0.0, 0.3])
def test_programs_of_dense_models_are_what_they_are_without_the_pass(zeros: float, model_of: Callable) -> None:
    rng = np.random.default_rng(2)
    weight = (rng.standard_normal((256, 256)) * (rng.random((256, 256)) >= zeros)).astype(F32)
    model = model_of("g (float[64,256] x) => (float[64,256] y) { y = MatMul(x, w) }", {"w": weight})
    found, without = (
        ipucc.compile(model, precision="fp16", solver="greedy", passes=passes)
        for passes in (None, "clean-up,fuse,precision{to=fp16}")
    )
    assert print_program(found.program) == print_program(without.program)
    told = [r.message for r in found.remarks if r.id == "IPU0411"]
    assert len(told) == (zeros > 0)
    if told:
        assert "30." in told[0] or "29." in told[0]


def test_weights_that_fit_without_their_zeros_are_not_refused_at_once(model_of: Callable) -> None:
    text = "g (float[4,9216] x) => (float[4,9216] y) { y = MatMul(x, w) }"
    target, edge = load_target("gc2"), 9216
    for kept, refused in ((0.1, False), (1.0, True)):
        keep = np.random.default_rng(0).random((edge // 16, edge // 16)) < kept
        weight = np.kron(keep.astype(F32), np.ones((16, 16), F32))
        model = model_of(text, {"w": weight})
        assert weight.nbytes > target.tiles * target.usable_bytes
        loaded = ir.from_proto(model)
        if refused:
            with pytest.raises(CompileError, match="the weights take"):
                weights_fit(loaded, target, CompileOptions(target="gc2"))
        else:
            weights_fit(loaded, target, CompileOptions(target="gc2"))


def test_a_dense_weight_in_a_mapped_file_is_let_go(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(build(TEXT, w=pruned((16, 16), 1.0)), path, external_data="weights", size_threshold_bytes=0)
    model = ir.load(path)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    run_pipeline(model, "use-zeros", context=PassContext(predict=Planner({})))
    assert tensor.raw is None
    held = tensor.numpy()
    run_pipeline(model, "use-zeros", context=PassContext(predict=Planner({})))
    assert held.any()  # an array that somebody has stays
