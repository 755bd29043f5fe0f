"""ResNet-50 (224x224) and BERT-base (128 tokens), batch 1, fp16: what compiling and running them takes.

    python benchmarks/full_size.py [--model resnet50] [--target gc200] [--keep FOLDER] [--json OUT]

The models have random weights, written by samples/make_models.py into a temporary folder. Compiling, the faithful run,
and the run for timing only are processes of their own, so that the peak of memory belongs to each alone; seconds are
wall time, process start and imports apart. The numbers of the faithful run are held against onnxruntime, or onnx's
evaluator. Code is given as it is and as it would be without loops, every repeated layer spelled out.

Exit code 1: a limit of LIMITS exceeded, numbers off by more than 2e-2 of their scale, or cycles that differ between the
three.
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
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ipucc.program.model import PlannedOp
    from ipucc.program.op_cycles import OpCycles
    from ipucc.program.timing import StepTime

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
MODELS = {"resnet50": (), "bert-base": ("--seq", "128")}
LIMITS = {"compile": (60.0, None), "run": (60.0, 6e9), "timing-only": (5.0, None)}
"""Per phase the seconds and bytes that it may take."""
VOCABULARY = 30522
TOP = 10


@dataclass(frozen=True)
class OpCost:
    """An op of the tile graph, or the first of `runs` ops that are alike: cycles of all their steps."""

    name: str
    kind: str
    runs: int
    cycles: int
    share: float


@dataclass(frozen=True)
class Phase:
    """One process: seconds of the work, of importing what it needs, peak resident bytes, and cycles it arrived at."""

    name: str
    seconds: float
    import_seconds: float
    peak_rss_bytes: int
    cycles: dict[str, int]
    parts: dict[str, float] = field(default_factory=dict)
    top: tuple[OpCost, ...] = ()
    error: float | None = None
    oracle: str = ""
    code_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the phase exceeds its limits."""
        seconds, size = LIMITS[self.name]
        return self.seconds > seconds or (size is not None and self.peak_rss_bytes > size)


def peak_rss_bytes() -> int:
    """The most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compile_phase(model: Path, program: Path, target: str) -> Phase:
    """Compile and save; the ops that take most cycles come along."""
    begin = time.perf_counter()
    from ipucc.compiler import CompileOptions, compile_model
    from ipucc.program.file import save_program

    imported = time.perf_counter()
    compiled = compile_model(model, CompileOptions(target=target, precision="fp16"))
    ready = time.perf_counter()
    save_program(compiled.program, program)
    done = time.perf_counter()
    costs = top_ops(compiled.times, compiled.program.ops, compiled.cycles["total"])
    parts = {**compiled.seconds, "save": done - ready}
    parts["between"] = done - imported - sum(parts.values())
    peak = peak_rss_bytes()
    from ipucc.passes.program.code import code_size
    from ipucc.passes.program.lower import lower

    machine = compiled.program.target
    flat = code_size(lower(compiled.graph, compiled.placement, machine), machine)
    code = {
        "executable": machine.executable_bytes, "total": compiled.code.total, "exchange": compiled.code.exchange,
        "total without loops": flat.total, "exchange without loops": flat.exchange,
    }  # fmt: skip
    return Phase(
        "compile", done - imported, imported - begin, peak, compiled.cycles, parts, costs, code_bytes=code
    )  # fmt: skip


def top_ops(times: "Sequence[StepTime]", ops: "Sequence[PlannedOp]", total: int) -> tuple[OpCost, ...]:
    """The ops that take most cycles, most first. Ops of equal kind, plan and cycles stand together under the first."""
    from ipucc.program.op_cycles import cycles_by_op

    made = {op.name: (op.kind, op.plan) for op in ops}
    groups: dict[tuple[object, ...], list[OpCycles]] = {}
    for found in cycles_by_op(times, made).values():
        if found.total:
            groups.setdefault((made.get(found.name, found.name), found.total), []).append(found)
    costs = [
        OpCost(g[0].name, made.get(g[0].name, ("", ""))[0], len(g), sum(c.total for c in g), 0.0)
        for g in groups.values()
    ]
    costs.sort(key=lambda cost: -cost.cycles)
    return tuple(replace(cost, share=cost.cycles / total) for cost in costs[:TOP])


def run_phase(model: Path, program: Path, target: str) -> Phase:
    """Load the program, run it faithfully, and compare its outputs."""
    begin = time.perf_counter()
    import numpy as np

    import ipucc

    imported = time.perf_counter()
    exe = ipucc.load(program)
    loaded = time.perf_counter()
    rng = np.random.default_rng(1)
    inputs = {}
    for name, _, shape in exe.inputs:
        if name == "image":
            inputs[name] = rng.standard_normal(shape, np.float32)
        elif name == "attention_mask":
            inputs[name] = np.ones(shape, np.int64)
        else:
            inputs[name] = rng.integers(0, VOCABULARY if name == "input_ids" else 2, shape)
    start = time.perf_counter()
    result = exe.run(inputs)
    done = time.perf_counter()
    peak = peak_rss_bytes()
    from ipucc.oracle import check

    verdict = check(result.outputs, inputs, model, precision="fp16", flops=result.flops)
    parts = {"load": loaded - imported, "run": done - start}
    return Phase(
        "run", done - imported, imported - begin, peak, result.cycles.to_json(), parts, (), verdict.max_rel_error,
        verdict.oracle,
    )  # fmt: skip


def timing_phase(model: Path, program: Path, target: str) -> Phase:
    """Load the program and count its cycles."""
    begin = time.perf_counter()
    import ipucc

    imported = time.perf_counter()
    exe = ipucc.load(program)
    loaded = time.perf_counter()
    result = exe.run(timing_only=True)
    done = time.perf_counter()
    parts = {"load": loaded - imported, "count": done - loaded}
    return Phase("timing-only", done - imported, imported - begin, peak_rss_bytes(), result.cycles.to_json(), parts)


def alone(phase: Callable[[Path, Path, str], Phase], model: Path, program: Path, target: str) -> Phase:
    """Carry out a phase in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(phase, model, program, target).result()


