"""What a program file says about itself, as plain JSON values: where it comes from, what was chosen, what it costs.

Nothing in it depends on the clock or on the machine that compiled, so that equal input gives equal files.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike

from ipucc import __version__
from ipucc.diagnostics import JsonValue
from ipucc.dtypes import is_float
from ipucc.graph.printing import print_graph
from ipucc.ops.graph import TileGraph
from ipucc.ops.printing import plan_text
from ipucc.ops.spec import TileOp
from ipucc.passes.plan.place import Placement
from ipucc.program.model import PlannedOp, Program
from ipucc.program.usage import tile_bytes

if TYPE_CHECKING:
    from ipucc.compiler import CompileOptions

__all__ = [
    "amp_type", "count_flops", "memory_figures", "model_identity", "option_figures", "placement_figures", "planned_ops",
]  # fmt: skip

_CHUNK_BYTES = 1 << 20
_KEPT_ELEMENTS = 1024
"""Of values that inputs were bound to: shapes, axes and counts are small."""


def model_identity(source: str | Path | onnx.ModelProto | ir.Model) -> dict[str, JsonValue]:
    """Name and SHA-256 of a model: of the file's bytes (external weights not included), or of the model in memory."""
    if isinstance(source, ir.Model):
        text = print_graph(source)
        return {"name": source.graph.name or "model", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    if isinstance(source, onnx.ModelProto):
        data = source.SerializeToString(deterministic=True)
        return {"name": source.graph.name or "model", "sha256": hashlib.sha256(data).hexdigest()}
    digest = hashlib.sha256()
    with open(source, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return {"name": Path(source).name, "sha256": digest.hexdigest()}


def option_figures(options: "CompileOptions") -> dict[str, JsonValue]:
    """The options that a program was compiled with."""
    return {
        "ipucc": __version__,
        "precision": options.precision,
        "partials": options.partials,
        "effort": options.effort,
        "recompute": options.recompute,
        "dims": {name: int(size) for name, size in options.dims.items()},
        "input_shapes": {name: [int(n) for n in shape] for name, shape in options.input_shapes.items()},
        "bound": {name: _kept(value) for name, value in sorted(options.bind.items())},
    }


def _kept(value: ArrayLike) -> JsonValue:
    """A value that an input was bound to, for who asks a reference with it later; None for one that is not small."""
    array = np.asarray(value)
    if array.size > _KEPT_ELEMENTS or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        return None
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": array.reshape(-1).tolist()}


def placement_figures(placements: Sequence[tuple[Placement, int]]) -> dict[str, JsonValue]:
    """How good the choice of plans is, over all parts of a model and how often each runs; the status is that of the
    worst. Cycles are the solver's estimate; the gap is relative to the objective."""
    objective = sum(p.objective * runs for p, runs in placements)
    bound = sum(p.bound * runs for p, runs in placements)
    statuses = {p.status for p, _ in placements}
    return {
        "solver": placements[0][0].solver,
        "status": next(s for s in ("interrupted", "feasible", "optimal") if s in statuses),
        "objective_cycles": int(objective),
        "bound_cycles": int(bound),
        "gap": float((objective - bound) / objective) if objective else 0.0,
    }


def planned_ops(graph: TileGraph, placement: Placement) -> tuple[PlannedOp, ...]:
    """What was chosen for every op, in running order."""
    return tuple(
        PlannedOp(
            op.name, op.kind, plan_text(op, chosen), int(chosen.cycles), int(chosen.resident), int(chosen.result),
            int(chosen.temp), op.origin,
        )
        for op, chosen in zip(graph.ops, placement.chosen, strict=True)
    )  # fmt: skip


def memory_figures(program: Program) -> dict[str, JsonValue]:
    """Bytes of the fullest tile, what a tile has, and the sum over all tiles."""
    used = tile_bytes(program)
    return {
        "max_tile_bytes": int(used.max(initial=0)),
        "tile_limit_bytes": program.target.tile_bytes,
        "total_bytes": int(used.sum()),
    }


def count_flops(graph: TileGraph) -> tuple[int, int]:
    """Floating-point operations of one run, 2 per multiply-accumulate: of the dense model, and without zero blocks."""
    dense = sum(op.macs for op in graph.ops)
    sparse = sum(op.macs if op.sparse_macs is None else op.sparse_macs for op in graph.ops)
    return 2 * dense, 2 * sparse


def amp_type(graphs: Sequence[TileGraph]) -> str:
    """The type in which most multiply-accumulates multiply: fp16 or fp32. It says which peak a program is held
    against."""
    macs = {"fp16": 0, "fp32": 0}
    for op in (op for graph in graphs for op in graph.ops):
        macs[_multiplies(op)] += op.macs
    return "fp16" if macs["fp16"] > macs["fp32"] else "fp32"


def _multiplies(op: TileOp) -> str:
    contracted = [o.dtype for o in op.operands if not o.epilogue and is_float(o.dtype)]
    return "fp16" if contracted and all(dtype == "float16" for dtype in contracted) else "fp32"
