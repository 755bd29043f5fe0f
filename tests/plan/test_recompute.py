"""Recomputation: the same values, fewer bytes alive where it counts, and only where nothing else fits."""

import os
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from ipucc.api import Executable
from ipucc.compiler import CompileOptions, compile_model
from ipucc.diagnostics import DoesNotFit
from ipucc.ops.graph import TileGraph, live_results, tensor_bytes
from ipucc.passes.plan import build_problem as building
from ipucc.passes.plan.recompute import Again, recompute
from ipucc.passes.plan.repeats import repetitions
from ipucc.program.timing import program_times
from ipucc.target import load_target

GraphOf = Callable[..., TileGraph]
TARGET = load_target("gc200")


def held(graph: TileGraph) -> list[int]:
    """Live bytes per step."""
    return [sum(tensor_bytes(graph.tensors[t]) for t in live) for live in live_results(graph)]


def values(graph: TileGraph) -> list[object]:
    """What every output is, as an expression of ops; a copy is the op that it is a copy of."""
    known: dict[int, object] = {0: "x"}
    for op in graph.ops:
        sources = [known[s.tensor] for o in op.operands for s in o.sources]
        # Hashes keep the expressions short.
        known[op.result.tensor] = hash((op.name.partition(".")[0], *sources))
    return [known[out.source.tensor] for out in graph.outputs]


SKIP = [100, 10, 80, 90, 10, 100, 5]
"""A wide result that is read at once and, behind a wide middle part, again."""
READS = [[], [0], [1], [2], [3], [4, 0], [5]]


def test_a_skip_connection_is_made_again(graph_of: GraphOf) -> None:
    graph = graph_of(SKIP, READS, [6])
    assert held(graph)[3] == 100 + 80 + 90
    found = recompute(graph, TARGET, 3, 50)
    assert found is not None
    assert found.again == (Again("t0", ("op0.again",), "op5", 100, 3),)
    assert [op.name for op in found.graph.ops] == ["op0", "op1", "op2", "op3", "op4", "op0.again", "op5", "op6"]
    assert held(found.graph)[3] == 80 + 90
    assert values(found.graph) == values(graph)
    assert held(graph)[3] == 100 + 80 + 90


@pytest.mark.parametrize(
    ("middle", "copies", "freed"), [(20, ("op1.again",), 80), (95, ("op0.again", "op1.again"), 100)]
)
def test_what_a_copy_reads_is_kept_or_made_again(
    graph_of: GraphOf, middle: int, copies: tuple[str, ...], freed: int
) -> None:
    # op1 reads op0, which nobody else does: it is kept if it is small, else made again as well.
    graph = graph_of([middle, *SKIP], [[], [0], *([r + 1 for r in reads] for reads in READS[1:])], [7])
    found = recompute(graph, TARGET, 4, 50)
    assert found is not None
    (again,) = found.again
    assert (again.copies, again.freed) == (copies, freed)
    assert held(found.graph)[4] == held(graph)[4] - freed
    assert values(found.graph) == values(graph)


def test_nothing_is_made_again_in_vain(graph_of: GraphOf) -> None:
    # What the step itself reads, what is an output, what costs as many bytes as it frees.
    for sizes, reads, outputs, step in [
        ([9, 9, 9], [[], [0], [0, 1]], [2], 1),
        ([9, 9, 9, 9], [[], [], [1], [2, 0]], [0, 3], 2),
        ([9, 9, 2, 9, 9, 9], [[], [0], [1], [2], [3], [4, 1]], [5], 0),
    ]:
        assert recompute(graph_of(sizes, reads, outputs), TARGET, step, 1) is None


