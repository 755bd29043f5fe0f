"""The tile graph as stable text: in its order, and with its chosen plans."""

from typing import TYPE_CHECKING

from ipucc.ops.graph import TileGraph, live_results, tensor_bytes
from ipucc.ops.spec import Axis, TileOp
from ipucc.tiles.printing import layout_text

if TYPE_CHECKING:
    from ipucc.passes.plan.place import Placement
    from ipucc.passes.plan.problem import Candidate

__all__ = ["plan_text", "print_placement", "print_schedule"]

_MARKS = {"parallel": "", "reduce": "+", "row": "*", "whole": "!"}


def print_schedule(graph: TileGraph) -> str:
    """One line per step: the bytes of all results that are alive in it, and what its op reads and makes.

    A tensor counts once with all its elements; weights and inputs do not count. `-` marks what is read for the last
    time.
    """
    live = live_results(graph)
    held = [sum(tensor_bytes(graph.tensors[t]) for t in alive) for alive in live]
    peak = max(held, default=0)
    lines = [f"schedule of {len(held)} ops: peak {peak} bytes, mean {sum(held) // max(1, len(held))} bytes"]
    width = len(str(peak))
    for i, op in enumerate(graph.ops):
        behind = set(live[i + 1]) if i + 1 < len(live) else {out.source.tensor for out in graph.outputs}
        dead = {graph.tensors[t].name for t in live[i] if t not in behind and t != op.result.tensor}
        read = ["|".join(f"-{n}" if n in dead else n for n in names.split("|")) for names in _operands(graph, op)]
        made = graph.tensors[op.result.tensor]
        shape = ",".join(map(str, made.shape))
        mark = " <" if held[i] == peak else ""
        lines.append(f"{held[i]:>{width}} {op.name} = {op.kind}({', '.join(read)}): {made.dtype}[{shape}]{mark}")
    return "\n".join(lines) + "\n"


def print_placement(graph: TileGraph, placement: "Placement") -> str:
    """One block per op: its axes (`k+` is reduced, `k!` is never cut), its plan, cycles and bytes, where it lies.

    Cycles of an op are its own; those of bringing its operands are in the total, which is the solver's estimate. Bytes
    are those of the fullest tile: resident weights, result, temporaries.
    """
    p = placement
    lines = [
        f"placement by {p.solver}: {p.status}, {p.objective} cycles estimated, bound {p.bound}, gap {p.gap:.4f}, "
        f"{p.peak_bytes} bytes on the fullest tile"
    ]
    for op, chosen in zip(graph.ops, p.chosen, strict=True):
        lines += _op(graph, op, chosen)
    for out in graph.outputs:
        lines.append(f"output {out.name}: {out.dtype} of {graph.tensors[out.source.tensor].name}")
    return "\n".join(lines) + "\n"


def plan_text(op: TileOp, chosen: "Candidate") -> str:
    """The form of the op, where it has a name, and the plan: `outer: m/16 n/8`."""
    form = op.in_form(chosen.form).form
    return f"{form}: {chosen.plan.describe()}" if form else chosen.plan.describe()


def _op(graph: TileGraph, op: TileOp, chosen: "Candidate") -> list[str]:
    made = op.in_form(chosen.form)
    axes = " ".join(_axis(a) for a in made.axes)
    head = f"{op.name} = {op.kind}({', '.join(_operands(graph, op))}) over {axes or 'one element'}"
    lines = [
        head,
        f"  plan {plan_text(op, chosen)}: {chosen.cycles} cycles, "
        f"{chosen.resident} B resident, {chosen.result} B result, {chosen.temp} B temporary",
    ]
    for stage in chosen.stages:
        lines.append(f"  {stage.suffix or '.result'}: {stage.dtype} {layout_text(stage.layout)}")
    return lines


def _axis(axis: Axis) -> str:
    grain = f"~{axis.grain}" if axis.grain > 1 else ""
    return f"{axis.name}{_MARKS[axis.kind]}={axis.size}{grain}"


def _operands(graph: TileGraph, op: TileOp) -> list[str]:
    return ["|".join(graph.tensors[s.tensor].name for s in o.sources) or "nothing" for o in op.operands]
