"""The command `ipucc`: one verb per file. What a verb computes with is imported when it runs."""

import difflib
import sys
from typing import Final

import click

from ipucc import __version__
from ipucc.cli.compile import compile_command
from ipucc.cli.diff import diff_command
from ipucc.cli.inspect import inspect_command
from ipucc.cli.opt import opt_command
from ipucc.cli.passes import passes_command
from ipucc.cli.run import run_command
from ipucc.cli.sweep import sweep_command
from ipucc.cli.targets import targets_command
from ipucc.cli.validate import validate_command
from ipucc.cli.verb import INTERRUPTED, verbose_option

__all__ = ["cli", "main"]

_EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 the model cannot be compiled, or a file or value is wrong; 2 option syntax; 3 does not fit "
    "on the target; 4 numbers differ from the reference; 70 internal error; 130 interrupted."
)


class _Verbs(click.Group):
    """The verbs in their order of use, with a suggestion for a misspelt one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.commands, n=1)
            ctx.fail(f"no such verb {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


cli = _Verbs(
    "ipucc",
    help="Compile ONNX models for the Graphcore IPU, and run them on a simulated one.",
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[verbose_option()],
    commands=[
        compile_command,
        run_command,
        inspect_command,
        diff_command,
        opt_command,
        sweep_command,
        validate_command,
        passes_command,
        targets_command,
    ],
)
click.version_option(__version__, prog_name="ipucc")(cli)


def main() -> None:
    """Entry point of the installed command."""
    try:
        code = cli.main(prog_name="ipucc", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as failure:
        failure.show()
        sys.exit(failure.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
