"""The cycles of a program by op: which op a step belongs to, and the sum over its steps."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from ipucc.program.timing import StepTime

__all__ = ["OpCycles", "cycles_by_op", "owner"]


@dataclass(frozen=True)
class OpCycles:
    """Cycles of all steps of an op in one run; those of ops of one name are added up. `steps` counts the steps."""

    name: str
    compute: int = 0
    exchange: int = 0
    sync: int = 0
    steps: int = 0

    @property
    def total(self) -> int:
        """Cycles on the device."""
        return self.compute + self.exchange + self.sync

    def with_step(self, step: StepTime) -> "OpCycles":
        """The same with one more step."""
        return OpCycles(
            self.name, self.compute + step.compute, self.exchange + step.exchange, self.sync + step.sync, self.steps + 1
        )  # fmt: skip


def owner(step: str, ops: Container[str]) -> str:
    """The op that a step belongs to, by its name: steps are called OP, OP.partials, OP.reduce.exchange and so on.

    A step of no op (the arguments of a call) is its own.
    """
    name = step
    while name not in ops and "." in name:
        name = name.rpartition(".")[0]
    return name if name in ops else step


def cycles_by_op(times: Iterable[StepTime], ops: Container[str]) -> Mapping[str, OpCycles]:
    """Cycles by the name of the op, in the order in which the ops first run. Host transfers belong to no op."""
    found: dict[str, OpCycles] = {}
    for step in times:
        if step.kind not in ("host write", "host read"):
            name = owner(step.name, ops)
            found[name] = found.get(name, OpCycles(name)).with_step(step)
    return found
