"""Running a pipeline: verification, printing, dumps, timings and remarks between the passes."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ipucc.diagnostics import CompileError, Diagnostic, error
from ipucc.pass_manager.base import Pass, PassContext
from ipucc.pass_manager.dump import DumpFolder
from ipucc.pass_manager.options import suggest
from ipucc.pass_manager.pipeline import Pipeline, Repeat, parse_pipeline

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class PassTiming:
    """One run of a pass: wall time, whether it changed the graph, and the nodes (without Constant) after
    it."""

    name: str
    seconds: float
    changed: bool
    nodes: int


@dataclass(frozen=True, slots=True)
class PassEvent:
    """A pass is about to run (`before`) or has run (`after`, with its timing)."""

    kind: Literal["before", "after"]
    name: str
    timing: PassTiming | None = None


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What a run of a pipeline did; the model was changed in place."""

    timings: tuple[PassTiming, ...]
    remarks: tuple[Diagnostic, ...]
    changed: bool


def count_nodes(model: "ir.Model") -> int:
    """Nodes of the model, those of subgraphs included, constants not."""
    return sum(1 for node in model.graph.all_nodes() if (node.domain, node.op_type) != ("", "Constant"))


def run_pipeline(
    model: "ir.Model",
    pipeline: Pipeline | str,
    *,
    context: PassContext | None = None,
    verify: bool = True,
    print_after: Sequence[str] = (),
    stream: Callable[[str], None] | None = None,
    dump: DumpFolder | None = None,
    on_event: Callable[[PassEvent], None] | None = None,
) -> PipelineResult:
    """Runs the passes on the model, in place.

    `verify` checks the graph before the first pass and after each one that changed it. `print_after` names
    passes (or `all`) after which `stream` gets the text of the graph; `dump` gets it before the first and
    after every pass. `on_event` is told of every pass.

    Raises CompileError: what a pass refuses; IPU0309 if it leaves an invalid graph; IPU0310, with the passes
    before it, if it fails; IPU0302 for a name in `print_after` that the pipeline does not have.
    """
    if isinstance(pipeline, str):
        pipeline = parse_pipeline(pipeline)
    names = {p.name for p in pipeline.passes()}
    for name in print_after:
        if name != "all" and name not in names:
            raise error(
                "IPU0302",
                f"there is no pass {name!r} in {pipeline} to print after",
                help=suggest(name, names),
            )
    runner = _Runner(model, context or PassContext(), verify, tuple(print_after), stream, dump, on_event)
    first_remark = len(runner.context.remarks)
    runner.start()
    changed = runner.pipeline(pipeline)
    return PipelineResult(tuple(runner.timings), tuple(runner.context.remarks[first_remark:]), changed)


@dataclass
class _Runner:
    model: "ir.Model"
    context: PassContext
    verify: bool
    print_after: tuple[str, ...]
    stream: Callable[[str], None] | None
    dump: DumpFolder | None
    on_event: Callable[[PassEvent], None] | None
    timings: list[PassTiming] = dataclasses.field(default_factory=list)

    def start(self) -> None:
        if self.verify:
            _verify(self.model)
        if self.dump is not None:
            self.dump.write("input", _print(self.model))

    def pipeline(self, pipeline: Pipeline) -> bool:
        changed = False
        for step in pipeline.steps:
            if isinstance(step, Repeat):
                for _ in range(step.n):
                    if not self.pipeline(step.body):
                        break
                    changed = True
            else:
                changed |= self.one(step)
        return changed

    def one(self, item: Pass) -> bool:
        if self.on_event is not None:
            self.on_event(PassEvent("before", item.name))
        self.context.pass_name = item.name
        start = time.perf_counter()
        try:
            changed = item.run(self.model, self.context)
        except CompileError as failure:
            raise type(failure)(
                [d if d.where else dataclasses.replace(d, where=f"pass {item.name}") for d in failure.diagnostics]
            ) from failure
        except Exception as failure:
            raise self._crash(item, failure) from failure
        finally:
            self.context.pass_name = ""
        timing = PassTiming(item.name, time.perf_counter() - start, changed, count_nodes(self.model))
        self.timings.append(timing)
        if changed and self.verify:
            self._check(item)
        wanted = self.stream is not None and ({"all", item.name} & set(self.print_after))
        if wanted or self.dump is not None:
            text = _print(self.model)
            if wanted and self.stream is not None:
                self.stream(f"# after {item.name}\n{text}")
            if self.dump is not None:
                self.dump.write(item.name, text)
        if self.on_event is not None:
            self.on_event(PassEvent("after", item.name, timing))
        return changed

    def _check(self, item: Pass) -> None:
        try:
            _verify(self.model)
        except CompileError as failure:
            found = failure.diagnostics
            more = [f"and {len(found) - 5} more"] if len(found) > 5 else []
            raise error(
                "IPU0309",
                f"the pass {item.name!r} left an invalid graph behind",
                node=found[0].node,
                op=found[0].op,
                where=f"pass {item.name}",
                notes=[*(f"{d.id}: {d.message}" for d in found[:5]), *more, self._history(self.timings[:-1])],
            ) from failure

    def _crash(self, item: Pass, failure: Exception) -> CompileError:
        return error(
            "IPU0310",
            f"the pass {item.name!r} failed with {type(failure).__name__}: {failure}",
            where=f"pass {item.name}",
            notes=[self._history(self.timings)],
        )

    def _history(self, ran: Sequence[PassTiming]) -> str:
        before = ", ".join(t.name for t in ran)
        return f"passes before it: {before}" if before else "it was the first pass"


def _verify(model: "ir.Model") -> None:
    from ipucc.graph.verify import verify_graph

    verify_graph(model)


def _print(model: "ir.Model") -> str:
    from ipucc.graph.printing import print_graph

    return print_graph(model)
