"""The driver: from an ONNX model to a program, in the order front end, graph passes, plan, place, lower, allocate."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike

from ipucc.cache import plan_store
from ipucc.clock import Clock, OnPass, OnStart
from ipucc.diagnostics import CompileError, Diagnostic, JsonValue, error
from ipucc.dtypes import HELD
from ipucc.frontend import Branch, Loop, Module, Part, parts_of, straight
from ipucc.manifest import (
    amp_type,
    count_flops,
    memory_figures,
    model_identity,
    option_figures,
    placement_figures,
    planned_ops,
)
from ipucc.ops.builder import origin
from ipucc.ops.graph import TileGraph
from ipucc.ops.printing import print_placement, print_schedule
from ipucc.optimise import Stream, lower_parts, optimise_model
from ipucc.parts import PartMaker, part_runs
from ipucc.pass_manager import DumpFolder, count_nodes
from ipucc.passes.plan.effort import Effort, Listen, Stop, never
from ipucc.passes.plan.explain import Explanation, select_in_parts
from ipucc.passes.plan.explain import explain as explain_ops
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.place import Placement, Solver
from ipucc.passes.program.code import CodeSize
from ipucc.passes.program.fit import Fitted
from ipucc.passes.program.refit import Recompute
from ipucc.program.model import Compute, Program, walk
from ipucc.program.printing import print_program
from ipucc.program.regions import Regions
from ipucc.program.timing import StepTime, program_times
from ipucc.program.verify import verify_program
from ipucc.target import Target, load_target

__all__ = [
    "STAGES", "CompileOptions", "Compiled", "compile_graph", "compile_model", "compile_module", "stage_text",
]  # fmt: skip

Precision = Literal["model", "fp16"]

STAGES: Final = ("schedule", "place", "lower")
"""Stages behind the graph passes whose text can be printed and dumped: the order of ops, the placement, the program."""


@dataclass(frozen=True)
class CompileOptions:
    """What a user can choose. `passes` replaces the graph-level pipeline; `effort` says how long placement searches.

    `keep` is the number of plans per op offered to placement, None the effort's own. `recompute` says whether tensors
    may be computed again where the model does not fit otherwise. `bind` gives values to inputs, constants
    then. `block`, `density`, `score`, `pattern`, `mask`, `calibrate` and `budget` are options of the pass `sparsify`,
    which runs if any of them is given.
    """

    target: str = "gc200"
    precision: Precision = "model"
    partials: Literal["fp16", "fp32"] = "fp16"
    dims: Mapping[str, int] = field(default_factory=dict)
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    passes: str | None = None
    block: int | tuple[int, int] | None = None
    density: float | None = None
    solver: Solver = "cpsat"
    load: Sequence[str] = ()
    effort: Effort = "default"
    keep: int | None = None
    recompute: Recompute = "auto"
    score: str | None = None
    pattern: str | None = None
    mask: str | None = None
    calibrate: str | None = None
    budget: int | None = None
    bind: Mapping[str, ArrayLike] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program with everything that was decided on the way. Times are wall seconds per pass, in order. `parts` are the
    straight parts of the model with how often each of them runs, at the bounds of the loops around it."""

    program: Program
    module: Module
    parts: tuple[tuple[Fitted, int], ...]
    times: tuple[StepTime, ...]
    seconds: Mapping[str, float]
    remarks: tuple[Diagnostic, ...]
    explanations: tuple[Explanation, ...] = ()

    @property
    def graph(self) -> TileGraph:
        """The tile graph of a model that is straight."""
        straight(self.module)
        return self.parts[0][0].graph

    @property
    def placement(self) -> Placement:
        """The placement of a model that is straight."""
        straight(self.module)
        return self.parts[0][0].placement

    @property
    def code(self) -> CodeSize:
        """The code of a model that is straight."""
        straight(self.module)
        return self.parts[0][0].code

    @property
    def model(self) -> ir.Model:
        """The graph of a model that is straight, behind the passes."""
        return straight(self.module)

    @property
    def interrupted(self) -> bool:
        """Whether placement was stopped before its time: the program is sound, and another run may give another."""
        return any(part.placement.status == "interrupted" for part, _ in self.parts)

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
            "estimated": sum(part.placement.objective * runs for part, runs in self.parts),
            "exchange_bound": sum(t.exchange_bound for t in self.times),
        }  # fmt: skip


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
    if target.ipus > 1:
        raise error("IPU0706", f"{target.name} has {target.ipus} chips, a model is placed on one", where=options.target,
                    help=["programs of several chips are written with ipucc.builder"])  # fmt: skip
    store = plan_store(target, cache)
    known = Known(target, store)
    graph_passes = [name for name in print_after if name not in STAGES]
    # A file is hashed beside the rest: a gigabyte takes seconds. A model at hand is hashed before a pass changes it.
    background = ThreadPoolExecutor(1)
    identity = background.submit(model_identity, source)
    if not isinstance(source, str | Path):
        identity.result()
    try:
        done = optimise_model(
            source, options, target=target, on_start=on_start, on_pass=on_pass, print_after=graph_passes,
            stream=stream, dump=dump, known=known,
        )  # fmt: skip
        compiled = compile_module(
            done.module, target, options, seconds=done.seconds, remarks=done.remarks, on_start=on_start,
            on_pass=on_pass, progress=progress, stop=stop, explain=explain, known=known,
        )  # fmt: skip
    finally:
        background.shutdown()
        if store is not None:
            store.trim()
    compiled.program.manifest["model"] = identity.result()
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
    """The text of a stage of STAGES; of a model with control flow that of one part after the other."""
    if stage == "lower":
        return print_program(compiled.program)
    texts = []
    for part, _ in compiled.parts:
        texts.append(print_schedule(part.graph) if stage == "schedule" else print_placement(part.graph, part.placement))
    return "".join(f"# part {i}\n{text}" for i, text in enumerate(texts)) if len(texts) > 1 else texts[0]


