"""Placement and lowering until the program fits: data in tile memory, code in executable memory.

Placement estimates memory from plans; what code takes and how buffers pack is known once the program is lowered. Where
either does not fit, placement is repeated: with less memory, or with the choices made dearer whose exchanges need most
code.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ipucc.diagnostics import CompileError, error
from ipucc.ops.graph import TileGraph
from ipucc.passes.plan.place import Placement, Solver, place
from ipucc.passes.plan.problem import Problem, build_problem
from ipucc.passes.program.allocate import allocate
from ipucc.passes.program.code import CodeSize, code_size
from ipucc.passes.program.lower import Lowered, lower
from ipucc.passes.program.roll import roll
from ipucc.program.model import Exchange, Program
from ipucc.program.timing import exchange_time
from ipucc.target import Target

__all__ = ["Fitted", "fit"]

Timed = Callable[[str], None]

_ATTEMPTS: Final = 6
_HELP: Final = ("--precision fp16", "--block 16 --density 0.25", "a smaller batch or sequence (--input-shape, --dim)")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A program with addresses, the placement that it came from, and the size of its code."""

    program: Program
    placement: Placement
    code: CodeSize


def fit(graph: TileGraph, target: Target, keep: int, solver: Solver, effort: float, timed: Timed) -> Fitted:
    """The program of a tile graph. Raises IPU0402, IPU0406 or IPU0407 where none was found that fits.

    `timed` is called with the name of every part that has just ended.
    """
    # Code is only known once the program is lowered; 1/16 of a tile stands in for it until then.
    cap = target.usable_bytes - target.tile_bytes // 16
    problem = build_problem(graph, target, cap, keep)
    timed("plan")
    priced: Problem | None = None
    failure: CompileError | None = None
    bound = 0
    for _ in range(_ATTEMPTS):
        try:
            placement = place(graph, problem, cap, solver, effort, priced)
        except CompileError as none_left:
            raise failure or none_left from None
        if priced is None:
            bound = placement.bound
        else:
            # The first bound holds for every choice, those that cost less code among them.
            placement = replace(placement, bound=min(bound, placement.objective))
        timed("place")
        lowered = lower(graph, placement, target)
        program = roll(lowered.program)
        code = code_size(program, target)
        timed("lower")
        room = target.executable_bytes - target.reserved_bytes
        if code.total > room:
            failure = _code_too_large(code, room)
            priced = _surcharged(priced or problem, placement, lowered, target, room)
            continue
        start = -(-(target.reserved_bytes + code.total) // 16) * 16
        allocation = allocate(program, start)
        timed("allocate")
        over = allocation.peak - target.tile_bytes
        if over <= 0:
            for buffer, offset in zip(program.buffers, allocation.offsets, strict=True):
                buffer.offset = offset
            program.code_bytes = code.total
            return Fitted(program, placement, code)
        failure = error(
            "IPU0406",
            f"the buffers of the fullest tile need {allocation.peak:,} bytes of {target.tile_bytes:,}",
            help=_HELP,
        )
        cap -= over + target.tile_bytes // 64
    assert failure is not None
    raise failure


def _code_too_large(code: CodeSize, room: int) -> CompileError:
    return error(
        "IPU0407",
        f"code takes {code.total:,} bytes of a tile, {room:,} of it can hold instructions",
        notes=[f"exchange code {code.exchange:,} B, vertex states {code.vertices:,} B"],
        help=_HELP,
    )


def _surcharged(priced: Problem, placement: Placement, lowered: Lowered, target: Target, room: int) -> Problem:
    """The problem with the exchanges that need most code made dearer by a cycle per byte."""
    buffers, variable = lowered.program.buffers, placement.problem.variable
    charges: dict[tuple[int, int], int] = {}
    for at, op in lowered.op_of.items():
        step = lowered.program.steps[at]
        assert isinstance(step, Exchange)
        for move in step.moves:
            size = int(exchange_time(Exchange(step.name, (move,)), buffers, target).code_bytes.max(initial=0))
            if size * 100 > room:
                maker = lowered.made_by.get(move.src, -1)
                producer = variable[maker] if maker >= 0 and maker != op else -1
                key = producer, variable[op]
                charges[key] = max(charges.get(key, 0), size)
    return priced.surcharged(placement.choice, charges)
