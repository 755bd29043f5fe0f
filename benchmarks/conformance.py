"""ONNX's own backend tests, run by compiled programs on simulated tiles.

    python benchmarks/conformance.py [--kind node] [--op NAME] [--case PATTERN] [--json OUT] [--freeze]

Every case is compiled for a machine of a few tiles (for a whole chip where that is too small; whole networks for one
at once) and run; what it computes is held against the expected outputs of the case, with its tolerances. A case
passes, is refused by a diagnostic, gives wrong numbers, crashes, or hangs; one whose numbers differ by roundings of
their type alone, but beyond the tolerances of the case, counts by itself. Nothing runs on the host instead. Inputs
from which shapes, axes or counts follow are bound to their values while compiling (`--bind`).

`tests/conformance/passing.txt` lists the cases that pass. One of them that does no longer is an error, and so is any
wrong, crashing or hanging case. `--freeze` adds the cases that pass now; none is ever taken off.
"""

import fnmatch
import json
import multiprocessing
import signal
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from ipucc.backend import IpuBackend, Refusal
from ipucc.diagnostics import CompileError

KINDS: Final = ("real", "node", "pytorch-converted", "pytorch-operator")
"""The longest cases first: whole networks, for one whole chip each."""
FROZEN: Final = Path(__file__).parent.parent / "tests" / "conformance" / "passing.txt"
TILES: Final = 8
SECONDS: Final = {"real": 600}
"""A case that takes longer hangs; of other kinds after 60."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a case. `status` is pass, refused, rounding, wrong, crash, internal or hang; `reason` is an id and
    its message, or what is wrong."""

    name: str
    kind: str
    op: str
    status: str
    reason: str = ""
    bound: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Case:
    """A case with its data: a model, and pairs of inputs and expected outputs."""

    name: str
    kind: str
    op: str
    model: onnx.ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


@cache
def _loaded(kind: str) -> dict[str, TestCase]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind=kind)}


def names(kind: str) -> list[str]:
    """All cases of a kind, in the order of the package."""
    return list(_loaded(kind))


def load(kind: str, name: str) -> Case:
    """One case with its model and data."""
    case = _loaded(kind)[name]
    if kind == "real":
        return _network(case)
    model = case.model if case.model is not None else onnx.load(Path(case.model_dir) / "model.onnx")
    data = case.data_sets if case.data_sets is not None else list(_from_folder(model, Path(case.model_dir)))
    return Case(name, kind, _tested_op(name, model), model, data, case.rtol, case.atol)


def _network(case: TestCase) -> Case:
    """A whole network of the package, on the input that onnx makes up for it. All of its weights are constants."""
    path = Path(onnx.__file__).parent.parent / str(case.url)
    model = onnx.load(path)
    held = {tensor.name for tensor in model.graph.initializer}
    feeds = [Runner.generate_dummy_data(value) for value in model.graph.input if value.name not in held]
    wanted = [onnx.load_tensor(path.with_name(f"{path.stem}_output_{i}.pb")) for i in range(len(model.graph.output))]
    data = [(feeds, [numpy_helper.to_array(tensor) for tensor in wanted])]
    return Case(case.name, "real", case.model_name, model, data, case.rtol, case.atol)


def _tested_op(name: str, model: onnx.ModelProto) -> str:
    """The op that a case is about: of an `_expanded` one, and of pytorch's, the one in its name if there is one."""
    ops = [node.op_type for node in model.graph.node]
    if len(set(ops) - {"Constant"}) == 1:
        return next(op for op in ops if op != "Constant")
    plain = name.removeprefix("test_").replace("_", "").lower()
    aliases = {"sce": "SoftmaxCrossEntropyLoss", "nllloss": "NegativeLogLikelihoodLoss", "maxpool": "MaxPool"}
    for short, op in aliases.items():
        if plain.startswith(short):
            return op
    return next((op for op in _known_ops() if plain.startswith(op.lower())), ops[-1] if ops else "none")


@cache
def _known_ops() -> list[str]:
    """All ops of ONNX, long names first."""
    return sorted({schema.name for schema in onnx.defs.get_all_schemas()}, key=len, reverse=True)


