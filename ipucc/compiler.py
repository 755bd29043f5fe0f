"""The driver: from an ONNX model to a program, in the order front end, graph passes, plan, place, lower, allocate."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir

from ipucc.diagnostics import Diagnostic, error
from ipucc.dtypes import itemsize
from ipucc.frontend import load_model
from ipucc.ops.build import build_tile_graph
from ipucc.ops.builder import BuildOptions
from ipucc.ops.graph import TileGraph
from ipucc.pass_manager import DEFAULT_PIPELINE, DumpFolder, PassContext, default_registry, parse_pipeline, run_pipeline
from ipucc.passes.plan.place import Placement, Solver, place
from ipucc.passes.plan.problem import build_problem
from ipucc.passes.program.allocate import allocate
from ipucc.passes.program.code import CodeSize, code_size
from ipucc.passes.program.lower import lower
from ipucc.program.model import Compute, Exchange, HostRead, HostWrite, Program
from ipucc.program.timing import StepTime, step_time
from ipucc.target import Target, load_target

__all__ = ["Compiled", "CompileOptions", "compile_graph", "compile_model", "graph_pipeline"]

Precision = Literal["model", "fp16"]


@dataclass(frozen=True)
class CompileOptions:
    """What a user can choose. `passes` replaces the graph-level pipeline; `effort` is the solver's deterministic time.

    `keep` is the number of plans per op offered to placement.
    """

    target: str = "gc200"
    precision: Precision = "model"
    partials: Literal["fp16", "fp32"] = "fp16"
    dims: Mapping[str, int] = field(default_factory=dict)
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    passes: str | None = None
    block: int | None = None
    density: float | None = None
    solver: Solver = "cpsat"
    load: Sequence[str] = ()
    effort: float = 2.0
    keep: int = 16


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program with everything that was decided on the way. Times are wall seconds per pass, in order."""

    program: Program
    model: ir.Model
    graph: TileGraph
    placement: Placement
    code: CodeSize
    times: tuple[StepTime, ...]
    seconds: Mapping[str, float]
    remarks: tuple[Diagnostic, ...]

    @property
    def cycles(self) -> dict[str, int]:
        """Predicted cycles of one run, and the solver's own estimate beside them."""
        compute = sum(t.compute for t in self.times)
        exchange = sum(t.exchange for t in self.times)
        sync = sum(t.sync for t in self.times)
        total = compute + exchange + sync
        return {
            "total": total, "compute": compute, "exchange": exchange, "sync": sync,
            "estimated": self.placement.objective,
        }  # fmt: skip


def graph_pipeline(options: CompileOptions) -> str:
    """The graph-level pipeline that the options ask for, as text."""
    if options.passes is not None:
        if options.block is not None or options.density is not None:
            raise error(
                "IPU0308", "--block and --density are short forms of a pass, and --passes replaces all passes",
                help=["write sparsify{block=...,density=...} into --passes"],
            )  # fmt: skip
        text = options.passes
    else:
        text = DEFAULT_PIPELINE
        if options.block is not None or options.density is not None:
            block = 16 if options.block is None else options.block
            density = 0.1 if options.density is None else options.density
            text += f",sparsify{{block={block},density={density},when=always}}"
    if options.precision == "fp16" and "precision" not in text:
        text += ("," if text else "") + "precision{to=fp16}"
    return text


def compile_model(
    source: str | Path | onnx.ModelProto | ir.Model,
    options: CompileOptions,
    *,
    on_pass: Callable[[str, float], None] | None = None,
    print_after: Sequence[str] = (),
    stream: Callable[[str], None] | None = None,
    dump: DumpFolder | None = None,
) -> Compiled:
    """Compile a model file or model.

    `on_pass` hears of every finished pass with its wall seconds; `stream` gets the text of the graph after the passes
    named in `print_after` (or `all`); `dump` gets the text of every stage. Raises CompileError for what the user can
    mend, DoesNotFit where the target is too small.
    """
    target = load_target(options.target)
    registry = default_registry()
    for path in options.load:
        registry.load_file(path)
    pipeline = parse_pipeline(graph_pipeline(options), registry)
    seconds: dict[str, float] = {}
    begin = time.perf_counter()
    model = load_model(source, dims=options.dims, input_shapes=options.input_shapes)
    seconds["import"] = time.perf_counter() - begin
    _weights_fit(model, target, options)
    context = PassContext(pays=None)
    done = run_pipeline(model, pipeline, context=context, print_after=print_after, stream=stream, dump=dump)
    for t in done.timings:
        seconds[t.name] = seconds.get(t.name, 0.0) + t.seconds
    if on_pass is not None:
        for name, spent in seconds.items():
            on_pass(name, spent)
    compiled = compile_graph(model, target, options, seconds=seconds, remarks=done.remarks, on_pass=on_pass)
    compiled.program.manifest["pipeline"] = str(pipeline)
    return compiled


