"""What is said where a program does not fit in the memory of a tile."""

from collections.abc import Sequence

import numpy as np

from ipucc.diagnostics import CompileError, error
from ipucc.passes.program.code import CodeSize
from ipucc.program.liveness import liveness, moments
from ipucc.program.model import Compute, Exchange, Program

__all__ = ["code_too_large", "data_too_large"]


def data_too_large(program: Program, peak: int, start: int, help: Sequence[str]) -> CompileError:
    """IPU0406: the fullest moment of the fullest tile, which step, which buffers, how many bytes."""
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
    return error(
        "IPU0406",
        f"the buffers of the fullest tile need {peak:,} bytes of {target.tile_bytes:,}",
        notes=[
            f"tile {int(tile)} in step {name!r} holds {int(load[at, tile]):,} B of data behind {start:,} B of code",
            f"largest: {tensors}",
        ],
        help=help,
        data={"tile": int(tile), "step": name, "needed": peak, "limit": target.tile_bytes},
    )


def code_too_large(code: CodeSize, room: int, help: Sequence[str]) -> CompileError:
    """IPU0407: what code takes of a tile, and what of it can hold instructions."""
    return error(
        "IPU0407",
        f"code takes {code.total:,} bytes of a tile, {room:,} of it can hold instructions",
        notes=[f"exchange code {code.exchange:,} B, vertex states {code.vertices:,} B"],
        help=help,
    )