def _from_folder(model: onnx.ModelProto, folder: Path) -> Iterator[tuple[list[Any], list[Any]]]:
    for data in sorted(folder.glob("test_data_set_*")):
        pair = []
        for side in ("input", "output"):
            files = [data / f"{side}_{i}.pb" for i in range(len(list(data.glob(f"{side}_*.pb"))))]
            pair.append([numpy_helper.to_array(onnx.load_tensor(str(file))) for file in files])
        yield pair[0], pair[1]


def as_array(item: Any) -> Any:
    """An input or output of a case; sequences and optionals as they are."""
    if isinstance(item, onnx.TensorProto):
        return numpy_helper.to_array(item)
    return np.asarray(item) if isinstance(item, np.generic) else item


def run_case(case: Case, target: str) -> Outcome:
    """Compile a case and run it on all of its data."""
    begin = time.perf_counter()
    bound: tuple[str, ...] = ()

    def outcome(status: str, reason: str = "") -> Outcome:
        return Outcome(case.name, case.kind, case.op, status, reason, bound, time.perf_counter() - begin)

    try:
        ready = IpuBackend.prepare(case.model, target=target, solver="greedy", effort="fast")
        bound = ready.bound
        for inputs, outputs in case.data:
            found = ready.run([as_array(item) for item in inputs])
            results = [as_array(item) for item in outputs]
            problem = difference(results, found, case.rtol, case.atol)
            if problem:
                same = all(map(rounded_alike, results, found))
                return outcome("rounding" if same else "wrong", problem)
    except CompileError as failure:
        first = failure.diagnostics[0]
        return outcome("refused" if isinstance(failure, Refusal) else "internal",
                       f"{first.id} {first.op or ''}: {first.message.splitlines()[0]}")  # fmt: skip
    except Hanging:
        return outcome("hang", f"after {_seconds(case.kind)} s")
    except Exception as failure:
        last = traceback.extract_tb(failure.__traceback__)[-1]
        text = f"{type(failure).__name__}: {str(failure).strip()[:200]} ({Path(last.filename).name}:{last.lineno})"
        return outcome("crash", " ".join(text.split()))
    return outcome("pass")


def difference(wanted: Sequence[Array], found: Sequence[Array], rtol: float, atol: float) -> str:
    """What is wrong with results, as onnx's own runner compares them; the empty text where nothing is."""
    try:
        Runner.assert_similar_outputs(list(wanted), list(found), rtol, atol)
    except AssertionError as failure:
        lines = [line for line in str(failure).splitlines() if line.strip()]
        return " ".join(" ".join(lines[:6]).split())[:300]
    return ""


def rounded_alike(wanted: Array, found: Array) -> bool:
    """Whether two results differ by no more than a few roundings of their type at the largest of their magnitudes."""
    if wanted.shape != found.shape or wanted.dtype != found.dtype or "float" not in wanted.dtype.name:
        return bool(wanted.shape == found.shape and wanted.dtype == found.dtype and (wanted == found).all())
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    step = float(ml_dtypes.finfo(wanted.dtype).eps if wanted.dtype != np.float64 else np.finfo(np.float32).eps)
    return bool(np.isfinite(a).all() and np.abs(a - b).max(initial=0) <= 2 * step * np.abs(a).max(initial=0))


class Hanging(Exception):
    """A case takes too long."""


def _seconds(kind: str) -> int:
    return SECONDS.get(kind, 60)


def _alarm(number: int, frame: object) -> None:
    raise Hanging


def _work(job: tuple[str, str, str]) -> Outcome:
    kind, name, target = job
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(_seconds(kind))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = run_case(load(kind, name), "gc200" if kind == "real" else target)
            small = found.status == "refused" and found.reason.startswith("IPU040")
            return run_case(load(kind, name), "gc200") if small and kind != "real" else found
    finally:
        signal.alarm(0)