def compile_graph(
    model: ir.Model,
    target: Target,
    options: CompileOptions,
    *,
    seconds: dict[str, float] | None = None,
    remarks: tuple[Diagnostic, ...] = (),
    on_pass: Callable[[str, float], None] | None = None,
) -> Compiled:
    """Schedule, plan, place, lower and allocate a graph that the passes have finished with.

    Where addresses do not fit although placement thought so, placement is repeated with less memory, four times.
    """
    seconds = {} if seconds is None else seconds

    def timed(name: str, begin: float) -> None:
        spent = time.perf_counter() - begin
        seconds[name] = seconds.get(name, 0.0) + spent
        if on_pass is not None:
            on_pass(name, spent)

    begin = time.perf_counter()
    graph = build_tile_graph(model, BuildOptions(target, "float16" if options.partials == "fp16" else "float32"))
    timed("schedule", begin)
    begin = time.perf_counter()
    # Code is only known once the program is lowered; 1/16 of a tile stands in for it until then.
    cap = target.usable_bytes - target.tile_bytes // 16
    problem = build_problem(graph, target, cap, options.keep)
    timed("plan", begin)
    for attempt in range(5):
        begin = time.perf_counter()
        placement = place(graph, problem, cap, options.solver, options.effort)
        timed("place", begin)
        begin = time.perf_counter()
        program = lower(graph, placement, target)
        code = code_size(program, target)
        timed("lower", begin)
        begin = time.perf_counter()
        start = -(-(target.reserved_bytes + code.total) // 16) * 16
        if target.reserved_bytes + code.total > target.executable_bytes:
            raise error(
                "IPU0407",
                f"code takes {code.total:,} bytes of a tile, of which {target.executable_bytes:,} can hold instructions",
                notes=[f"exchange code {code.exchange:,} B, vertex states {code.vertices:,} B"],
                help=["a smaller batch or fewer layers per chip"],
            )
        allocation = allocate(program, start)
        timed("allocate", begin)
        over = allocation.peak - target.tile_bytes
        if over <= 0:
            break
        if attempt == 4:
            raise error(
                "IPU0406",
                f"the buffers of the fullest tile need {allocation.peak:,} bytes of {target.tile_bytes:,}",
                help=["--precision fp16", "--block 16 --density 0.25", "a smaller batch"],
            )
        cap -= over + target.tile_bytes // 64
    for buffer, offset in zip(program.buffers, allocation.offsets, strict=True):
        buffer.offset = offset
    program.code_bytes = code.total
    times = tuple(_times(program))
    return Compiled(program, model, graph, placement, code, times, seconds, remarks)


def _times(program: Program) -> list[StepTime]:
    steps = [s for s in program.steps if isinstance(s, Exchange | Compute | HostWrite | HostRead)]
    return [step_time(s, program) for s in steps]


def _weights_fit(model: ir.Model, target: Target, options: CompileOptions) -> None:
    """Refuses at once a model whose weights alone exceed the chip."""
    sparse = (options.density if options.density is not None else 0.1) if options.block or options.density else 1.0
    total = 0
    for value in model.graph.initializers.values():
        if value.shape is None or value.dtype is None or not value.uses():
            continue
        name = {"FLOAT": "float32", "DOUBLE": "float64"}.get(value.dtype.name, value.dtype.name.lower())
        try:
            size = 2 if options.precision == "fp16" and name == "float32" else itemsize(name)
        except KeyError:
            continue
        count = 1
        for d in value.shape:
            count *= int(d) if isinstance(d, int) else 1
        total += int(count * size * (sparse if len(value.shape) == 2 else 1))
    limit = target.tiles * target.usable_bytes
    if total > limit and options.passes is None:
        helps = []
        if options.precision != "fp16":
            helps.append(f"--precision fp16: weights of {total // 2:,} bytes")
        helps.append("--block 16 --density 0.25: a quarter of the weights of linear layers")
        helps.append("a target with more memory (--target)")
        raise error(
            "IPU0401",
            f"the weights take {total:,} bytes, the {target.tiles} tiles of {target.name} have {limit:,}",
            help=helps,
            data={"needed": total, "limit": limit},
        )


