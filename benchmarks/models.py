"""Whole models: status and gap of their placement, cycles beside a lower bound, tile memory, compile time, memory used.

    python benchmarks/models.py                              eleven networks of samples/make_models.py, fp16, gc200
    python benchmarks/models.py --model resnet50-b1          one of them, may be repeated
    python benchmarks/models.py a.onnx b.onnx --target bow --precision model --json out.json
    python benchmarks/models.py --run                        also run faithfully, numbers held against onnxruntime

Every model is compiled in a process of its own with an empty cache (IPUCC_CACHE_DIR names a new folder), and twice
more in other processes: with the plans that the first has kept, but not its program (`plans`), and with both (`warm`).
Seconds are wall time of compiling, imports apart; `peak RSS` is that of the first process, when it has compiled. Cycles
are those that the compiler predicts, and a run for timing counts the same. `bound` is a lower bound on the cycles of
the whole model (model_bounds.py) and `share` how much of them it explains; `util` is the share of the matrix unit's
peak; `estimated` is how far the solver's estimate is from the cycles; `ports` is what exchanges take over what their
busiest ports need; `layer` are the rounds of the program's longest loop, and the cycles of one: a layer of a
transformer.

A model that does not fit or is not supported is a row with the diagnostics' ids for a status. Exit code 1: a model
fails otherwise, cycles differ between compiling and counting or between a cold and a warm cache, are below the bound,
or numbers are off by more than 2e-2 (fp16; 1e-4 otherwise) of their scale.
"""

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rows import ProgramRow, count, program_figures, share, write_rows

if TYPE_CHECKING:
    from ipucc.compiler import Compiled, CompileOptions
    from ipucc.program.model import Program, Step

MAKE_MODELS = Path(__file__).resolve().parents[1] / "samples" / "make_models.py"
MODELS: dict[str, tuple[str, ...]] = {
    "bert-base-s128-b1": ("bert-base", "--seq", "128"),
    "bert-base-s128-b16": ("bert-base", "--seq", "128", "--batch", "16"),
    "bert-large-s128-b1": ("bert-large", "--seq", "128"),
    "gpt2-s64-b1": ("gpt2", "--seq", "64"),
    "vit-base-b1": ("vit-base",),
    "resnet50-b1": ("resnet50",),
    "resnet50-b16": ("resnet50", "--batch", "16"),
    "mobilenet-v2-b1": ("mobilenet-v2",),
    "efficientnet-b0-b1": ("efficientnet-b0",),
    "unet-256-b1": ("unet", "--size", "256"),
    "llama-step-c512": ("llama-step", "--context", "512"),
}
"""Per name what make_models.py is called with."""
Precision = Literal["model", "fp16"]
TOLERANCE: dict[Precision, float] = {"fp16": 2e-2, "model": 1e-4}
SEED = 1


@dataclass
class Row(ProgramRow):
    """One model; what was not reached is None.

    `placement_bound` is the solver's bound, `port_cycles` what the busiest ports of all exchanges need, `layer_cycles`
    one round of the longest loop. `error` is relative to the scale of the outputs.
    """

    model: str
    precision: Precision
    target: str
    compile_seconds: float | None = None
    planned_seconds: float | None = None
    warm_seconds: float | None = None
    peak_rss_bytes: int | None = None
    import_seconds: float | None = None
    placement_bound: int | None = None
    port_cycles: int | None = None
    layer_cycles: int | None = None
    layers: int | None = None
    utilisation: float | None = None
    counted: int | None = None
    planned_cycles: int | None = None
    warm_cycles: int | None = None
    code_bytes: int | None = None
    parts: dict[str, float] = field(default_factory=dict)
    run_seconds: float | None = None
    run_peak_rss_bytes: int | None = None
    error: float | None = None
    oracle: str = ""
    note: str = ""

    @property
    def fault(self) -> str:
        """What must not be, or the empty text. A refusal is none."""
        if self.note:
            return self.note
        if self.cycles is None:
            return ""
        if self.counted != self.cycles:
            return "counted otherwise"
        if (self.planned_cycles, self.warm_cycles) != (self.cycles, self.cycles):
            return "warm differs"
        if self.bound_cycles is None or self.bound_cycles > self.cycles:
            return "below bound"
        if self.error is not None and not self.error <= TOLERANCE[self.precision]:
            return "wrong numbers"
        return ""


