"""Programs of the straight parts of a model, and one program of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from ipucc.clock import Clock
from ipucc.diagnostics import Diagnostic, DoesNotFit
from ipucc.frontend import Loop, Module, Part, Region
from ipucc.ops.siblings import combined_kinds
from ipucc.ops.sparse import products_alike
from ipucc.optimise import lower_ops
from ipucc.passes.plan.effort import Listen, Stop
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.schedule import schedule
from ipucc.passes.program.allocate import allocate
from ipucc.passes.program.code import code_size
from ipucc.passes.program.fit import HELP, Fitted
from ipucc.passes.program.link import link
from ipucc.passes.program.lower import order_transfers
from ipucc.passes.program.overflow import code_too_large, data_too_large
from ipucc.passes.program.refit import Refitted, refit
from ipucc.program.model import Program
from ipucc.target import Target

if TYPE_CHECKING:
    from ipucc.compiler import CompileOptions

__all__ = ["PartMaker", "part_runs"]

_ATTEMPTS: Final = 4


@dataclass(eq=False)
class PartMaker:
    """Places and lowers parts; `found` is what became of each, `remarks` what is to be said beside."""

    options: "CompileOptions"
    clock: Clock
    progress: Listen | None
    stop: Stop
    known: Known
    found: dict[Part, Refitted]
    remarks: list[Diagnostic] = field(default_factory=list)

    def fitted(self, part: Part, target: Target) -> Fitted:
        """The program of one part for a machine, its addresses chosen as if it were alone."""
        known = self.known if target == self.known.target else Known(target)
        model, options = part.model, self.options
        lowered = partial(lower_ops, model, target, options, received=part.received, handed=part.handed)
        self.clock.begin("schedule")
        graph = schedule(lowered())
        others = [schedule(lowered(kinds)) for kinds in combined_kinds(model.graph)]
        place = partial(
            refit, target=target, keep=options.keep, solver=options.solver, effort=options.effort,
            begin=self.clock.begin, recomputing=options.recompute, progress=self.progress, stop=self.stop, known=known,
        )  # fmt: skip
        try:
            found = place([graph, *others])
        except DoesNotFit as failure:
            if failure.diagnostics[0].id != "IPU0407" or not products_alike(model.graph):
                raise
            try:
                found = place([schedule(lowered(alike=True))])
            except DoesNotFit:
                raise failure from None
            self.remarks.append(_exchanged_alike(failure))
        self.found[part] = found
        return found.fitted

    def linked(self, module: Module, parts: Sequence[Part]) -> Program:
        """One program of all parts, with addresses. Where it does not fit, the parts are placed again for a machine
        with less memory, so many times at most. Raises DoesNotFit."""
        target = self.known.target
        room = target.executable_bytes - target.reserved_bytes
        own, failure = target, None
        for _ in range(_ATTEMPTS):
            try:
                programs = {part: self.fitted(part, own).program for part in parts}
            except DoesNotFit as alone:
                raise failure or alone from None
            self.clock.begin("link")
            program = link(module, programs, target)
            exchanges = self.known.exchanges
            code = code_size(program, target, exchanges)
            if code.total > room:
                failure = code_too_large(code, room, HELP)
                left = int((own.executable_bytes - target.reserved_bytes) * 0.95 * room / code.total)
                own = replace(own, executable_bytes=target.reserved_bytes + left)
                continue
            start = -(-(target.reserved_bytes + code.total) // 16) * 16
            self.clock.begin("allocate")
            allocation = allocate(program, start)
            over = allocation.peak - target.tile_bytes
            if over > 0:
                failure = data_too_large(program, allocation.peak, start, HELP)
                own = replace(own, tile_bytes=own.tile_bytes - over - target.tile_bytes // 64)
                continue
            for buffer, offset in zip(program.buffers, allocation.offsets, strict=True):
                buffer.offset = offset
            program.code_bytes = code.total
            order_transfers(program, exchanges)
            return program
        assert failure is not None
        raise failure


def part_runs(region: Region, runs: int = 1) -> dict[Part, int]:
    """How often every part runs, conditional loops at their bounds (once without one), both branches of an If."""
    found: dict[Part, int] = {}
    for item in region:
        if isinstance(item, Part):
            found[item] = runs
        elif isinstance(item, Loop):
            found.update(part_runs(item.body, runs * (item.count or item.bound or 1)))
        else:
            found.update(part_runs(item.then, runs))
            found.update(part_runs(item.otherwise, runs))
    return found


def _exchanged_alike(failure: DoesNotFit) -> Diagnostic:
    """Why sparse products do not have distributions of their own."""
    found = failure.diagnostics[0]
    return Diagnostic(
        "IPU0414", "remark",
        "sparse products that differ in their patterns alone take the same part of the dense operand and hand on the "
        f"same partials in every layer: with exchanges of their own, {found.message}",
        where="place",
        help=("`sparsify{balance=[B,A]}` fills the cells of a grid evenly, which is what this costs least with",),
    )  # fmt: skip