def compile_graph(
    model: ir.Model,
    target: Target,
    options: CompileOptions,
    *,
    seconds: dict[str, float] | None = None,
    remarks: tuple[Diagnostic, ...] = (),
    known: Known | None = None,
) -> Compiled:
    """`compile_module` of one graph that the passes have finished with."""
    module = Module(model.graph.name or "model", [Part(model, frozenset(), frozenset())], (), ())
    return compile_module(module, target, options, seconds=seconds, remarks=remarks, known=known)


def compile_module(
    module: Module,
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
    """Schedule, plan, place, lower and allocate the graphs that the passes have finished with, make one program of
    them, and verify it.

    `progress`, `stop` and `explain` are those of `compile_model`; `known` is what is known of plans for this target.
    """
    clock = Clock({} if seconds is None else seconds, on_start, on_pass)
    known = Known(target) if known is None else known
    maker = PartMaker(options, clock, progress, stop, known, {})
    parts = list(parts_of(module.region))
    named = {name for part in parts for node in part.model.graph for name in (node.name or "", *origin(node))}
    if explain:
        # Before the long work.
        select_in_parts(lower_parts(module, target, options), explain, named)
    if not any(isinstance(item, Loop | Branch) for item in module.region):
        (part,) = parts
        program = maker.fitted(part, target).program
    else:
        program = maker.linked(module, parts)
    placed = [maker.found[part].fitted for part in parts]
    chosen = select_in_parts([part.graph for part in placed], explain, named)
    explained = tuple(e for part, ops in zip(placed, chosen, strict=True) for e in explain_ops(part.placement, ops))
    clock.begin("verify")
    try:
        verify_program(program)
    except CompileError as failure:
        # Not the user's fault, whatever the rule: the compiler wrote the program.
        raise RuntimeError(f"the compiled program breaks a rule of the verifier\n{failure}") from failure
    clock.end()
    times = tuple(program_times(program, known.exchanges))
    runs = part_runs(module.region)
    compiled = Compiled(
        program,
        module,
        tuple((fitted, runs[part]) for fitted, part in zip(placed, parts, strict=True)),
        times,
        clock.seconds,
        (
            *remarks,
            *_held_types([fitted.graph for fitted in placed]),
            *maker.remarks,
            *(r for part in parts for r in maker.found[part].remarks(times)),
            *_misplaced(program),
        ),
        explained,
    )
    program.manifest.update(_manifest(compiled, options))
    program.ops = tuple(op for part, _ in compiled.parts for op in planned_ops(part.graph, part.placement))
    return compiled


def _held_types(graphs: Sequence[TileGraph]) -> list[Diagnostic]:
    """Which element types the tiles hold in others, each with the first tensor that has it."""
    first: dict[str, str] = {}
    for graph in graphs:
        ports = [*((name, kind) for name, kind, _ in graph.inputs), *((out.name, out.dtype) for out in graph.outputs)]
        for name, kind in (*ports, *((t.name, t.dtype) for t in graph.tensors)):
            first.setdefault(kind, name)
    return [
        Diagnostic("IPU0325", "remark", f"{kind} is held in {HELD[kind]}", where="place",
                   notes=(f'the first tensor of this type is "{first[kind]}"',), data={"type": kind})
        for kind in HELD if kind in first
    ]  # fmt: skip


def _misplaced(program: Program) -> list[Diagnostic]:
    """Which compute sets lack interleaved memory or elements of their own, in a program that is nearly full."""
    regions = Regions(program)
    slower = [step.name for step in walk(program.steps, program.functions)
              if isinstance(step, Compute) and (regions.narrow(step) or regions.accesses(step) > 1)]  # fmt: skip
    if not slower:
        return []
    more = f" and {len(slower) - 3} more" if len(slower) > 3 else ""
    return [
        Diagnostic(
            "IPU0415", "remark",
            f"{len(slower)} compute sets run slower than placement thought, {', '.join(slower[:3])}{more}: what they "
            "read found no room in interleaved memory, or shares an element with what is reached in the same issue",
            where="place",
        )
    ]  # fmt: skip


def _manifest(compiled: Compiled, options: CompileOptions) -> dict[str, JsonValue]:
    flops = [(count_flops(part.graph), runs) for part, runs in compiled.parts]
    return {
        **option_figures(options),
        "nodes": sum(count_nodes(part.model) for part in parts_of(compiled.module.region)),
        "placement": placement_figures([(part.placement, runs) for part, runs in compiled.parts]),
        "interrupted": compiled.interrupted,
        "cycles": compiled.cycles,
        "memory": memory_figures(compiled.program),
        "flops": sum(dense * runs for (dense, _), runs in flops),
        "sparse_flops": sum(sparse * runs for (_, sparse), runs in flops),
        "amp": amp_type([part.graph for part, _ in compiled.parts]),
    }
