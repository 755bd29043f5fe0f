"""The local order of every layout of a placed graph: by grains or by rows, chosen for all layouts at once.

Bytes, ports and memory do not depend on it; fragments do, and with them exchange code and the control that fragments
take. Placement counts every edge in its best pair of orders; here every layout gets one order for all its edges. A
result and what a vertex walks along with it (partials, operands that are cut and grained alike) share theirs. The
choice is the least sum of cycles and of a price of code, a small one at least, found by elimination over pairs.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from ipucc.ops.spec import Along, Operand, TileOp
from ipucc.passes.plan.eliminate import Elimination
from ipucc.passes.plan.grid import operand_layout
from ipucc.passes.plan.numbers import Numbers, Pair, Table
from ipucc.passes.plan.overlap import Overlaps
from ipucc.passes.plan.place import Placement
from ipucc.passes.plan.problem import Candidate
from ipucc.passes.plan.resting import home_layout
from ipucc.passes.plan.stages import in_slot, partial_operand
from ipucc.tiles.view import View

__all__ = ["in_local_orders"]

Node = tuple[str, int, int]
"""What is ordered: a result ("result", variable, 0), an operand ("operand", variable, k), a tensor that rests by
itself ("fixed", tensor, 0)."""


def in_local_orders(placement: Placement, price: float = 0.0, overlaps: Overlaps | None = None) -> Placement:
    """The same placement with the best local orders of all layouts, a byte of exchange code as dear as `price` cycles.
    Ops that share a variable share their orders. `overlaps` is what is known of edges on this machine."""
    overlaps = Overlaps(placement.problem.target) if overlaps is None else overlaps
    return _Orders(placement, overlaps, price).ordered()


@dataclass(eq=False)
class _Orders:
    placement: Placement
    overlaps: Overlaps
    price: float
    number: dict[Node, int] = field(default_factory=dict)
    alone: dict[int, Table] = field(default_factory=dict)
    pairs: dict[tuple[int, int], Table] = field(default_factory=dict)
    known: dict[tuple[object, ...], Table] = field(default_factory=dict)

    def ordered(self) -> Placement:
        problem, chosen = self.placement.problem, self.placement.chosen
        variable = problem.variable
        producer = {form.result.tensor: i for i, op in enumerate(problem.graph.ops) for form in op.all_forms}
        seen: set[int] = set()
        # Cycles come with every op, code once for all that share a variable.
        for i, (op, cand) in enumerate(zip(problem.graph.ops, chosen, strict=True)):
            made = op.in_form(cand.form)
            v = variable[i]
            if v not in seen:
                seen.add(v)
                self._own(v, problem.weight[v], i, made, cand)
            for k, operand in enumerate(made.operands):
                if problem.home.get(operand.sources[0].tensor) == (i, k):
                    continue
                stage = next(st for st in cand.stages if k in st.operands)
                for s in operand.sources:
                    # Candidates live as long as the placement: their ids stay their own.
                    if s.tensor in producer:
                        j = producer[s.tensor]
                        node, src = self._node("result", variable[j]), chosen[j].layout
                        origin: tuple[int, ...] = (id(chosen[j]),)
                    elif s.tensor in problem.fixed:
                        node, src = self._node("fixed", s.tensor), problem.fixed[s.tensor]
                        origin = -1, s.tensor
                    else:
                        j, kk = problem.home[s.tensor]
                        node = self._operand(variable[j], kk, problem.graph.ops[j].in_form(chosen[j].form))
                        src = home_layout(problem.graph, (j, kk), chosen[j])
                        origin = id(chosen[j]), kk
                    key = origin, id(cand), k, s.view.digest
                    if key not in self.known:
                        needed, rounds, _ = stage.brought(made, k)
                        costs = self.overlaps.costs([src], [needed], s.view)
                        self.known[key] = rounds * costs.weighed(self.price / problem.weight[v])[0, 0]
                    self._edge(node, self._operand(v, k, made), self.known[key])
        return self._applied(self._by_rows())

    def _node(self, kind: str, at: int, k: int = 0) -> int:
        return self.number.setdefault((kind, at, k), len(self.number))

    def _operand(self, v: int, k: int, op: TileOp) -> int:
        """The node of an operand: the result's where a vertex walks along both."""
        return self._node("result", v) if _walked(op, op.operands[k]) else self._node("operand", v, k)

    def _own(self, v: int, weight: int, i: int, op: TileOp, cand: Candidate) -> None:
        """What a plan moves by itself: partials, weights that are gathered, inputs that several tiles need."""
        problem = self.placement.problem
        result = self._node("result", v)
        for s, stage in enumerate(cand.stages):
            if stage.takes_partials and not op.rows:
                before = cand.stages[s - 1]
                heard = operand_layout(partial_operand(op, before), stage.grid.round(0))
                costs = self.overlaps.costs([in_slot(before.layout, 0)], [heard], View.identity(heard.shape))
                self._alone(result, weight * stage.grid.rounds * np.diagonal(costs.weighed(self.price / weight)[0, 0]))
        for k, operand in enumerate(op.operands):
            tensor = operand.sources[0].tensor
            if problem.home.get(tensor) != (i, k):
                continue
            stage = next(st for st in cand.stages if k in st.operands)
            needed, rounds, _ = stage.brought(op, k)
            table = np.zeros(2, np.int64)
            for rows in (0, 1):
                home = home_layout(problem.graph, (i, k), _in_order(cand, k, bool(rows)))
                costs = self.overlaps.costs([home], [needed], View.identity(needed.shape))
                table[rows] = costs.weighed(self.price / weight)[0, 0, rows, rows]
            self._alone(self._operand(v, k, op), weight * rounds * table)

    def _alone(self, node: int, table: Table) -> None:
        self.alone[node] = self.alone.get(node, np.zeros(2, np.int64)) + table

    def _edge(self, a: int, b: int, table: Table) -> None:
        if a == b:
            self._alone(a, np.diagonal(table))
            return
        key, table = ((a, b), table) if a < b else ((b, a), table.T)
        self.pairs[key] = self.pairs.get(key, np.zeros((2, 2), np.int64)) + table

    def _by_rows(self) -> dict[Node, bool]:
        """The best choice for all nodes; of equally good ones by grains."""
        cycles = [self.alone.get(n, np.zeros(2, np.int64)) for n in range(len(self.number))]
        pairs = [Pair(a, b, table) for (a, b), table in sorted(self.pairs.items(), key=lambda x: x[0])]
        _, choice = Elimination(Numbers.without_memory(cycles, pairs)).solve(cycles)
        return {node: bool(choice[n]) for node, n in self.number.items()}

    def _applied(self, by_rows: dict[Node, bool]) -> Placement:
        problem = self.placement.problem
        made: dict[int, Candidate] = {}
        chosen = []
        for i, (op, cand) in enumerate(zip(problem.graph.ops, self.placement.chosen, strict=True)):
            v = problem.variable[i]
            if v not in made:
                form = op.in_form(cand.form)
                rows = {k for k, o in enumerate(form.operands)
                        if by_rows.get(("result", v, 0) if _walked(form, o) else ("operand", v, k), False)}  # fmt: skip
                made[v] = _ordered(cand, form, by_rows["result", v, 0], frozenset(rows))
            chosen.append(made[v])
        fixed = {t: layout.in_order(by_rows.get(("fixed", t, 0), False)) for t, layout in problem.fixed.items()}
        return replace(self.placement, chosen=tuple(chosen), fixed=fixed)


def _walked(op: TileOp, operand: Operand) -> bool:
    """Whether a vertex walks along its cell of the operand and of the result at once: both are the same box."""
    return operand.grain_dim == op.result.grain_dim and operand.dims == tuple(Along(a) for a in op.result.axes)


def _ordered(cand: Candidate, op: TileOp, result: bool, rows: frozenset[int]) -> Candidate:
    """The candidate with its result and some operands by rows. Statistics stay by grains: they are read whole."""
    stages = []
    for s, stage in enumerate(cand.stages):
        last = s + 1 == len(cand.stages)
        stages.append(stage.in_orders(result and (last or not op.rows), rows))
    return replace(cand, stages=tuple(stages))


def _in_order(cand: Candidate, k: int, rows: bool) -> Candidate:
    stages = tuple(replace(st, by_rows=frozenset({k}) if rows else frozenset()) for st in cand.stages)
    return replace(cand, stages=stages)
