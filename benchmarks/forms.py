"""Native ops held against the forms that ONNX itself gives for them.

    python benchmarks/forms.py [--case PATTERN] [--json OUT] [-v]

Two kinds of pairs, out of ONNX's own backend tests (conformance.py). An `expanded` pair is a case and its `_expanded`
twin, in which the package has written the op out in others. An `inlined` pair is a case and what onnx's inliner makes
of it: every op that has a function body is replaced by it, but Range, whose body is a loop. Both members are compiled
and run on simulated tiles, on the same inputs. A pair is alike where their results are within the tolerances of the
case of each other, and the form gives what the case expects. What onnx's inliner makes of an op is not always that op
(it loses attributes that have defaults): where onnx's own evaluator does not get the expected results out of a form,
the pair counts as a bad form.

Exit code 1: a pair that is not alike, a member that crashes, or one that is refused while its twin runs, of good form.
"""

import fnmatch
import json
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import conformance
import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from ipucc.backend import IpuBackend, Refusal

NOT_INLINED: Final = [("", "Range")]

Array = NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """What became of a pair. `status` is alike, differs, refused (both members), one refused, bad form, no form or
    crash."""

    name: str
    kind: str
    op: str
    status: str
    reason: str = ""


def inlined(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with the bodies of all functions in place of their calls; None where there is nothing to inline, or
    where onnx's inliner gives up (attributes that have defaults, omitted operands)."""
    try:
        made = onnx.inliner.inline_selected_functions(model, NOT_INLINED, exclude=True, inline_schema_functions=True)
    except Exception:  # it raises errors of many kinds
        return None
    before, after = ([node.op_type for node in m.graph.node] for m in (model, made))
    return None if before == after else made


def twins() -> list[tuple[str, str]]:
    """Cases whose name says that they are the expanded form of another, behind that other."""
    known = set(conformance.names("node"))
    found = [(name.split("_expanded")[0], name) for name in known if "_expanded" in name]
    return sorted((native, twin) for native, twin in found if native in known)


def held_together(job: tuple[str, str, str]) -> Pair:
    """Compile and run a case and its form, the twin that is named or the inlined one."""
    name, twin, target = job
    case = conformance.load("node", name)
    kind = "expanded" if twin else "inlined"

    def pair(status: str, reason: str = "") -> Pair:
        return Pair(twin or name, kind, case.op, status, " ".join(reason.split())[:300])

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        form = conformance.load("node", twin).model if twin else inlined(case.model)
        if form is None:
            return pair("no form")
        try:
            native, other = (_results(model, case, target) for model in (case.model, form))
        except Exception as failure:
            return pair("crash", f"{type(failure).__name__}: {failure}")
        status, reason = _judged(native, other, case)
        if status not in ("alike", "refused") and not _by_the_evaluator(form, case):
            status = "bad form"
        return pair(status, reason)


def _judged(native: list[list[Array]] | str, other: list[list[Array]] | str, case: conformance.Case) -> tuple[str, str]:
    """The status of a pair, of which at least one member may be refused, and the reason."""
    if isinstance(native, str) or isinstance(other, str):
        refusals = [found for found in (native, other) if isinstance(found, str)]
        return "refused" if len(refusals) == 2 else "one refused", refusals[0]
    for ours, theirs, (_, wanted) in zip(native, other, case.data, strict=True):
        if problem := _apart(theirs, ours, case):
            return "differs", problem
        if problem := _apart([conformance.as_array(a) for a in wanted], theirs, case):
            return "differs", f"from what is expected: {problem}"
    return "alike", ""


def _by_the_evaluator(form: onnx.ModelProto, case: conformance.Case) -> bool:
    """Whether onnx's evaluator gets the results that a case expects out of a form."""
    names = [port.name for port in form.graph.input]
    try:
        for inputs, wanted in case.data:
            found = ReferenceEvaluator(form).run(None, dict(zip(names, map(conformance.as_array, inputs), strict=True)))
            if _apart([conformance.as_array(a) for a in wanted], list(map(conformance.as_array, found)), case):
                return False
    except Exception:  # it raises errors of many kinds
        return False
    return True


def _apart(wanted: Sequence[Array], found: Sequence[Array], case: conformance.Case) -> str:
    problem = conformance.difference(wanted, found, case.rtol, case.atol)
    return "" if all(map(conformance.rounded_alike, wanted, found)) else problem


def _results(model: onnx.ModelProto, case: conformance.Case, target: str) -> list[list[Array]] | str:
    """The outputs on all data of a case, or why the model is refused."""
    try:
        ready = IpuBackend.prepare(model, target=target, solver="greedy", effort="fast")
        return [list(ready.run([conformance.as_array(a) for a in inputs])) for inputs, _ in case.data]
    except Refusal as failure:
        first = failure.diagnostics[0]
        if first.id.startswith("IPU040") and target != "gc200":
            return _results(model, case, "gc200")
        return f"{first.id} {first.op or ''}: {first.message.splitlines()[0]}"


def run_all(jobs: Sequence[tuple[str, str]], processes: int = 2) -> list[Pair]:
    """What became of all pairs, in their order; pairs without a form are left out."""
    with TemporaryDirectory() as folder:
        machine = Path(folder) / "machine.toml"
        machine.write_text(f'base = "gc200"\ntiles = {conformance.TILES}\n')
        conformance.names("node")  # before the processes: they share it
        work = [(name, twin, str(machine)) for name, twin in jobs]
        if processes == 1:
            found = list(map(held_together, work))
        else:
            with multiprocessing.get_context("fork").Pool(processes) as pool:
                found = pool.map(held_together, work, chunksize=1)
    return [pair for pair in found if pair.status != "no form"]


def faults(pairs: Sequence[Pair]) -> list[str]:
    """What must not be."""
    return [
        f"{p.name} ({p.kind}): {p.status}, {p.reason}"
        for p in pairs
        if p.status not in ("alike", "refused", "bad form")
    ]


@click.command(help=__doc__.split("\n")[0])
@click.option("--case", "patterns", multiple=True, help="Only cases whose name matches.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write what became of all pairs here.")
@click.option("-v", "--verbose", is_flag=True, help="Name every pair that is refused or of bad form.")
@click.option("--processes", default=2, show_default=True)
def main(patterns: tuple[str, ...], json_path: Path | None, verbose: bool, processes: int) -> None:
    begin = time.perf_counter()
    jobs = [*twins(), *((name, "") for name in conformance.names("node"))]
    if patterns:
        jobs = [job for job in jobs if any(fnmatch.fnmatch(job[1] or job[0], p) for p in patterns)]
    pairs = run_all(jobs, processes)
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(pair) for pair in pairs], indent=1) + "\n")
    for kind in ("expanded", "inlined"):
        found = [pair for pair in pairs if pair.kind == kind]
        count = Counter(pair.status for pair in found)
        ops = len({pair.op for pair in found})
        click.echo(
            f"{kind}: {len(found)} pairs of {ops} ops: " + ", ".join(f"{n} {s}" for s, n in sorted(count.items()))
        )
    if verbose:
        click.echo("\n".join(f"{p.name} ({p.kind}): {p.reason}" for p in pairs if p.status in ("refused", "bad form")))
    click.echo(f"{time.perf_counter() - begin:.0f} s")
    if wrong := faults(pairs):
        click.echo("\n".join(wrong), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
