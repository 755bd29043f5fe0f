"""From the steps of a builder to a program that runs: transfers in order, addresses, a check."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from ipucc import __version__
from ipucc.api import Cycles, Executable
from ipucc.codelets.base import Array
from ipucc.passes.program.allocate import allocate
from ipucc.passes.program.code import code_size
from ipucc.passes.program.overflow import code_too_large, data_too_large
from ipucc.program.model import Buffer, Exchange, Program, Step, with_bodies
from ipucc.program.timing import Exchanges, program_times
from ipucc.program.verify import verify_program
from ipucc.target import Target
from ipucc.values import Declared

__all__ = ["finish"]

_HELP: Final = ("spread variables over more tiles", "let a variable serve for several tensors")


def finish(
    target: Target,
    buffers: list[Buffer],
    steps: Sequence[Step],
    functions: Mapping[str, tuple[Step, ...]],
    inputs: Sequence[Declared],
    outputs: Sequence[Declared],
    weights: Mapping[str, Array | None],
    given: frozenset[int],
    name: str,
    flops: int,
) -> Executable:
    """The program of these steps. Exchanges whose ids are in `given` keep their order of transfers."""
    exchanges = Exchanges(target)

    def ordered(step: Step) -> Step:
        if isinstance(step, Exchange) and id(step) not in given:
            return replace(step, order=exchanges.best_order(step, buffers))
        return with_bodies(step, ordered)

    program = Program(
        target, buffers, [ordered(s) for s in steps], list(inputs), list(outputs), dict(weights),
        {k: tuple(ordered(s) for s in body) for k, body in functions.items()},
    )  # fmt: skip
    code = code_size(program, target, exchanges)
    room = target.executable_bytes - target.reserved_bytes
    if code.total > room:
        raise code_too_large(code, room, _HELP)
    start = -(-(target.reserved_bytes + code.total) // 16) * 16
    allocation = allocate(program, start)
    if allocation.peak > target.tile_bytes:
        raise data_too_large(program, allocation.peak, start, _HELP)
    for buffer, offset in zip(buffers, allocation.offsets, strict=True):
        buffer.offset = offset
    program.code_bytes = code.total
    verify_program(program)
    cycles = Cycles.of(program_times(program, exchanges))
    program.manifest.update(
        {"ipucc": __version__, "model": {"name": name}, "flops": flops, "sparse_flops": flops,
         "cycles": cycles.to_json()}
    )  # fmt: skip
    return Executable(program)
