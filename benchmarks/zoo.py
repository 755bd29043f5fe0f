"""Compile and run every model of a folder, and hold numbers and cycles against what they should be.

    python benchmarks/zoo.py                                     all models of the folder, gc200, both precisions
    python benchmarks/zoo.py a.onnx b.onnx --target bow --precision fp16 --json out.json

The folder is --models, or that of IPUCC_MODELS, or shared/models beside the checkout (model_files.py).

Every program is written to a file, read again and run faithfully. Errors are max|a - b| / max|reference|, within 1e-4
(model) and 2e-2 (fp16); the largest of those against onnxruntime (onnx's evaluator where it does not run the model) and
against the results that lie beside the model, in NAME.outputs.npz or as out_N in NAME.npz. Inputs come from NAME.npz or
NAME.inputs.npz, else they are random. Predicted cycles, counted while compiling, must equal those that the run counts.
Models without weights, and those of --timed, are only timed. Exports of one model (NAME.dynamo, NAME.legacy and their
like in other folders), given the same inputs, are held against each other, within the same bounds.

Exit code 1: an error above its bound, differing cycles, exports that differ, a refusal of a model outside --may-refuse,
or an exception.
"""

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import click
import numpy as np
from model_files import model_folder, why_none

import ipucc
import ipucc.compiler  # loaded here, so that no model is charged for it
from ipucc.cli.inputs import read_inputs
from ipucc.cli.output import table
from ipucc.diagnostics import CompileError
from ipucc.oracle import TOLERANCE, check, compare

Precision = Literal["model", "fp16"]
Arrays = dict[str, np.ndarray]
Results = dict[tuple[str, str, Precision], list[tuple[str, Arrays]]]
"""The outputs of all exports of a model, by the model's name, target and precision."""

# Sizes for the symbolic dimensions of exports that have some.
DIMS = {"super_resolution_10": {"batch_size": 1}, "llama_small.dyn.dynamo": {"s10": 1, "s12": 16, "s86": 1}}
SEED = 1


@dataclass
class Row:
    """One model on one target in one precision. Cycles and error are None where they were not reached."""

    model: str
    precision: Precision
    target: str
    status: str = "ok"
    note: str = ""
    reference: str = ""
    error: float | None = None
    bound: float | None = None
    predicted: int | None = None
    simulated: int | None = None
    estimated: int | None = None
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    peak_tile_bytes: int | None = None

    @property
    def distance(self) -> float | None:
        """How far the solver's estimate is from the predicted cycles, relative to these."""
        if self.predicted is None or self.estimated is None:
            return None
        return (self.estimated - self.predicted) / self.predicted if self.predicted else 0.0

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        cycles = [f"{n:,}" if n is not None else "" for n in (self.predicted, self.simulated, self.estimated)]
        return (
            self.model, self.precision, self.target, f"{self.status} {self.note}".strip(), self.reference,
            "" if self.error is None else f"{self.error:.1e}", *cycles,
            "" if self.distance is None else f"{100 * self.distance:.1f}%",
            f"{self.compile_seconds:.1f}", f"{self.run_seconds:.1f}",
            "" if self.peak_tile_bytes is None else f"{self.peak_tile_bytes / 1024:.1f}",
        )  # fmt: skip


COLUMNS = (
    "model", "precision", "target", "status", "reference", "max error", "predicted", "simulated", "estimated",
    "distance", "compile s", "run s", "tile KiB",
)  # fmt: skip


def try_model(path: Path, row: Row, timed: bool, checked: bool) -> Arrays:
    """Compile, save, load and run one model, and fill in the row; the outputs."""
    begin = time.perf_counter()
    compiled = ipucc.compile(path, target=row.target, precision=row.precision, dims=DIMS.get(path.stem, {}))
    row.compile_seconds = time.perf_counter() - begin
    cycles = compiled.manifest["cycles"]
    assert isinstance(cycles, dict)
    row.predicted, row.estimated = int(cycles["total"]), int(cycles["estimated"])
    row.peak_tile_bytes = int(compiled.profile().tile_bytes.max())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.ipux"
        compiled.save(file)
        return run_program(ipucc.load(file), path, row, timed, checked)


def run_program(exe: "ipucc.Executable", path: Path, row: Row, timed: bool, checked: bool) -> Arrays:
    """Run a loaded program on the inputs that belong to the model and compare; its outputs, none if it was timed."""
    outputs: Arrays = {}
    timed = timed or any(weight is None for weight in exe.program.weights.values())
    begin = time.perf_counter()
    if timed:
        row.note, row.simulated = "timed only", exe.run(timing_only=True).cycles.total
        row.run_seconds = time.perf_counter() - begin
    else:
        inputs = model_inputs(exe, path)
        result = exe.run(inputs, checked=checked)
        row.run_seconds = time.perf_counter() - begin
        row.simulated, row.bound = result.cycles.total, TOLERANCE[row.precision]
        outputs = result.outputs
        verdict = check(outputs, inputs, path, precision=row.precision, dims=DIMS.get(path.stem, {}),
                        flops=result.flops)  # fmt: skip
        row.reference, row.error = verdict.oracle, verdict.max_rel_error
        if any(remark.id == "IPU0608" for remark in verdict.remarks):
            row.note = "oracles disagree"
        if stored := stored_outputs(path, list(outputs)):
            row.reference += ", stored"
            row.error = max(row.error, compare(outputs, stored).max_rel_error)
        if not row.error <= row.bound:
            row.status = "wrong numbers"
    if row.simulated != row.predicted:
        row.status = "wrong cycles"
    return outputs


