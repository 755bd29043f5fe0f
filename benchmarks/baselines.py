"""Simpler ways to place a network, priced by the same costs as the joint choice: the baselines of placement.py."""

from dataclasses import replace

import numpy as np

from ipucc.dtypes import itemsize
from ipucc.passes.plan.numbers import Choice, Numbers
from ipucc.passes.plan.overlap import EdgeCost, Overlaps
from ipucc.passes.plan.problem import Problem
from ipucc.passes.plan.resting import spread_layout
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

__all__ = ["fastest", "linear"]


def fastest(numbers: Numbers) -> Choice:
    """Every op's fastest plan, whatever its neighbours do."""
    return np.asarray([int(cycles.argmin()) for cycles in numbers.cycles], np.int64)


def linear(problem: Problem) -> tuple[Numbers, Choice]:
    """Linear placement, the default of libraries: every result rests spread over all tiles in its own order, whoever
    made it and whoever reads it. An op fetches its operands from there and writes its result back.

    Every op has the plan that is cheapest with both. What the host writes rests as it would otherwise, where an op is
    its home. The numbers have no pairs: what edges cost is in the cycles of the plans.
    """
    graph, target = problem.graph, problem.target
    spread: dict[int, Layout] = {}
    overlaps = Overlaps(target)

    def resting(tensor: int) -> Layout:
        if tensor not in spread:
            t = graph.tensors[tensor]
            spread[tensor] = spread_layout(t.shape, itemsize(t.dtype), t.grain_dim, target.tiles)
        return spread[tensor]

    def moved(src: Layout, dst: Layout, view: View) -> EdgeCost:
        return overlaps.costs([src], [dst], view).best().of(0, 0)

    first = {v: o for o, v in reversed(list(enumerate(problem.variable)))}
    cycles, result, temp = [], [], []
    for v, candidates in enumerate(problem.candidates):
        op = graph.ops[first[v]]
        rests = resting(op.result.tensor)
        through = View.identity(rests.shape)
        found = []
        for cand in candidates:
            total = cand.cycles
            made = op.in_form(cand.form)
            for k, operand in enumerate(made.operands):
                stage = next((st for st in cand.stages if k in st.operands), None)
                if stage is None or any(problem.home.get(s.tensor) == (first[v], k) for s in operand.sources):
                    continue
                brought = stage.brought(made, k)
                for s in operand.sources:
                    cost = moved(resting(s.tensor), brought.layout, s.view)
                    total += brought.cycles(cost, k == cand.fetching)
            found.append(total + moved(cand.layout, rests, through).total)
        cycles.append(problem.weight[v] * np.asarray(found, np.int64))
        result.append(np.full(len(candidates), rests.nbytes, np.int64))
        temp.append(np.asarray([c.temp + c.result for c in candidates], np.int64))
    numbers = replace(
        Numbers.of(problem), cycles=tuple(cycles), result=tuple(result), temp=tuple(temp), pairs=()
    )  # fmt: skip
    return numbers, fastest(numbers)
