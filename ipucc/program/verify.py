"""The verifier of programs: a table of rules, each a function from a program to what breaks it.

It is run on every program that is compiled and on every one that is read, so nothing here trusts what it checks: rules
stand in groups, and a group is only asked once the groups before it hold.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.program.facts import Facts, Found
from ipucc.program.model import Program
from ipucc.program.rules_compute import bindings, calls, codelets, conditions, results
from ipucc.program.rules_exchange import Cover, exchanges
from ipucc.program.rules_memory import addresses, aliases, layouts, names, overlaps, ports, structure, views
from ipucc.program.rules_reads import reads

__all__ = ["RULES", "verify_program"]

Rule = Callable[[Facts, Cover], Found]


def _of_program(rule: Callable[[Facts], Found], facts: Facts, cover: Cover) -> Found:
    return rule(facts)


def _plain(rule: Callable[[Facts], Found]) -> Rule:
    return partial(_of_program, rule)


RULES: Final[tuple[dict[str, Rule], ...]] = (
    {"structure": _plain(structure)},
    {"layouts": _plain(layouts)},
    {"names": _plain(names), "views": _plain(views), "ports": _plain(ports), "addresses": _plain(addresses)},
    {
        "aliases": _plain(aliases),
        "overlaps": _plain(overlaps),
        "bindings": _plain(bindings),
        "calls": _plain(calls),
        "conditions": _plain(conditions),
        "exchanges": exchanges,
    },
    {"results": _plain(results), "codelets": _plain(codelets), "reads": reads},
)
"""Names of the rules, in groups in the order in which they are asked."""

_MAX_SHOWN: Final = 8


def verify_program(program: Program, where: str | None = None) -> None:
    """Raises a CompileError of at most eight diagnostics where a program breaks a rule.

    IPU0507 for what lies outside of the machine or in the wrong place, IPU0505 for what is too large to check, IPU0509
    for all else. `where` names the file, if there is one.
    """
    facts = Facts(program)
    cover = Cover(facts)
    for group in RULES:
        found: list[Diagnostic] = []
        for name, rule in group.items():
            for problem in islice(rule(facts, cover), _MAX_SHOWN - len(found)):
                found.append(Diagnostic(problem.id, "error", problem.message, where=where, notes=(f"rule: {name}",)))
        if found:
            raise CompileError(found)
