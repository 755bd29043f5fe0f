"""`ipucc sweep`: what sparsity buys, over a grid of targets, blocks and densities."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import click

from ipucc.cli.options import (
    dim_option,
    input_shape_option,
    json_option,
    load_option,
    read_block,
    read_dims,
    read_shapes,
)
from ipucc.cli.output import replacing, table, writable, write_text
from ipucc.cli.progress import watched
from ipucc.cli.verb import INTERRUPTED, Verb, report, show, show_json, syntax_error
from ipucc.diagnostics import IDS, CompileError, JsonValue, error

if TYPE_CHECKING:
    from ipucc.sweep.grid import Study
    from ipucc.sweep.measure import Row, Task

__all__ = ["sweep_command"]

_SCHEMA: Final = "ipucc.sweep/1"
_DOCUMENT: Final = "sweep.json"
_CHART: Final = "sweep.svg"
T = TypeVar("T")


@click.command("sweep", cls=Verb)
@click.argument("model", metavar="MODEL.onnx")
@click.option("--block", "blocks", default="4,8,16", show_default=True, metavar="B,B,...", help="Blocks: B or BxB.")
@click.option(
    "--density", "densities", default="0.5,0.25,0.1,0.05", show_default=True, metavar="D,D,...",
    help="Shares of the blocks to keep.",
)  # fmt: skip
@click.option(
    "--target", "targets", default="gc200", show_default=True, metavar="T,T,...",
    help="Machines, or machine files (.toml).",
)  # fmt: skip
@click.option("--eval", "data", metavar="FILE.npz", help="Labelled data: arrays by input, and labels. Gives accuracy.")
@click.option("--faithful", is_flag=True, help="Run the labelled data on the simulated machine, not in onnxruntime.")
@click.option("--out", metavar="FOLDER", help="Keep what is done here, and write sweep.json and sweep.svg.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes at once.  [default: one per core]")
@click.option("--scheduler", metavar="ADDRESS", help="Compute on the workers of this dask scheduler, tcp://HOST:PORT.")
@click.option(
    "--precision", type=click.Choice(["model", "fp16"]), default="model", show_default=True,
    help="Element type of weights and activations: the model's own, or fp16.",
)  # fmt: skip
@click.option(
    "--partials", type=click.Choice(["fp16", "fp32"]), default="fp16", show_default=True,
    help="Type in which products of fp16 are summed; fp32 runs at half the rate.",
)  # fmt: skip
@dim_option
@input_shape_option
@click.option("--passes", metavar="PIPELINE", help="Passes instead of the default ones, with a sparsify among them.")
@click.option(
    "--score", type=click.Choice(["l1", "l2", "max", "wanda", "sparsegpt"]), help="What makes a block matter."
)
@click.option(
    "--pattern", type=click.Choice(["top", "banded", "butterfly", "block-diagonal"]),
    help="Which blocks to keep: those that matter most, or those of a pattern.",
)  # fmt: skip
@click.option("--calibrate", metavar="FILE.npz", help="Inputs of the model, for the scores wanda and sparsegpt.")
@click.option(
    "--effort", type=click.Choice(["fast", "default", "max"]), default="default", show_default=True,
    help="How many plans are looked at, and how long for the best choice among them.",
)  # fmt: skip
@load_option
@click.option("--cache", metavar="FOLDER", help="Keep plans of ops here. Default: $IPUCC_CACHE_DIR, else none.")
@json_option
def sweep_command(
    model: str, blocks: str, densities: str, targets: str, data: str | None, faithful: bool, out: str | None,
    jobs: int | None, scheduler: str | None, precision: Literal["model", "fp16"], partials: Literal["fp16", "fp32"],
    dims: tuple[str, ...], input_shapes: tuple[str, ...], passes: str | None, score: str | None,
    pattern: str | None, calibrate: str | None, effort: Literal["fast", "default", "max"], load: tuple[str, ...],
    cache: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Compile a model dense and with every block and density, for every target.

    Prints cycles, memory and, given labelled data, accuracy. With --out every finished point is kept: the same
    command goes on from there, after Ctrl-C or a kill too, and a larger grid computes only what is new.
    """
    begin = time.perf_counter()
    if scheduler is not None and jobs is not None:
        raise error("IPU0308", "--jobs is about processes of this machine, and --scheduler computes on others")
    if faithful and data is None:
        raise error("IPU0308", "--faithful says how --eval is judged, and no data is given")
    grid = _values("target", targets, str), _values("block", blocks, _block), _values("density", densities, _density)
    from ipucc.cache import cache_folder
    from ipucc.compiler import CompileOptions
    from ipucc.sweep.grid import Study
    from ipucc.sweep.journal import Journal
    from ipucc.sweep.measure import make_tasks

    options = CompileOptions(
        precision=precision, partials=partials, dims=read_dims(dims), input_shapes=read_shapes(input_shapes),
        passes=passes, load=tuple(map(_absolute, load)), effort=effort, score=score, pattern=pattern,
        calibrate=None if calibrate is None else _absolute(calibrate),
    )  # fmt: skip
    samples = None if data is None else Path(_absolute(data))
    study = Study(Path(_absolute(model)), options, *grid, samples, faithful, cache_folder(cache))
    _check(study)
    tasks = make_tasks(study)
    journal = None if out is None else Journal(_folder(out) / "points")
    found = {} if journal is None else {t.key: row for t in tasks if (row := journal.read(t)) is not None}
    before = len(found)
    try:
        for task, row in _computed([t for t in tasks if t.key not in found], len(tasks), jobs, scheduler):
            found[task.key] = row
            if journal is not None:
                journal.write(task, row)
    except KeyboardInterrupt:
        what = "; --out keeps them" if out is None else f" and kept in {out}; the same command goes on from there"
        click.echo(f"interrupted: {len(found)} of {len(tasks)} points are done{what}", err=True)
        click.get_current_context().exit(INTERRUPTED)
    rows = [found[task.key] for task in tasks]
    content: dict[str, JsonValue] = {
        "model": model, "precision": precision, "partials": partials, "effort": effort, "eval": data,
        "faithful": faithful, "rows": [row.to_json() for row in rows],
    }  # fmt: skip
    if out is not None:
        _write(Path(out), Path(model).name, content, rows)
    if as_json:
        show_json(_SCHEMA, content)
    else:
        seconds = time.perf_counter() - begin
        show(_page(model, rows) + f"\n{len(rows)} points, {len(rows) - before} computed now, {seconds:.2f} s")


