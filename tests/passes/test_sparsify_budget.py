"""sparsify{cycles=...}: the least score is lost for what a model may take, block and density chosen layer by layer."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

import ipucc
from ipucc.diagnostics import CompileError
from ipucc.pass_manager import PassContext, run_pipeline

Build = Callable[..., ir.Model]
F32 = np.float32
TEXT = """g (float[8,128] x, float[128,128] w, float[128,64] v) => (float[8,64] y) {
  a = MatMul(x, w)
  y = MatMul(a, v) }"""


class Planner:
    """A dense product takes its elements / 16 cycles, a sparse one 100 and those of its blocks / 16 by a factor that
    falls with the block; a model what its nodes take, and 200."""

    def __init__(self, **factor: float) -> None:
        self.factor = {16: 1.0, 8: 1.5, 4: 3.0} | {int(k[1:]): f for k, f in factor.items()}

    def __call__(self, node: ir.Node) -> int:
        if "rows" not in node.attributes:
            return int(np.prod(node.inputs[1].shape)) // 16
        bk, bn = node.attributes["block"].as_ints()
        return int(100 + self.factor[bk] * len(node.attributes["rows"].as_ints()) * bk * bn / 16)

    def floor(self, node: ir.Node) -> int:
        return 0

    def whole(self, model: ir.Model) -> int:
        return 200 + sum(self(node) for node in model.graph)


def model(build: Build) -> ir.Model:
    """w is heavy in a quarter of its blocks of 16, v in scattered blocks of 4."""
    rng = np.random.default_rng(0)
    heavy = np.kron(rng.permutation(64).reshape(8, 8) < 16, np.ones((16, 16)))
    spread = np.kron(rng.permutation(512).reshape(32, 16) < 51, np.ones((4, 4)))
    w = (heavy * 10 + 0.01) * rng.choice([-1, 1], (128, 128))
    v = (spread * 10 + 0.01) * rng.choice([-1, 1], (128, 64))
    return build(TEXT, w=w.astype(F32), v=v.astype(F32))


def taken(found: ir.Model) -> list[tuple[str, tuple[int, ...], int]]:
    return [
        (n.op_type, tuple(n.attributes["block"].as_ints()), len(n.attributes["rows"].as_ints()))
        if "rows" in n.attributes else (n.op_type, (), 0) for n in found.graph
    ]  # fmt: skip


def test_every_layer_gets_the_block_that_suits_it(build: Build) -> None:
    found, planner, ctx = model(build), Planner(b4=1.2), None
    ctx = PassContext(predict=planner)
    run_pipeline(found, "sparsify{cycles=900}", context=ctx)
    (_, first, blocks), (_, second, small) = taken(found)
    assert first == (16, 16)
    assert blocks >= 16, "all heavy blocks are kept"
    assert second == (4, 4)
    assert small >= 51
    assert planner.whole(found) <= 900
    (text,) = [r.message for r in ctx.remarks if r.id == "IPU0322"]
    assert text.endswith(f"predicted {planner.whole(found)} of 900 cycles")


def test_a_large_budget_leaves_layers_dense(build: Build) -> None:
    found, ctx = model(build), PassContext(predict=Planner())
    assert not run_pipeline(found, "sparsify{cycles=2000}", context=ctx).changed
    assert [r.message for r in ctx.remarks if r.id == "IPU0321"] == ["kept dense: the budget of cycles allows it"] * 2


@pytest.mark.parametrize("budget", [500, 600, 800, 1100, 1500])
def test_more_cycles_never_lose_more(budget: int, build: Build) -> None:
    lost = []
    for cycles in (budget, 2 * budget):
        ctx = PassContext(predict=Planner())
        run_pipeline(model(build), f"sparsify{{cycles={cycles}}}", context=ctx)
        lost += [r.data["lost"] for r in ctx.remarks if "lost" in r.data]
        assert all(r.data["bound"] <= r.data["lost"] for r in ctx.remarks if "lost" in r.data)
    assert lost[1] <= lost[0]


def test_a_budget_that_cannot_be_kept_is_an_error(build: Build) -> None:
    with pytest.raises(CompileError, match="no choice of blocks keeps to 390 cycles: 4") as failure:
        run_pipeline(model(build), "sparsify{cycles=390}", context=PassContext(predict=Planner()))
    assert failure.value.diagnostics[0].id == "IPU0316"


def test_only_the_blocks_offered_are_taken(build: Build) -> None:
    found = model(build)
    run_pipeline(found, "sparsify{cycles=900,blocks=[8]}", context=PassContext(predict=Planner(b4=0.1)))
    assert {block for _, block, _ in taken(found)} <= {(8, 8), ()}


@pytest.mark.parametrize(
    "options",
    ["cycles=-1", "cycles=9,blocks=[]", "cycles=9,blocks=[5]", "cycles=9,score=max", "cycles=9,distribution=erk",
     "cycles=9,pattern=banded", "cycles=9,mask=m.npz", "cycles=9,balance=[2,2]"],
)  # fmt: skip
def test_options_that_do_not_go_with_a_budget_are_refused(options: str, build: Build) -> None:
    with pytest.raises(CompileError) as failure:
        run_pipeline(model(build), f"sparsify{{{options}}}", context=PassContext(predict=Planner()))
    assert failure.value.diagnostics[0].id == "IPU0304"


def test_a_budget_needs_a_planner(build: Build) -> None:
    with pytest.raises(CompileError, match="needs a planner"):
        run_pipeline(model(build), "sparsify{cycles=1000}")


def test_a_compiled_model_keeps_to_its_budget(model_of: Callable) -> None:
    """The real planner: the quick placement is what the budget bounds, and the program stays near it."""
    text = "g (float[128,256] x) => (float[128,256] y) { a = MatMul(x, w)\n b = Relu(a)\n y = MatMul(b, v) }"
    source = model_of(text, {"w": (256, 512), "v": (512, 256)})
    dense = ipucc.compile(source, precision="fp16", solver="greedy").cycles.total
    budget = int(0.7 * dense)
    exe = ipucc.compile(source, precision="fp16", solver="greedy", budget=budget)
    assert exe.cycles.total <= 1.05 * budget
    (found,) = [r for r in exe.remarks if "lost" in r.data]
    assert found.data["cycles"] <= budget
    assert 0 < found.data["bound"] <= found.data["lost"] < 1
