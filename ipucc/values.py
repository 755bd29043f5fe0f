"""What goes into a run and comes out of it: arrays of the element types that the model declares."""

import difflib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.dtypes import STORAGE

__all__ = [
    "Array",
    "Declared",
    "accepts",
    "as_declared",
    "check_inputs",
    "declared_type",
    "missing_inputs",
    "trimmed",
    "type_problem",
    "unknown_input",
]

Array = NDArray[np.generic]
Declared = tuple[str, str, tuple[int, ...]]
"""Name, ONNX element type in lower case, shape."""

_WIDE = {"int32": ("int64",), "int64": ("int32",), "uint32": ("uint64",), "uint64": ("uint32",)}


def declared_type(name: str) -> np.dtype[np.generic]:
    """The numpy type of an ONNX element type; on a tile it may be held in a smaller one (see ipucc.dtypes)."""
    return np.dtype(name) if name in ("float64", "int64", "uint64") else STORAGE[name]


def accepts(declared: str, given: np.dtype[np.generic]) -> bool:
    """Whether an array may be given for a declared element type: the type itself, or an integer type of the same sign
    whose values are then held against the range."""
    return given == declared_type(declared) or given.name in _WIDE.get(declared, ())


def check_inputs(
    declared: Sequence[Declared], given: Mapping[str, ArrayLike], held: Collection[str] = ()
) -> dict[str, Array]:
    """The inputs as arrays in the declared types, in the order of the model.

    What is no numpy array (a list, a number) is converted to the declared type. Inputs in `held` have a value already
    and may be left out. Raises CompileError with everything
    that is wrong: IPU0601 (missing), IPU0602 (unknown), IPU0603 (shape), IPU0604 (element type), IPU0610 (an integer
    that 32 bits do not hold).
    """
    problems = [unknown_input(name, declared) for name in given if name not in {d[0] for d in declared}]
    found: dict[str, Array] = {}
    missing = [d for d in declared if d[0] not in given and d[0] not in held]
    if missing:
        problems.append(missing_inputs(missing))
    for name, kind, shape in declared:
        if name not in given:
            continue
        array, problem = _array(name, kind, given[name])
        if problem is not None:
            problems.append(problem)
            continue
        wrong = type_problem(name, kind, shape, array.dtype, array.shape) or _range_problem(name, kind, array)
        if wrong:
            problems.extend(wrong)
        else:
            found[name] = array.astype(declared_type(kind), copy=False)
    if problems:
        raise CompileError(problems)
    return found


def type_problem(
    name: str, kind: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], found: tuple[int, ...]
) -> list[Diagnostic]:
    """What is wrong with the element type and the shape of an array that is given for an input."""
    problems = []
    if found != shape:
        text = f"input {name!r} has the shape {list(found)}, the program takes {list(shape)}"
        problems.append(Diagnostic("IPU0603", "error", text, help=("shapes are fixed when a model is compiled",)))
    if not accepts(kind, dtype):
        text = f"input {name!r} has the element type {dtype.name}, the program takes {kind}"
        problems.append(Diagnostic("IPU0604", "error", text, help=(f"convert it: astype({kind!r})",)))
    return problems


def as_declared(outputs: Mapping[str, Array], declared: Sequence[Declared]) -> dict[str, Array]:
    """Outputs in the element types that the model declares, in its order."""
    return {
        name: outputs[name].astype(declared_type(kind), copy=False) for name, kind, _ in declared if name in outputs
    }


def trimmed(outputs: Mapping[str, Array], extents: Mapping[str, Sequence[tuple[int, str]]]) -> dict[str, Array]:
    """Outputs as far as they count (see `Program.extents`), without those that say so."""
    counters = {counter for cuts in extents.values() for _, counter in cuts}
    found = {}
    for name, array in outputs.items():
        for axis, counter in extents.get(name, ()):
            array = np.ascontiguousarray(array[(slice(None),) * axis + (slice(0, max(0, int(outputs[counter]))),)])
        if name not in counters:
            found[name] = array
    return found


def unknown_input(name: str, declared: Sequence[Declared]) -> Diagnostic:
    """The problem of a name that is no input of the program."""
    names = [d[0] for d in declared]
    near = difflib.get_close_matches(name, names, n=1)
    help_text = f"did you mean {near[0]!r}?" if near else f"the inputs are: {', '.join(names) or 'none'}"
    return Diagnostic("IPU0602", "error", f"the program has no input {name!r}", help=(help_text,))


def missing_inputs(missing: Sequence[Declared]) -> Diagnostic:
    """The problem of inputs without a value."""
    lines = "".join(f"\n{name}: {kind} {list(shape)}" for name, kind, shape in missing)
    return Diagnostic(
        "IPU0601",
        "error",
        f"{len(missing)} input{'s have' if len(missing) > 1 else ' has'} no values{lines}",
        help=(
            "on the command line: --input NAME=@FILE.npy, NAME=zeros, NAME=ones or NAME=random:SEED",
            "or all of them in one file: --inputs FILE.npz",
        ),
    )


def _array(name: str, kind: str, value: ArrayLike) -> tuple[Array, Diagnostic | None]:
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value), None
    try:
        return np.asarray(value, declared_type(kind)), None
    except (TypeError, ValueError, OverflowError) as failure:
        text = f"input {name!r} cannot be read as an array of {kind}: {failure}"
        return np.zeros(0), Diagnostic("IPU0604", "error", text)


def _range_problem(name: str, kind: str, array: Array) -> list[Diagnostic]:
    if kind == "float64":
        largest = float(np.finfo(np.float32).max)
        if not (np.isfinite(array) & (np.abs(array) > largest)).any():
            return []
        text = f"input {name!r} has values beyond {largest:.4g}, the largest that a tile holds"
        return [Diagnostic("IPU0610", "error", text, help=("the machine has no 64-bit floating point",))]
    if array.dtype.kind not in "iu" or not array.size:
        return []
    info = np.iinfo(STORAGE[kind].name)  # by name: the table is typed for elements of every kind
    low, high = int(array.min()), int(array.max())
    if info.min <= low and high <= info.max:
        return []
    text = f"input {name!r} has values from {low} to {high}, a tile holds {info.min} to {info.max}"
    return [Diagnostic("IPU0610", "error", text, help=("the machine has no 64-bit integers",))]