def _values(name: str, text: str, read: Callable[[str], T]) -> tuple[T, ...]:
    """The values of a list, each once. Raises OptionSyntax."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise syntax_error("IPU0614", f"--{name} takes a list with commas, not {text!r}")
    return tuple(dict.fromkeys(read(part) for part in parts))


def _block(text: str) -> tuple[int, int]:
    from ipucc.sparsity import check_block

    block = read_block(text)
    assert block is not None  # of a text there is always one, or an error
    try:
        return check_block(block)
    except ValueError as failure:
        raise syntax_error("IPU0614", f"--block: {failure}") from failure


def _density(text: str) -> float:
    try:
        density = float(text)
    except ValueError:
        density = 0.0
    if not 0 < density <= 1:
        raise syntax_error("IPU0614", f"--density takes numbers above 0 and at most 1, not {text!r}")
    return density


def _absolute(path: str) -> str:
    """Processes that compute points may run in other folders."""
    return str(Path(path).absolute())


def _check(study: "Study") -> None:
    """Raises what would keep every point from being computed, before processes start."""
    from ipucc.frontend import joined
    from ipucc.optimise import optimise_model
    from ipucc.sweep.labelled import read_labelled
    from ipucc.target import load_target

    for target in study.targets:
        load_target(target)
    plain = replace(study.options, passes="", score=None, pattern=None, calibrate=None, precision="model")
    done = optimise_model(study.model, plain)
    if study.data is not None:
        read_labelled(study.data, joined(done.module))


def _folder(out: str) -> Path:
    """The folder of the results, made where it is missing. Raises CompileError IPU0508."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise error("IPU0508", f"cannot write into {out}: {failure.strerror or failure}") from failure
    writable(folder / _DOCUMENT)
    return folder


def _computed(
    tasks: "Sequence[Task]", total: int, jobs: int | None, scheduler: str | None
) -> "Iterator[tuple[Task, Row]]":
    """Rows as they are done; a terminal shows how many are."""
    from ipucc.sweep.cluster import compute_there
    from ipucc.sweep.local import compute_here

    if not tasks:
        return
    rows = compute_there(tasks, scheduler) if scheduler is not None else compute_here(tasks, jobs or _cores())
    done = total - len(tasks)
    with watched() as watch, closing(rows):
        watch.started(f"{done} of {total} points done")
        for task, row in rows:
            yield task, row
            done += 1
            watch.started(f"{done} of {total} points done, the last: {task.point}")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _write(folder: Path, title: str, content: dict[str, JsonValue], rows: "Sequence[Row]") -> None:
    """The document and the chart."""
    from ipucc.sweep.chart import draw

    write_text(folder / _DOCUMENT, json.dumps({"schema": _SCHEMA, **content}, indent=1, allow_nan=False))
    try:
        picture = draw(title, rows)
    except CompileError as failure:
        # The figures are there, and a missing library is no reason to lose them.
        report([replace(found, severity="warning") for found in failure.diagnostics])
        return
    with replacing(folder / _CHART) as draft:
        draft.write_bytes(picture)


def _page(model: str, rows: "Sequence[Row]") -> str:
    from ipucc.sweep.grid import block_text

    judged = any(row.accuracy is not None for row in rows)
    dense = {row.target: row.cycles for row in rows if row.block is None}
    columns = ["target", "block", "density", "kept", "cycles", "compute", "exchange", "sync", "dense / sparse",
               "KiB/tile", "gap", *(["accuracy"] if judged else []), "compile"]  # fmt: skip
    cells = []
    for row in rows:
        of_dense = dense[row.target]
        cells.append([
            row.target,
            "dense" if row.block is None else block_text(row.block),
            _text(row.density, "g"),
            _text(row.kept, ".1%"),
            row.status if row.cycles is None else f"{row.cycles:,}",
            *(_text(part, ",") for part in (row.compute, row.exchange, row.sync)),
            f"{of_dense / row.cycles:.2f}" if row.block is not None and row.cycles and of_dense else "",
            "" if row.max_tile_bytes is None else f"{row.max_tile_bytes / 1024:.1f}",
            _text(row.gap, ".1%"),
            *([_text(row.accuracy, ".1%")] if judged else []),
            f"{row.seconds:.2f} s",
        ])  # fmt: skip
    lines = [table(model, columns, cells)]
    # In the place of cycles stands why there are none.
    said = dict.fromkeys(str(problem["id"]) for row in rows for problem in row.problems)
    lines += [f"{id}: {IDS[id]}" for id in said]
    return "\n".join(lines)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
