"""What placement finds, how well it is proved, and what it costs.

    python benchmarks/placement.py [MODEL.onnx]... [--part graph|joint|memory|scale]... [--model bert-base]...
        [--target gc200] [--precision fp16] [--effort default] [--json OUT]

    graph   a network of 1,000 ops drawn at random, with branches: gap and seconds, with the memory of the chip and
            with less than its best plans need
    joint   the joint choice beside greedy, every op's fastest plan, and linear placement (baselines.py): ratios of
            cycles, the bytes by which a baseline exceeds a tile, and the ratio once bytes are dear enough for it to fit
    memory  tile memory cut step by step, down to the least that any plan fits into: cycles over memory
    scale   compile seconds and memory over layers of BERT and over tiles; every compilation is a process of its own

Without models, `joint` takes eight networks of samples/, `memory` four of them. Cycles are estimates, as the solver
minimises them. Exit code 1: a gap of more than 3 % on the network of branches, or a baseline that fits and is better
than the joint choice.
"""

import json
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from math import log
from pathlib import Path
from typing import Final

import click
import numpy as np
from baselines import fastest, linear
from growth import over_layers, over_tiles

from ipucc.cli.output import table
from ipucc.compiler import CompileOptions
from ipucc.ops.graph import TileGraph
from ipucc.optimise import optimise_model, schedule_model
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.cpsat import leanest
from ipucc.passes.plan.dominance import eliminate_dominated
from ipucc.passes.plan.effort import BUDGETS, Effort
from ipucc.passes.plan.eliminate import Elimination
from ipucc.passes.plan.greedy import greedy, repaired
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.numbers import Choice, Numbers
from ipucc.passes.plan.search import search
from ipucc.target import Target, load_target

Row = dict[str, object]

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
PARTS = ("graph", "joint", "memory", "scale")
NETWORKS: dict[str, tuple[str, ...]] = {
    "digits": (),
    "bert-base": ("--seq", "128"),
    "gpt2": ("--seq", "64"),
    "vit-base": (),
    "resnet50": (),
    "mobilenet-v2": (),
    "efficientnet-b0": (),
    "unet": ("--size", "256"),
}
"""Per network what make_models.py is called with; digits is a file."""
TIGHT = ("digits", "bert-base", "resnet50", "mobilenet-v2")
"""The networks whose tile memory is cut."""
LAYERS = (6, 12, 24, 48, 96)
TILES = (64, 256, 736, 1472, 2944, 5888)
HIDDEN_OF_LAYERS, HIDDEN_OF_TILES = 384, 256
"""Hidden sizes with which 96 layers fit on the chip, and two on 64 tiles."""
WORST_GAP = 0.03
SHARE = 0.3
"""Where the smaller cap of the network of branches lies between the least memory of any choice and the best one's."""
COLUMNS = {
    "graph": ("memory", "ops", "distinct", "candidates", "cap_bytes", "status", "cycles", "bound", "gap",
              "greedy_ratio", "import_seconds", "plan_seconds", "place_seconds", "seconds", "cpu_seconds"),
    "joint": ("model", "ops", "status", "gap", "joint", "greedy", "fastest", "fastest_over", "fastest_fit", "linear",
              "linear_over", "linear_fit"),
    "memory": ("model", "tile_bytes", "data_bytes", "status", "cycles", "bound", "gap", "greedy"),
    "scale": ("over", "count", "ops", "steps", "status", "gap", "cycles", "seconds", "peak_rss_bytes"),
}  # fmt: skip


def cap_of(target: Target) -> int:
    """Bytes of a tile for data, as the compiler assumes before it knows the code."""
    return target.usable_bytes - target.tile_bytes // 16


def tile_graph(source: Path, target: Target, options: CompileOptions) -> TileGraph:
    """The ops of a model behind the graph passes."""
    return schedule_model(optimise_model(source, options, target=target).model, target, options)


def graph_part(source: Path, target: Target, options: CompileOptions) -> Iterable[Row]:
    """Plan and place the network of branches: with all memory of a tile, then with less than the best choice needs."""
    begin, spent = time.perf_counter(), time.process_time()
    graph = tile_graph(source, target, options)
    ready = time.perf_counter()
    problem = build_problem(graph, target, cap_of(target), BUDGETS[options.effort].plans)
    planned, spent = time.perf_counter(), time.process_time() - spent
    numbers = Numbers.of(problem)
    low, peak = int(numbers.extremes()[0].max()), numbers.peak(free_choice(numbers))
    for name, cap in (("chip", cap_of(target)), ("tight", int(low + SHARE * (peak - low)))):
        start, worked = time.perf_counter(), time.process_time()
        found = search(numbers, cap, BUDGETS[options.effort], phases(start))
        done, worked = time.perf_counter(), time.process_time() - worked
        plain = greedy(numbers, cap)
        yield {
            "memory": name, "ops": len(graph.ops), "distinct": len({id(c) for c in problem.candidates}),
            "candidates": sum(c.size for c in numbers.cycles), "cap_bytes": cap, "free_peak_bytes": peak,
            "least_bytes": low, "status": found.status, "cycles": found.cycles, "bound": found.bound,
            "gap": gap(found.cycles, found.bound), "greedy_ratio": ratio(numbers, plain, found.cycles),
            "import_seconds": ready - begin, "plan_seconds": planned - ready, "place_seconds": done - start,
            "seconds": planned - begin + done - start, "cpu_seconds": spent + worked,
        }  # fmt: skip


