"""From placed ops to a program: exchanges and compute sets in turn, over buffers without addresses."""

from dataclasses import dataclass, field
from math import prod

import numpy as np

from ipucc.codelets.base import Cells, Codelet
from ipucc.ops.graph import TileGraph
from ipucc.ops.spec import Operand, TileOp
from ipucc.passes.plan.grid import Grid, operand_layout, packing
from ipucc.passes.plan.place import Placement
from ipucc.passes.plan.problem import Candidate
from ipucc.passes.plan.resting import home_layout
from ipucc.passes.plan.stages import Stage, partial_operand
from ipucc.program.model import (
    Binding,
    Buffer,
    Compute,
    Exchange,
    Fill,
    HostRead,
    HostWrite,
    Move,
    Program,
    Step,
)  # fmt: skip
from ipucc.program.order import Order
from ipucc.program.timing import best_order
from ipucc.target import Target
from ipucc.tiles.cuts import cut_axis, whole
from ipucc.tiles.intersect import Track, intersect, pairs
from ipucc.tiles.layout import Ints, Layout
from ipucc.tiles.view import View

__all__ = ["lower"]


def lower(graph: TileGraph, placement: Placement, target: Target) -> Program:
    """The steps of a placed graph. Buffers have layouts and no offsets yet; transfers are in their best known order."""
    maker = _Lowering(graph, placement, target)
    return maker.run()


