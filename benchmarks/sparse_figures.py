"""What benchmarks of sparse models read off a compiled one: blocks per tile, and how much score the weights keep."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ipucc.codelets.sparse import BlockSparse
from ipucc.codelets.sparse_conv import BlockSparseConv
from ipucc.program.model import Compute, HostWrite, Program, walk

__all__ = ["Blocks", "blocks_per_tile", "kept_score"]

SPARSE = ("BlockSparseMatMul", "BlockSparseConv")


@dataclass(frozen=True)
class Blocks:
    """Blocks of one sparse layer: mean over the tiles that multiply some, the most on one tile, those tiles."""

    mean: float
    fullest: int
    tiles: int


def blocks_per_tile(program: Program) -> tuple[Blocks, ...]:
    """Per sparse layer, how many blocks the tiles multiply: what the table of slots says of the run of every vertex."""
    tables = {
        step.buffer: np.asarray(program.weights[step.tensor])[:, -1]
        for step in walk(program.steps, program.functions)
        if isinstance(step, HostWrite) and step.tensor.rsplit(" ", 3)[0].endswith(".slots")
    }
    layers: dict[int, dict[int, int]] = {}
    for step in walk(program.steps, program.functions):
        if isinstance(step, Compute) and isinstance(step.codelet, BlockSparse | BlockSparseConv):
            slots = step.operands[3]
            counts = tables[slots.buffer]
            runs = np.unravel_index(slots.cells, program.buffers[slots.buffer].layout.grid)[0]
            held = layers.setdefault(slots.buffer, {})
            for tile, run in zip(step.tiles.tolist(), runs.tolist(), strict=True):
                held[tile] = held.get(tile, 0) + int(counts[run])
    found = []
    for held in layers.values():
        busy = [count for count in held.values() if count]
        found.append(Blocks(sum(busy) / len(busy), max(busy), len(busy)))
    return tuple(found)


def kept_score(model: ir.Model) -> float:
    """The L1 norm of all blocks that a model behind the graph passes holds."""
    total = 0.0
    for node in model.graph:
        values = node.inputs[1] if node.op_type in SPARSE else None
        if values is not None and values.const_value is not None:
            total += float(np.abs(values.const_value.numpy().astype(np.float64)).sum())
    return total
