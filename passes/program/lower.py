"""From placed ops to a program: exchanges and compute sets in turn, over buffers without addresses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from ipucc.codelets.base import Cells, Codelet
from ipucc.ops.graph import TileGraph
from ipucc.ops.spec import Everything, Operand, TileOp
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
    walk,
    with_bodies,
)  # fmt: skip
from ipucc.program.timing import Exchanges
from ipucc.target import Target
from ipucc.tiles.cuts import cut_axis, whole
from ipucc.tiles.intersect import Track, intersect, pairs
from ipucc.tiles.layout import Ints, Layout
from ipucc.tiles.view import View

__all__ = ["lower", "order_transfers"]


def lower(graph: TileGraph, placement: Placement, target: Target) -> Program:
    """The steps of a placed graph. Buffers have layouts and no offsets yet, transfers the order of the first rule: a
    better one takes time to find (`order_transfers`)."""
    return _Lowering(graph, placement, target).run()


def order_transfers(program: Program, exchanges: Exchanges) -> None:
    """Gives the transfers of every exchange their best known order. `exchanges` are filled and used again."""
    steps = [step for step in walk(program.steps, program.functions) if isinstance(step, Exchange)]
    exchanges.find_orders(steps, program.buffers)

    def ordered(step: Step) -> Step:
        if isinstance(step, Exchange):
            return replace(step, order=exchanges.best_order(step, program.buffers))
        return with_bodies(step, ordered)

    program.steps = [ordered(step) for step in program.steps]


@dataclass(eq=False)
class _Lowering:
    graph: TileGraph
    placement: Placement
    target: Target
    buffers: list[Buffer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    writes: list[HostWrite] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)
    moves: dict[tuple[object, ...], tuple[Track, ...]] = field(default_factory=dict)

    def run(self) -> Program:
        for i, chosen in enumerate(self.placement.chosen):
            self._op(i, self.graph.ops[i].in_form(chosen.form), chosen)
        for out in self.graph.outputs:
            self.steps.append(HostRead(out.name, self.held[out.source.tensor], out.source.view, out.gap))
        # Weights in the order of a chain that was not chosen are written by nobody.
        written = {w.tensor for w in self.writes}
        return Program(
            self.target,
            self.buffers,
            [*self.writes, *self.steps],
            list(self.graph.inputs),
            [(o.name, o.dtype, o.shape) for o in self.graph.outputs],
            {k: v for k, v in self.graph.weights.items() if k in written},
            patterns=dict(self.graph.patterns),
            extents=dict(self.graph.extents),
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
        sums: dict[int, int] = {}
        # Round by round through all stages: what two stages read is then needed for one round only. A stage without
        # rounds behind one with rounds comes once, at the end.
        rounds = max(stage.grid.rounds for stage in chosen.stages)
        for turn in range(rounds):
            for s, stage in enumerate(chosen.stages):
                if turn == 0:
                    results.append(self._buffer(op.name + stage.suffix, stage.dtype, stage.layout))
                own = turn - rounds + stage.grid.rounds
                if own >= 0:
                    self._round(i, op, chosen, s, own, results, shared, sums)
        self.held[op.result.tensor] = results[-1]

    def _round(
        self, i: int, op: TileOp, chosen: Candidate, s: int, turn: int, results: list[int],
        shared: dict[tuple[int, int], tuple[int, Layout]], sums: dict[int, int],
    ) -> None:  # fmt: skip
        stage, result = chosen.stages[s], results[s]
        name, grid = op.name + stage.suffix, stage.grid
        label = name if grid.rounds == 1 else f"{name}.{turn}"
        tiles, at = grid.vertices(turn)
        moves: list[Move] = []
        fills: list[Fill] = []
        packs: list[tuple[Operand, int, int]] = []
        bound: list[Binding] = []
        if stage.takes_partials:
            before, partials = chosen.stages[s - 1], results[s - 1]
            operand = partial_operand(op, before)
            layout = operand_layout(operand, grid.round(turn)).in_order(self.buffers[partials].layout.by_rows)
            dst = self._buffer(f"{name}.in", before.dtype, layout)
            moves.append(self._move(partials, dst))
            bound.append(Binding(dst, _cells_of(at, grid, operand, layout), operand.fill))
        for k in stage.read_in(turn, op):
            operand = op.operands[k]
            cut = stage.grid_for(operand)
            full = stage.operand_layout(op, k)
            ready = self._resident(i, k, operand, full, chosen)
            if ready is not None:
                bound.append(Binding(ready, _cells_of(at, grid, operand, full), operand.fill))
                continue
            # Rounds share what all of them need; stages share the rest, round by round.
            once = full.slots is None or cut.ring is not None
            key = k, 0 if once else turn
            if key not in shared:
                cells = cut if once else cut.round(turn)
                layout = full if once else stage.operand_layout(op, k, turn)
                b = self._collect(f"{name}.in{k}", operand, layout, moves, fills)
                if operand.pack_dim is not None:
                    layout = operand_layout(operand, cells, operand.pack_dim)
                    p = self._buffer(f"{name}.packed{k}", operand.dtype, layout)
                    packs.append((operand, b, p))
                    b = p
                shared[key] = b, layout
            b, layout = shared[key]
            bound.append(Binding(b, _cells_of(at, grid, operand, layout), operand.fill))
        into = result
        if stage.sums is not None:
            into = self._sums(name, stage, turn, result, sums, moves)
            if turn:
                bound.append(Binding(sums[turn], _places(at, grid, stage.result_axes, stage.sums.layouts[turn])))
        if moves or fills:
            self.steps.append(Exchange(f"{label}.exchange", tuple(moves), tuple(fills)))
        for operand, b, p in packs:
            self.steps += self._pack(f"{label}.pack", operand, b, p)
        lo, n = grid.extents(turn)
        written = [Binding(into, _places(at, grid, stage.result_axes, self.buffers[into].layout))]
        codelet = stage.codelet_of(turn)
        if codelet.has_scratch:
            written.append(self._scratch(f"{label}.scratch", codelet, tiles, n))
        self.steps.append(
            Compute(label, codelet, tiles, Cells(lo, n), tuple(bound), tuple(written), stage.macs if turn == 0 else 0)
        )

    def _sums(
        self, name: str, stage: Stage, turn: int, result: int, held: dict[int, int], moves: list[Move]
    ) -> int:  # fmt: skip
        """The buffer that a round which adds up writes; `held` gets the one where it finds the sums, or leaves the
        first ones."""
        sums = stage.sums
        assert sums is not None
        last = turn == stage.grid.rounds - 1
        if turn and not sums.rotate:
            held[turn] = held[turn - 1]
        elif sums.layouts[turn] is stage.layout:
            held[turn] = result
        else:
            held[turn] = self._buffer(f"{name}.sums", sums.dtype, sums.layouts[turn])
        if turn and sums.rotate:
            moves.append(self._move(held[turn - 1], held[turn]))
        return result if last else held[turn]

    def _move(self, src: int, dst: int) -> Move:
        """The same tensor in another layout."""
        a, b = self.buffers[src].layout, self.buffers[dst].layout
        view = View.identity(a.shape)
        return Move(src, dst, self._tracks(a, b, view), view)

    def _scratch(self, name: str, codelet: Codelet, tiles: Ints, n: dict[str, np.ndarray]) -> Binding:
        """Bytes for every vertex of a round, as many as the one that needs most of them."""
        vertices = tiles.size
        size = max(1, int(codelet.temp_bytes(n, self.target).max(initial=0)))
        cuts = cut_axis(vertices, vertices), whole(size)
        layout = Layout((vertices, size), cuts, tiles.reshape(vertices, 1, 1), 1, 1)
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
        # The same pair is met once per repeated layer.
        key = src.digest, dst.digest, view.digest
        if key not in self.moves:
            self.moves[key] = intersect(src, dst, view)
        return self.moves[key]

    def _pack(self, name: str, operand: Operand, src: int, dst: int) -> Iterator[Compute]:
        """Re-orders every cell of an operand on its tile, once per tile that holds one; one compute set per slot."""
        layout = self.buffers[dst].layout
        every = np.repeat(np.arange(prod(layout.grid), dtype=np.int32), layout.replicas)
        slots = np.zeros(every.size, np.int32) if layout.slots is None else layout.slots.reshape(-1)[every]
        codelet = packing(operand)
        for slot in range(layout.slot_count):
            picked = slots == slot
            cells, tiles = every[picked], layout.tiles.reshape(-1)[picked]
            at = np.unravel_index(cells, layout.grid) if layout.grid else ()
            lo = {a: layout.cuts[d][0][at[d]].astype(np.int64) for d, a in enumerate(codelet.axes)}
            n = {a: (layout.cuts[d][1] - layout.cuts[d][0])[at[d]].astype(np.int64) for d, a in enumerate(codelet.axes)}
            yield Compute(name, codelet, tiles, Cells(lo, n), (Binding(src, cells),), (Binding(dst, cells),))


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


def _cells_of(at: dict[str, Ints], grid: Grid, operand: Operand, layout: Layout) -> Ints:
    """Which cell of an operand's layout every vertex reads, given the cells of its axes."""
    axes = tuple(None if isinstance(d, Everything) else d.axis for d in operand.dims)
    return _places(at, grid, axes, layout)


def _places(at: dict[str, Ints], grid: Grid, axes: Sequence[str | None], layout: Layout) -> Ints:
    """The flat index of the cell of a layout with dimensions along `axes` for every vertex. A layout may hold the cells
    of all rounds, or one in the place of those of all rounds: those of one round, or their sums."""
    flat = np.zeros(next(iter(at.values())).size, np.int64)
    for axis, size in zip(axes, layout.grid, strict=True):
        index: Ints | int = 0
        if axis is not None:
            index = at[axis] if size == grid.cells[axis][0].size else at[axis] // grid.rounds
        flat = flat * size + index
    return flat.astype(np.int32)