@dataclass(eq=False)
class _Lowering:
    graph: TileGraph
    placement: Placement
    target: Target
    buffers: list[Buffer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    writes: list[HostWrite] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)
    orders: dict[tuple[object, ...], Order] = field(default_factory=dict)
    moves: dict[tuple[object, ...], tuple[Track, ...]] = field(default_factory=dict)

    def run(self) -> Program:
        for i, chosen in enumerate(self.placement.chosen):
            self._op(i, self.graph.ops[i].in_form(chosen.form), chosen)
        for out in self.graph.outputs:
            self.steps.append(HostRead(out.name, self.held[out.source.tensor], out.source.view, out.gap))
        return Program(
            self.target,
            self.buffers,
            [*self.writes, *self.steps],
            list(self.graph.inputs),
            [(o.name, o.dtype, o.shape) for o in self.graph.outputs],
            dict(self.graph.weights),
        )

    def _buffer(self, name: str, dtype: str, layout: Layout, alias: int = -1) -> int:
        self.buffers.append(Buffer(name, dtype, layout, alias=alias))
        return len(self.buffers) - 1

    def _host_tensor(self, index: int, layout: Layout) -> int:
        """The buffer in which a host tensor rests; written once, at the start."""
        if index not in self.held:
            t = self.graph.tensors[index]
            b = self._buffer(t.name, t.dtype, layout)
            self.held[index] = b
            self.writes.append(HostWrite(t.key, b, t.view or View.identity(t.shape)))
        return self.held[index]

    def _op(self, i: int, op: TileOp, chosen: Candidate) -> None:
        results: list[int] = []
        shared: dict[tuple[int, int], tuple[int, Layout]] = {}
        # Round by round through all stages: what two stages read is then needed for one round only.
        for turn in range(chosen.stages[0].grid.rounds):
            for s, stage in enumerate(chosen.stages):
                if turn == 0:
                    results.append(self._buffer(op.name + stage.suffix, stage.dtype, stage.layout))
                self._round(i, op, chosen, stage, turn, results[s], results[s - 1] if s else -1, shared)
        self.held[op.result.tensor] = results[-1]

    def _round(
        self, i: int, op: TileOp, chosen: Candidate, stage: Stage, turn: int, result: int, partials: int,
        shared: dict[tuple[int, int], tuple[int, Layout]],
    ) -> None:  # fmt: skip
        name, grid = op.name + stage.suffix, stage.grid.round(turn)
        moves: list[Move] = []
        fills: list[Fill] = []
        packs: list[tuple[int, int, Operand]] = []
        bound: list[Binding] = []
        if stage.takes_partials:
            before = chosen.stages[0]
            operand = partial_operand(op, before)
            src = self.buffers[partials].layout
            layout = operand_layout(operand, grid).in_order(src.by_rows)
            dst = self._buffer(f"{name}.in", before.dtype, layout)
            view = View.identity(src.shape)
            moves.append(Move(partials, dst, self._tracks(src, layout, view), view))
            bound.append(Binding(dst, _cells_of(grid, operand, layout, 1, 0)))
        for k in stage.operands:
            operand = op.operands[k]
            full = stage.operand_layout(op, k)
            rounds = stage.grid.rounds
            ready = self._resident(i, k, operand, full, chosen)
            if ready is not None:
                bound.append(Binding(ready, _cells_of(grid, operand, full, rounds, turn), operand.fill))
                continue
            # Rounds share what all of them need; stages share the rest, round by round.
            key = k, turn if full.slots is not None else 0
            if key in shared:
                b, layout = shared[key]
                bound.append(Binding(b, _cells_of(grid, operand, layout, 1, 0), operand.fill))
                continue
            layout = stage.operand_layout(op, k, turn)
            b = self._collect(f"{name}.in{k}", operand, layout, moves, fills)
            if operand.pack_dim is not None:
                packed = operand_layout(operand, grid, operand.pack_dim)
                p = self._buffer(f"{name}.packed{k}", operand.dtype, packed)
                packs.append((b, p, operand))
                b, layout = p, packed
            shared[key] = (b, layout)
            bound.append(Binding(b, _cells_of(grid, operand, layout, 1, 0), operand.fill))
        label = name if stage.grid.rounds == 1 else f"{name}.{turn}"
        if moves or fills:
            self.steps.append(self._ordered(Exchange(f"{label}.exchange", tuple(moves), tuple(fills))))
        for b, p, operand in packs:
            self.steps.append(self._pack(f"{label}.pack", grid, operand, b, p))
        lo, n = _cell_extents(grid)
        written = [Binding(result, _result_cells(grid, stage, turn))]
        if stage.codelet.has_scratch:
            written.append(self._scratch(f"{label}.scratch", stage.codelet, grid, n))
        self.steps.append(
            Compute(
                label, stage.codelet, grid.tiles.reshape(-1), Cells(lo, n), tuple(bound), tuple(written),
                stage.macs if turn == 0 else 0,
            )
        )  # fmt: skip

    def _scratch(self, name: str, codelet: Codelet, grid: Grid, n: dict[str, np.ndarray]) -> Binding:
        """Bytes for every vertex of a round, as many as the one that needs most of them."""
        vertices = grid.tiles.size
        size = max(1, int(codelet.temp_bytes(n, self.target).max(initial=0)))
        cuts = cut_axis(vertices, vertices), whole(size)
        layout = Layout((vertices, size), cuts, grid.tiles.reshape(vertices, 1, 1), 1, 1)
        return Binding(self._buffer(name, "uint8", layout), np.arange(vertices, dtype=np.int32))

    def _resident(self, i: int, k: int, operand: Operand, full: Layout, chosen: Candidate) -> int | None:
        """The buffer of an operand that the host writes where it is needed; None for one that must be moved."""
        if self.placement.problem.home.get(operand.sources[0].tensor) != (i, k):
            return None
        home = home_layout(self.graph, (i, k), chosen)
        if not home.same_as(full):
            return None
        return self._host_tensor(operand.sources[0].tensor, full)

    def _collect(self, name: str, operand: Operand, layout: Layout, moves: list[Move], fills: list[Fill]) -> int:
        """A buffer that holds the operand: an alias of its source where nothing must move, else a destination."""
        sources = []
        for s in operand.sources:
            if s.tensor not in self.held:
                self._host_tensor(s.tensor, self._home(s.tensor))
            src = self.held[s.tensor]
            sources.append((src, s.view, self._tracks(self.buffers[src].layout, layout, s.view)))
        if len(sources) == 1 and sources[0][1].is_total:
            src, _, tracks = sources[0]
            if _in_place(tracks, self.buffers[src].layout, layout):
                root = self.buffers[src].alias if self.buffers[src].alias >= 0 else src
                return self._buffer(name, operand.dtype, layout, alias=root)
        dst = self._buffer(name, operand.dtype, layout)
        if not all(v.is_total for _, v, _ in sources):
            fills.append(Fill(dst, operand.gap))
        moves.extend(Move(src, dst, tracks, view) for src, view, tracks in sources)
        return dst

    def _home(self, tensor: int) -> Layout:
        """Where the host writes a tensor: as the op needs it that gives it its home, else spread evenly."""
        problem = self.placement.problem
        if tensor not in problem.home:
            return self.placement.fixed[tensor]
        i, k = problem.home[tensor]
        return home_layout(self.graph, (i, k), self.placement.chosen[i])

    def _tracks(self, src: Layout, dst: Layout, view: View) -> tuple[Track, ...]:
        # Layouts of candidates are shared between equal ops: the same pair is met once per repeated layer.
        key = (id(src), _fingerprint(dst), view.digest)
        if key not in self.moves:
            self.moves[key] = intersect(src, dst, view)
        return self.moves[key]

    def _ordered(self, step: Exchange) -> Exchange:
        key = tuple((tuple(map(id, m.tracks)), id(self.buffers[m.src].layout), _fingerprint(self.buffers[m.dst].layout))
                    for m in step.moves)  # fmt: skip
        if key not in self.orders:
            self.orders[key] = best_order(step, self.buffers, self.target)
        return Exchange(step.name, step.moves, step.fills, self.orders[key])

    def _pack(self, name: str, grid: Grid, operand: Operand, src: int, dst: int) -> Compute:
        """Re-orders every cell of an operand on its tile, once per tile that holds one."""
        layout = self.buffers[dst].layout
        cells = np.repeat(np.arange(prod(layout.grid), dtype=np.int32), layout.replicas)
        tiles = layout.tiles.reshape(-1)
        axes = tuple(f"d{d}" for d in range(len(operand.shape)))
        at = np.unravel_index(cells, layout.grid) if layout.grid else ()
        lo = {a: layout.cuts[d][0][at[d]].astype(np.int64) for d, a in enumerate(axes)}
        n = {a: (layout.cuts[d][1] - layout.cuts[d][0])[at[d]].astype(np.int64) for d, a in enumerate(axes)}
        return Compute(name, packing(operand), tiles, Cells(lo, n), (Binding(src, cells),), (Binding(dst, cells),))


