"""Random graphs compiled and run, held against two oracles."""

from typing import Final, Literal

from fuzz_net import MARGIN, Net
from fuzz_oracles import difference

import ipucc
from ipucc.diagnostics import CompileError
from ipucc.program.verify import verify_program

__all__ = ["held_against_the_oracles"]

REFUSALS: Final = ("IPU02", "IPU04", "IPU0119", "IPU0324")
"""What may be said of a graph that is not compiled: an op in this form is not supported, or not for operands of which
data says how large they are; the machine is too small."""


def held_against_the_oracles(net: Net, target: str, solver: Literal["cpsat", "greedy"]) -> str:
    """Compile, verify and run a graph, watched; the id of a refusal, empty without one.

    Raises AssertionError for numbers that are not those of the oracles.
    """
    model, feeds = net.model(), net.feeds()
    try:
        exe = ipucc.compile(
            model, target=target, solver=solver, precision="fp16" if net.halves else "model", effort="fast"
        )
        verify_program(exe.program)
        result = exe.run(feeds, checked=True)
    except CompileError as failure:
        if all(d.id.startswith(REFUSALS) for d in failure.diagnostics):
            return failure.diagnostics[0].id
        raise
    assert result.cycles == exe.predict(result.decisions)
    if not result.decisions:
        assert result.cycles.total == exe.manifest["cycles"]["total"]  # type: ignore[index]
    for name, got in result.outputs.items():
        value = net.values[name]
        wrong = difference(got, value.array, MARGIN * value.error)
        assert not wrong, f"{name}: {wrong}"
    return ""
