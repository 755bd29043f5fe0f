"""Placement and lowering until the program fits: data in tile memory, code in executable memory.

Placement estimates memory from plans; what code takes and how buffers pack is known once the program is lowered. Where
either does not fit, placement is repeated: with less memory, or at a higher price of exchange code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from ipucc.diagnostics import CompileError, DoesNotFit
from ipucc.ops.graph import TileGraph
from ipucc.passes.plan.build_problem import build_problem, outline_problem, weights_beside
from ipucc.passes.plan.effort import BUDGETS, Effort, Listen, Stop, never
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.local_order import in_local_orders
from ipucc.passes.plan.place import Placement, Solver, place
from ipucc.passes.plan.problem import Problem
from ipucc.passes.plan.room import More, require_room
from ipucc.passes.program.allocate import allocate
from ipucc.passes.program.code import CodeSize, code_size
from ipucc.passes.program.code_price import HIGHEST, cheapest_that_fits, first_level, price_of
from ipucc.passes.program.lower import lower, order_transfers
from ipucc.passes.program.overflow import code_too_large, data_too_large
from ipucc.passes.program.roll import roll
from ipucc.program.model import Program
from ipucc.target import Target

__all__ = ["HELP", "Fitted", "fit"]

Begin = Callable[[str], None]

_ATTEMPTS: Final = 8
_SHARED: Final = 0.75
"""Of the room for code, what a program may be estimated to have where code is short and none has been lowered: the
estimate takes all that repeats for a loop, gives every edge the local orders that suit it, and leaves out codelets."""
_MARGIN: Final = 0.97
"""Of the code that a program may be estimated to have after one was found to have more than its estimate; less of it
with every attempt."""
_CROWDING: Final = 8
"""Plans are made again for what is left beside the weights where these take more than this part of the tiles."""
_LESS: Final = 0.75
"""Of its exchange code, what a program may have after no placement was found within what that code leaves to data."""
HELP: Final = ("--precision fp16", "--block 16 --density 0.25", "a smaller batch or sequence (--input-shape, --dim)")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A program with addresses, the tile graph and the placement that it came from, and the size of its code."""

    graph: TileGraph
    program: Program
    placement: Placement
    code: CodeSize


def fit(
    graphs: Sequence[TileGraph],
    target: Target,
    keep: int | None,
    solver: Solver,
    effort: Effort,
    begin: Begin,
    *,
    progress: Listen | None = None,
    stop: Stop = never,
    known: Known | None = None,
) -> Fitted:
    """The program of one of several tile graphs that compute the same: of the one that is placed best. Raises IPU0402,
    IPU0405, IPU0406 or IPU0407 where none was found that fits: what the first graph lacks.

    `keep` plans per op are offered to placement, or as many as the effort says. `begin` is called with the name of
    every part that begins; `progress` and `stop` are those of `place`; `known` is filled and used again.
    """
    known = Known(target) if known is None else known
    plans = BUDGETS[effort].plans if keep is None else keep
    try:
        return _Fit(graphs, target, plans, solver, effort, begin, progress, stop, known, False).run()
    except DoesNotFit:
        if not any(_CROWDING * weights_beside(graph, target) > target.tile_bytes for graph in graphs):
            raise
    return _Fit(graphs, target, plans, solver, effort, begin, progress, stop, known, True).run()


