"""The placement problem and its solvers: costs recomputed op by op, memory that shrinks, the same answer every time."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from ipucc.diagnostics import DoesNotFit
from ipucc.ops.graph import TileGraph
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.effort import Progress
from ipucc.passes.plan.numbers import Numbers
from ipucc.passes.plan.overlap import Overlaps
from ipucc.passes.plan.place import place
from ipucc.passes.plan.problem import Problem
from ipucc.passes.plan.resting import home_layout
from ipucc.passes.plan.room import least_bytes, require_room
from ipucc.target import load_target

NAMES = ("mlp", "attention", "convolutions", "moves")
Make = Callable[..., Problem]


@pytest.fixture(scope="module")
def problem(models: Mapping[str, onnx.ModelProto], tile_graph: Callable[..., TileGraph]) -> Make:
    """The placement problem of a model by name, with six plans per op."""

    def make(name: str, tiles: int = 16, **options: object) -> Problem:
        target = replace(load_target("gc200"), tiles=tiles, phase_cycles=tiles)
        return build_problem(tile_graph(models[name], target, **options), target, target.usable_bytes, 6)

    return make


def recomputed(problem: Problem, choice: Sequence[int]) -> tuple[int, int]:
    """Cycles and peak bytes of a choice from the plans themselves, op by op, without the problem's tables."""
    graph, target = problem.graph, problem.target
    chosen = [problem.candidates[v][choice[v]] for v in problem.variable]
    made = {op.result.tensor: i for i, op in enumerate(graph.ops)}
    overlaps = Overlaps(target)
    cycles = sum(c.cycles for c in chosen)
    for i, op in enumerate(graph.ops):
        for k, operand in enumerate(op.operands):
            stage = next(s for s in chosen[i].stages if k in s.operands)
            if problem.home.get(operand.sources[0].tensor) == (i, k):
                continue
            needed, rounds, weight = stage.brought(graph.ops[i].in_form(chosen[i].form), k)
            for source in operand.sources:
                if source.tensor in made:
                    held = chosen[made[source.tensor]].layout
                elif source.tensor in problem.home:
                    j, at = problem.home[source.tensor]
                    held = home_layout(graph, (j, at), chosen[j])
                else:
                    held = problem.fixed[source.tensor]
                cost = overlaps.costs([held], [needed], source.view).best().of(0, 0)
                # All operands of a stage arrive in one phase: its overhead is counted once.
                phase = cost.sync if k == chosen[i].fetching else 0
                cycles += round((cost.exchange + cost.copy) * weight) + phase * rounds
    last = {op.result.tensor: i for i, op in enumerate(graph.ops)}
    for i, op in enumerate(graph.ops):
        last |= {s.tensor: i for o in op.operands for s in o.sources if s.tensor in made}
    last |= {out.source.tensor: len(graph.ops) - 1 for out in graph.outputs}
    resident = sum(c.resident for c in chosen) + sum(x.nbytes for x in problem.fixed.values())
    peak = resident
    for i in range(len(graph.ops)):
        live = sum(c.result for j, c in enumerate(chosen) if j <= i <= last[graph.ops[j].result.tensor])
        peak = max(peak, resident + chosen[i].temp + live)
    return cycles, peak


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_costs_what_its_plans_cost(name: str, problem: Make) -> None:
    p = problem(name)
    rng = np.random.default_rng(0)
    for _ in range(12):
        choice = [int(rng.integers(len(c))) for c in p.candidates]
        score = p.evaluate(choice)
        assert (score.cycles, score.peak_bytes) == recomputed(p, choice)


@pytest.mark.parametrize("name", NAMES)
def test_the_solver_is_no_worse_than_greedy_and_says_so_truly(name: str, problem: Make) -> None:
    p = problem(name)
    cap = p.target.usable_bytes
    by_greedy = place(p, cap, "greedy", "default")
    by_solver = place(p, cap, "cpsat", "default")
    assert by_solver.objective <= by_greedy.objective
    assert by_greedy.status == "feasible"
    assert by_solver.status == "optimal"
    assert by_solver.bound == by_solver.objective
    for placement in (by_greedy, by_solver):
        assert placement.bound <= placement.objective
        score = p.evaluate(placement.choice)
        assert (placement.objective, placement.peak_bytes) == (score.cycles, score.peak_bytes)
        assert placement.chosen == tuple(p.candidates[v][placement.choice[v]] for v in p.variable)


def test_placement_tells_how_it_goes_on_and_can_be_stopped(problem: Make) -> None:
    p = problem("convolutions")
    cap = p.target.usable_bytes
    heard: list[Progress] = []
    done = place(p, cap, "cpsat", "default", progress=heard.append)
    assert heard[0].gap is None
    assert [heard[0].phase, heard[-1].phase] == ["dominance", "done"]
    assert heard[-1].objective == done.objective
    assert all(h.bound <= done.objective <= (h.objective or done.objective) for h in heard)
    # Less memory than the best choice needs: no proof without a search.
    cap = done.peak_bytes - 1
    stopped = place(p, cap, "cpsat", "default", stop=lambda: True)
    assert stopped.status == "interrupted"
    assert stopped.objective == p.evaluate(stopped.choice).cycles
    assert stopped.peak_bytes <= cap
    by_greedy = place(p, cap, "greedy", "default", stop=lambda: True)
    assert by_greedy.status == "interrupted"
    assert by_greedy.peak_bytes <= cap
    assert by_greedy.objective >= place(p, cap, "greedy", "default").objective
    with pytest.raises(KeyboardInterrupt):
        place(p, 0, "greedy", "default", stop=lambda: True)
    # A proof stands, however short the search was.
    with pytest.raises(DoesNotFit):
        place(p, 0, "cpsat", "default", stop=lambda: True)


