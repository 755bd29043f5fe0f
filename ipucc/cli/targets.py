"""`ipucc targets`: which machines there are, and every figure of one with its source."""

from typing import TYPE_CHECKING

import click

from ipucc.cli.options import json_option
from ipucc.cli.output import pairs, table
from ipucc.cli.verb import Verb, show, show_json
from ipucc.diagnostics import JsonValue

if TYPE_CHECKING:
    from ipucc.target import Target

__all__ = ["targets_command"]


@click.command("targets", cls=Verb)
@click.argument("name", required=False)
@json_option
def targets_command(name: str | None, as_json: bool) -> None:
    """List the machines, or all figures of one with unit, kind and source.

    NAME is a built-in machine or a machine file (.toml).
    """
    from ipucc.target import list_targets, load_target

    names = [name] if name is not None else list_targets()
    if as_json:
        show_json("ipucc.targets/1", {"targets": [_document(each) for each in names]})
    elif name is not None:
        show(_page(name))
    else:
        rows = [_row(load_target(each)) for each in names]
        columns = ("target", "tiles", "KiB/tile", "GHz", "TFLOPS fp16", "TFLOPS fp32", "description")
        show(table("", columns, rows))


def _row(target: "Target") -> tuple[str, ...]:
    return (
        target.name,
        str(target.tiles),
        f"{target.tile_bytes / 1024:g}",
        f"{target.clock_hz / 1e9:g}",
        f"{_peak(target, 'fp16') / 1e12:.1f}",
        f"{_peak(target, 'fp32') / 1e12:.1f}",
        target.description,
    )


def _peak(target: "Target", kind: str) -> float:
    """The peak of the fastest mode for a type; 0 for a type that the matrix unit does not take."""
    modes = (("fp16", "fp16"), ("fp16", "fp32")) if kind == "fp16" else (("fp32", "fp32"),)
    return max((target.peak_flops(d, p) for d, p in modes if target.amp.units(d, p)), default=0.0)  # type: ignore[arg-type]


def _document(name: str) -> dict[str, JsonValue]:
    from ipucc.target import load_target, target_figures

    target = load_target(name)
    figures = {
        f.key: {"value": f.value, "unit": f.unit, "kind": f.kind, "source": f.source} for f in target_figures(name)
    }
    return {"name": target.name, "description": target.description, "figures": figures}


def _page(name: str) -> str:
    from ipucc.target import load_target, target_figures

    target = load_target(name)
    head = pairs(target.name, [("", target.description)] if target.description else [])
    rows = [(f.key, f"{f.value:g}" if isinstance(f.value, float) else f"{f.value:,}", f.unit, f.kind, f.source)
            for f in target_figures(name)]  # fmt: skip
    return head + "\n\n" + table("", ("figure", "value", "unit", "kind", "source"), rows)
