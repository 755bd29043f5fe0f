"""`ipucc diff`: what two programs differ in."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from ipucc.cli.options import json_option
from ipucc.cli.output import pairs, table
from ipucc.cli.verb import Verb, show, show_json
from ipucc.diagnostics import JsonValue

if TYPE_CHECKING:
    from ipucc.comparison import Change, Comparison, OpChange
    from ipucc.program.op_cycles import OpCycles

__all__ = ["diff_command"]

_SHOWN_OPS: Final = 20
_DIGEST_CHARS: Final = 12
_FIGURES: Final = {
    "objective_cycles": "estimated cycles",
    "bound_cycles": "bound of the estimate",
    "max_tile_bytes": "bytes of the fullest tile",
    "mean_tile_bytes": "bytes per tile",
    "total_bytes": "bytes of all tiles",
    "code_bytes": "bytes of code",
}


@click.command("diff", cls=Verb)
@click.argument("before", metavar="A.ipux")
@click.argument("after", metavar="B.ipux")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="Ops to list; 20 by default, all with --json.")
@json_option
def diff_command(before: str, after: str, top: int | None, as_json: bool) -> None:
    """Compare two programs: model, target and options, cycles by op, plans, and memory.

    Ops are matched by name, those whose cycles differ most come first. The exit code is 0 whether the
    programs differ or not; with --json the field "equal" says it.
    """
    from ipucc.comparison import diff

    found = diff(before, after)
    if as_json:
        show_json("ipucc.diff/1", {"before": before, "after": after, **found.to_json(top)})
    else:
        show(_page(before, after, found, top or _SHOWN_OPS))


def _page(before: str, after: str, found: "Comparison", top: int) -> str:
    rows = [(key.replace("_", " "), _arrow(key, change)) for key, change in found.settings.items()
            if change.differs or key in ("model", "target")]  # fmt: skip
    rows += [(key.replace("_", " "), _arrow(key, change)) for key, change in found.placement.items()
             if not key.endswith("_cycles") and (change.differs or key == "status")]  # fmt: skip
    if found.reordered:
        rows.append(("order", "the ops that both have run in another order"))
    parts = [pairs(f"{before} -> {after}", rows)]
    if found.equal:
        return "\n\n".join([*parts, "Nothing that is compared differs."])
    parts.append(table("figures", ("", "before", "after", "difference", "share"), _figures(found)))
    cost = [op for op in found.ops if op.before != op.after]
    if cost:
        heads = ("op", "before", "after", "difference", "compute", "exchange", "sync")
        parts.append(table(_title("cycles by op", cost, found, top), heads, [_cycles(op) for op in cost[:top]]))
    planned = [op for op in found.ops if op.plans.differs]
    if planned:
        cells = [_plans(op) for op in planned[:top]]
        parts.append(table(_title("plans", planned, found, top), ("op", "before", "after"), cells))
    return "\n\n".join(parts)


def _title(what: str, ops: Sequence["OpChange"], found: "Comparison", top: int) -> str:
    shown = f", {top:,} shown" if len(ops) > top else ""
    return f"{what}: {len(ops):,} of {len(found.ops):,} ops differ{shown}"


def _figures(found: "Comparison") -> list[tuple[str, ...]]:
    rows = [_row("cycles" if key == "total" else f"{key} cycles", c.before, c.after) for key, c in found.cycles.items()]
    for key, change in found.placement.items():
        if key in _FIGURES and isinstance(change.before, int) and isinstance(change.after, int):
            rows.append(_row(_FIGURES[key], change.before, change.after))
    rows += [_row(_FIGURES[key], c.before, c.after) for key, c in found.memory.items()]
    rows.append(_row("steps of a run", found.steps.before, found.steps.after))
    rows += [(f"tiles that hold {word}", "", "", f"{found.tiles[word]:,}", "") for word in ("more", "less")]
    return rows


def _row(name: str, before: int, after: int) -> tuple[str, ...]:
    share = f"{(after - before) / before:+.1%}" if before and before != after else ""
    return name, f"{before:,}", f"{after:,}", _signed(after - before), share


def _cycles(op: "OpChange") -> tuple[str, ...]:
    before, after = op.before, op.after

    def change(part: str) -> str:
        return _signed((getattr(after, part) if after else 0) - (getattr(before, part) if before else 0))

    kinds = f"{op.name} ({', '.join(op.kinds)})" if op.kinds else op.name
    parts = [change(part) for part in ("compute", "exchange", "sync")]
    return (kinds, _total(before), _total(after), _signed(op.difference), *parts)


def _total(cycles: "OpCycles | None") -> str:
    return f"{cycles.total:,}" if cycles is not None else ""


def _plans(op: "OpChange") -> tuple[str, str, str]:
    return op.name, _joined(op.plans.before), _joined(op.plans.after)


def _joined(plans: Sequence[str]) -> str:
    return "; ".join(plans) or "not there"


def _arrow(key: str, change: "Change[JsonValue]") -> str:
    before, after = (_value(key, value) for value in (change.before, change.after))
    return f"{before} -> {after}" if change.differs else before


def _value(key: str, value: JsonValue) -> str:
    if value is None:
        return "unknown"
    if key in ("model_sha256", "target_digest"):
        return str(value)[:_DIGEST_CHARS]
    if key == "gap" and isinstance(value, float):
        return f"{value:.1%}"
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items()) or "none"
    return str(value) or "none"


def _signed(number: int) -> str:
    return f"{number:+,}" if number else "0"
