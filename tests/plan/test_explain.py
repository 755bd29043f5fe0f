"""What is said about plans is what the placement problem says: each candidate in the place of the chosen one."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest

from ipucc.diagnostics import CompileError
from ipucc.ops.graph import TileGraph
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.explain import Explanation, explain, select_ops
from ipucc.passes.plan.numbers import FORBIDDEN
from ipucc.passes.plan.place import Placement, place
from ipucc.target import load_target

TARGET = replace(load_target("gc200"), tiles=16, phase_cycles=16)
LAYERS = "".join(f"a{i} = MatMul(h{i - 1}, w{i}) s{i} = Softmax(a{i}) h{i} = Add(s{i}, h{i - 1}) " for i in range(1, 7))
DEEP = f"deep (float[16,32] x) => (float[16,32] y) {{ h0 = Neg(x) {LAYERS} y = Neg(h6) }}"
Placed = Callable[..., tuple[TileGraph, Placement]]


@pytest.fixture(scope="module")
def placed(
    models: Mapping[str, onnx.ModelProto],
    model_of: Callable[..., onnx.ModelProto],
    tile_graph: Callable[..., TileGraph],
) -> Placed:
    """A model by name, placed with all memory, or with so many bytes less than that takes."""

    def make(name: str, less: int = 0) -> tuple[TileGraph, Placement]:
        weights = {f"w{i}": (32, 32) for i in range(1, 7)}
        graph = tile_graph(model_of(DEEP, weights) if name == "deep" else models[name], TARGET)
        problem = build_problem(graph, TARGET, TARGET.usable_bytes, 6)
        found = place(problem, TARGET.usable_bytes, "cpsat", "fast")
        if less:
            found = place(problem, found.peak_bytes - less, "cpsat", "fast")
        return graph, found

    return make


def candidates_of(placement: Placement, explanation: Explanation, variable: int) -> list[int]:
    """The numbers of the candidates in the order in which they are explained, by their figures."""
    weight = placement.problem.weight[variable]
    numbers: dict[tuple[int, ...], list[int]] = {}
    for q, c in enumerate(placement.problem.candidates[variable]):
        figures = c.cycles * weight, c.resident, c.result, c.temp, _difference(placement, variable, q)
        numbers.setdefault(figures, []).append(q)
    return [
        numbers[c.cycles, c.resident_bytes, c.result_bytes, c.temporary_bytes, c.difference].pop(0)
        for c in explanation.candidates
    ]


def _difference(placement: Placement, variable: int, q: int) -> int:
    choice = list(placement.choice)
    choice[variable] = q
    return placement.problem.evaluate(choice).cycles - placement.objective


@pytest.mark.parametrize(("name", "less"), [
    ("mlp", 0), ("mlp", 16), ("attention", 0), ("convolutions", 0), ("moves", 0), ("deep", 0), ("deep", 16)
])  # fmt: skip
def test_every_candidate_costs_what_the_problem_says(placed: Placed, name: str, less: int) -> None:
    graph, placement = placed(name, less)
    problem = placement.problem
    explained = explain(placement, range(len(graph.ops)))
    assert [e.op for e in explained] == [op.name for op in graph.ops]
    for o, e in enumerate(explained):
        v = problem.variable[o]
        first = e.candidates[0]
        assert (first.verdict, first.difference) == ("chosen", 0)
        assert e.alike == problem.weight[v] == problem.variable.count(v)
        assert e.combinations > 0
        assert [n.cycles for n in e.neighbours] == list(first.edges)
        assert sum(c.verdict == "chosen" for c in e.candidates) == 1
        for c, q in zip(e.candidates, candidates_of(placement, e, v), strict=True):
            assert c.total == c.cycles + sum(c.edges) == first.total + c.difference
            choice = list(placement.choice)
            choice[v] = q
            assert c.peak_bytes == problem.evaluate(choice).peak_bytes
            if c.eliminated == "never fits":
                assert c.verdict == "too large"
            elif c.eliminated:
                by = c.eliminated.removeprefix("needless beside ")
                assert any(
                    k.plan == by and k.difference <= c.difference and k.peak_bytes <= max(c.peak_bytes, placement.cap)
                    for k in e.candidates
                ), "what is never worse is not worse here either"
            fits = c.peak_bytes <= placement.cap
            assert fits or c.verdict == "too large"
            if c.verdict == "slower":
                assert c.reason.startswith(f"{c.difference:+,} cycles")
            if c.verdict == "too large":
                assert f"exceeds by {c.peak_bytes - placement.cap:,} B" in c.reason
            if placement.status == "optimal" and fits:
                assert c.difference >= 0, "an optimal choice cannot be improved by one change"
        assert e.tightest.bytes <= placement.peak_bytes
        parts = e.tightest.resident_bytes + e.tightest.live_bytes + e.tightest.temporary_bytes
        assert e.tightest.bytes == parts


def test_all_edges_of_an_op_are_there(placed: Placed) -> None:
    graph, placement = placed("attention")
    by_name = {e.op: e for e in explain(placement, range(len(graph.ops)))}
    made = {op.result.tensor: op.name for op in graph.ops}
    for op in graph.ops:
        reads = {made[s.tensor] for operand in op.operands for s in operand.sources if s.tensor in made}
        assert reads <= {n.name for n in by_name[op.name].neighbours if n.role == "from"}
        for read in reads:
            assert op.name in {n.name for n in by_name[read].neighbours if n.role == "to"}


def test_equal_layers_are_explained_together(placed: Placed) -> None:
    graph, placement = placed("deep")
    third = next(e for e in explain(placement, select_ops(graph, ["a3"])))
    assert third.alike >= 4
    chosen = placement.chosen[select_ops(graph, ["a3"])[0]]
    assert third.candidates[0].cycles == third.alike * chosen.cycles
    # The neighbours are those of its own layer, and what comes before the first and behind the last.
    names = {n.name for n in third.neighbours}
    assert {"h2", "s3"} <= names <= {"h2", "s3", "h0", "y"}
    # The first has nothing of its own kind before it: the nearest stands for what the others read.
    (first,) = explain(placement, select_ops(graph, ["a1"]))
    assert {n.name for n in first.neighbours} <= {"h0", "h1", "s1"}


def test_memory_decides_where_it_is_short(placed: Placed) -> None:
    """The plan that is best with all memory is among those that do not fit, and said to save cycles if it does."""
    _, free = placed("deep")
    graph, tight = placed("deep", less=16)
    assert tight.objective >= free.objective
    assert tight.peak_bytes <= tight.cap == free.peak_bytes - 16
    reasons = [c for e in explain(tight, range(len(graph.ops))) for c in e.candidates if c.verdict == "too large"]
    assert reasons
    assert any(c.eliminated for e in explain(free, range(len(graph.ops))) for c in e.candidates)
    steps = {op.name for op in graph.ops} | {"any"}
    assert all(c.peak_step in steps and f"step {c.peak_step}" in c.reason for c in reasons)


def test_candidates_that_exclude_each_other(placed: Placed) -> None:
    graph, placement = placed("mlp")
    problem = placement.problem
    at = next(i for i, e in enumerate(problem.edges) if e.producer >= 0 and min(e.table.shape) > 1)
    edge = problem.edges[at]
    table = edge.table.copy()
    other = next(q for q in range(table.shape[1]) if q != placement.choice[edge.consumer])
    table[placement.choice[edge.producer], other] = FORBIDDEN
    edges = [replace(e, table=table) if i == at else e for i, e in enumerate(problem.edges)]
    changed = replace(placement, problem=replace(problem, edges=edges))
    (found,) = explain(changed, [problem.variable.index(edge.consumer)])
    (excluded,) = (c for c in found.candidates if c.verdict == "excluded")
    producer = graph.ops[problem.variable.index(edge.producer)].name
    assert f"of {producer}" in excluded.reason
    assert found.candidates[-1] == excluded


def test_ops_are_found_by_name_node_and_pattern(placed: Placed) -> None:
    graph, _ = placed("deep")
    names = [op.name for op in graph.ops]
    assert [names[o] for o in select_ops(graph, ["s2"])] == ["s2"]
    assert [names[o] for o in select_ops(graph, ["s?", "s2", "a1"])] == [n for n in names if n[0] == "s" or n == "a1"]
    assert select_ops(graph, ["*"]) == list(range(len(names)))
    assert select_ops(graph, []) == []
    fused = next(op for op in graph.ops if len(op.origin) > 1)
    for node in fused.origin:
        assert fused in [graph.ops[o] for o in select_ops(graph, [node])]
    bracket = replace(graph.ops[0], name="layer[0].fc")
    assert select_ops(replace(graph, ops=[bracket, *graph.ops[1:]]), ["layer[0].fc"]) == [0]


def test_names_that_stand_for_nothing_are_all_refused(placed: Placed) -> None:
    graph, _ = placed("deep")
    with pytest.raises(CompileError) as raised:
        select_ops(graph, ["s22", "s2", "zzz*", "reshape"], nodes=["reshape"])
    found = raised.value.diagnostics
    assert [d.id for d in found] == ["IPU0615"] * 3
    assert "did you mean" in found[0].help[0]
    assert "'s2'" in found[0].help[0]
    assert "has no plan" in found[2].message


def test_the_same_words_every_time(placed: Placed) -> None:
    texts = []
    for _ in range(2):
        graph, placement = placed("attention")
        texts.append([e.to_json() for e in explain(placement, range(len(graph.ops)))])
    assert texts[0] == texts[1]
    assert not any(isinstance(x, np.generic) for e in texts[0] for x in e.values())