def phases(start: float) -> Callable[[str, int | None, int], None]:
    """Says when every phase of a search begins."""
    known: list[str] = []

    def heard(phase: str, cycles: int | None, bound: int) -> None:
        if phase not in known:
            known.append(phase)
            click.echo(f"{time.perf_counter() - start:8.1f} s  {phase}: {cycles} cycles, bound {bound}", err=True)

    return heard


def free_choice(numbers: Numbers) -> Choice:
    """The best choice without a limit on memory, or a good one where its tables are too large for a proof."""
    reduced = eliminate_dominated(numbers, 1 << 62)
    assert reduced is not None
    return reduced.original(Elimination(reduced.numbers).solve(reduced.numbers.cycles)[1])


def gap(cycles: int | None, bound: int) -> float | None:
    """(cycles - bound) / cycles."""
    return None if not cycles else (cycles - bound) / cycles


def ratio(numbers: Numbers, choice: Choice | None, cycles: int | None) -> float | None:
    """How many times `cycles` a choice takes."""
    return None if choice is None or not cycles else numbers.cost(choice) / cycles


def joint_part(name: str, source: Path, target: Target, options: CompileOptions) -> Row:
    """Cycles of the joint choice and, as ratios to it, of the baselines, all with the same plans to choose from.

    `_over` are the bytes that a baseline lacks, `_fit` is its ratio where bytes have a price at which it fits.
    """
    cap = cap_of(target)
    graph = tile_graph(source, target, options)
    problem = build_problem(graph, target, cap, BUDGETS[options.effort].plans)
    numbers = Numbers.of(problem)
    joint = search(numbers, cap, BUDGETS[options.effort])
    row: Row = {
        "model": name, "ops": len(graph.ops), "status": joint.status, "gap": gap(joint.cycles, joint.bound),
        "joint": joint.cycles, "greedy": ratio(numbers, greedy(numbers, cap), joint.cycles),
    }  # fmt: skip
    for key, priced, choice in (("fastest", numbers, fastest(numbers)), ("linear", *linear(problem))):
        row[key] = ratio(priced, choice, joint.cycles)
        row[f"{key}_over"] = over = max(0, priced.peak(choice) - cap)
        alone = replace(priced, pairs=())
        lean = repaired(alone, choice, np.zeros(alone.base.size, np.int64), cap) if over else choice
        row[f"{key}_fit"] = ratio(priced, lean, joint.cycles)
    return row


def memory_part(name: str, source: Path, target: Target, options: CompileOptions, step: float) -> Iterable[Row]:
    """Cycles over memory, down to the least that any plan fits into, and to a proof that nothing fits into less."""
    graph = tile_graph(source, target, options)
    known = Known(target)
    budget = BUDGETS[options.effort]
    size, fits, refused = target.tile_bytes, target.tile_bytes, 0
    for _ in range(_SIZES):
        cut = with_memory(target, size)
        cap = cap_of(cut)
        # Costs do not depend on the bytes of a tile: what is known of one size serves all.
        numbers = Numbers.of(build_problem(graph, cut, cap, budget.plans, known=known))
        plain, found = greedy(numbers, cap), search(numbers, cap, budget)
        yield {
            "model": name, "tile_bytes": size, "data_bytes": cap, "status": found.status, "cycles": found.cycles,
            "bound": found.bound, "gap": gap(found.cycles, found.bound),
            "greedy": None if plain is None else numbers.cost(plain),
        }  # fmt: skip
        if found.choice is None:
            refused = size
        else:
            # Memory that the choice leaves unused would change nothing: go below it at once.
            fits = min(size, size - (cap - numbers.peak(found.choice)))
        near = fits // 50
        if refused and fits - refused <= near:
            break
        if refused:
            size = (fits + refused) // 2
            continue
        # Plans of this size fit into no less than that; smaller sizes have others, and hardly leaner ones.
        least = least_tile(target, leanest(numbers, budget.first_time + budget.shared_time).bound)
        size = min(int(size * step), fits - 256)
        if size < least:
            middle = (fits + least) // 2
            size = middle if middle - least > near else least if fits > least else fits - near


