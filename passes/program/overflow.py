"""What is said where a program does not fit in the memory of a tile."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ipucc.codelets.copy import Pack
from ipucc.diagnostics import CompileError, error
from ipucc.passes.plan.room import enough
from ipucc.passes.program.code import CodeSize
from ipucc.program.liveness import liveness, moments
from ipucc.program.model import Compute, Exchange, HostWrite, Program, walk

__all__ = ["code_too_large", "data_too_large"]

_KINDS: Final = ("weights", "copies of weights", "inputs", "operands brought together", "results and sums")


def data_too_large(program: Program, peak: int, start: int, help: Sequence[str]) -> CompileError:
    """IPU0406: the fullest moment of the fullest tile, which step, which buffers, how many bytes of what kind."""
    live, target = liveness(program), program.target
    sizes = np.asarray([b.nbytes for b in program.buffers], np.int64)
    steps = moments(program.steps)
    load = np.zeros((len(steps) + 2, target.tiles), np.int64)
    for b in np.flatnonzero(live[:, 0] >= 0).tolist():
        tiles = program.buffers[b].layout.used_tiles
        load[live[b, 0], tiles] += sizes[b]
        load[live[b, 1] + 1, tiles] -= sizes[b]
    load = load.cumsum(axis=0)
    at, tile = np.unravel_index(int(load.argmax()), load.shape)
    step = steps[min(int(at), len(steps) - 1)]
    name = step.name if isinstance(step, Exchange | Compute) else "the end"
    held = [b for b in range(sizes.size) if live[b, 0] <= at <= live[b, 1] and live[b, 0] >= 0]
    held = [b for b in held if int(tile) in program.buffers[b].layout.used_tiles]
    held.sort(key=lambda b: (-int(sizes[b]), b))
    tensors = ", ".join(f"{program.buffers[b].name} {int(sizes[b]):,} B" for b in held[:5])
    kinds = _kinds(program)
    by_kind = {kind: sum(int(sizes[b]) for b in held if kinds[b] == kind) for kind in _KINDS}
    halved = sum(int(sizes[b]) // 2 for b in held if program.buffers[b].dtype == "float32")
    return error(
        "IPU0406",
        f"the buffers of the fullest tile need {peak:,} bytes of {target.tile_bytes:,}",
        notes=[
            f"tile {int(tile)} in step {name!r} holds {int(load[at, tile]):,} B of data behind {start:,} B of code",
            "of the data are " + ", ".join(f"{kind} {n:,} B" for kind, n in by_kind.items() if n),
            f"largest: {tensors}",
        ],
        help=[
            f"{text} frees about {halved:,} B of this step ({enough(halved, peak - target.tile_bytes)})"
            if halved and text == "--precision fp16" else text
            for text in help
        ],
        data={"tile": int(tile), "step": name, "needed": peak, "limit": target.tile_bytes, "code": start,
              **{kind.replace(" ", "_"): n for kind, n in by_kind.items()}},
    )  # fmt: skip


def _kinds(program: Program) -> list[str]:
    """What every buffer holds, one of `_KINDS`; copies of weights are what is gathered of them, and re-ordered."""
    found = ["results and sums"] * len(program.buffers)

    def root(b: int) -> int:
        return program.buffers[b].alias if program.buffers[b].alias >= 0 else b

    for step in walk(program.steps, program.functions):
        if isinstance(step, HostWrite):
            found[root(step.buffer)] = "weights" if step.tensor in program.resident else "inputs"
    for step in walk(program.steps, program.functions):
        pairs: list[tuple[int, int]] = []
        if isinstance(step, Exchange):
            pairs = [(root(m.src), root(m.dst)) for m in step.moves]
        elif isinstance(step, Compute) and isinstance(step.codelet, Pack):
            pairs = [(root(o.buffer), root(r.buffer)) for o in step.operands for r in step.results]
        for src, dst in pairs:
            if found[dst] == "results and sums":
                of_weights = found[src] in ("weights", "copies of weights")
                found[dst] = "copies of weights" if of_weights else "operands brought together"
    return found


def code_too_large(code: CodeSize, room: int, help: Sequence[str]) -> CompileError:
    """IPU0407: what code takes of a tile, and what of it can hold instructions."""
    return error(
        "IPU0407",
        f"code takes {code.total:,} bytes of a tile, {room:,} of it can hold instructions",
        notes=[f"exchange code {code.exchange:,} B, vertex states {code.vertices:,} B"],
        help=help,
    )
