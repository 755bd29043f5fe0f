"""The names under which users know weights: those of the model file, whatever passes have made of them since."""

from typing import Final

import onnx_ir as ir

__all__ = ["carry_name", "source_name"]

_SOURCE: Final = "ipucc.source"
"""Key in onnx_ir's unserialised `meta` of a constant: the name in the file, and whether axes were swapped since."""


def source_name(value: ir.Value) -> tuple[str, bool]:
    """The name that the model file has for a weight, and whether this one is its transpose."""
    name, turned = value.meta.get(_SOURCE, (value.name or "", False))
    return str(name), bool(turned)


def carry_name(source: ir.Value | None, made: ir.Value | None, turned: bool = False) -> None:
    """Lets a constant that was made of another one be known by its name; `turned` if it is the other's transpose."""
    if source is not None and made is not None:
        name, before = source_name(source)
        made.meta[_SOURCE] = (name, before != turned)