def peak_rss_bytes() -> int:
    """The most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cold(model: Path, target: str, precision: Precision, program: Path | None) -> dict[str, Any]:
    """Compile with an empty cache, and everything that is read off the result; the program is saved where asked for."""
    begin = time.perf_counter()
    from ipucc.cache import cache_folder, find_entry
    from ipucc.compiler import CompileOptions, compile_model
    from ipucc.diagnostics import CompileError

    options = CompileOptions(target=target, precision=precision)
    start = time.perf_counter()
    try:
        compiled = compile_model(model, options, cache=cache_folder())
    except CompileError as refusal:
        done = time.perf_counter()
        return {
            "status": " ".join(dict.fromkeys(d.id for d in refusal.diagnostics)), "said": str(refusal),
            "compile_seconds": done - start, "import_seconds": start - begin, "peak_rss_bytes": peak_rss_bytes(),
            "bound_cycles": refused_bound(model, options),
        }  # fmt: skip
    seconds, peak = time.perf_counter() - start, peak_rss_bytes()
    entry = find_entry(model, options, cache_folder())
    if entry is not None:
        entry.store(compiled.program, compiled.remarks)
    if program is not None:
        from ipucc.program.file import save_program

        save_program(compiled.program, program)
    return {"compile_seconds": seconds, "import_seconds": start - begin, "peak_rss_bytes": peak, **figures(compiled)}


def refused_bound(model: Path, options: "CompileOptions") -> int | None:
    """The bound of a model for which there is no program, None if it has no tile graph either."""
    from model_bounds import model_bound

    from ipucc.diagnostics import CompileError
    from ipucc.optimise import lower_ops, optimise_model
    from ipucc.target import load_target

    try:
        target = load_target(options.target)
        return model_bound(lower_ops(optimise_model(model, options).model, target, options), target)
    except CompileError:
        return None


def figures(compiled: "Compiled") -> dict[str, Any]:
    """What a row says of a compiled model."""
    from model_bounds import model_bound

    import ipucc

    result = ipucc.Executable(compiled.program).run(timing_only=True)
    layer, layers = longest_loop(compiled.program)
    return {
        **program_figures(compiled), "placement_bound": compiled.placement.bound,
        "counted": result.cycles.total, "utilisation": result.utilisation,
        "bound_cycles": model_bound(compiled.graph, compiled.program.target),
        "code_bytes": compiled.code.total,
        "port_cycles": port_cycles(compiled.program), "layer_cycles": layer, "layers": layers,
        "parts": dict(compiled.seconds),
    }  # fmt: skip


def executed(steps: "Sequence[Step]", program: "Program", times: int = 1) -> "Iterator[tuple[Step, int]]":
    """Every step that is no loop or call, with how often it runs."""
    from ipucc.program.model import Call, Repeat

    for step in steps:
        if isinstance(step, Repeat):
            yield from executed(step.body, program, times * step.count)
        elif isinstance(step, Call):
            yield from executed(program.functions[step.function], program, times)
        else:
            yield step, times


def port_cycles(program: "Program") -> int:
    """What the busiest ports of all exchanges need, the fitted factor included: no order of transfers takes less."""
    from math import ceil

    from ipucc.program.model import Exchange
    from ipucc.program.timing import exchange_time

    return sum(
        ceil(exchange_time(step, program.buffers, program.target).port_cycles * program.target.exchange_factor) * times
        for step, times in executed(program.steps, program)
        if isinstance(step, Exchange)
    )


def longest_loop(program: "Program") -> tuple[int | None, int | None]:
    """Cycles of one round of the loop that takes most of the program's time, and its rounds; None without a loop."""
    from ipucc.program.model import Repeat
    from ipucc.program.timing import step_time

    loops = [
        (sum(step_time(inner, program).total * n for inner, n in executed(step.body, program)), step.count)
        for step in program.steps
        if isinstance(step, Repeat)
    ]
    return max(loops, key=lambda loop: loop[0] * loop[1], default=(None, None))


def planned(model: Path, target: str, precision: Precision, program: Path | None) -> dict[str, Any]:
    """Compile with the plans that a process before has kept, but without its program."""
    from ipucc.cache import cache_folder
    from ipucc.compiler import CompileOptions, compile_model

    start = time.perf_counter()
    compiled = compile_model(model, CompileOptions(target=target, precision=precision), cache=cache_folder())
    return {"planned_seconds": time.perf_counter() - start, "planned_cycles": compiled.cycles["total"]}


def warm(model: Path, target: str, precision: Precision, program: Path | None) -> dict[str, Any]:
    """Compile with the cache that a process before has filled."""
    import ipucc

    start = time.perf_counter()
    exe = ipucc.compile(model, target=target, precision=precision)
    return {"warm_seconds": time.perf_counter() - start, "warm_cycles": exe.cycles.total}


