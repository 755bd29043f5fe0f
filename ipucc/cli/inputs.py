"""Inputs of a run from the command line: `.npz` and `.npy` files, and values that are made up.

Files come from anywhere: the header of an array is held against what the program takes before its data is read, so no
file can make this process allocate more than the inputs need, and nothing in a file is executed.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Final

import numpy as np

from ipucc.cli.verb import OptionSyntax, syntax_error
from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.npz import open_npz, read_array, read_header, unreadable
from ipucc.values import Array, Declared, declared_type, missing_inputs, type_problem, unknown_input

__all__ = ["read_inputs"]

_UNREADABLE: Final = "IPU0605"


def read_inputs(
    declared: Sequence[Declared], options: Sequence[str], file: str | None, held: Collection[str] = ()
) -> dict[str, Array]:
    """Arrays by input name; what `--input` says goes before the file. Inputs in `held` may be left out.

    Raises CompileError with all problems at once: IPU0601 to IPU0605, IPU0606 (exit code 2) for a malformed option.
    """
    chosen = _by_name(options)
    problems = [unknown_input(name, declared) for name in chosen if name not in {d[0] for d in declared}]
    found: dict[str, Array] = {}
    given = set(chosen)
    if file is not None:
        from_file, more, in_file = _npz(Path(file), declared, chosen)
        found.update(from_file)
        problems += more
        given |= in_file
    for name, kind, shape in declared:
        if name in chosen:
            try:
                found[name] = _value(name, kind, shape, chosen[name])
            except OptionSyntax:
                raise
            except CompileError as failure:
                problems += failure.diagnostics
    if missing := [d for d in declared if d[0] not in given and d[0] not in held]:
        problems.append(missing_inputs(missing))
    if problems:
        raise CompileError(problems)
    return {d[0]: found[d[0]] for d in declared if d[0] in found}


def _by_name(options: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for text in options:
        name, mark, value = text.partition("=")
        if not (name and mark and re.fullmatch(r"@.+|zeros|ones|random:\d{1,18}", value, re.DOTALL)):
            raise syntax_error(
                "IPU0606", f"--input takes NAME=@FILE.npy, NAME=zeros, NAME=ones or NAME=random:SEED, not {text!r}"
            )
        if name in chosen:
            raise syntax_error("IPU0606", f"--input gives {name!r} twice")
        chosen[name] = value
    return chosen


def _value(name: str, kind: str, shape: tuple[int, ...], text: str) -> Array:
    dtype = declared_type(kind)
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            with path.open("rb") as file:
                return _read(file, name, kind, shape, str(path))
        except OSError as failure:
            raise unreadable(str(path), failure, _UNREADABLE) from failure
    if text in ("zeros", "ones"):
        return np.full(shape, text == "ones", dtype)
    rng = np.random.default_rng(int(text.removeprefix("random:")))
    if dtype.kind in "iub":
        # 0 and 1 are good indices of any table with two rows, and good masks.
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape, np.float32).astype(dtype)


def _npz(
    path: Path, declared: Sequence[Declared], skip: Collection[str]
) -> tuple[dict[str, Array], list[Diagnostic], set[str]]:
    """The arrays of a file, what is wrong with it, and the inputs that it has values for. Members that are called
    `out_...` are results and left alone."""
    found: dict[str, Array] = {}
    problems: list[Diagnostic] = []
    present: set[str] = set()
    with open_npz(path, _UNREADABLE) as npz:
        used: set[str] = set()
        for name, kind, shape in declared:
            key = name if name in npz.members else f"in_{name}"
            if key not in npz.members:
                continue
            used.add(key)
            present.add(name)
            if name in skip:
                continue
            try:
                header = npz.header(key)
                if wrong := type_problem(name, kind, header.shape, header.dtype, shape):
                    problems += wrong
                else:
                    found[name] = npz.read(key)
            except CompileError as failure:
                problems += failure.diagnostics
        names = [name for name in npz.members if name not in used and not name.startswith("out_")]
        problems += [unknown_input(name, declared) for name in names]
    return found, problems, present


def _read(file: IO[bytes], name: str, kind: str, shape: tuple[int, ...], where: str) -> Array:
    """One array in numpy's format, if its header promises the type and shape that the input has."""
    header = read_header(file, where, _UNREADABLE)
    if problems := type_problem(name, kind, header.shape, header.dtype, shape):
        raise CompileError(problems)
    return read_array(file, header, where, _UNREADABLE)
