"""Options that several verbs share, and how their text is read."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ipucc.cli.verb import syntax_error

if TYPE_CHECKING:
    from ipucc.values import Array

__all__ = [
    "bind_option", "codelets_option", "dim_option", "input_shape_option", "json_option", "load_codelets", "load_option",
    "read_block", "read_bound",
    "read_dims", "read_shapes",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., object])


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)


def dim_option(function: F) -> F:
    """`--dim N=V`."""
    text = "Size of a symbolic dimension. May be repeated."
    return click.option("--dim", "dims", multiple=True, metavar="NAME=N", help=text)(function)


def input_shape_option(function: F) -> F:
    """`--input-shape x=1,3,224,224`."""
    text = "Shape of an input with symbolic dimensions. May be repeated."
    return click.option("--input-shape", "input_shapes", multiple=True, metavar="NAME=N,N,...", help=text)(function)


def bind_option(function: F) -> F:
    """`--bind axes=@axes.npy`."""
    text = "Value of an input that the program needs as a constant (a shape, axes, a count). May be repeated."
    return click.option("--bind", "bind", multiple=True, metavar="NAME=@FILE.npy", help=text)(function)


def load_option(function: F) -> F:
    """`--load F.py`."""
    text = "Python file with passes, executed as it is. May be repeated."
    return click.option("--load", multiple=True, metavar="FILE.py", help=text)(function)


def codelets_option(function: F) -> F:
    """`--load F.py` of verbs that read programs."""
    text = "Python file with codelets that a program uses, executed as it is. May be repeated."
    return click.option("--load", multiple=True, metavar="FILE.py", help=text)(function)


def load_codelets(files: Sequence[str]) -> None:
    """Executes the files of `--load`, which register codelets. Raises IPU0306 for one that cannot be executed."""
    if files:
        from ipucc.pass_manager.registry import execute

        for name in files:
            execute(Path(name))


def read_block(text: str | None) -> int | tuple[int, int] | None:
    """A block: `16`, or `16x8` along k and n. Raises OptionSyntax."""
    if text is None:
        return None
    sides = text.split("x")
    if not 1 <= len(sides) <= 2 or not all(re.fullmatch(r"[+-]?\d{1,9}", side) for side in sides):
        raise syntax_error("IPU0614", f"--block takes B or BxB, not {text!r}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def read_dims(texts: Sequence[str]) -> dict[str, int]:
    """Sizes by dimension name. Raises OptionSyntax."""
    dims: dict[str, int] = {}
    for text in texts:
        name, _, size = text.partition("=")
        if not name or not re.fullmatch(r"[+-]?\d{1,18}", size):
            raise syntax_error("IPU0614", f"--dim takes NAME=N, not {text!r}")
        if dims.setdefault(name, int(size)) != int(size):
            raise syntax_error("IPU0614", f"--dim gives {name!r} the sizes {dims[name]} and {size}")
    return dims


def read_bound(texts: Sequence[str]) -> dict[str, "Array"]:
    """Arrays by input name. Raises OptionSyntax, and CompileError IPU0605 for a file that cannot be read."""
    from ipucc.npz import read_array, read_header, unreadable

    bound: dict[str, Array] = {}
    for text in texts:
        name, mark, path = text.partition("=@")
        if not name or not mark or not path:
            raise syntax_error("IPU0606", f"--bind takes NAME=@FILE.npy, not {text!r}")
        if name in bound:
            raise syntax_error("IPU0606", f"--bind gives {name!r} twice")
        try:
            with open(path, "rb") as file:
                bound[name] = read_array(file, read_header(file, path, "IPU0605"), path, "IPU0605")
        except OSError as failure:
            raise unreadable(path, failure, "IPU0605") from failure
    return bound


def read_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by input name; nothing behind the `=` is the shape of a scalar. Raises OptionSyntax."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, mark, sizes = text.rpartition("=")
        if not name or not mark or not re.fullmatch(r"(\d{1,18}(,\d{1,18})*)?", sizes):
            raise syntax_error("IPU0606", f"--input-shape takes NAME=N,N,..., not {text!r}")
        shape = tuple(int(n) for n in sizes.split(",") if n)
        if shapes.setdefault(name, shape) != shape:
            raise syntax_error("IPU0606", f"--input-shape gives {name!r} two shapes")
    return shapes