def stored_outputs(path: Path, names: Sequence[str]) -> Arrays:
    """The results that lie beside a model, by the names of its outputs, in whose order they are; none without them."""
    for file, prefix in ((path.with_suffix(".outputs.npz"), ""), (path.with_suffix(".npz"), "out_")):
        if file.exists():
            held = np.load(file)
            return dict(zip(names, (held[key] for key in held if key.startswith(prefix)), strict=True))
    return {}


def model_inputs(exe: "ipucc.Executable", path: Path) -> dict[str, np.ndarray]:
    """The inputs that lie beside the model, else random ones."""
    for file in (path.with_suffix(".inputs.npz"), path.with_suffix(".npz")):
        if file.exists():
            return read_inputs(exe.inputs, (), str(file))
    return read_inputs(exe.inputs, [f"{name}=random:{SEED}" for name, _, _ in exe.inputs], None)


def measure(
    path: Path, name: str, precision: Precision, target: str, timed: bool, checked: bool, results: Results
) -> Row:
    """The row of one model, whatever happens to it; its outputs are added to `results`."""
    row = Row(name, precision, target)
    try:
        outputs = try_model(path, row, timed, checked)
        if outputs:
            results.setdefault((path.name.split(".")[0], target, precision), []).append((name, outputs))
    except CompileError as refusal:
        found = dict.fromkeys(d.id for d in refusal.diagnostics)
        row.status, row.note = "refused", " ".join(found)
        click.echo(str(refusal), err=True)
    except Exception as failure:
        row.status, row.note = "error", type(failure).__name__
        click.echo(traceback.format_exc(), err=True)
    return row


def exports_apart(results: Results) -> list[tuple[str, str, float, float]]:
    """How far the outputs of the exports of a model are apart: two exports, the error, and its bound."""
    found = []
    for (_, _, precision), ((first, reference), *others) in results.items():
        for name, outputs in others:
            renamed = dict(zip(reference, outputs.values(), strict=True))
            found.append((first, name, compare(renamed, reference).max_rel_error, TOLERANCE[precision]))
    return found


def wrong(row: Row, may_refuse: Sequence[str]) -> bool:
    """Whether a row is a reason for exit code 1."""
    if row.status == "refused":
        return not any(fnmatch(Path(row.model).name, pattern) for pattern in may_refuse)
    return row.status != "ok"


@click.command(help=__doc__.split("\n")[0])
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--models", type=click.Path(path_type=Path), help="Folder to search without FILES.")
@click.option("--target", "targets", multiple=True, default=("gc200",), show_default=True, help="May be repeated.")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(["model", "fp16"]), default=("model", "fp16"),
    help="May be repeated.  [default: both]",
)  # fmt: skip
@click.option("--timed", multiple=True, default=("light_*",), show_default=True, help="Files that are only timed.")
@click.option(
    "--may-refuse", multiple=True, help="Files whose refusal is no fault. May be repeated.",
)  # fmt: skip
@click.option("--checked", is_flag=True, help="Follow every word of tile memory while running.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(
    files: tuple[Path, ...], models: Path | None, targets: tuple[str, ...], precisions: tuple[Precision, ...],
    timed: tuple[str, ...], may_refuse: tuple[str, ...], checked: bool, document: Path | None,
) -> None:  # fmt: skip
    models = model_folder() if models is None else models
    if models is None and not files:
        raise click.ClickException(why_none())
    paths = list(files) or sorted(models.rglob("*.onnx"))
    if not paths:
        raise click.ClickException(f"no .onnx in {models}")
    root = None if files else models
    rows, results = [], Results()
    for path in paths:
        name = path.name if root is None else str(path.relative_to(root))
        for target in targets:
            for precision in precisions:
                only_timed = any(fnmatch(path.name, pattern) for pattern in timed)
                rows.append(measure(path, name.removesuffix(".onnx"), precision, target, only_timed, checked, results))
                click.echo("  ".join(cell for cell in rows[-1].cells() if cell), err=True)
    bad = [row for row in rows if wrong(row, may_refuse)]
    pairs = exports_apart(results)
    differ = [pair for pair in pairs if not pair[2] <= pair[3]]
    click.echo(table("", COLUMNS, [row.cells() for row in rows]))
    counts = {s: sum(row.status == s for row in rows) for s in dict.fromkeys(row.status for row in rows)}
    for first, second, error, bound in pairs:
        click.echo(f"{first} and {second}: {error:.1e} apart, {bound:.0e} is allowed")
    click.echo(
        ", ".join(f"{count} {status}" for status, count in counts.items()) + f"; {len(bad) + len(differ)} at fault"
    )
    if document is not None:
        found = [{**asdict(row), "distance": row.distance, "fault": row in bad} for row in rows]
        document.write_text(json.dumps({"schema": "ipucc.zoo/1", "rows": found}, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if bad or differ else 0)


if __name__ == "__main__":
    main()
