"""`ipucc run`: a program on the simulated IPU."""

import time
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from ipucc.cli.options import codelets_option, json_option, load_codelets
from ipucc.cli.output import pairs, replacing, table, writable
from ipucc.cli.verb import Verb, report, show, show_json
from ipucc.diagnostics import JsonValue, NumbersDiffer, error

if TYPE_CHECKING:
    from ipucc.api import Executable, Result
    from ipucc.oracle import Check
    from ipucc.values import Array

__all__ = ["run_command"]


@click.command("run", cls=Verb)
@click.argument("program", metavar="PROGRAM.ipux")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=VALUE",
    help="Value of an input: @FILE.npy, zeros, ones or random:SEED (normal floats, integers 0 and 1). May be repeated.",
)  # fmt: skip
@click.option("--inputs", "file", metavar="FILE.npz", help="Inputs by NAME or in_NAME; out_NAME is left alone.")
@click.option("--output", metavar="FILE.npz", help="Write the outputs by name.")
@click.option("--check", "reference", metavar="MODEL.onnx", help="Compare the outputs with a reference on this model.")
@click.option("--checked", is_flag=True, help="Follow every word of tile memory and refuse stale or foreign reads.")
@click.option("--timing-only", is_flag=True, help="Count cycles and compute nothing; needs no inputs and no weights.")
@click.option(
    "--decide", "decisions", multiple=True, metavar="NAME=N",
    help="With --timing-only: loop NAME makes N trips, If NAME takes its first branch (1) or the other (0).",
)  # fmt: skip
@codelets_option
@json_option
def run_command(
    program: str, inputs: tuple[str, ...], file: str | None, output: str | None, reference: str | None, checked: bool,
    timing_only: bool, decisions: tuple[str, ...], load: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Run a compiled program on the simulated IPU.

    Every input needs a value, except with --timing-only. There, loops that data decides about make as many trips as
    their bound says (one where there is none), and an If takes its longer branch. With --check the exit code is 4
    if the outputs differ from the reference by more than 1e-4 of their scale, or 2e-2 for a program in fp16.
    """
    begin = time.perf_counter()
    given = {"--input": inputs, "--inputs": file, "--output": output, "--check": reference, "--checked": checked}
    clash = [name for name, value in given.items() if value and timing_only]
    if clash:
        raise error("IPU0613", f"--timing-only computes no numbers, so {' and '.join(clash)} cannot be used with it")
    if output is not None:
        values = [text.partition("=@")[2] or None for text in inputs]
        writable(output, program, file, reference, *values)
    from ipucc import api
    from ipucc.cli.inputs import read_inputs

    load_codelets(load)
    executable = api.load(program)
    held = executable.program.held
    arrays = {} if timing_only else read_inputs(executable.inputs, inputs, file, held)
    decided = _decisions(decisions)
    result = executable.run(arrays, checked=checked, timing_only=timing_only, decisions=decided)
    if output is not None:
        _save(result.outputs, output)
    verdict = _check(executable, result, arrays, reference) if reference is not None else None
    seconds = time.perf_counter() - begin
    if as_json:
        show_json("ipucc.run/1", _document(result, verdict, seconds))
    else:
        show(_summary(program, executable, result, verdict, seconds))
    if verdict is not None:
        report(verdict.remarks)
        if not verdict.ok:
            report((verdict.failure(),))
            click.get_current_context().exit(NumbersDiffer.exit_code)


def _check(executable: "Executable", result: "Result", arrays: "Mapping[str, Array]", model: str) -> "Check":
    from ipucc.oracle import bound_values, check

    precision, dims = str(executable.manifest.get("precision", "model")), executable.manifest.get("dims")
    sizes = {str(k): v for k, v in dims.items() if isinstance(v, int)} if isinstance(dims, dict) else {}
    given = {**bound_values(executable.manifest), **arrays}
    return check(result.outputs, given, model, precision=precision, dims=sizes, flops=result.flops)


def _save(outputs: "Mapping[str, Array]", path: str) -> None:
    """An `.npz` without a trace of the clock. bfloat16, which numpy's format lacks, is written as float32."""
    import numpy as np

    with replacing(path) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in outputs.items():
            kept = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(kept), allow_pickle=False)


def _document(result: "Result", verdict: "Check | None", seconds: float) -> dict[str, JsonValue]:
    return {
        "cycles": result.cycles.to_json(),
        "device_seconds": result.device_seconds,
        "flops": result.flops,
        "sparse_flops": result.sparse_flops,
        "utilisation": result.utilisation,
        "outputs": {name: _describe(array) for name, array in result.outputs.items()},
        "check": verdict.to_json() if verdict is not None else None,
        "decisions": {name: list(found) for name, found in result.decisions.items()},
        "wall_seconds": seconds,
    }


def _decisions(given: tuple[str, ...]) -> dict[str, int]:
    """NAME=N as a table."""
    found = {}
    for text in given:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal():
            raise click.BadParameter(f"{text!r} is not NAME=N", param_hint="--decide")
        found[name] = int(number)
    return found


def _describe(array: "Array") -> dict[str, JsonValue]:
    """Shape, type, a hash of the little-endian bytes, and the range of the finite values (null without any)."""
    import hashlib

    import numpy as np

    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
        "min": float(finite.min()) if finite.size else None,
        "max": float(finite.max()) if finite.size else None,
        "mean": float(finite.mean()) if finite.size else None,
        "non_finite": int(values.size - finite.size),
    }


def _summary(program: str, executable: "Executable", result: "Result", verdict: "Check | None", seconds: float) -> str:
    cycles = result.cycles
    rows = [
        ("target", executable.target.name),
        ("cycles", f"{cycles.total:,} ({result.device_seconds * 1e6:,.1f} us): compute {cycles.compute:,}, "
                   f"exchange {cycles.exchange:,}, sync {cycles.sync:,}"),
        ("host", f"{cycles.host:,} cycles of transfers"),
        ("utilisation", f"{result.utilisation:.1%} of the matrix unit's peak, {result.flops:,} flops"),
    ]  # fmt: skip
    if result.sparse_flops != result.flops:
        rows.append(("sparse", f"{result.sparse_flops:,} flops without zero blocks"))
    for name, decided in result.decisions.items():
        times = ", ".join(map(str, decided[:8])) + (f", ... ({len(decided)} times)" if len(decided) > 8 else "")
        rows.append(("decided", f"{name}: {times}"))
    if verdict is not None:
        text = "agrees with" if verdict.ok else "differs from"
        rows.append(("check", f"{text} {verdict.oracle}: {verdict.max_rel_error:.2g} of scale, "
                              f"{verdict.tolerance:g} allowed"))  # fmt: skip
    rows.append(("time", f"{seconds:.2f} s"))
    lines = pairs(program, rows)
    if not result.outputs:
        return lines
    outputs = []
    for name, array in result.outputs.items():
        found = _describe(array)
        span = "" if found["min"] is None else f"{found['min']:.6g} .. {found['max']:.6g}"
        outputs.append((name, array.dtype.name, "x".join(map(str, array.shape)) or "scalar", span))
    return lines + "\n" + table("outputs", ("name", "type", "shape", "range"), outputs)