def run(model: Path, target: str, precision: Precision, program: Path | None) -> dict[str, Any]:
    """Run the saved program on random inputs, and compare with onnxruntime."""
    import ipucc
    from ipucc.cli.inputs import read_inputs
    from ipucc.oracle import check

    assert program is not None
    exe = ipucc.load(program)
    inputs = read_inputs(exe.inputs, [f"{name}=random:{SEED}" for name, _, _ in exe.inputs], None)
    start = time.perf_counter()
    result = exe.run(inputs)
    seconds, peak = time.perf_counter() - start, peak_rss_bytes()
    verdict = check(result.outputs, inputs, model, precision=precision, flops=result.flops)
    return {
        "run_seconds": seconds, "run_peak_rss_bytes": peak, "error": verdict.max_rel_error, "oracle": verdict.oracle,
        "counted": result.cycles.total,
    }  # fmt: skip


Phase = Callable[[Path, str, Precision, Path | None], dict[str, Any]]


def alone(phase: Phase, model: Path, target: str, precision: Precision, program: Path | None) -> dict[str, Any]:
    """Carry out a phase in a fresh process; what goes wrong in it is a note."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(phase, model, target, precision, program).result()
    except BrokenProcessPool:
        return {"note": f"{phase.__name__}: the process ended (out of memory?)"}
    except Exception as failure:
        first = str(failure).partition("\n")[0]
        return {"note": f"{phase.__name__}: {type(failure).__name__}: {first}"}


def measure(model: Path, name: str, target: str, precision: Precision, faithful: bool) -> Row:
    """The row of one model, whatever happens to it."""
    row = Row(name, precision, target)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IPUCC_CACHE_DIR"] = str(Path(folder) / "cache")
        program = Path(folder) / "program.ipux" if faithful else None
        for phase in (cold, planned, warm, *([run] if faithful else [])):
            found = alone(phase, model, target, precision, program)
            if said := found.pop("said", ""):
                click.echo(said, err=True)
            row.take(found)
            if row.cycles is None:
                break
    return row


def shown(rows: list[Row]) -> str:
    """The rows as a table."""
    from ipucc.cli.output import table

    columns = (
        "model", "status", "gap", "cycles", "compute", "exchange", "sync", "bound", "share", "util", "estimated",
        "ports", "layer", "tile KiB", "compile s", "plans s", "warm s", "peak RSS MB", "error", "",
    )  # fmt: skip
    cells = []
    for row in rows:
        seconds = (
            "" if s is None else f"{s:.1f}" for s in (row.compile_seconds, row.planned_seconds, row.warm_seconds)
        )
        distance = None if row.estimated is None or row.cycles is None else row.estimated - row.cycles
        cells.append((
            row.model, row.status, share(row.gap, 1, 2), count(row.cycles), count(row.compute),
            count(row.exchange), count(row.sync), count(row.bound_cycles), share(row.bound_cycles, row.cycles),
            share(row.utilisation, 1), share(distance, row.cycles),
            "" if not row.port_cycles or row.exchange is None else f"{row.exchange / row.port_cycles:.2f}",
            "" if row.layer_cycles is None else f"{row.layers} x {row.layer_cycles:,}",
            "" if row.max_tile_bytes is None else f"{row.max_tile_bytes / 1024:.1f}", *seconds,
            "" if row.peak_rss_bytes is None else f"{row.peak_rss_bytes / 1e6:,.0f}",
            "" if row.error is None else f"{row.error:.1e}", row.fault,
        ))  # fmt: skip
    return table("", columns, cells)


def made(arguments: Sequence[str], file: Path) -> Path:
    """What make_models.py writes into a file, called with these arguments."""
    make = [sys.executable, str(MAKE_MODELS), *arguments, "-o", str(file)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return file


@click.command(help=__doc__.split("\n")[0])
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", "names", type=click.Choice(list(MODELS)), multiple=True, help="May be repeated.")
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--precision", type=click.Choice(["model", "fp16"]), default="fp16", show_default=True)
@click.option("--run", "faithful", is_flag=True, help="Run every program and compare its numbers.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(
    files: tuple[Path, ...], names: tuple[str, ...], target: str, precision: Precision, faithful: bool,
    document: Path | None,
) -> None:  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        wanted: list[tuple[str, Path | None]] = [(path.stem, path) for path in files]
        wanted += [(name, None) for name in (names if files or names else MODELS)]
        for name, path in wanted:
            model = made(MODELS[name], Path(folder) / f"{name}.onnx") if path is None else path
            rows.append(measure(model, name, target, precision, faithful))
            click.echo(f"{name}: {rows[-1].status} {rows[-1].cycles} cycles {rows[-1].fault}".rstrip(), err=True)
            if path is None:
                model.unlink()
    bad = [row for row in rows if row.fault]
    click.echo(f"{precision} on {target}")
    click.echo(shown(rows))
    click.echo(f"{len(rows)} models, {sum(row.cycles is None for row in rows)} refused, {len(bad)} at fault")
    write_rows(document, "ipucc.models/1", target, rows)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