def describe(phase: Phase) -> None:
    """Print what a phase took, next to its limits."""
    seconds, size = LIMITS[phase.name]
    limit = f"limit {seconds:.0f} s" + (f", {size / 1e9:.0f} GB" if size is not None else "")
    click.echo(
        f"  {phase.name}: {phase.seconds:.1f} s ({limit}), imports {phase.import_seconds:.1f} s, "
        f"peak {phase.peak_rss_bytes / 1e9:.2f} GB{', OVER' if phase.over else ''}"
    )
    for name, spent in phase.parts.items():
        if spent >= 0.05:
            click.echo(f"    {name:<28} {spent:7.2f} s")
    click.echo("    cycles " + ", ".join(f"{name} {n:,}" for name, n in phase.cycles.items()))
    if phase.error is not None:
        click.echo(f"    error {phase.error:.1e} of the scale of {phase.oracle}'s outputs")
    if phase.code_bytes:
        click.echo(
            "    code of the fullest tile, bytes: " + ", ".join(f"{k} {n:,}" for k, n in phase.code_bytes.items())
        )
    for op in phase.top:
        times = f", {op.runs} times" if op.runs > 1 else ""
        click.echo(f"    {op.share:6.1%} {op.cycles:>9,} cycles  {op.name} ({op.kind}{times})")


def measure(name: str, folder: Path, target: str) -> tuple[list[Phase], bool]:
    """All phases of one model, and whether something is wrong."""
    model, program = folder / f"{name}.onnx", folder / f"{name}.ipux"
    make = [sys.executable, str(SAMPLES / "make_models.py"), name, *MODELS[name], "-o", str(model)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    click.echo(f"{name}, {model.stat().st_size / 1e6:.0f} MB, fp16 on {target}")
    phases = []
    for phase in (compile_phase, run_phase, timing_phase):
        phases.append(alone(phase, model, program, target))
        describe(phases[-1])
    totals = {phase.cycles["total"] for phase in phases}
    error = phases[1].error
    wrong = len(totals) != 1 or error is None or not error <= 2e-2 or any(phase.over for phase in phases)
    return phases, wrong


@click.command(help=__doc__.split("\n")[0])
@click.option("--model", "names", type=click.Choice(sorted(MODELS)), multiple=True, help="May be repeated.")
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--keep", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Keep all files here.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(names: tuple[str, ...], target: str, keep: Path | None, document: Path | None) -> None:
    found, wrong = {}, False
    with nullcontext(str(keep)) if keep is not None else tempfile.TemporaryDirectory() as folder:
        for name in names or MODELS:
            phases, bad = measure(name, Path(folder), target)
            found[name] = [asdict(phase) for phase in phases]
            wrong |= bad
    if document is not None:
        text = json.dumps({"schema": "ipucc.full-size/1", "target": target, "models": found}, indent=1)
        document.write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