def test_an_optimum_is_the_best_of_all_choices(problem: Make) -> None:
    p = problem("mlp", tiles=4)
    sizes = [len(c) for c in p.candidates]
    assert np.prod(sizes) <= 50_000
    scores = [p.evaluate(choice) for choice in np.ndindex(*sizes)]
    for share in (1.0, 0.5, 0.1):
        # Room for that share of all choices.
        cap = sorted(s.peak_bytes for s in scores)[int(share * (len(scores) - 1))]
        best = min(s.cycles for s in scores if s.peak_bytes <= cap)
        found = place(p, cap, "cpsat", "default")
        assert (found.status, found.objective, found.bound) == ("optimal", best, best)


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_of_a_problem_cost_what_it_costs(name: str, problem: Make) -> None:
    p = problem(name)
    numbers = Numbers.of(p)
    rng = np.random.default_rng(2)
    for _ in range(20):
        choice = np.asarray([rng.integers(len(c)) for c in p.candidates])
        score = p.evaluate(choice.tolist())
        assert (numbers.cost(choice), numbers.peak(choice)) == (score.cycles, score.peak_bytes)


@pytest.mark.parametrize("solver", ["greedy", "cpsat"])
@pytest.mark.parametrize("name", ["mlp", "attention", "convolutions"])
def test_memory_shrinks_until_nothing_fits(name: str, solver: str, problem: Make) -> None:
    p = problem(name)
    cap, objectives = p.target.usable_bytes, []
    for _ in range(40):
        try:
            placement = place(p, cap, solver, "fast")  # type: ignore[arg-type]
        except DoesNotFit as failure:
            (found,) = failure.diagnostics
            assert found.id in (("IPU0402",) if solver == "cpsat" else ("IPU0402", "IPU0405"))
            assert found.data["limit"] == cap
            assert int(found.data["needed"]) > cap  # type: ignore[call-overload]
            assert found.node
            assert found.help
            break
        assert placement.peak_bytes <= cap
        objectives.append(placement.objective)
        cap = placement.peak_bytes - 1
    else:
        pytest.fail("there is always a choice that fits")
    assert len(objectives) > 1
    if solver == "cpsat":
        assert objectives == sorted(objectives)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_fit_is_refused_with_the_bytes_that_are_missing(name: str, problem: Make) -> None:
    p = problem(name)
    least = least_bytes(p)
    require_room(p, least, None)
    with pytest.raises(DoesNotFit) as failure:
        require_room(p, least - 1, lambda: p)
    (found,) = failure.value.diagnostics
    leanest = min(_lean_peaks(p))
    assert found.id == "IPU0402"
    assert least <= int(found.data["needed"]) <= leanest  # type: ignore[call-overload]
    assert found.node
    # Float32 throughout: half of what is held at the least could be freed, and that is said in bytes.
    assert any("--precision fp16 frees about" in text for text in found.help)
    assert any(f"at least {least:,} B" in text for text in found.help)
    assert f"{found.data['needed']:,}" in found.message


def _lean_peaks(p: Problem) -> list[int]:
    """Peaks of many choices, the one with the least sum of bytes among them."""
    rng = np.random.default_rng(5)
    some = [[int(rng.integers(len(c))) for c in p.candidates] for _ in range(200)]
    some.append([min(range(len(c)), key=lambda i: (c[i].resident + c[i].result + c[i].temp, i)) for c in p.candidates])
    return [p.evaluate(choice).peak_bytes for choice in some]


def test_equal_layers_share_a_plan(
    model_of: Callable[..., onnx.ModelProto], tile_graph: Callable[..., TileGraph]
) -> None:
    layers = "\n".join(f"h{i} = MatMul({'x' if i == 0 else f'r{i - 1}'}, w{i})\nr{i} = Relu(h{i})" for i in range(8))
    text = f"deep (float[16,32] x) => (float[16,32] y) {{\n{layers}\ny = Neg(r7)\n}}"
    model = model_of(text, {f"w{i}": (32, 32) for i in range(8)})
    target = replace(load_target("gc200"), tiles=16)
    p = build_problem(tile_graph(model, target), target, target.usable_bytes, 6)
    assert len(p.graph.ops) == 8
    assert len(p.weight) < 8
    assert sum(p.weight) == 8
    rng = np.random.default_rng(0)
    for _ in range(4):
        choice = [int(rng.integers(len(c))) for c in p.candidates]
        score = p.evaluate(choice)
        assert (score.cycles, score.peak_bytes) == recomputed(p, choice)


def test_two_processes_make_the_same_program(
    models: Mapping[str, onnx.ModelProto], machine_file: Callable[..., Path], tmp_path: Path
) -> None:
    onnx.save(models["attention"], tmp_path / "m.onnx")
    script = "import sys, ipucc; ipucc.compile(sys.argv[1], target=sys.argv[2], effort='fast').save(sys.argv[3])"
    target = str(machine_file(tiles=16, phase_cycles=16))
    files = []
    for seed in ("0", "1234"):
        files.append(tmp_path / f"{seed}.ipux")
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "m.onnx"), target, str(files[-1])],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
    assert files[0].read_bytes() == files[1].read_bytes()
