"""The driver: from an ONNX model to a program, in the order front end, graph passes, plan, place, lower, allocate."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import onnx
import onnx_ir as ir

from ipucc.cache import plan_store
from ipucc.diagnostics import CompileError, Diagnostic, JsonValue, error
from ipucc.frontend import load_model, unsupported_nodes
from ipucc.limits import weights_fit
from ipucc.manifest import (
    amp_type,
    count_flops,
    memory_figures,
    model_identity,
    option_figures,
    placement_figures,
    planned_ops,
)
from ipucc.ops.build import build_tile_graph
from ipucc.ops.builder import BuildOptions, origin
from ipucc.ops.graph import TileGraph
from ipucc.ops.printing import print_placement, print_schedule
from ipucc.ops.siblings import combined_kinds
from ipucc.ops.support import supported
from ipucc.pass_manager import (
    DEFAULT_PIPELINE,
    DumpFolder,
    PassContext,
    PassEvent,
    count_nodes,
    default_registry,
    parse_pipeline,
    run_pipeline,
)
from ipucc.passes.plan.effort import Effort, Listen, Stop, never
from ipucc.passes.plan.explain import Explanation, select_ops
from ipucc.passes.plan.explain import explain as explain_ops
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.pays import sparsity_pays
from ipucc.passes.plan.place import Placement, Solver
from ipucc.passes.plan.schedule import schedule
from ipucc.passes.program.code import CodeSize
from ipucc.passes.program.refit import Recompute, refit
from ipucc.program.model import Program
from ipucc.program.printing import print_program
from ipucc.program.timing import StepTime, program_times
from ipucc.program.verify import verify_program
from ipucc.target import Target, load_target

__all__ = [
    "STAGES",
    "CompileOptions",
    "Compiled",
    "Optimised",
    "compile_graph",
    "compile_model",
    "graph_pipeline",
    "lower_ops",
    "optimise_model",
    "schedule_model",
    "stage_text",
]  # fmt: skip

Precision = Literal["model", "fp16"]
Stream = Callable[[str], None]
OnStart = Callable[[str], None]
OnPass = Callable[[str, float], None]

STAGES: Final = ("schedule", "place", "lower")
"""Stages behind the graph passes whose text can be printed and dumped: the order of ops, the placement, the program."""


@dataclass(frozen=True)
class CompileOptions:
    """What a user can choose. `passes` replaces the graph-level pipeline; `effort` says how long placement searches.

    `keep` is the number of plans per op offered to placement, None the effort's own. `recompute` says whether tensors
    may be computed again where the model does not fit otherwise.
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
    effort: Effort = "default"
    keep: int | None = None
    recompute: Recompute = "auto"


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
    explanations: tuple[Explanation, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether placement was stopped before its time: the program is sound, and another run may give another."""
        return self.placement.status == "interrupted"

    @property
    def cycles(self) -> dict[str, int]:
        """Predicted cycles of one run, beside them the solver's own estimate, and what the best order of all transfers
        could bring the exchange down to."""
        compute = sum(t.compute for t in self.times)
        exchange = sum(t.exchange for t in self.times)
        sync = sum(t.sync for t in self.times)
        total = compute + exchange + sync
        return {
            "total": total, "compute": compute, "exchange": exchange, "sync": sync,
            "estimated": self.placement.objective, "exchange_bound": sum(t.exchange_bound for t in self.times),
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
    if options.precision == "fp16" and "precision" not in text:
        text += ("," if text else "") + "precision{to=fp16}"
    if options.passes is None and (options.block is not None or options.density is not None):
        block = 16 if options.block is None else options.block
        density = 0.1 if options.density is None else options.density
        # Behind the precision, so that a prediction of what sparsity buys is made for the types that run.
        text += f",sparsify{{block={block},density={density},when=always}}"
    return text


class _Clock:
    """Wall seconds per part of a compilation, and who hears of them."""

    def __init__(self, seconds: dict[str, float], on_start: OnStart | None, on_pass: OnPass | None) -> None:
        self.seconds, self.on_start, self.on_pass = seconds, on_start, on_pass
        self._running: tuple[str, float] | None = None

    def begin(self, name: str) -> None:
        """A part begins; the one before it has ended."""
        self.end()
        if self.on_start is not None:
            self.on_start(name)
        self._running = name, time.perf_counter()

    def end(self) -> None:
        """The part that runs, if any, has ended."""
        if self._running is None:
            return
        name, begin = self._running
        self._running = None
        self.spent(name, time.perf_counter() - begin)

    def spent(self, name: str, seconds: float) -> None:
        """A part took so long."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if self.on_pass is not None:
            self.on_pass(name, seconds)


@dataclass(frozen=True, eq=False)
class Optimised:
    """A model behind the graph passes, the pipeline it went through, wall seconds per pass, and remarks."""

    model: ir.Model
    pipeline: str
    seconds: dict[str, float]
    remarks: tuple[Diagnostic, ...]


def optimise_model(
    source: str | Path | onnx.ModelProto | ir.Model,
    options: CompileOptions,
    *,
    target: Target | None = None,
    on_start: OnStart | None = None,
    on_pass: OnPass | None = None,
    print_after: Sequence[str] = (),
    stream: Stream | None = None,
    dump: DumpFolder | None = None,
    known: Known | None = None,
) -> Optimised:
    """Import a model and run the graph passes on it. With a target, a model whose weights alone exceed it is refused
    before the first pass (IPU0401). `known` is what is known of plans for the options' target; it is used where a pass
    asks for a prediction, and filled. The other arguments are those of `compile_model`."""
    registry = default_registry()
    for path in options.load:
        registry.load_file(path)
    pipeline = parse_pipeline(graph_pipeline(options), registry)
    clock = _Clock({}, on_start, on_pass)
    clock.begin("import")
    model = _import(source, options)
    clock.end()
    if target is not None:
        weights_fit(model, target, options)

    def heard(event: PassEvent) -> None:
        if event.timing is not None:
            clock.spent(event.name, event.timing.seconds)
        elif on_start is not None:
            on_start(event.name)

    def pays(node: ir.Node, blocks: Sequence[tuple[int, int]], block: tuple[int, int]) -> tuple[bool, str]:
        nonlocal known
        known = Known(load_target(options.target)) if known is None else known
        return sparsity_pays(node, blocks, block, known, _build_options(known.target, options))

    done = run_pipeline(
        model, pipeline, context=PassContext(pays=pays), print_after=print_after, stream=stream, dump=dump,
        on_event=heard,
    )  # fmt: skip
    return Optimised(model, str(pipeline), clock.seconds, done.remarks)


def _import(source: str | Path | onnx.ModelProto | ir.Model, options: CompileOptions) -> ir.Model:
    """The model as the passes start from it. Unsupported ops are no error yet, since a pass may rewrite them."""
    try:
        return load_model(source, dims=options.dims, input_shapes=options.input_shapes)
    except CompileError as failure:
        if any(found.id == "IPU0115" for found in failure.diagnostics):
            # A shape that stays unknown mostly comes from an op that is not supported: say so, with the op's name.
            load_model(source, dims=options.dims, input_shapes=options.input_shapes, supported=supported)
        raise


def compile_model(
    source: str | Path | onnx.ModelProto | ir.Model,
    options: CompileOptions,
    *,
    on_start: OnStart | None = None,
    on_pass: OnPass | None = None,
    print_after: Sequence[str] = (),
    stream: Stream | None = None,
    dump: DumpFolder | None = None,
    progress: Listen | None = None,
    stop: Stop = never,
    explain: Sequence[str] = (),
    cache: Path | None = None,
) -> Compiled:
    """Compile a model file or model.

    `on_start` hears of every pass and part of the compiler that begins, `on_pass` of every one that has ended with its
    wall seconds; `stream` gets the text of the graph after the passes named in `print_after` (or `all`), and that of
    the order of ops, the placement and the program after the stages `schedule`, `place` and `lower`; `dump` gets the
    text of every stage. `progress` hears how placement goes on; once `stop` says so, it ends with its best choice so
    far, and the manifest has the status "interrupted" (KeyboardInterrupt where there is no choice yet).

    `explain` names ops or ONNX nodes, or patterns of them, whose plans are explained in the result; a name that stands
    for nothing is refused before placement (IPU0615). `cache` is a folder in which plans of ops and costs of edges are
    kept (`ipucc.cache`); they are what they would be without it.

    Raises CompileError for what the user can mend, DoesNotFit where the target is too small.
    """
    target = load_target(options.target)
    store = plan_store(target, cache)
    known = Known(target, store)
    identity = model_identity(source) if not isinstance(source, str | Path) or Path(source).is_file() else None
    graph_passes = [name for name in print_after if name not in STAGES]
    try:
        done = optimise_model(
            source, options, target=target, on_start=on_start, on_pass=on_pass, print_after=graph_passes,
            stream=stream, dump=dump, known=known,
        )  # fmt: skip
        compiled = compile_graph(
            done.model, target, options, seconds=done.seconds, remarks=done.remarks, on_start=on_start,
            on_pass=on_pass, progress=progress, stop=stop, explain=explain, known=known,
        )  # fmt: skip
    finally:
        if store is not None:
            store.trim()
    compiled.program.manifest["model"] = identity
    compiled.program.manifest["pipeline"] = done.pipeline
    for stage in STAGES:
        wanted = stream is not None and {"all", stage} & set(print_after)
        if not wanted and dump is None:
            continue
        text = stage_text(compiled, stage)
        if wanted and stream is not None:
            stream(f"# after {stage}\n{text}")
        if dump is not None:
            dump.write(stage, text)
    return compiled


def stage_text(compiled: Compiled, stage: str) -> str:
    """The text of a stage of STAGES."""
    if stage == "schedule":
        return print_schedule(compiled.graph)
    if stage == "place":
        return print_placement(compiled.graph, compiled.placement)
    return print_program(compiled.program)


def _build_options(target: Target, options: CompileOptions) -> BuildOptions:
    return BuildOptions(target, "float16" if options.partials == "fp16" else "float32")


def schedule_model(model: ir.Model, target: Target, options: CompileOptions) -> TileGraph:
    """The tile graph of a model behind the graph passes, its ops in the order in which they run.

    Raises CompileError with every node that cannot be lowered.
    """
    return schedule(lower_ops(model, target, options))


def lower_ops(model: ir.Model, target: Target, options: CompileOptions, joined: Collection[str] = ()) -> TileGraph:
    """The tile graph of a model behind the graph passes, in the order of its nodes; products of the kinds `joined` as
    one product.

    Raises CompileError with every node that cannot be lowered.
    """
    problems = unsupported_nodes(model, supported)
    build = _build_options(target, options)
    try:
        graph = build_tile_graph(model, build, joined)
    except CompileError as failure:
        problems += [found for found in failure.diagnostics if found.id != "IPU0201"]
        raise CompileError(problems or failure.diagnostics) from failure
    if problems:
        raise CompileError(problems)
    return graph


def compile_graph(
    model: ir.Model,
    target: Target,
    options: CompileOptions,
    *,
    seconds: dict[str, float] | None = None,
    remarks: tuple[Diagnostic, ...] = (),
    on_start: OnStart | None = None,
    on_pass: OnPass | None = None,
    progress: Listen | None = None,
    stop: Stop = never,
    explain: Sequence[str] = (),
    known: Known | None = None,
) -> Compiled:
    """Schedule, plan, place, lower and allocate a graph that the passes have finished with, and verify the program.

    `progress`, `stop` and `explain` are those of `compile_model`; `known` is what is known of plans for this target.
    """
    clock = _Clock({} if seconds is None else seconds, on_start, on_pass)
    clock.begin("schedule")
    graph = schedule_model(model, target, options)
    others = [schedule(lower_ops(model, target, options, kinds)) for kinds in combined_kinds(model.graph)]
    named = {name for node in model.graph for name in (node.name or "", *origin(node))}
    select_ops(graph, explain, named)  # A name that matches nothing is told before the long work.
    found = refit(
        [graph, *others], target, options.keep, options.solver, options.effort, clock.begin,
        recomputing=options.recompute, progress=progress, stop=stop, known=known,
    )  # fmt: skip
    fitted = found.fitted
    graph = fitted.graph
    program = fitted.program
    clock.begin("verify")
    try:
        verify_program(program)
    except CompileError as failure:
        # Not the user's fault, whatever the rule: the compiler wrote the program.
        raise RuntimeError(f"the compiled program breaks a rule of the verifier\n{failure}") from failure
    clock.end()
    times = tuple(program_times(program))
    compiled = Compiled(
        program,
        model,
        graph,
        fitted.placement,
        fitted.code,
        times,
        clock.seconds,
        (*remarks, *found.remarks(times)),
        explain_ops(fitted.placement, select_ops(graph, explain, named)),
    )
    program.manifest.update(_manifest(compiled, options))
    program.ops = planned_ops(graph, fitted.placement)
    return compiled


def _manifest(compiled: Compiled, options: CompileOptions) -> dict[str, JsonValue]:
    dense, sparse = count_flops(compiled.graph)
    return {
        **option_figures(options.dims, options.input_shapes, options.precision, options.partials, options.effort),
        "nodes": count_nodes(compiled.model),
        "placement": placement_figures(compiled.placement),
        "interrupted": compiled.interrupted,
        "cycles": compiled.cycles,
        "memory": memory_figures(compiled.program),
        "flops": dense,
        "sparse_flops": sparse,
        "amp": amp_type(compiled.graph),
    }
