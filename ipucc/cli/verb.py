"""What all verbs share: how errors are shown, which exit code they give, and where output goes.

Results go to standard output, everything else to standard error. With `--json` standard output gets exactly one
document, whose `schema` names its form; an error is a document too (`ipucc.error/1`).
"""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Final

import click

from ipucc.diagnostics import CompileError, Diagnostic, JsonValue

__all__ = ["INTERRUPTED", "OptionSyntax", "Verb", "show", "show_json", "syntax_error"]

INTERNAL_ERROR: Final = 70
INTERRUPTED: Final = 130

_VERBOSE: Final = "ipucc.verbose"


class OptionSyntax(CompileError):
    """The text of an option is malformed."""

    exit_code = 2


def syntax_error(id: str, message: str, *help: str) -> OptionSyntax:
    """An error for an option that cannot be read; the exit code is 2."""
    return OptionSyntax(Diagnostic(id, "error", message, help=help))


class Verb(click.Command):
    """A verb: turns exceptions into diagnostics and exit codes. Every verb has `-v`."""

    def __init__(self, name: str | None, **settings: object) -> None:
        super().__init__(name, **settings)  # type: ignore[arg-type]
        self.params.append(verbose_option())

    def invoke(self, ctx: click.Context) -> object:
        as_json = bool(ctx.params.get("as_json"))
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.exceptions.Exit, click.ClickException):
            raise
        except CompileError as failure:
            _trace(ctx, wanted=False)
            _refuse(failure.diagnostics, failure.exit_code, as_json)
            ctx.exit(failure.exit_code)
        except BrokenPipeError:
            _close_stdout()
            ctx.exit(1)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except MemoryError:
            _trace(ctx, wanted=True)
            text = "this machine has too little memory for the compilation or the simulation"
            _refuse((Diagnostic("IPU0903", "error", text),), INTERNAL_ERROR, as_json)
            ctx.exit(INTERNAL_ERROR)
        except Exception as failure:
            _trace(ctx, wanted=True)
            found = Diagnostic(
                "IPU0901",
                "error",
                f"internal error: {type(failure).__name__}: {failure}",
                help=("this is a fault of ipucc; with -v or IPUCC_TRACEBACK=1 it says where",),
            )
            _refuse((found,), INTERNAL_ERROR, as_json)
            ctx.exit(INTERNAL_ERROR)


def verbose_option() -> click.Option:
    """`-v`, understood before and behind the verb."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[_VERBOSE] = True

    return click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=remember,
        help="Show remarks of the passes, and tracebacks of internal errors.",
    )  # fmt: skip


def is_verbose() -> bool:
    """Whether the user asked for more with `-v`."""
    return bool(click.get_current_context().meta.get(_VERBOSE))


def show(text: str) -> None:
    """Results for people."""
    click.echo(text)


def show_json(schema: str, content: Mapping[str, JsonValue]) -> None:
    """The one JSON document of a command."""
    import json

    click.echo(json.dumps({"schema": schema, **content}, indent=2, allow_nan=False))


def report(diagnostics: Sequence[Diagnostic]) -> None:
    """Diagnostics on standard error; remarks only where `-v` asks for them."""
    for found in diagnostics:
        if found.severity != "remark" or is_verbose():
            click.echo(found.render(), err=True)


def _refuse(diagnostics: Sequence[Diagnostic], code: int, as_json: bool) -> None:
    for found in diagnostics:
        click.echo(found.render(), err=True)
    if as_json:
        show_json("ipucc.error/1", {"exit_code": code, "diagnostics": [d.to_json() for d in diagnostics]})


def _trace(ctx: click.Context, wanted: bool) -> None:
    asked = os.environ.get("IPUCC_TRACEBACK", "") not in ("", "0")
    if asked or (wanted and ctx.meta.get(_VERBOSE)):
        click.echo(traceback.format_exc(), err=True, nl=False)


def _close_stdout() -> None:
    """Nobody reads any more: what is still buffered must not fail again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
