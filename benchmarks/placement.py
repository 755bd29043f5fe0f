"""What placement finds, how well it is proved, and what it costs.

    python benchmarks/placement.py [MODEL.onnx]... [--part graph|joint|memory|scale]... [--target gc200]
        [--precision fp16] [--effort default] [--json OUT]

    graph   a generated graph of 1,000 ops with branches, with less memory than its best plans need: status and gap
    joint   the joint choice beside greedy, every op's fastest plan, and the fastest plans in natural axis order
    memory  tile memory cut step by step, until greedy fails and beyond until nothing fits: cycles over memory
    scale   compile seconds and memory over layers of BERT and over tiles; every compilation is a process of its own

Without models, `joint` and `memory` take the digits network and two layers of BERT-base. Cycles are estimates, as the
solver minimises them. Exit code 1: a gap of more than 3 % on the generated graph, or a baseline better than the joint
choice.
"""

import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ipucc.cli.output import table
from ipucc.compiler import CompileOptions, compile_model
from ipucc.diagnostics import DoesNotFit
from ipucc.ops.graph import TileGraph
from ipucc.optimise import optimise_model, schedule_model
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.dominance import eliminate_dominated
from ipucc.passes.plan.effort import BUDGETS, Effort
from ipucc.passes.plan.eliminate import Elimination
from ipucc.passes.plan.greedy import greedy
from ipucc.passes.plan.numbers import Choice, Numbers
from ipucc.passes.plan.problem import Problem
from ipucc.passes.plan.search import search
from ipucc.target import Target, load_target

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
PARTS = ("graph", "joint", "memory", "scale")
LAYERS = (6, 12, 24, 48, 96)
TILES = (64, 256, 736, 1472, 2944, 5888)
WIDTHS = (128, 256, 512)
WORST_GAP = 0.03
SHARE = 0.3
"""Where the cap of the generated graph lies between the least memory of any choice and that of the best one."""


def branching(ops: int, seed: int) -> onnx.ModelProto:
    """A graph of matmuls, softmaxes, normalisations and sums of branches, with widths drawn at random."""
    rng = np.random.default_rng(seed)
    rows = 256
    nodes, weights, pool = [], [], [("x", 256)]
    for i in range(ops):
        name, (source, width) = f"t{i}", pool[-1 - int(rng.integers(0, min(3, len(pool))))]
        twins = [(n, w) for n, w in pool[-12:] if w == width and n != source]
        kind = rng.choice(["matmul", "softmax", "norm", "add"], p=[0.65, 0.1, 0.1, 0.15])
        if kind == "add" and twins:
            nodes.append(helper.make_node("Add", [source, twins[int(rng.integers(len(twins)))][0]], [name]))
        elif kind == "softmax":
            nodes.append(helper.make_node("Softmax", [source], [name], axis=-1))
        elif kind == "norm":
            weights.append(numpy_helper.from_array(np.ones(width, np.float32), f"s{i}"))
            nodes.append(helper.make_node("LayerNormalization", [source, f"s{i}"], [name], axis=-1))
        else:
            other = int(rng.choice(WIDTHS))
            weights.append(numpy_helper.from_array(np.full((width, other), 1 / width, np.float32), f"w{i}"))
            nodes.append(helper.make_node("MatMul", [source, f"w{i}"], [name]))
            width = other
        pool = [*pool[-40:], (name, width)]
    used = {n for node in nodes for n in node.input}
    ends = [node.output[0] for node in nodes if node.output[0] not in used]
    graph = helper.make_graph(
        nodes, "branching", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (rows, 256))],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ends], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def cap_of(target: Target) -> int:
    """Bytes of a tile for data, as the compiler assumes before it knows the code."""
    return target.usable_bytes - target.tile_bytes // 16


def tile_graph(source: Path | onnx.ModelProto, target: Target, options: CompileOptions) -> TileGraph:
    """The ops of a model behind the graph passes."""
    return schedule_model(optimise_model(source, options, target=target).model, target, options)