@dataclass(eq=False)
class _Fit:
    """One try: `beside_weights` says for which memory plans are made (`build_problem`)."""

    graphs: Sequence[TileGraph]
    target: Target
    plans: int
    solver: Solver
    effort: Effort
    begin: Begin
    progress: Listen | None
    stop: Stop
    known: Known
    beside_weights: bool
    problems: dict[int, Problem] = field(default_factory=dict)
    bounds: dict[int, int] = field(default_factory=dict)

    def run(self) -> Fitted:
        # Code is only known once the program is lowered; 1/16 of a tile stands in for it until then.
        cap = self.target.usable_bytes - self.target.tile_bytes // 16
        first: dict[int, tuple[Placement, int | None]] = {}
        failures: dict[int, CompileError] = {}
        for i, graph in enumerate(self.graphs):
            self.begin("plan")
            try:
                check = partial(require_room, cap=cap, more=self._more(i, cap))
                self.problems[i] = build_problem(
                    graph, self.target, cap, self.plans, check, self.known, self.beside_weights
                )
                self.begin("place")
                first[i] = self._placed(i, cap, self._room, None)
            except CompileError as failure:
                failures[i] = failure
        # What holds for every graph holds for the choice between them.
        bound = min(self.bounds.values(), default=0)
        for i in sorted(first, key=lambda i: (first[i][0].objective, i)):
            try:
                placement, level = first[i]
                return self._fitted(i, _against(placement, bound), level, cap)
            except CompileError as failure:
                failures[i] = failure
        raise failures[min(failures)]

    @property
    def _room(self) -> int:
        """Bytes of a tile that can hold instructions."""
        return self.target.executable_bytes - self.target.reserved_bytes

    def _more(self, i: int, cap: int) -> More | None:
        """The problem of a graph with as many plans as are kept at most."""
        most = BUDGETS["max"].plans
        if self.plans >= most:
            return None
        return partial(outline_problem, self.graphs[i], self.target, cap, most, self.known, self.beside_weights)

    def _placed(self, i: int, cap: int, room: float, level: int | None) -> tuple[Placement, int | None]:
        """A placement of a graph whose exchange code is estimated at `room` at most, and the least level of the price
        of code that it takes, from `level` on, None for none; that at the highest level where no code is so small."""
        problem, more = self.problems[i], self._more(i, cap)

        def placing(level: int | None) -> Placement:
            priced = None if level is None else problem.at_code_price(price_of(level))
            return place(
                problem, cap, self.solver, self.effort, priced, progress=self.progress, stop=self.stop, more=more
            )

        if level is None:
            found = placing(None)
            # A bound holds at any price of code if it is that of the free choice with all memory.
            self.bounds.setdefault(i, found.bound)
            if problem.code_bytes(found.choice) <= room:
                return found, None
            level = first_level(found.objective, room)
            if room == self._room:
                # Code will take all of its room, and leave no more to data.
                cap, room = min(cap, self.target.usable_bytes - self._room), _SHARED * room
        return cheapest_that_fits(placing, room, level)

    def _fitted(self, i: int, placement: Placement, level: int | None, cap: int) -> Fitted:
        """The program of a placed graph, which is placed again as long as something does not fit."""
        tried: _Tried | None = None
        graph, problem, target, exchanges = self.graphs[i], self.problems[i], self.target, self.known.exchanges
        bound, room = placement.bound, self._room
        allowed, spare = float(room), target.tile_bytes // 128
        # What addresses and rounding took more than was placed.
        slack = 0
        for attempt in range(_ATTEMPTS):
            if tried is not None:
                self.begin("place")
                try:
                    placement, level = self._placed(i, cap, allowed, level)
                except DoesNotFit:
                    if not tried.estimated:
                        raise tried.failure from None
                    # Less code leaves more to data.
                    allowed = _LESS * min(allowed, tried.estimated)
                    cap = self._left(tried.code.total - tried.saved(allowed)) - slack - spare
                    continue
                # The first bound holds for every choice, those that cost less code or memory among them.
                placement = _against(placement, bound)
            self.begin("lower")
            placement = in_local_orders(placement, 0.0 if level is None else price_of(level), self.known.overlaps)
            program = roll(lower(graph, placement, target))
            code = code_size(program, target, exchanges)
            estimated = problem.code_bytes(placement.choice)
            if code.total > room:
                tried = _Tried(code_too_large(code, room, HELP), code, estimated)
                cap = min(cap, self._left(room) - slack)
                if level == HIGHEST:
                    break
                # The estimate leaves out what the program needs beside it, and what repeated layers do not share.
                less = _MARGIN ** (attempt + 1)
                allowed = min(allowed, less * estimated * (room - code.total + code.exchange) / code.exchange)
                level = first_level(placement.objective, room) if level is None else level + 1
                continue
            start = -(-(target.reserved_bytes + code.total) // 16) * 16
            self.begin("allocate")
            allocation = allocate(program, start)
            over = allocation.peak - target.tile_bytes
            if over <= 0:
                for buffer, offset in zip(program.buffers, allocation.offsets, strict=True):
                    buffer.offset = offset
                program.code_bytes = code.total
                order_transfers(program, exchanges)
                return Fitted(graph, program, placement, code)
            tried = _Tried(data_too_large(program, allocation.peak, start, HELP), code, estimated)
            slack = max(slack, allocation.peak - start - placement.peak_bytes)
            cap = self._left(code.total) - slack - spare
            # Leaner plans move more, and must not take for code what they leave.
            allowed = min(allowed, estimated * (1 + spare / max(code.exchange, 1)))
        assert tried is not None
        raise tried.failure

    def _left(self, code: int) -> int:
        """What so many bytes of code leave of a tile to data."""
        return self.target.usable_bytes - max(self.target.tile_bytes // 16, code)


@dataclass(frozen=True)
class _Tried:
    """A program that does not fit and why, with its code, and its exchange code as it was estimated."""

    failure: CompileError
    code: CodeSize
    estimated: int

    def saved(self, allowed: float) -> int:
        """Bytes of code that a program is expected to save whose exchange code is estimated at `allowed`."""
        return int(self.code.exchange * (1 - allowed / self.estimated))


def _against(placement: Placement, bound: int) -> Placement:
    """A placement held against the bound of all graphs with all memory: it is optimal where it reaches that."""
    bound = min(bound, placement.objective)
    proved = bound == placement.objective
    return replace(
        placement, bound=bound, status="feasible" if placement.status == "optimal" and not proved else placement.status
    )
