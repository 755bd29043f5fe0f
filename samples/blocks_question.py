"""Blocks of 16, 8 or 4? The products of BERT and GPT over block and density, beside the dense product.

Sweeps single layers y = w @ x with random weights, as `ipucc sweep` does with a model, prints how many times as fast as
the dense product each is, and from which density on sparsity pays (between the densities tried, on a straight line in
cycles). Larger blocks are faster; what they cost in accuracy is a question of a trained model (`ipucc sweep --eval`).

    python samples/blocks_question.py [--matrix bert-base.up]... [--out FOLDER] [--svg FILE]

With --out, finished products are kept in the folder and not computed again, and all figures are in blocks.json there.
--svg draws them, with matplotlib.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import click
import onnx
from linear import linear
from rich.console import Console
from rich.progress import Progress

from ipucc.cli.output import replacing, table, write_text
from ipucc.compiler import CompileOptions
from ipucc.diagnostics import CompileError
from ipucc.sweep.chart import Panel, curves_of, draw_panels
from ipucc.sweep.grid import Study
from ipucc.sweep.journal import Journal
from ipucc.sweep.local import compute_here
from ipucc.sweep.measure import Row, Task, make_tasks

MATRICES = {
    "bert-base.attention": (768, 768),
    "bert-base.up": (3072, 768),
    "bert-large.up": (4096, 1024),
    "gpt2-xl.up": (6400, 1600),
}
"""Outputs x inputs."""
BLOCKS = (16, 8, 4)


def tasks_of(name: str, folder: Path, rows: int, densities: Sequence[float], target: str, precision: str) -> list[Task]:
    """The points of a matrix. The model file is written into the folder."""
    outputs, inputs = MATRICES[name]
    path = folder / f"{name}.onnx"
    onnx.save(linear(outputs, inputs, rows, seed=0), path)
    options = CompileOptions(precision="fp16" if precision == "fp16" else "model")
    return make_tasks(Study(path, options, [target], [(block, block) for block in BLOCKS], densities))


def found_rows(tasks: Sequence[Task], journal: Journal | None, jobs: int) -> dict[str, Row]:
    """Rows by key, read or computed."""
    found = {} if journal is None else {task.key: row for task in tasks if (row := journal.read(task)) is not None}
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        shown = progress.add_task("products", total=len(tasks), completed=len(found))
        for task, row in compute_here([task for task in tasks if task.key not in found], jobs):
            found[task.key] = row
            if journal is not None:
                journal.write(task, row)
            progress.advance(shown)
    return found


def break_even(dense: int, points: Sequence[tuple[float, int]]) -> str:
    """The density at which a sparse product takes as long as the dense one."""
    points = sorted(points)
    if not points or points[0][1] > dense:
        return f"below {points[0][0]:g}" if points else ""
    for (d0, c0), (d1, c1) in pairwise(points):
        if c0 <= dense < c1:
            return f"{d0 + (d1 - d0) * (dense - c0) / (c1 - c0):.2f}"
    return f"above {points[-1][0]:g}"


def cells(name: str, rows: Sequence[Row], densities: Sequence[float]) -> list[tuple[str, ...]]:
    """A line per block: the ratio at every density, and the break-even."""
    dense, *sparse = rows
    lines = []
    for block in BLOCKS:
        cycles = {row.density: row.cycles for row in sparse if row.block == (block, block)}
        points = [(d, c) for d, c in cycles.items() if d is not None and c is not None]
        ratios = [f"{dense.cycles / c:.2f}" if dense.cycles and (c := cycles[d]) else "" for d in densities]
        size = "x".join(map(str, MATRICES[name]))
        label = (name, size, f"{dense.cycles:,}" if dense.cycles else dense.status) if block == BLOCKS[0] else ("",) * 3
        lines.append((*label, str(block), *ratios, break_even(dense.cycles, points) if dense.cycles else ""))
    return lines


def picture(title: str, found: dict[str, list[Row]]) -> bytes:
    """An SVG: per matrix the ratio over density, a curve per block. Raises CompileError IPU0802 without matplotlib."""
    panels = []
    for name, (dense, *sparse) in found.items():

        def ratio(row: Row, dense: Row = dense) -> float | None:
            return dense.cycles / row.cycles if dense.cycles and row.cycles else None

        size = "x".join(map(str, MATRICES[name]))
        panels.append(Panel(f"{name}, {size}", "dense / sparse", curves_of(sparse, ratio), 1.0))
    return draw_panels(title, panels, min(3, len(panels)))


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--matrix", "names", type=click.Choice(list(MATRICES)), multiple=True, help="[default: all]")
@click.option("--density", "densities", type=click.FloatRange(0, 1, min_open=True), multiple=True,
              default=(0.25, 0.1, 0.05), show_default=True)  # fmt: skip
@click.option(
    "--rows", "count", type=click.IntRange(min=1), default=128, show_default=True, help="Rows of activations."
)
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--precision", type=click.Choice(["model", "fp16"]), default="fp16", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=os.cpu_count(), help="Processes at once.  [default: cores]")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Keep what is done, and the figures.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw the ratios.")
def main(
    names: tuple[str, ...], densities: tuple[float, ...], count: int, target: str, precision: str, jobs: int,
    out: Path | None, svg: Path | None,
) -> None:  # fmt: skip
    chosen = list(dict.fromkeys(names)) or list(MATRICES)
    with tempfile.TemporaryDirectory() as models:
        try:
            tasks = {name: tasks_of(name, Path(models), count, densities, target, precision) for name in chosen}
            everything = [task for of_one in tasks.values() for task in of_one]
            found = found_rows(everything, None if out is None else Journal(out / "points"), jobs)
        except CompileError as failure:
            raise click.ClickException(str(failure)) from failure
    rows = {name: [found[task.key] for task in of_one] for name, of_one in tasks.items()}
    title = f"{count} rows, {precision}, {target}: dense / sparse"
    columns = ("matrix", "size", "dense cycles", "block", *(f"at {d:g}" for d in densities), "break-even")
    click.echo(table(title, columns, [line for name in chosen for line in cells(name, rows[name], densities)]))
    if out is not None:
        held = {name: [row.to_json() for row in of_one] for name, of_one in rows.items()}
        write_text(out / "blocks.json", json.dumps(held, indent=1))
    if svg is not None:
        try:
            drawn = picture(title, rows)
        except CompileError as failure:
            raise click.ClickException(str(failure)) from failure
        with replacing(svg) as draft:
            draft.write_bytes(drawn)


if __name__ == "__main__":
    main()
