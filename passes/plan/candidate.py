"""What a plan of an op costs alone: the candidate that placement chooses from."""

import numpy as np

from ipucc.ops.spec import Operand, TileOp
from ipucc.passes.plan.grid import Plan, operand_layout, packing
from ipucc.passes.plan.overlap import EdgeCost, Overlaps
from ipucc.passes.plan.price import Hosted
from ipucc.passes.plan.problem import Candidate
from ipucc.passes.plan.resting import resting
from ipucc.passes.plan.stages import Brought, Stage, Sums, in_slot, partial_operand, stages_of
from ipucc.target import Target
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

__all__ = ["candidate"]


def candidate(
    op: TileOp, form: int, hosted: tuple[Hosted, ...], plan: Plan, overlaps: Overlaps, followed: int = -1
) -> Candidate:
    """What `op`, form number `form` of an op, costs alone under a plan: cycles of its codelets and of what it moves by
    itself (partials, gathered weights, inputs that several tiles need), and bytes on the fullest tile. `hosted` as in
    `enumerate_plans`; operand `followed` is taken over where it lies."""
    target = overlaps.target
    stages = stages_of(op, plan)
    cycles = resident = temp = code = 0
    for s, stage in enumerate(stages):
        rounds = stage.grid.rounds
        for turn in range(rounds):
            _, n = stage.grid.extents(turn)
            cycles += int(np.max(stage.codelet_of(turn).cycles(n, target)))
        here = max(int(np.max(stage.codelet_of(t).temp_bytes(n, target))) for t in {0, rounds - 1})
        fetched = False
        if stage.takes_partials:
            before = stages[s - 1]
            src, turn = before.layout, stage.grid.largest()
            dst = operand_layout(partial_operand(op, before), stage.grid.round(turn))
            collect = _tied(overlaps, in_slot(src, turn), dst)
            brought = Brought(dst, rounds, stage.grid.weight())
            cycles, code = cycles + brought.cycles(collect, True), code + rounds * collect.code
            here += dst.nbytes + src.nbytes
        if s + 1 < len(stages):
            here += stage.layout.nbytes
        if stage.sums is not None:
            here += _beside(stage.sums, stage.layout)
            if stage.sums.rotate:
                one, two = stage.sums.layouts[:2]
                turned = _tied(overlaps, one, two)
                cycles, code = cycles + (rounds - 1) * turned.total, code + (rounds - 1) * turned.code
        early = [k for k in stage.operands if not (stage.sums and op.operands[k].epilogue)]
        for k in stage.operands:
            o = op.operands[k]
            # What the stage before has brought lies on the same tiles still; what all rounds need alike comes once.
            again = any(k in st.operands for st in stages[:s])
            brought = stage.brought(op, k)
            layout = brought.layout
            if hosted[k]:
                full = stage.operand_layout(op, k)
                rests = resting(full, hosted[k], plan.gathered)
                # What another part hands on is priced as if it were fetched: it costs that at the border.
                home = resting(full, "input", False) if hosted[k] == "received" else rests
                resident += 0 if again else rests.nbytes
                if home is not full:
                    here += 0 if rests is full else layout.nbytes
                    cost = _tied(overlaps, home, layout)
                    # One phase brings all operands of a stage; where any comes by an edge, the edge pays it.
                    alone = k in early and all(hosted[x] for x in early) and not stage.takes_partials
                    if not again:
                        cycles += brought.cycles(cost, alone and not fetched)
                        code += brought.times * cost.code
                    fetched = True
            else:
                here += layout.nbytes
            if o.pack_dim is not None:
                grid = stage.grid_for(o)
                packed = operand_layout(o, grid if brought.times == 1 else grid.round(grid.largest()), o.pack_dim)
                here += packed.nbytes
                if not again:
                    cycles += brought.times * packed.slot_count * _pack_cycles(o, packed, target)
        temp = max(temp, here)
    fetching = _fetching(op, stages[0], hosted, followed)
    return Candidate(form, plan, stages, cycles, resident, stages[-1].layout.nbytes, temp, fetching, code)


def _tied(overlaps: Overlaps, src: Layout, dst: Layout) -> EdgeCost:
    """The cost of an exchange of one tensor within an op: both layouts have one local order."""
    return overlaps.costs([src], [dst], View.identity(src.shape)).best(tied=True).of(0, 0)


def _fetching(op: TileOp, stage: Stage, hosted: tuple[Hosted, ...], followed: int) -> int:
    """The operand whose edge is charged with the phase of a stage: of those that are moved most often the first, but
    one that is not taken over where it lies if there is one; -1 where no edge is.

    What sums that rotate, or weights that are gathered in every round, bring along behind the first round is free.
    """
    moved = [k for k in stage.operands if not hosted[k]]
    if stage.sums is not None:
        early = [k for k in stage.operands if not op.operands[k].epilogue]
        if stage.sums.rotate or not all(hosted[k] == "weight" for k in early):
            moved = [k for k in moved if k in early]
    times = {k: stage.brought(op, k).times for k in moved}
    moved = [k for k in moved if times[k] == max(times.values())]
    return next((k for k in moved if k != followed), moved[0] if moved else -1)


def _beside(sums: Sums, result: Layout) -> int:
    """Bytes that the sums of a stage take beside its result: while they rotate, what is sent and what arrives."""
    held = sums.layouts[0].nbytes
    if sums.rotate:
        return max(2 * held, held + result.nbytes) - result.nbytes
    return 0 if sums.in_place else held


def _pack_cycles(operand: Operand, layout: Layout, target: Target) -> int:
    """Cycles of re-ordering the largest cell of an operand."""
    codelet = packing(operand)
    n = {a: np.full(1, size, np.int64) for a, size in zip(codelet.axes, layout.cell, strict=True)}
    return int(codelet.cycles(n, target)[0])