def with_memory(target: Target, tile_bytes: int) -> Target:
    """The same machine with less memory on a tile."""
    return replace(target, tile_bytes=tile_bytes, executable_bytes=min(target.executable_bytes, tile_bytes // 2))


def least_tile(target: Target, data_bytes: int) -> int:
    """The fewest bytes of a tile that leave so many for data."""
    return bisect_left(range(target.tile_bytes), data_bytes, key=lambda n: cap_of(with_memory(target, n)))


_SIZES: Final = 40
"""Sizes of memory of one model at most."""


def plotted(rows: Sequence[Row], width: int = 60) -> str:
    """Cycles over memory as text: a bar per size, `#` the solver's choice, `+` what greedy takes more. Bars are
    logarithms of cycles over half of the least."""
    known = [int(str(r[k])) for r in rows for k in ("greedy", "cycles") if r.get(k)]
    lines = []
    for r in rows:
        solved, plain = (
            round(width * log(2 * int(str(r[k])) / min(known)) / log(2 * max(known) / min(known))) if r.get(k) else 0
            for k in ("cycles", "greedy")
        )
        bar = "#" * solved + "+" * max(0, plain - solved)
        note = "" if plain or not solved else "  greedy finds nothing"
        lines.append(f"  {r['tile_bytes']:>9,} B |{bar or ' ' + str(r['status'])}{note}")
    return "\n".join(lines)


def made(network: str, folder: Path, *arguments: str) -> Path:
    """A sample network with random weights."""
    path = folder / f"{network}.onnx"
    command = [sys.executable, str(SAMPLES / "make_models.py"), network, *arguments, "-o", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def text(value: object) -> str:
    """A figure in a table; what a row does not have stays empty."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if value < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def show(part: str, rows: Iterable[Row]) -> list[Row]:
    """Say every row as it comes, then print all as a table."""
    found = []
    for row in rows:
        found.append(row)
        click.echo(" ".join(f"{c}={text(row[c])}" for c in COLUMNS[part] if row.get(c) is not None), err=True)
    if part == "memory":
        names = list(dict.fromkeys(r["model"] for r in found))
        found.sort(key=lambda r: (names.index(r["model"]), -int(str(r["tile_bytes"]))))
    click.echo(table(part, COLUMNS[part], [[text(r.get(c)) for c in COLUMNS[part]] for r in found]))
    return found


def failed(part: str, rows: Sequence[Row]) -> bool:
    """Whether rows show what must not be."""
    if part == "graph":
        return any(r["gap"] is None or float(str(r["gap"])) > WORST_GAP for r in rows)
    if part == "joint":
        fit = [r[k] for r in rows for k in ("greedy", "fastest_fit", "linear_fit")]
        return any(x is not None and float(str(x)) < 1 for x in fit)
    return False


@click.command(help=__doc__.split("\n")[0])
@click.argument("models", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="May be repeated; all without it.")
@click.option("--model", "networks", type=click.Choice(list(NETWORKS)), multiple=True, help="For joint and memory.")
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--precision", type=click.Choice(["model", "fp16"]), default="fp16", show_default=True)
@click.option("--effort", type=click.Choice(list(BUDGETS)), default="default", show_default=True)
@click.option("--ops", default=1000, show_default=True, help="Of the network of branches.")
@click.option("--seed", default=0, show_default=True, help="Of the network of branches.")
@click.option("--step", default=0.8, show_default=True, help="Factor of one cut of memory.")
@click.option("--layers", type=int, multiple=True, default=LAYERS, show_default=True)
@click.option("--tiles", type=int, multiple=True, default=TILES, show_default=True)
@click.option("--limit", default=300.0, show_default=True, help="Seconds of one compilation of scale.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(
    models: tuple[Path, ...], parts: tuple[str, ...], networks: tuple[str, ...], target: str, precision: str,
    effort: Effort, ops: int, seed: int, step: float, layers: tuple[int, ...], tiles: tuple[int, ...], limit: float,
    document: Path | None,
) -> None:  # fmt: skip
    machine = load_target(target)
    options = CompileOptions(target=target, precision=precision, effort=effort)  # type: ignore[arg-type]
    found: dict[str, object] = {"schema": "ipucc.placement/2", "target": target, "effort": effort}
    wrong = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def make(network: str, *arguments: str) -> Path:
            return made(network, folder, *arguments)

        def named(default: Sequence[str]) -> Iterable[tuple[str, Path]]:
            yield from ((m.stem, m) for m in models)
            for name in networks or (() if models else default):
                yield name, SAMPLES / "digits" / "digits.onnx" if name == "digits" else make(name, *NETWORKS[name])

        works: dict[str, Callable[[], Iterable[Row]]] = {
            "graph": lambda: graph_part(make("branching", "--ops", str(ops), "--seed", str(seed)), machine, options),
            "joint": lambda: (joint_part(name, path, machine, options) for name, path in named(tuple(NETWORKS))),
            "memory": lambda: (
                r for name, path in named(TIGHT) for r in memory_part(name, path, machine, options, step)
            ),
            "scale": lambda: chain(
                over_layers(make, target, options, layers, HIDDEN_OF_LAYERS, limit),
                over_tiles(make, folder, target, options, tiles, HIDDEN_OF_TILES, limit),
            ),
        }
        for part in parts or PARTS:
            rows = show(part, works[part]())
            found[part] = rows
            wrong |= failed(part, rows)
            if part == "memory":
                for name in dict.fromkeys(str(r["model"]) for r in rows):
                    click.echo(f"{name}: estimated cycles (logarithmic) over the memory of a tile")
                    click.echo(plotted([r for r in rows if r["model"] == name]))
    if document is not None:
        document.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
