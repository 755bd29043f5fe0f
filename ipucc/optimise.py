"""From an ONNX model to its tile graph: front end, graph passes, lowering of ops, their order."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx
import onnx_ir as ir

from ipucc.clock import Clock, OnPass, OnStart
from ipucc.diagnostics import CompileError, Diagnostic, error
from ipucc.frontend import Module, load_module, parts_of, straight, unsupported_nodes
from ipucc.limits import weights_fit
from ipucc.ops.build import build_tile_graph
from ipucc.ops.builder import BuildOptions
from ipucc.ops.graph import TileGraph
from ipucc.ops.support import supported
from ipucc.pass_manager import (
    DEFAULT_PASSES,
    DumpFolder,
    OptionValue,
    PassContext,
    PassEvent,
    default_registry,
    format_step,
    parse_pipeline,
    run_pipeline,
)
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.pays import Predictor
from ipucc.passes.plan.schedule import schedule
from ipucc.target import Target, load_target

if TYPE_CHECKING:
    from ipucc.compiler import CompileOptions

__all__ = [
    "Optimised",
    "Stream",
    "graph_pipeline",
    "lower_ops",
    "lower_parts",
    "optimise_model",
    "predictor",
    "schedule_model",
]

Stream = Callable[[str], None]

_FOLLOWS: Final = frozenset({"IPU0115", "IPU0119", "IPU0201", "IPU0206"})
"""What is found of values without a static shape: mostly behind an op that is not supported."""


def graph_pipeline(options: "CompileOptions") -> str:
    """The graph-level pipeline that the options ask for, as text."""
    chosen: dict[str, OptionValue] = {
        name: value
        for name, value in (
            ("block", options.block), ("density", options.density), ("score", options.score),
            ("pattern", options.pattern), ("mask", options.mask), ("calibration", options.calibrate),
            ("cycles", options.budget),
        )
        if value is not None
    }  # fmt: skip
    if options.passes is not None:
        if chosen:
            raise error(
                "IPU0308",
                "--block, --density, --score, --pattern, --mask, --calibrate and --budget are short forms of a pass, "
                "and --passes replaces all passes",
                help=["write sparsify{block=...,density=...} into --passes"],
            )
        steps = [options.passes] if options.passes else []
        if options.precision == "fp16" and "precision" not in options.passes:
            steps.append("precision{to=fp16}")
        return ",".join(steps)
    given = [name for name in ("mask", "density", "pattern", "budget") if getattr(options, name) is not None]
    if len(given) > 1 and given != ["density", "pattern"]:
        raise error("IPU0308", f"{' and '.join(f'--{name}' for name in given)} both say which blocks are kept")
    if options.budget is not None and options.block is not None:
        raise error("IPU0308", "--budget chooses a block per layer, and --block gives one to all")
    *steps, last = DEFAULT_PASSES
    if options.precision == "fp16":
        steps.append("precision{to=fp16}")
    # Behind the precision, so that predictions of what sparsity buys are made for the types that run.
    if chosen:
        steps.append(format_step("sparsify", {**chosen, "when": "always"}))
    return ",".join([*steps, last])


@dataclass(frozen=True, eq=False)
class Optimised:
    """A model whose parts are behind the graph passes, the pipeline they went through, wall seconds per pass, and
    remarks."""

    module: Module
    pipeline: str
    seconds: dict[str, float]
    remarks: tuple[Diagnostic, ...]

    @property
    def model(self) -> ir.Model:
        """The graph of a model that is straight. Raises IPU0334 for one with control flow that data decides."""
        return straight(self.module)


def optimise_model(
    source: str | Path | onnx.ModelProto | ir.Model,
    options: "CompileOptions",
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
    clock = Clock({}, on_start, on_pass)
    clock.begin("import")
    module = _import(source, options)
    clock.end()
    parts = list(parts_of(module.region))
    if target is not None:
        for part in parts:
            weights_fit(part.model, target, options)

    def heard(event: PassEvent) -> None:
        if event.timing is not None:
            clock.spent(event.name, event.timing.seconds)
        elif on_start is not None:
            on_start(event.name)

    predict = predictor(options, known)
    remarks: list[Diagnostic] = []
    for part in parts:
        done = run_pipeline(
            part.model, pipeline, context=PassContext(predict=predict, target=predict.known.target),
            print_after=print_after, stream=stream, dump=dump, on_event=heard,
        )  # fmt: skip
        remarks += done.remarks
    return Optimised(module, str(pipeline), clock.seconds, tuple(remarks))


def predictor(options: "CompileOptions", known: Known | None = None) -> Predictor:
    """What passes ask for predictions: for the options' machine, with what is `known` of plans for it."""
    known = Known(load_target(options.target)) if known is None else known
    return Predictor(known, _build_options(known.target, options))


def _import(source: str | Path | onnx.ModelProto | ir.Model, options: "CompileOptions") -> Module:
    """The model as the passes start from it. Unsupported ops are no error yet, since a pass may rewrite them."""
    try:
        return load_module(source, dims=options.dims, input_shapes=options.input_shapes, bind=options.bind)
    except CompileError as failure:
        if any(found.id in _FOLLOWS for found in failure.diagnostics):
            # Then the model cannot be compiled whatever the passes do: name every op that is not supported beside.
            load_module(
                source, dims=options.dims, input_shapes=options.input_shapes, bind=options.bind, supported=supported
            )
        raise


def _build_options(target: Target, options: "CompileOptions") -> BuildOptions:
    return BuildOptions(target, "float16" if options.partials == "fp16" else "float32")


def schedule_model(model: ir.Model, target: Target, options: "CompileOptions") -> TileGraph:
    """The tile graph of a model behind the graph passes, its ops in the order in which they run.

    Raises CompileError with every node that cannot be lowered.
    """
    return schedule(lower_ops(model, target, options))


def lower_parts(module: Module, target: Target, options: "CompileOptions") -> list[TileGraph]:
    """The tile graphs of all parts of a module behind the graph passes. Raises CompileError with every node that cannot
    be lowered, those of all parts."""
    problems: list[Diagnostic] = []
    graphs = []
    for part in parts_of(module.region):
        try:
            graphs.append(lower_ops(part.model, target, options, received=part.received, handed=part.handed))
        except CompileError as failure:
            problems += failure.diagnostics
    if problems:
        raise CompileError(problems)
    return graphs


def lower_ops(
    model: ir.Model,
    target: Target,
    options: "CompileOptions",
    joined: Collection[str] = (),
    *,
    alike: bool = False,
    received: frozenset[str] = frozenset(),
    handed: frozenset[str] = frozenset(),
) -> TileGraph:
    """The tile graph of a model behind the graph passes, in the order of its nodes; products of the kinds `joined` as
    one product; sparse ones dealt `alike`; `received` inputs and `handed` outputs of a part, see `BuildOptions`.

    Raises CompileError with every node that cannot be lowered.
    """
    problems = unsupported_nodes(model, supported)
    build = replace(_build_options(target, options), alike=alike, received=received, handed=handed)
    try:
        graph = build_tile_graph(model, build, joined)
    except CompileError as failure:
        problems += [found for found in failure.diagnostics if found.id != "IPU0201"]
        raise CompileError(problems or failure.diagnostics) from failure
    if problems:
        raise CompileError(problems)
    return graph