def test_layers_are_relieved_alike(graph_of: GraphOf) -> None:
    sizes, reads = [5], [[]]
    for _ in range(5):
        at = len(sizes) - 1
        sizes += SKIP
        reads += [[at, *(r + at + 1 for r in rs)] if not i else [r + at + 1 for r in rs] for i, rs in enumerate(READS)]
    graph = graph_of(sizes, reads, [len(sizes) - 1])
    found = recompute(graph, TARGET, 4, 50)
    assert found is not None
    assert len(found.again) == 5
    assert [(r.period, r.count) for r in repetitions([tensor_bytes(found.graph.tensors[op.result.tensor])
                                                      for op in found.graph.ops], 4)] == [(8, 5)]  # fmt: skip
    assert max(held(found.graph)) < max(held(graph))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_values_stay_and_the_step_gets_emptier(graph_of: GraphOf, data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 16))
    reads = [data.draw(st.lists(st.integers(0, i - 1), max_size=2, unique=True)) if i else [] for i in range(n)]
    graph = graph_of(data.draw(st.lists(st.integers(1, 50), min_size=n, max_size=n)), reads, [n - 1])
    step = data.draw(st.integers(0, n - 1))
    found = recompute(graph, TARGET, step, data.draw(st.integers(1, 200)))
    if found is None:
        return
    made = {0}
    for op in found.graph.ops:
        assert {s.tensor for o in op.operands for s in o.sources} <= made
        made.add(op.result.tensor)
    assert [t.index for t in found.graph.tensors] == list(range(len(found.graph.tensors)))
    assert len({op.name for op in found.graph.ops}) == len(found.graph.ops)
    assert values(found.graph) == values(graph)
    after = dict(zip([op.name for op in found.graph.ops], held(found.graph), strict=True))
    # Relieving a step of the same shape may move this op to its only reader.
    assert held(graph)[step] - after.get(graph.ops[step].name, 0) == found.freed > 0
    assert max(after.values()) <= max(held(graph))
    assert sum(op.macs for op in found.graph.ops) == sum(op.macs for op in graph.ops)


NETWORK = """skip (float[1024,16] x) => (float[1024,16] y) {
    s0 = MatMul(x, w0)
    s = Tanh(s0)
    e = MatMul(s, v0)
    m0 = MatMul(e, w1)
    m1 = Sigmoid(m0)
    m2 = Softmax(m1)
    f = MatMul(m2, v1)
    g = MatMul(f, w2)
    t = Mul(g, s)
    y = MatMul(t, v2)
}"""
WEIGHTS = {f"w{i}": (16, 512) for i in range(3)} | {f"v{i}": (512, 16) for i in range(3)}


def test_a_model_that_fits_by_recomputation_only(
    model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., os.PathLike[str]]
) -> None:
    values = np.random.default_rng(0)
    model = model_of(NETWORK, {k: (values.integers(-64, 65, s) / 512).astype(np.float32) for k, s in WEIGHTS.items()})
    small, large = (
        str(machine_file(tiles=16, phase_cycles=16, tile_bytes=kib << 10, executable_bytes=kib << 9,
                         interleaved_bytes=kib << 9))
        for kib in (450, 600)
    )  # fmt: skip
    options = {"solver": "greedy", "effort": "fast"}
    with pytest.raises(DoesNotFit):
        compile_model(model, CompileOptions(target=small, recompute="off", **options))  # type: ignore[arg-type]
    found = compile_model(model, CompileOptions(target=small, **options))  # type: ignore[arg-type]
    (remark,) = [r for r in found.remarks if r.id == "IPU0413"]
    assert remark.data["copies"] == ["s0.again"]
    assert remark.data["bytes"] == 1024 * 512 * 4
    copies = sum(t.total for t in program_times(found.program) if t.name.startswith("s0.again"))
    assert remark.data["cycles"] == copies > 0
    plain = compile_model(model, CompileOptions(target=large, **options))  # type: ignore[arg-type]
    assert not [r for r in plain.remarks if r.id == "IPU0413"]
    assert found.program.manifest["flops"] == plain.program.manifest["flops"]
    x = values.integers(-8, 9, (1024, 16)).astype(np.float32) / 8
    result = Executable(found.program).run({"x": x}, checked=True)
    assert result.cycles.total == found.cycles["total"]
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(result.outputs["y"], wanted, atol=1e-4)


def test_a_refusal_enumerates_ops_once_for_every_number_of_plans(
    model_of: Callable[..., onnx.ModelProto], machine_file: Callable[..., os.PathLike[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    kept: list[int] = []

    def counted(*arguments: object) -> object:
        kept.append(arguments[4])  # type: ignore[arg-type]
        return original(*arguments)  # type: ignore[arg-type]

    original = building.enumerate_plans
    monkeypatch.setattr(building, "enumerate_plans", counted)
    tiny = str(machine_file(tiles=16, phase_cycles=16, tile_bytes=200 << 10, executable_bytes=100 << 10,
                            interleaved_bytes=100 << 10))  # fmt: skip
    with pytest.raises(DoesNotFit) as refusal:
        compile_model(model_of(NETWORK, WEIGHTS), CompileOptions(target=tiny, effort="fast"))
    (found,) = refusal.value.diagnostics
    assert any("--effort max" in text for text in found.help)
    # What the effort offers, and what the largest one would offer, for its figure in the help.
    few, many = sorted(set(kept))
    assert kept.count(many) <= kept.count(few)
