"""Block-sparse matmul with a pattern known while compiling.

The blocks, sorted by block column and then by row, are dealt to runs of equal count; a run is what one tile multiplies.
A run needs the rows of the dense operand that its blocks touch (a gather by constant indices: a view) and makes
partials for the block columns that it touches. A second op adds the partials of every column (again a view, with gaps)
and applies the epilogue. How many runs there are is chosen here from the codelet's cycle formula and the bytes moved.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.codelets.reduce import Reduce
from ipucc.codelets.sparse import BlockSparse, block_sparse_cycles
from ipucc.dtypes import itemsize
from ipucc.ops.builder import Builder, lowering, shape_of
from ipucc.ops.graph import Ref
from ipucc.ops.matmul import aligned
from ipucc.ops.spec import Along, Axis, Everything, Operand, Span
from ipucc.target import Target
from ipucc.tiles.cuts import useful_parts
from ipucc.tiles.view import Group, View

__all__ = ["Runs", "choose_runs", "deal"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Runs:
    """Blocks dealt to runs. `order` sorts the blocks; run r has blocks `start[r]`..`start[r + 1]` of that order.

    `rows` lists the block rows that the runs need, run by run (`row_start`), `place` per block its position in its
    run's list; `slot` per block which of its run's block columns it adds to, `columns` [runs, slots] names them (-1).
    """

    order: Ints
    start: Ints
    rows: Ints
    row_start: Ints
    place: Ints
    slot: Ints
    columns: Ints


def deal(rows: Ints, cols: Ints, runs: int) -> Runs:
    """Deal blocks to `runs` runs of equal count (to one block), column by column."""
    order = np.lexsort((rows, cols))
    row, col = rows[order], cols[order]
    start = np.arange(runs + 1) * rows.size // runs
    run = np.repeat(np.arange(runs), np.diff(start))
    key = run * (int(row.max(initial=0)) + 1) + row
    needed, place = np.unique(key, return_inverse=True)
    row_run = needed // (int(row.max(initial=0)) + 1)
    row_start = np.searchsorted(row_run, np.arange(runs + 1))
    key = run * (int(col.max(initial=0)) + 1) + col
    made, slot = np.unique(key, return_inverse=True)
    col_run = made // (int(col.max(initial=0)) + 1)
    col_start = np.searchsorted(col_run, np.arange(runs + 1))
    columns = np.full((runs, int(np.diff(col_start).max(initial=1))), -1, np.int64)
    columns[col_run, np.arange(made.size) - col_start[col_run]] = made % (int(col.max(initial=0)) + 1)
    return Runs(
        order, start, needed % (int(row.max(initial=0)) + 1), row_start, place - row_start[run], slot - col_start[run],
        columns,
    )  # fmt: skip


def choose_runs(rows: Ints, cols: Ints, block: tuple[int, int], m: int, dtype: str, target: Target) -> Runs:
    """The number of runs with the fewest estimated cycles, the dense operand's rows cut over the tiles left."""
    best: tuple[int, Runs] | None = None
    for count in useful_parts(rows.size, target.tiles).tolist():
        runs = deal(rows, cols, count)
        for parts in useful_parts(m, target.tiles // count).tolist():
            cell = -(-m // parts)
            blocks = int(np.diff(runs.start).max())
            outputs = runs.columns.shape[1]
            size = itemsize(dtype)
            compute = int(block_sparse_cycles(np.asarray([cell]), np.asarray([blocks]), np.asarray([outputs]), block,
                                              dtype, target)[0])  # fmt: skip
            gather = int(np.diff(runs.row_start).max()) * block[0] * cell * size
            holders = int(np.bincount(runs.columns[runs.columns >= 0]).max())
            # Every column's partials are spread over the tiles that share in the reduction.
            partial = outputs * block[1] * cell * size
            depth = min(holders, count)
            moved = gather + partial * min(depth, 4)
            cycles = compute + int(moved / target.exchange_bytes_per_cycle * target.exchange_factor)
            cycles += target.workers * depth * partial // (size * 24)
            if parts * count * 4 < target.tiles:
                cycles += target.phase_cycles // 4
            if best is None or cycles < best[0]:
                best = cycles, runs
    assert best is not None
    return best[1]


@lowering("BlockSparseMatMul", domain="ipucc")
def _block_sparse(b: Builder, node: ir.Node) -> None:
    a = b.ref(node, 0)
    bk, bn = node.attributes.get_ints("block")
    k, n = node.attributes.get_ints("shape")
    rows = np.asarray(node.attributes.get_ints("rows"), np.int64)
    cols = np.asarray(node.attributes.get_ints("cols"), np.int64)
    shape = shape_of(node.outputs[0])
    m = prod(shape[:-1])
    a = b.settled(b.reshape(a, (m, k)), 1)
    runs = choose_runs(rows, cols, (bk, bn), m, a.dtype, b.options.target)
    partials = _multiply(b, node, a, runs, (bk, bn), k, n)
    expr = node.attributes.get_string("expr", "")
    extras = [b.ref(node, i) for i in range(2, len(node.inputs))]
    made = _join(b, partials, runs, (m, n), bn, extras, "" if expr == "x" else expr, shape, a.dtype)
    b.define(node, b.reshape(made, shape))


def _multiply(b: Builder, node: ir.Node, a: Ref, runs: Runs, block: tuple[int, int], k: int, n: int) -> Ref:
    """[runs, m, slots x bn]: the partials of every run."""
    bk, bn = block
    count, m = runs.start.size - 1, a.shape[0]
    outputs = runs.columns.shape[1]
    # Every run's list begins on a grain: blocks of half a grain are padded with one that has no source.
    together = max(1, b.grain(a.dtype) // bk)
    length = -(-np.diff(runs.row_start) // together) * together
    begin = np.concatenate([[0], np.cumsum(length)])
    rows = np.full(int(begin[-1]), -1)
    held = np.repeat(begin[:-1] - runs.row_start[:-1], np.diff(runs.row_start)) + np.arange(runs.rows.size)
    rows[held] = runs.rows
    need = np.where(rows[:, None] >= 0, rows[:, None] * bk + np.arange(bk)[None, :], -1).reshape(-1)
    gathered = b.view(a, View.take(a.shape, 1, np.where(need < k, need, -1)))
    values = b.ref(node, 1)
    values = b.view(values, View.take(values.shape, 0, runs.order))
    table = np.stack([runs.place, runs.slot], axis=1).astype(np.int32)
    places = b.literal(f"{b.name()}.places", table, "int32")
    axes = (Axis("r", count, "parallel", pinned=True), Axis("m", m), Axis("p", outputs * bn, "whole"))
    low, high = runs.start[:-1], runs.start[1:]
    operands: list[Operand] = [
        b.operand(gathered, (Along("m"), Span("r", begin[:-1] * bk, begin[1:] * bk)), want=1),
        b.operand(values, (Span("r", low, high), Everything(bk), Everything(bn)), want=1),
        b.operand(places, (Span("r", low, high), Everything(2)), want=1),
    ]
    partials = b.options.partials if a.dtype == "float16" else a.dtype
    most = int(np.diff(runs.start).max())
    codelet = BlockSparse((bk, bn), most, outputs, a.dtype)
    return b.compute(
        "BlockSparseMatMul", axes, operands, ("r", "m", "p"), partials, codelet, 2, f"{b.name()}.partials",
        macs=m * k * n, sparse_macs=m * runs.order.size * bk * bn,
    )  # fmt: skip


def _join(
    b: Builder, partials: Ref, runs: Runs, result: tuple[int, int], bn: int, extras: list[Ref], expr: str,
    shape: tuple[int, ...], dtype: str,
) -> Ref:  # fmt: skip
    """[m, n]: the sum of every column's partials, then the epilogue."""
    m, n = result
    run, slot = np.nonzero(runs.columns >= 0)
    column = runs.columns[run, slot]
    by = np.argsort(column, kind="stable")
    run, slot, column = run[by], slot[by], column[by]
    first = np.searchsorted(column, column, side="left")
    nth = np.arange(column.size) - first
    depth = int(nth.max(initial=0)) + 1
    width = partials.shape[2]
    blocks = -(-n // bn)
    index = np.full((depth, blocks, bn), -1, np.int64)
    index[nth, column] = (run * width + slot * bn)[:, None] + np.arange(bn)[None, :]
    flat = index.reshape(depth, blocks * bn)[:, :n].reshape(-1)
    view = View(partials.shape, (depth, m, n), (Group((0, 2), (0, 2), flat), Group((1,), (1,), m)))
    stacked = b.view(partials, view)
    axes = (Axis("d", depth, "whole"), Axis("m", m), Axis("n", n))
    operands = [b.operand(stacked, (Along("d"), Along("m"), Along("n")))]
    for extra in extras:
        operands.append(b.operand(*aligned(b, extra, shape, (m, n), ("m", "n"))))
    codelet = Reduce("sum", ("d",), ("m", "n"), dtype, 1.0, expr, tuple(e.dtype for e in extras))
    return b.compute("BlockSparseMatMul", axes, operands, ("m", "n"), dtype, codelet, 1)