def _fingerprint(layout: Layout) -> tuple[object, ...]:
    slots = b"" if layout.slots is None else layout.slots.tobytes()
    cuts = tuple(x.tobytes() for c in layout.cuts for x in c)
    return (
        layout.shape, layout.grain_dim, layout.by_rows, layout.itemsize, layout.tiles.shape, layout.tiles.tobytes(),
        slots, cuts,
    )  # fmt: skip


def _in_place(tracks: tuple[Track, ...], src: Layout, dst: Layout) -> bool:
    """Whether every element of `dst` lies on the right tile at the right address already."""
    if not tracks or src.slots is not None or dst.slots is not None or dst.nbytes > src.nbytes or dst.replicas != 1:
        return False
    # A tile may have an empty cell of `dst` and no part of `src`.
    if src.replicas != 1 or not np.isin(dst.used_tiles, src.used_tiles).all():
        return False
    for t in tracks:
        if (t.src_at != t.dst_at).any() or ((t.count > 1) & (t.src_step != t.dst_step)).any():
            return False
    sc = dc = np.zeros(1, np.int64)
    for t in tracks:
        a, b, _, _ = pairs(t)
        sc, dc = (sc[:, None] + a[None, :]).reshape(-1), (dc[:, None] + b[None, :]).reshape(-1)
    return bool((src.tiles.reshape(-1)[sc] == dst.tiles.reshape(-1)[dc]).all())


def _coords(grid: Grid) -> dict[str, Ints]:
    """Per axis of the grid, the coordinate of every vertex (flat order of the grid)."""
    index = np.unravel_index(np.arange(grid.tiles.size), grid.tiles.shape) if grid.axes else ()
    return {a: i.astype(np.int32) for a, i in zip(grid.axes, index, strict=True)}


def _cell_extents(grid: Grid) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    coords = _coords(grid)
    lo = {a: grid.cells[a][0][coords[a]].astype(np.int64) for a in grid.axes}
    n = {a: (grid.cells[a][1] - grid.cells[a][0])[coords[a]].astype(np.int64) for a in grid.axes}
    return lo, n


def _cells_of(grid: Grid, operand: Operand, layout: Layout, rounds: int, turn: int) -> Ints:
    """Which cell of the operand's layout every vertex of a round reads. `rounds` > 1: the layout holds all rounds."""
    coords = _coords(grid)
    flat = np.zeros(grid.tiles.size, np.int64)
    for d, size in enumerate(layout.grid):
        axis, _ = operand.cut(d, grid.cells)
        at = np.zeros(grid.tiles.size, np.int64)
        if axis is not None:
            at = coords[axis].astype(np.int64)
            if rounds > 1 and size == grid.cells[axis][0].size * rounds:
                at = at * rounds + turn
        flat = flat * size + at
    return flat.astype(np.int32)


def _result_cells(grid: Grid, stage: Stage, turn: int) -> Ints:
    coords = _coords(grid)
    flat = np.zeros(grid.tiles.size, np.int64)
    for axis, size in zip(stage.result_axes, stage.layout.grid, strict=True):
        at = coords[axis].astype(np.int64)
        if stage.grid.rounds > 1 and axis == stage.grid.serial:
            at = at * stage.grid.rounds + turn
        flat = flat * size + at
    return flat.astype(np.int32)
