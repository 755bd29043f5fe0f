"""One point of a sweep: compiled, measured and judged."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from ipucc.api import Executable
from ipucc.cache import compilation_digest, model_digest, plan_store
from ipucc.compiler import Compiled, CompileOptions, compile_module
from ipucc.diagnostics import Diagnostic, DoesNotFit, JsonValue, error
from ipucc.frontend import joined
from ipucc.manifest import memory_figures
from ipucc.npz import unreadable
from ipucc.optimise import Optimised, optimise_model
from ipucc.passes.plan.known import Known
from ipucc.sparsity import Block
from ipucc.sweep.grid import Point, Study, point_options
from ipucc.sweep.labelled import Labelled, accuracy, graph_inputs, read_labelled, run_graph
from ipucc.target import load_target

__all__ = ["Row", "Task", "make_tasks", "measure"]

_FORMAT: Final = b"ipucc.sweep-point/1"
_ONE_AT_A_TIME: Final = threading.Lock()
"""A worker of dask runs its tasks in threads, and a compilation has the process for itself."""


@dataclass(frozen=True)
class Row:
    """What is known of a point. Cycles are those of one run; bytes those of the fullest tile, what a tile has, and of
    all tiles. They are None where the model does not fit, and `status` has the ids of `problems` then, else how
    placement ended. `kept` is the share of weights that the sparse `layers` keep, None without such layers; `flops` are
    those of the dense model, `sparse_flops` without zero blocks. `accuracy` is over `judged` labels. `seconds` are wall
    seconds of the compilation."""

    target: str
    block: Block | None
    density: float | None
    status: str
    seconds: float
    kept: float | None = None
    layers: int = 0
    gap: float | None = None
    cycles: int | None = None
    compute: int | None = None
    exchange: int | None = None
    sync: int | None = None
    estimated: int | None = None
    max_tile_bytes: int | None = None
    tile_limit_bytes: int | None = None
    total_bytes: int | None = None
    flops: int | None = None
    sparse_flops: int | None = None
    accuracy: float | None = None
    judged: int | None = None
    problems: tuple[Mapping[str, JsonValue], ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def of_json(said: Mapping[str, Any]) -> "Row":
        """The row that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        if set(said) != set(Row.__dataclass_fields__):
            raise ValueError("the fields are others")
        block = said["block"]
        return Row(**{**said, "block": block and (block[0], block[1]), "problems": tuple(said["problems"])})


@dataclass(frozen=True)
class Task:
    """A point to compute. `key` is a digest of everything that its row depends on."""

    key: str
    study: Study
    point: Point
    options: CompileOptions


def make_tasks(study: Study) -> list[Task]:
    """The tasks of a sweep in the order of its points. Raises CompileError where options are wrong or exclude each
    other, and for files that cannot be read."""
    model, data = model_digest(study.model), _data_digest(study)
    return [Task(_key(model, data, p, options), study, p, options) for p, options in point_options(study)]


def measure(task: Task) -> Row:
    """Compiles a point. A model that does not fit is a row without cycles; its graph is judged all the same.

    Raises CompileError for what keeps every point from being compiled, and IPU0805 where this process does not see what
    the task is named by: its files have changed, or this is another ipucc.
    """
    with _ONE_AT_A_TIME:
        return _measure(task)


def _measure(task: Task) -> Row:
    study, point, options = task.study, task.point, task.options
    if _key(model_digest(study.model), _data_digest(study), point, options) != task.key:
        raise error(
            "IPU0805", f"the point {point} was given out for other files, libraries or another ipucc than are here",
            help=["a sweep needs files that do not change, and the same environment in all of its processes"],
        )  # fmt: skip
    target = load_target(options.target)
    begin = time.perf_counter()
    done = optimise_model(study.model, options)
    seconds = time.perf_counter() - begin
    data = None if study.data is None else read_labelled(study.data, joined(done.module))
    judged = _judge(data, done) if data is not None and not study.faithful else {}
    begin = time.perf_counter()
    store = plan_store(target, study.cache)
    try:
        compiled = compile_module(done.module, target, options, known=Known(target, store))
    except DoesNotFit as failure:
        status = " ".join(dict.fromkeys(found.id for found in failure.diagnostics))
        problems = tuple(found.to_json() for found in failure.diagnostics)
        seconds += time.perf_counter() - begin
        row = Row(point.target, point.block, point.density, status, seconds, problems=problems)
        return replace(row, **_kept(done.remarks), **judged)
    finally:
        if store is not None:
            store.trim()
    seconds += time.perf_counter() - begin
    if data is not None and study.faithful:
        executable = Executable(compiled.program)
        share, count = accuracy(data, executable.inputs, lambda batch: executable.run(batch).outputs)
        judged = {"accuracy": share, "judged": count}
    found: Any = compiled.program.manifest
    row = Row(point.target, point.block, point.density, found["placement"]["status"], seconds)
    return replace(row, **_kept(done.remarks), **_figures(compiled), **judged)


def _judge(data: Labelled, done: Optimised) -> dict[str, Any]:
    model = joined(done.module)
    share, count = accuracy(data, graph_inputs(model), run_graph(model))
    return {"accuracy": share, "judged": count}


def _kept(remarks: Sequence[Diagnostic]) -> dict[str, Any]:
    """What `sparsify` says that it has kept, in blocks."""
    found = [said.data for said in remarks if said.id == "IPU0320" and {"blocks", "density"} <= set(said.data)]
    blocks = [int(str(data["blocks"])) for data in found]
    whole = [round(count / float(str(data["density"]))) for count, data in zip(blocks, found, strict=True)]
    return {"layers": len(found), "kept": sum(blocks) / sum(whole)} if found else {}


def _figures(compiled: Compiled) -> dict[str, Any]:
    """Fields of a row that a compiled program has."""
    cycles = compiled.cycles
    said: Any = compiled.program.manifest
    return {
        "gap": said["placement"]["gap"],
        "cycles": cycles["total"],
        **{part: cycles[part] for part in ("compute", "exchange", "sync", "estimated")},
        **memory_figures(compiled.program),
        "flops": said["flops"],
        "sparse_flops": said["sparse_flops"],
    }


def _key(model: bytes, data: str, point: Point, options: CompileOptions) -> str:
    digest = hashlib.blake2b(_FORMAT, digest_size=32)
    try:
        digest.update(compilation_digest(model, options).encode())
    except OSError as failure:
        # A file that an option of a pass names.
        raise unreadable(str(failure.filename), failure, "IPU0605") from failure
    digest.update(json.dumps([data, asdict(point)]).encode())
    return digest.hexdigest()


def _data_digest(study: Study) -> str:
    """Labelled data and who judges it; empty without data."""
    if study.data is None:
        return ""
    try:
        content = study.data.read_bytes()
    except OSError as failure:
        raise unreadable(str(study.data), failure, "IPU0605") from failure
    judge = "simulator" if study.faithful else _oracle()
    return json.dumps([hashlib.blake2b(content).hexdigest(), judge])


def _oracle() -> str:
    try:
        return f"onnxruntime {version('onnxruntime')}"
    except PackageNotFoundError:
        return "onnx.reference"
