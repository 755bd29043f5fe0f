"""ipucc: an open compiler for the Graphcore IPU, and a simulator that runs what it compiles.

The names below are loaded when they are first used, so that `import ipucc` alone costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipucc.api import Cycles, Executable, Profile, Result, compile, load
    from ipucc.builder import Builder
    from ipucc.comparison import Comparison, diff
    from ipucc.diagnostics import CompileError, Diagnostic, DoesNotFit, NumbersDiffer

__version__ = "0.1.0"

__all__ = [
    "Builder",
    "Comparison",
    "CompileError",
    "Cycles",
    "Diagnostic",
    "DoesNotFit",
    "Executable",
    "NumbersDiffer",
    "Profile",
    "Result",
    "compile",
    "diff",
    "load",
]

_HOMES = {
    **dict.fromkeys(("Cycles", "Executable", "Profile", "Result", "compile", "load"), "ipucc.api"),
    "Builder": "ipucc.builder",
    **dict.fromkeys(("Comparison", "diff"), "ipucc.comparison"),
    **dict.fromkeys(("CompileError", "Diagnostic", "DoesNotFit", "NumbersDiffer"), "ipucc.diagnostics"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