def graph_part(target: Target, options: CompileOptions, ops: int, seed: int) -> dict[str, object]:
    """Plan and place the generated graph."""
    count = ops
    while len((graph := tile_graph(branching(count, seed), target, options)).ops) < ops:
        count += max(1, ops - len(graph.ops))
    begin = time.perf_counter()
    problem = build_problem(graph, target, cap_of(target), BUDGETS[options.effort].plans)
    planned = time.perf_counter()
    numbers = Numbers.of(problem)
    low, peak = int(numbers.extremes()[0].max()), numbers.peak(free_choice(numbers))
    cap = int(low + SHARE * (peak - low))
    phases: list[str] = []
    start = time.perf_counter()

    def heard(phase: str, cycles: int | None, bound: int) -> None:
        if phase not in phases:
            phases.append(phase)
            click.echo(f"{time.perf_counter() - start:8.1f} s  {phase}: {cycles} cycles, bound {bound}", err=True)

    found = search(numbers, cap, BUDGETS[options.effort], heard)
    done = time.perf_counter()
    start_choice = greedy(numbers, cap)
    return {
        "ops": len(graph.ops), "variables": numbers.size, "candidates": sum(c.size for c in numbers.cycles),
        "cap_bytes": cap, "free_peak_bytes": peak, "least_bytes": low, "status": found.status, "cycles": found.cycles,
        "bound": found.bound, "gap": gap(found.cycles, found.bound), "plan_seconds": planned - begin,
        "place_seconds": done - start, "greedy_cycles": None if start_choice is None else numbers.cost(start_choice),
    }  # fmt: skip


def free_choice(numbers: Numbers) -> Choice:
    """The best choice without a limit on memory, or a good one where its tables are too large for a proof."""
    reduced = eliminate_dominated(numbers, 1 << 62)
    assert reduced is not None
    return reduced.original(Elimination(reduced.numbers).solve(reduced.numbers.cycles)[1])


def gap(cycles: int | None, bound: int) -> float | None:
    """(cycles - bound) / cycles."""
    return None if not cycles else (cycles - bound) / cycles


def fastest(problem: Problem, natural: bool) -> Choice:
    """Every op's fastest plan, whatever its neighbours do; with `natural` only those that cut a grid of their own and
    lay its axes on the tiles in the order of the op."""
    found = []
    for v, cands in enumerate(problem.candidates):
        op = problem.graph.ops[problem.variable.index(v)]
        place = {a.name: i for i, a in enumerate(op.axes)}
        allowed = [
            p for p, c in enumerate(cands)
            if not natural or (c.plan.grid is None and [place.get(a, -1) for a, _ in c.plan.parts]
                               == sorted(place.get(a, -1) for a, _ in c.plan.parts))
        ]  # fmt: skip
        found.append(min(allowed or range(len(cands)), key=lambda p: (cands[p].cycles, p)))
    return np.asarray(found, np.int64)


def joint_part(name: str, source: Path, target: Target, options: CompileOptions) -> dict[str, object]:
    """Cycles of the joint choice and of the baselines, all with the same plans to choose from."""
    cap = cap_of(target)
    problem = build_problem(tile_graph(source, target, options), target, cap, BUDGETS[options.effort].plans)
    numbers = Numbers.of(problem)
    joint = search(numbers, cap, BUDGETS[options.effort])
    if joint.cycles is None:
        raise click.ClickException(f"{name} does not fit on {target.name}")
    others: dict[str, Choice | None] = {
        "greedy": greedy(numbers, cap), "fastest": fastest(problem, False), "linear": fastest(problem, True)
    }  # fmt: skip
    row: dict[str, object] = {
        "model": name, "status": joint.status, "gap": gap(joint.cycles, joint.bound), "joint": joint.cycles
    }  # fmt: skip
    for key, choice in others.items():
        row[key] = None if choice is None else numbers.cost(choice)
        row[f"{key}_ratio"] = None if choice is None else numbers.cost(choice) / joint.cycles
        row[f"{key}_fits"] = choice is not None and numbers.peak(choice) <= cap
    return row