def run_all(jobs: Sequence[tuple[str, str]], processes: int = 2) -> list[Outcome]:
    """The outcomes of all cases, in their order."""
    with TemporaryDirectory() as folder:
        machine = Path(folder) / "machine.toml"
        machine.write_text(f'base = "gc200"\ntiles = {TILES}\n')
        for kind in {kind for kind, _ in jobs}:
            _loaded(kind)  # before the processes: they share it
        work = [(kind, name, str(machine)) for kind, name in jobs]
        if processes == 1:
            return [_work(job) for job in work]
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            return pool.map(_work, work, chunksize=1)


def table(outcomes: Sequence[Outcome]) -> str:
    """One line per op, and the reasons of refusals with how many cases each costs."""
    by_op: dict[str, list[Outcome]] = defaultdict(list)
    for found in outcomes:
        by_op[found.op].append(found)
    lines = [f"{'op':<30} {'cases':>6} {'pass':>6} {'refused':>8} {'wrong':>6} {'crash':>6}  first reason"]
    for op in sorted(by_op):
        found = by_op[op]
        count = Counter(o.status for o in found)
        reason = next((o.reason for o in found if o.status != "pass"), "")
        broken = sum(count[status] for status in ("crash", "internal", "hang"))
        lines.append(f"{op:<30} {len(found):>6} {count['pass']:>6} {count['refused']:>8} {count['wrong']:>6} "
                     f"{broken:>6}  {reason[:90]}".rstrip())  # fmt: skip
    reasons = Counter(o.reason for o in outcomes if o.status == "refused")
    lines += ["", "refused, by reason:", *(f"{n:>6}  {text[:110]}" for text, n in reasons.most_common())]
    return "\n".join(lines)


def frozen() -> set[str]:
    """The cases that passed when the list was written last."""
    return set(FROZEN.read_text().split()) if FROZEN.exists() else set()


def problems(outcomes: Sequence[Outcome]) -> list[str]:
    """What must not be: cases that passed before and do not now, and wrong, crashing or hanging ones."""
    known = frozen()
    return [
        f"{o.name}: {o.status}, {o.reason}" for o in outcomes
        if o.status not in ("pass", "refused", "rounding") or (o.status != "pass" and o.name in known)
    ]  # fmt: skip


@click.command()
@click.option(
    "--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Kinds of cases; all of them by default."
)
@click.option("--op", "ops", multiple=True, help="Only cases about this op.")
@click.option("--case", "patterns", multiple=True, help="Only cases whose name matches.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all outcomes here.")
@click.option("--freeze", is_flag=True, help="Add the cases that pass to the frozen list.")
@click.option("-v", "--verbose", is_flag=True, help="Name every case that does not pass.")
@click.option("--processes", default=2, show_default=True)
def main(
    kinds: tuple[str, ...], ops: tuple[str, ...], patterns: tuple[str, ...], json_path: Path | None, freeze: bool,
    verbose: bool, processes: int,
) -> None:  # fmt: skip
    """Run ONNX's backend tests through compiled programs."""
    begin = time.perf_counter()
    jobs = [(kind, name) for kind in kinds or KINDS for name in names(kind)]
    if patterns:
        jobs = [job for job in jobs if any(fnmatch.fnmatch(job[1], p) for p in patterns)]
    if ops:
        jobs = [(kind, name) for kind, name in jobs if load(kind, name).op in ops]
    outcomes = run_all(jobs, processes)
    if json_path is not None:
        json_path.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    if freeze:
        FROZEN.write_text(
            "".join(f"{n}\n" for n in sorted(frozen() | {o.name for o in outcomes if o.status == "pass"}))
        )
    print(table(outcomes))
    if verbose:
        print("\n".join(f"{o.name}: {o.status} {o.reason}" for o in outcomes if o.status != "pass"))
    for kind in KINDS:
        count = Counter(o.status for o in outcomes if o.kind == kind)
        if count:
            print(f"{kind}: " + ", ".join(f"{n} {status}" for status, n in sorted(count.items())))
    print(
        f"{time.perf_counter() - begin:.0f} s, {sum(o.seconds for o in outcomes) / max(len(outcomes), 1):.3f} s a case"
    )
    if wrong := problems(outcomes):
        print("\n".join(wrong), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
