"""A program that fits, with ops computed again where nothing else helps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ipucc.diagnostics import Diagnostic, DoesNotFit
from ipucc.ops.graph import TileGraph, live_results, tensor_bytes
from ipucc.passes.plan.effort import Effort, Listen, Stop, never
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.place import Solver
from ipucc.passes.plan.recompute import Again, recompute
from ipucc.passes.program.fit import Begin, Fitted, fit
from ipucc.program.timing import StepTime
from ipucc.target import Target

__all__ = ["Recompute", "Refitted", "refit"]

Recompute = Literal["auto", "off"]

_ATTEMPTS: Final = 6


@dataclass(frozen=True, eq=False)
class Refitted:
    """The program that fits, and what is computed again in it."""

    fitted: Fitted
    again: tuple[Again, ...]

    def remarks(self, times: Sequence[StepTime]) -> tuple[Diagnostic, ...]:
        """One remark per tensor that is made again; cycles are those predicted for the copies (`times`)."""
        found = []
        for a in self.again:
            cycles = sum(
                t.total for t in times if any(t.name == copy or t.name.startswith(f"{copy}.") for copy in a.copies)
            )
            ops = f"{len(a.copies)} ops" if len(a.copies) > 1 else "one op"
            found.append(
                Diagnostic(
                    "IPU0413", "remark",
                    f"{a.tensor} is computed again by {ops} before {a.reader}: {a.freed:,} bytes less alive in "
                    f"{a.steps} steps, {cycles:,} cycles more",
                    where="recompute",
                    data={"tensor": a.tensor, "copies": list(a.copies), "reader": a.reader, "bytes": a.freed,
                          "steps": a.steps, "cycles": cycles},
                )
            )  # fmt: skip
        return tuple(found)


def refit(
    graphs: Sequence[TileGraph],
    target: Target,
    keep: int | None,
    solver: Solver,
    effort: Effort,
    begin: Begin,
    *,
    recomputing: Recompute = "auto",
    progress: Listen | None = None,
    stop: Stop = never,
    known: Known | None = None,
) -> Refitted:
    """The program of one of several tile graphs of a model as `fit` finds it. Where there is none and `recomputing` is
    "auto", the step that is too full is relieved by recomputation and the rest is done again, so many times at most.

    Recomputation starts from the first graph. Raises what `fit` raised for the graphs as they were given where that
    does not help either.
    """
    known = Known(target) if known is None else known
    again: list[Again] = []
    first: DoesNotFit | None = None
    for _ in range(_ATTEMPTS):
        try:
            fitted = fit(graphs, target, keep, solver, effort, begin, progress=progress, stop=stop, known=known)
            return Refitted(fitted, tuple(again))
        except DoesNotFit as failure:
            first = first or failure
            found = failure.diagnostics[0]
            if recomputing == "off" or found.id not in ("IPU0402", "IPU0405", "IPU0406"):
                break
            begin("recompute")
            needed, limit = int(str(found.data["needed"])), int(str(found.data["limit"]))
            # Bytes of a tile; what is spread over them counts on all of them.
            over = max(needed - limit, limit // 64) * target.tiles
            better = recompute(graphs[0], target, _fullest(graphs[0], found), over)
            # The leanest plans need this much: half of the way there is not worth placing again.
            if better is None or (found.id in ("IPU0402", "IPU0405") and 2 * better.freed < over):
                break
            graphs = [better.graph]
            again += better.again
    assert first is not None
    raise first


def _fullest(graph: TileGraph, failure: Diagnostic) -> int:
    """The op whose step is too full: by its number, by the name of a step of its program, or where most is alive."""
    step = failure.data.get("step")
    if isinstance(step, int) and 0 <= step < len(graph.ops):
        return step
    number = {op.name: i for i, op in enumerate(graph.ops)}
    name = str(step)
    while name and name not in number:
        name = name.rpartition(".")[0]
    if name:
        return number[name]
    held = [sum(tensor_bytes(graph.tensors[t]) for t in live) for live in live_results(graph)]
    return held.index(max(held))
