"""`ipucc passes`: which passes there are, and their options."""

from typing import TYPE_CHECKING

import click

from ipucc.cli.options import json_option
from ipucc.cli.output import pairs, table
from ipucc.cli.verb import Verb, show, show_json
from ipucc.diagnostics import CompileError, JsonValue

if TYPE_CHECKING:
    from ipucc.pass_manager import Pass, Registry

__all__ = ["passes_command"]


@click.command("passes", cls=Verb)
@click.argument("name", required=False)
@json_option
def passes_command(name: str | None, as_json: bool) -> None:
    """List the graph passes, or describe one of them with its options.

    Packages add passes through the entry-point group ipucc.passes.
    """
    from ipucc.pass_manager import DEFAULT_PIPELINE, default_registry

    registry = default_registry()
    if name is not None:
        cls = registry.get(name)
        if as_json:
            show_json("ipucc.passes/1", {"default": DEFAULT_PIPELINE, "passes": [_document(registry, name, cls)]})
        else:
            show(_page(registry, name, cls))
        return
    documents: list[JsonValue] = []
    rows = []
    for each in registry.names():
        try:
            cls = registry.get(each)
        except CompileError as failure:
            # A broken pass of somebody's package must not hide the others.
            reason = failure.diagnostics[0].message
            documents.append({"name": each, "owner": registry.providers[each].owner, "error": reason})
            rows.append((each, registry.providers[each].owner, reason))
            continue
        document = _document(registry, each, cls)
        documents.append(document)
        rows.append((each, registry.providers[each].owner, str(document["summary"])))
    if as_json:
        show_json("ipucc.passes/1", {"default": DEFAULT_PIPELINE, "passes": documents})
    else:
        show(table("", ("pass", "from", "what it does"), rows) + f"\n\ndefault pipeline: {DEFAULT_PIPELINE}")


def _document(registry: "Registry", name: str, cls: "type[Pass]") -> dict[str, JsonValue]:
    from ipucc.pass_manager import describe_options, summary

    return {
        "name": name,
        "owner": registry.providers[name].owner,
        "summary": summary(cls),
        "options": [
            {"name": o.name.replace("_", "-"), "type": o.type, "default": o.default, "help": o.help,
             "choices": list(o.choices)} for o in describe_options(cls)
        ],
    }  # fmt: skip


def _page(registry: "Registry", name: str, cls: "type[Pass]") -> str:
    import inspect

    from ipucc.pass_manager import describe_options

    text = f"{name} (from {registry.providers[name].owner})\n\n{inspect.getdoc(cls) or ''}"
    rows = []
    for o in describe_options(cls):
        choices = f" ({', '.join(map(str, o.choices))})" if o.choices else ""
        rows.append((f"{o.name.replace('_', '-')}={_value(o.default)}", f"{o.type}: {o.help}{choices}"))
    return text + ("\n\n" + pairs("options", rows) if rows else "\n\nno options")


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
