"""From a tile graph to the placement problem: plans of every distinct op, costs of every distinct edge, memory rows."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ipucc.code_digest import foreign_code
from ipucc.codelets.base import Codelet
from ipucc.dtypes import itemsize
from ipucc.ops.graph import TileGraph, TileTensor, live_results, tensor_bytes
from ipucc.ops.spec import Along, Operand, Source, Span, TileOp
from ipucc.passes.plan.aligned import aligned_cuts
from ipucc.passes.plan.candidate import candidate
from ipucc.passes.plan.effort import plans_of_each
from ipucc.passes.plan.enumerate import enumerate_plans, plans_with_cuts
from ipucc.passes.plan.grid import Plan, following
from ipucc.passes.plan.known import Known, Planned
from ipucc.passes.plan.numbers import FORBIDDEN
from ipucc.passes.plan.price import Hosted
from ipucc.passes.plan.problem import Candidate, Edge, Problem, Row, Table
from ipucc.passes.plan.repeats import repetitions
from ipucc.passes.plan.resting import home_layout, hosted_kind, spread_layout
from ipucc.target import Target
from ipucc.tiles.layout import Layout

__all__ = ["build_problem", "candidate_of", "outline_problem", "weights_beside"]


def build_problem(
    graph: TileGraph,
    target: Target,
    budget: int,
    keep: int,
    outlined: Callable[[Problem], None] | None = None,
    known: Known | None = None,
    beside_weights: bool = False,
) -> Problem:
    """Candidates of every op (equal ops share theirs) and the cost tables of every edge (equal edges likewise).

    `budget` is the memory of a tile in bytes that one op may take, or, `beside_weights`, that it may take with the
    weights and inputs of all others (`weights_beside`): plans then come in the serial steps that this asks for.
    `outlined` gets the problem before its edges are priced, and may refuse it. `known` is filled and used again; it
    must be of the same target.
    """
    maker = _Maker(graph, target, budget, keep, Known(target) if known is None else known, beside_weights)
    outline = maker.outline()
    if outlined is not None:
        outlined(outline)
    return maker.priced(outline)


def candidate_of(graph: TileGraph, i: int, form: int, plan: Plan, target: Target) -> Candidate:
    """What a plan of op i in a form costs, whether it would be offered to placement or not."""
    maker = _Maker(graph, target, 0, 0, Known(target))
    maker.find_producers()
    maker.settle_homes()
    made = graph.ops[i].in_form(form)
    return candidate(made, form, maker.hosted(i, made), plan, maker.known.overlaps)


def outline_problem(
    graph: TileGraph, target: Target, budget: int, keep: int, known: Known | None = None, beside_weights: bool = False
) -> Problem:
    """The problem without its edges: enough to say what memory it needs. Arguments as in `build_problem`."""
    return _Maker(graph, target, budget, keep, Known(target) if known is None else known, beside_weights).outline()


def weights_beside(graph: TileGraph, target: Target) -> int:
    """Bytes of a tile that the weights and inputs of a graph take at least, each in one copy."""
    read = {s.tensor for op in graph.ops for o in op.operands for s in o.sources}
    return sum(tensor_bytes(t) for t in graph.tensors if t.kind != "result" and t.index in read) // target.tiles


@dataclass(eq=False)
class _Maker:
    graph: TileGraph
    target: Target
    budget: int
    keep: int
    known: Known
    beside_weights: bool = False
    beside: int = 0
    room: dict[str, int] = field(default_factory=dict)
    producer: dict[int, int] = field(default_factory=dict)
    home: dict[int, tuple[int, int]] = field(default_factory=dict)
    signatures: list[str] = field(default_factory=list)
    fixed: dict[int, Layout] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    alike: Counter[str] = field(default_factory=Counter)
    candidates: list[list[Candidate]] = field(default_factory=list)

    def outline(self) -> Problem:
        self.find_producers()
        self.settle_homes()
        planned: list[Planned] = []
        self.alike.update(self._signature(i, op) for i, op in enumerate(self.graph.ops))
        # Where many ops differ, pairs of plans are what takes time: there are none beside an op's own.
        most, self.keep = self.keep, plans_of_each(self.keep, len(self.alike))
        self.beside = self.keep // 2 if self.keep == most else 0
        self._leave_room()
        texts: list[str] = []
        own: list[Planned] = []
        for i, op in enumerate(self.graph.ops):
            text = self._signature(i, op)
            texts.append(f"{text}x{self.alike[text]} of {self.keep} in {self.room[text]}")
            own.append(self.known.planned(_digest(texts[i]), op, [], partial(self._own, i, op)))
        # Equal ops take over the same cuts, whichever of them has a neighbour with such a cut.
        cuts: dict[str, dict[tuple[tuple[str, int], ...], None]] = {}
        for op, text in zip(self.graph.ops, texts, strict=True):
            if self.beside:
                cuts.setdefault(text, {}).update(dict.fromkeys(self._neighbours_cuts(op, own)))
        for i, op in enumerate(self.graph.ops):
            follow = self._followed(op)
            taken = list(cuts.get(texts[i], ()))
            text = f"{texts[i]} {taken}"
            if follow is not None:
                text += f"<{follow[1]} {self.signatures[follow[0]]}"
            self.signatures.append(_digest(text))
            layouts = [c.layout for c in planned[follow[0]].candidates] if follow is not None else []
            make = partial(self._planned, i, op, own[i], taken, layouts, follow[1] if follow is not None else -1)
            planned.append(self.known.planned(self.signatures[i], op, layouts, make))
        variable, kept = self._variables()
        weight = [0] * len(kept)
        for v in variable:
            weight[v] += 1
        fixed_bytes = sum(layout.nbytes for layout in self.fixed.values())
        self.candidates = [p.candidates for p in planned]
        return Problem(
            self.graph, self.target, variable, weight, [self.candidates[o] for o in kept], [], self._rows(variable),
            fixed_bytes, self.home, self.fixed, [planned[o].combinations for o in kept],
        )  # fmt: skip

    def _leave_room(self) -> None:
        """What an op may take of a tile, by its signature: equal ops with what all of them hold."""
        self.room = dict.fromkeys(self.alike, self.budget)
        if not self.beside_weights:
            return
        own: Counter[str] = Counter()
        for i, op in enumerate(self.graph.ops):
            held = {o.sources[0].tensor for o, at_host in zip(op.operands, self.hosted(i, op), strict=True) if at_host}
            own[self._signature(i, op)] += sum(tensor_bytes(self.graph.tensors[t]) for t in held)
        whole = weights_beside(self.graph, self.target)
        self.room = {text: self.budget - whole + own[text] // self.target.tiles for text in self.alike}

    def priced(self, outline: Problem) -> Problem:
        """The outlined problem with its edges."""
        variable = outline.variable
        edges: dict[tuple[int, int, int], Edge] = {}
        for i, op in enumerate(self.graph.ops):
            for producer, table, code in self._edges(i, op):
                v = variable[producer] if producer >= 0 else -1
                key = (v, variable[i], id(table))
                old = edges.get(key)
                edges[key] = Edge(v, variable[i], table, 1 if old is None else old.count + 1, code)
        return replace(outline, edges=list(edges.values()))

    def _variables(self) -> tuple[list[int], list[int]]:
        """The variable of every op, and the first op of every variable."""
        signatures = self.signatures
        first = list(range(len(signatures)))
        for r in repetitions(signatures, least=3):
            # Behind the last whole layer the next one may begin alike: its results then lie as those of the others.
            for i in range(r.start + r.period, len(signatures)):
                if first[i] != i or signatures[i] != signatures[i - r.period]:
                    break
                first[i] = first[i - r.period]
        kept = sorted(set(first))
        number = {o: v for v, o in enumerate(kept)}
        return [number[o] for o in first], kept

    def _rows(self, variable: list[int]) -> list[Row]:
        """Memory of every step; of equal rows the first."""
        alive = [Counter(variable[self.producer[x]] for x in live) for live in live_results(self.graph)]
        rows: dict[tuple[object, ...], Row] = {}
        for t, live in enumerate(alive):
            held = tuple(sorted(live.items()))
            rows.setdefault((variable[t], held), Row(t, variable[t], held))
        return list(rows.values())

    def find_producers(self) -> None:
        """The op of every result, whichever of its forms makes it."""
        self.producer.update({f.result.tensor: i for i, op in enumerate(self.graph.ops) for f in op.all_forms})

    def settle_homes(self) -> None:
        """The first op that reads a host tensor as a whole operand gives it its home; other reads are edges.

        What others read from must hold all of the tensor, in order: an op that skips rows is a home for itself alone.
        """
        reads = self.reads
        for op in self.graph.ops:
            for _, operand in _read(op):
                for s in operand.sources:
                    reads[s.tensor] = reads.get(s.tensor, 0) + 1
        for i, op in enumerate(self.graph.ops):
            for k, operand in _read(op):
                if not self._hostable(operand) or operand.sources[0].tensor in self.home:
                    continue
                if reads[operand.sources[0].tensor] == 1 or _holds_all(operand):
                    self.home[operand.sources[0].tensor] = (i, k)
        for op in self.graph.ops:
            for _, operand in _read(op):
                for s in operand.sources:
                    t = self.graph.tensors[s.tensor]
                    if t.kind != "result" and s.tensor not in self.home and s.tensor not in self.fixed:
                        self.fixed[s.tensor] = spread_layout(t.shape, itemsize(t.dtype), t.grain_dim, self.target.tiles)

    def _hostable(self, operand: Operand) -> bool:
        tensor = self.graph.tensors[operand.sources[0].tensor] if len(operand.sources) == 1 else None
        return (
            tensor is not None
            and tensor.kind != "result"
            and operand.sources[0].view.is_identity
            and (operand.grain_dim == tensor.grain_dim or self._regrained(tensor))
        )

    def hosted(self, i: int, op: TileOp) -> tuple[Hosted, ...]:
        return tuple(
            hosted_kind(self.graph, o) if self._hostable(o) and self.home.get(o.sources[0].tensor) == (i, k) else ""
            for k, o in enumerate(op.operands)
        )

    def _signature(self, i: int, op: TileOp) -> str:
        """Everything that an op's candidates depend on, names left out."""
        parts: list[object] = [self._form_signature(i, form) for form in (op, *op.forms)]
        return json.dumps(parts, default=str)

    def _form_signature(self, i: int, op: TileOp) -> list[object]:
        return [
            [(a.name, a.size, a.kind, a.grain, a.pinned) for a in op.axes],
            [(list(o.shape), o.dtype, o.grain_dim, o.pack_dim, o.epilogue, [_dim(d) for d in o.dims],
              len(o.sources)) for o in op.operands],
            [list(op.result.axes), op.result.dtype, op.result.grain_dim, op.partial_dtype, list(op.statistics)],
            [_codelet(c) for c in (op.codelet, op.partial, op.combine)],
            self.hosted(i, op),
            [self._regrains(o) for o in op.operands],
        ]  # fmt: skip

    def _regrains(self, operand: Operand) -> bool:
        """Whether the operand is a host tensor whose grains its only reader is free to choose."""
        if len(operand.sources) != 1:
            return False
        return self._regrained(self.graph.tensors[operand.sources[0].tensor])

    def _regrained(self, tensor: TileTensor) -> bool:
        return tensor.kind in ("input", "weight") and self.reads[tensor.index] == 1

    def _followed(self, op: TileOp) -> tuple[int, int] | None:
        """(producer, operand) whose layout this op can take over as it is, if there is one."""
        if any(a.kind == "reduce" for a in op.axes):
            return None
        for k, o in enumerate(op.operands):
            source = o.sources[0]
            if (
                len(o.sources) == 1
                and source.tensor in self.producer
                and source.view.is_identity
                and o.dims == tuple(Along(a) for a in op.result.axes)
                and o.grain_dim == op.result.grain_dim
            ):
                return self.producer[source.tensor], k  # fmt: skip
        return None

    def _neighbours_cuts(self, op: TileOp, own: Sequence[Planned]) -> Iterator[tuple[tuple[str, int], ...]]:
        """Cuts of what an op reads that it may take over."""
        for k, o in enumerate(op.operands):
            if len(o.sources) == 1 and not (o.epilogue or op.chained) and o.sources[0].tensor in self.producer:
                layouts = [c.layout for c in own[self.producer[o.sources[0].tensor]].candidates]
                yield from aligned_cuts(op, k, o.sources[0].view, layouts)

    def _usable(self, i: int, op: TileOp) -> list[int]:
        """The forms of an op. Where the host writes what a form would have to fetch, other readers hold it to their
        grains."""
        return [f for f in range(len(op.forms) + 1) if self.hosted(i, op.in_form(f)) == self.hosted(i, op)]

    def _own(self, i: int, op: TileOp) -> Planned:
        """The candidates of an op that depend on it alone."""
        base, usable = self.hosted(i, op), self._usable(i, op)
        forms = [op.in_form(f) for f in usable]
        text = self._signature(i, op)
        room, alike = self.room[text], self.alike[text]
        # Every chain keeps plans in each of its ops, whatever those of the others cost.
        families = [[f] for f in range(len(forms))] if op.chained else [list(range(len(forms)))]
        found, combinations = [], 0
        for family in families:
            some, keep = [forms[f] for f in family], -(-3 * self.keep // (len(families) + 2))
            enumerated = enumerate_plans(some, base, self.target, room, keep, alike)
            combinations += enumerated.combinations
            found += [
                candidate(some[at], usable[family[at]], base, plan, self.known.overlaps)
                for at, plan in enumerated.plans
            ]
        return Planned(found, combinations, [-1] * len(found))

    def _planned(
        self, i: int, op: TileOp, own: Planned, cuts: Sequence[tuple[tuple[str, int], ...]], layouts: Sequence[Layout],
        operand: int,
    ) -> Planned:  # fmt: skip
        """All candidates of an op: its own, those with one of the `cuts` of what it reads, and those that take over one
        of the `layouts` of an operand."""
        base, usable = self.hosted(i, op), self._usable(i, op)
        forms = [op.in_form(f) for f in usable]
        text = self._signature(i, op)
        room, alike = self.room[text], self.alike[text]
        taken = [dict(cut) for cut in cuts]
        enumerated = plans_with_cuts(forms, base, self.target, room, self.beside, alike, taken)
        known = {(c.form, c.plan.describe(), c.plan.parts) for c in own.candidates}
        found = list(own.candidates)
        for at, plan in enumerated.plans:
            if (usable[at], plan.describe(), plan.parts) not in known:
                found.append(candidate(forms[at], usable[at], base, plan, self.known.overlaps))
        followed = [-1] * len(found)
        for at, layout in enumerate(layouts):
            like = following(op, layout)
            if like is not None:
                found.append(candidate(op, 0, base, like, self.known.overlaps, operand))
                followed.append(at)
        combinations = own.combinations + enumerated.combinations + sum(at >= 0 for at in followed)
        return Planned(found, combinations, followed)

    def _edges(self, i: int, op: TileOp) -> list[tuple[int, Table, Table]]:
        """(producing op or -1, cycles and code by candidates) for all that an op reads and the host does not write."""
        out = []
        hosted = self.hosted(i, op)
        for k, o in enumerate(op.operands):
            if hosted[k]:
                continue
            for n in range(len(o.sources)):
                out.append(self._edge(i, k, n))
        return out

    def _edge(self, i: int, k: int, n: int) -> tuple[int, Table, Table]:
        """An edge: source n of operand k of op i. The forms of a chained op have a source each, and what another chain
        makes is out of their reach."""
        op = self.graph.ops[i]
        sources = [form.operands[k].sources[n] for form in (op.all_forms if op.chained else (op,))]
        rests = [self._rests(s.tensor) for s in sources]
        j, rows, source = rests[0]
        if any((at, text) != (j, source) for at, _, text in rests):
            raise RuntimeError(f"the chains of {op.name} read results of different ops")
        made = self.graph.ops[j].all_forms if sources[0].tensor in self.producer else ()
        makes = [made[c.form].result.tensor for c in self.candidates[j]] if made else None
        key = (source, self.signatures[i], str(k), *(s.view.digest for s in sources))
        shape = len(rows), len(self.candidates[i])

        def chained() -> tuple[Table, Table]:
            cycles, code = np.full(shape, FORBIDDEN, np.int64), np.zeros(shape, np.int64)
            for form, s in enumerate(sources):
                columns = [c for c, cand in enumerate(self.candidates[i]) if cand.form == form]
                reached = [r for r in range(len(rows)) if makes is None or makes[r] == s.tensor]
                if columns and reached:
                    at = np.ix_(reached, columns)
                    cycles[at], code[at] = self._table(i, k, s, [rows[r] for r in reached], columns)
            return cycles, code

        every = range(shape[1])
        make = chained if op.chained else partial(self._table, i, k, sources[0], rows, every)
        return j, *self.known.table(key, shape, make)

    def _rests(self, tensor: int) -> tuple[int, list[Layout], str]:
        """Where a tensor may rest, and the op that decides on it (-1: none), as text too."""
        if tensor in self.producer:
            j = self.producer[tensor]
            return j, [c.layout for c in self.candidates[j]], self.signatures[j]
        if tensor in self.fixed:
            layout = self.fixed[tensor]
            return -1, [layout], repr((layout.shape, layout.grain_dim))
        j, k = self.home[tensor]
        return j, [home_layout(self.graph, (j, k), c) for c in self.candidates[j]], f"{self.signatures[j]} {k}"

    def _table(
        self, i: int, k: int, s: Source, rows: Sequence[Layout], columns: Sequence[int]
    ) -> tuple[Table, Table]:  # fmt: skip
        """Cycles and exchange code of one source of operand k of op i, by where it rests and by some of the op's
        candidates."""
        wanted, phase = [], []
        for cand in [self.candidates[i][c] for c in columns]:
            stage = next(st for st in cand.stages if k in st.operands)
            wanted.append(stage.brought(self.graph.ops[i].in_form(cand.form), k))
            phase.append(k == cand.fetching)
        costs = self.known.overlaps.costs(rows, [w.layout for w in wanted], s.view).best()
        times, weight = np.array([w.times for w in wanted]), np.array([w.weight for w in wanted])
        cycles = np.rint(weight * (costs.exchange + costs.copy)).astype(np.int64)
        return cycles + np.where(phase, times * costs.sync, 0), costs.code * times


def _read(op: TileOp) -> Iterator[tuple[int, Operand]]:
    """What an op reads, by number; of chained forms all that differs."""
    yield from enumerate(op.operands)
    known = {s.tensor for o in op.operands for s in o.sources}
    for form in op.forms if op.chained else ():
        for k, o in enumerate(form.operands):
            if not {s.tensor for s in o.sources} <= known:
                known |= {s.tensor for s in o.sources}
                yield k, o


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _codelet(c: Codelet | None) -> object:
    return c if c is None else [c.to_json(), foreign_code(type(c).cycles), foreign_code(type(c).in_round)]


def _dim(d: object) -> object:
    if isinstance(d, Span):
        return [d.axis, hashlib.sha256(d.lo.tobytes() + d.hi.tobytes()).hexdigest()]
    return repr(d)


def _holds_all(operand: Operand) -> bool:
    """Whether the cells of an operand, however it is cut, follow each other and leave nothing of the tensor out."""
    return all(
        bool(d.lo.size and d.lo[0] <= 0 and d.hi[-1] >= n and (d.lo[1:] <= d.hi[:-1]).all())
        and bool((np.diff(d.lo) >= 0).all() and (np.diff(d.hi) >= 0).all())
        for d, n in zip(operand.dims, operand.shape, strict=True)
        if isinstance(d, Span)
    )