def memory_part(
    name: str, source: Path, target: Target, options: CompileOptions, step: float
) -> list[dict[str, object]]:
    """Cycles over memory, down to where a proof says that nothing fits."""
    graph = tile_graph(source, target, options)
    rows: list[dict[str, object]] = []
    size = target.tile_bytes
    while size > 4096:
        cut = replace(target, tile_bytes=size, executable_bytes=min(target.executable_bytes, size // 2))
        cap = cap_of(cut)
        row: dict[str, object] = {"model": name, "tile_bytes": size, "data_bytes": cap}
        try:
            numbers = Numbers.of(build_problem(graph, cut, cap, BUDGETS[options.effort].plans))
        except DoesNotFit as refused:
            rows.append(row | {"status": refused.diagnostics[0].id})
            break
        plain, found = greedy(numbers, cap), search(numbers, cap, BUDGETS[options.effort])
        rows.append(
            row | {"greedy": None if plain is None else numbers.cost(plain), "cycles": found.cycles,
                   "bound": found.bound, "gap": gap(found.cycles, found.bound), "status": found.status}
        )  # fmt: skip
        click.echo(f"{name}: {size:,} bytes, {found.status}", err=True)
        if found.status == "infeasible":
            break
        # Memory that the choice leaves unused would change nothing: go below it at once.
        used = numbers.peak(found.choice) if found.choice is not None else cap
        size = int(min(size * step, size - (cap - used) - 256))
    return rows


def plotted(rows: Sequence[dict[str, object]], width: int = 60) -> str:
    """Cycles over memory as text: a bar per size, `#` the solver's choice, `+` what greedy takes more."""
    most = max((int(str(r[k])) for r in rows for k in ("greedy", "cycles") if r.get(k)), default=1)
    lines = []
    for r in rows:
        solved, plain = (int(str(r.get(k) or 0)) for k in ("cycles", "greedy"))
        bar = "#" * round(width * solved / most) + "+" * max(0, round(width * (plain - solved) / most))
        note = "" if plain or not solved else "  greedy finds nothing"
        lines.append(f"  {r['tile_bytes']:>9,} B |{bar or ' ' + str(r['status'])}{note}")
    return "\n".join(lines)


def compiled_alone(source: Path, target: str, options: CompileOptions) -> dict[str, object]:
    """Compile in this process, which does nothing else."""
    begin = time.perf_counter()
    row: dict[str, object] = {}
    try:
        done = compile_model(source, replace(options, target=target))
        row = {"status": done.placement.status, "gap": done.placement.gap, "cycles": done.cycles["total"],
               "ops": len(done.graph.ops), "passes": dict(done.seconds)}  # fmt: skip
    except DoesNotFit as refused:
        row = {"status": refused.diagnostics[0].id}
    row["seconds"] = time.perf_counter() - begin
    row["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return row


def scale_part(
    folder: Path, target: str, options: CompileOptions, layers: Sequence[int], tiles: Sequence[int]
) -> list[dict[str, object]]:
    """Compilations of BERT with ever more layers, and of one layer on ever more tiles."""
    rows = []
    for count in layers:
        model = made("bert-base", folder, "--layers", str(count), "--seq", "128")
        rows.append({"over": "layers", "count": count, **alone(model, target, options)})
        model.unlink()
    model = made("bert-base", folder, "--layers", "1", "--seq", "128")
    for count in tiles:
        machine = folder / f"tiles{count}.toml"
        machine.write_text(f'base = "{target}"\ntiles = {count}\n', encoding="utf-8")
        rows.append({"over": "tiles", "count": count, **alone(model, str(machine), options)})
    return rows


def alone(source: Path, target: str, options: CompileOptions) -> dict[str, object]:
    """`compiled_alone` in a fresh process, so that the peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(compiled_alone, source, target, options).result()


def made(network: str, folder: Path, *arguments: str) -> Path:
    """A sample network with random weights."""
    path = folder / f"{network}.onnx"
    command = [sys.executable, str(SAMPLES / "make_models.py"), network, *arguments, "-o", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def show(title: str, rows: Sequence[dict[str, object]], columns: Sequence[str]) -> None:
    """Print rows as a table; what a row does not have stays empty."""

    def text(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{value:.4f}" if value < 10 else f"{value:.1f}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    click.echo(table(title, columns, [[text(r.get(c)) for c in columns] for r in rows]))


@click.command(help=__doc__.split("\n")[0])
@click.argument("models", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="May be repeated; all without it.")
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--precision", type=click.Choice(["model", "fp16"]), default="fp16", show_default=True)
@click.option("--effort", type=click.Choice(list(BUDGETS)), default="default", show_default=True)
@click.option("--ops", default=1000, show_default=True, help="Ops of the generated graph.")
@click.option("--seed", default=0, show_default=True, help="Of the generated graph.")
@click.option("--step", default=0.85, show_default=True, help="Factor of one cut of memory.")
@click.option("--layers", "layers", type=int, multiple=True, default=LAYERS, show_default=True)
@click.option("--tiles", "tiles", type=int, multiple=True, default=TILES, show_default=True)
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(
    models: tuple[Path, ...], parts: tuple[str, ...], target: str, precision: str, effort: Effort, ops: int,
    seed: int, step: float, layers: tuple[int, ...], tiles: tuple[int, ...], document: Path | None,
) -> None:  # fmt: skip
    chosen, machine = parts or PARTS, load_target(target)
    options = CompileOptions(target=target, precision=precision, effort=effort)  # type: ignore[arg-type]
    found: dict[str, object] = {"schema": "ipucc.placement/1", "target": target, "effort": effort}
    wrong = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        named: list[tuple[str, Path]] = [(m.stem, m) for m in models]
        if not named and {"joint", "memory"} & set(chosen):
            named = [("digits", SAMPLES / "digits" / "digits.onnx"),
                     ("bert-base, 2 layers", made("bert-base", folder, "--layers", "2", "--seq", "128"))]  # fmt: skip
        works: dict[str, Callable[[], list[dict[str, object]]]] = {
            "graph": lambda: [graph_part(machine, replace(options, precision="model"), ops, seed)],
            "joint": lambda: [joint_part(name, path, machine, options) for name, path in named],
            "memory": lambda: [r for name, path in named for r in memory_part(name, path, machine, options, step)],
            "scale": lambda: scale_part(folder, target, options, layers, tiles),
        }
        columns = {
            "graph": ("ops", "variables", "candidates", "cap_bytes", "status", "cycles", "bound", "gap",
                      "greedy_cycles", "plan_seconds", "place_seconds"),
            "joint": ("model", "status", "gap", "joint", "greedy", "greedy_ratio", "fastest", "fastest_ratio",
                      "fastest_fits", "linear", "linear_ratio", "linear_fits"),
            "memory": ("model", "tile_bytes", "data_bytes", "status", "cycles", "bound", "gap", "greedy"),
            "scale": ("over", "count", "ops", "status", "gap", "cycles", "seconds", "peak_rss_bytes"),
        }  # fmt: skip
        for part in chosen:
            rows = works[part]()
            found[part] = rows
            show(part, rows, columns[part])
            if part == "memory":
                for name, _ in named:
                    click.echo(f"{name}: estimated cycles over the memory of a tile")
                    click.echo(plotted([r for r in rows if r["model"] == name]))
            if part == "graph":
                wrong |= rows[0]["gap"] is None or float(str(rows[0]["gap"])) > WORST_GAP
            if part == "joint":
                ratios = [r[f"{k}_ratio"] for r in rows for k in ("greedy", "fastest", "linear") if r[f"{k}_fits"]]
                wrong |= any(float(str(x)) < 1 for x in ratios)
    if document is not None:
        document.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
