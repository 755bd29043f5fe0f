"""Patterns of a program: block-sparse operands that are inputs, set by mask and values (docs/sparsity.md)."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from ipucc.diagnostics import CompileError, Diagnostic, JsonValue, error
from ipucc.dtypes import to_storage
from ipucc.program.model import Program
from ipucc.sparsity.blocks import Array, Mask, cut
from ipucc.sparsity.buckets import BeyondCapacity, Buckets, Encoded, PatternInput
from ipucc.values import declared_type

__all__ = ["PatternReport", "encode_pattern", "set_pattern"]


@dataclass(frozen=True)
class PatternReport:
    """How a pattern lies in its buckets. `blocks` of the pattern, `slots` of all buckets, the blocks of the `fullest`
    bucket, what a bucket can hold (`capacity`), and how many blocks overflowed their own bucket and lie in another
    (`spilled`)."""

    name: str
    blocks: int
    slots: int
    fullest: int
    capacity: int
    spilled: int

    def to_json(self) -> dict[str, JsonValue]:
        """The figures by name."""
        return asdict(self)


def set_pattern(program: Program, name: str, mask: ArrayLike, values: ArrayLike) -> PatternReport:
    """Makes a pattern and its values what a program runs with where its inputs are not given. See
    `Executable.set_pattern`."""
    pattern = _pattern(program.patterns, name)
    encoded = encode_pattern(pattern, mask, values)
    kinds = {declared: kind for declared, kind, _ in program.inputs}
    kind = kinds[pattern.values]
    program.weights[pattern.values] = to_storage(encoded.values.astype(declared_type(kind)), kind)
    program.weights[pattern.places] = encoded.places
    return PatternReport(
        name, int(encoded.held.sum()), pattern.buckets.slots, int(encoded.held.max()), pattern.buckets.capacity,
        int(encoded.spilled.sum()),
    )  # fmt: skip


def encode_pattern(pattern: PatternInput, mask: ArrayLike, values: ArrayLike) -> Encoded:
    """A mask over the blocks or elements of a weight, and values [k, n] or [blocks, bk, bn] (the blocks of the mask,
    row by row), in the buckets of a pattern.

    Raises CompileError IPU0622 for arrays of other shapes or types, IPU0623 for a mask that the buckets cannot hold.
    """
    buckets, name = pattern.buckets, pattern.name
    kept, elements = _mask(name, np.asarray(mask), buckets)
    weight = _weight(name, np.asarray(values), kept, buckets)
    if elements is not None:
        weight = np.where(elements, weight, np.zeros((), weight.dtype))
    try:
        return buckets.encode(kept, weight)
    except BeyondCapacity as failure:
        raise error(
            "IPU0623", f"pattern {name!r} is beyond capacity: {failure}",
            notes=[f"{int(kept.sum()):,} blocks in all, {buckets.slots:,} slots in {buckets.grid[0]} x "
                   f"{buckets.grid[1]} buckets of {buckets.capacity:,}"],
            help=[
                "keep the mask within the buckets: ipucc.sparsity.Buckets.capped drops the blocks of lowest score",
                "or compile with a larger capacity or density",
            ],
        ) from failure  # fmt: skip


def _pattern(patterns: Mapping[str, PatternInput], name: str) -> PatternInput:
    if name in patterns:
        return patterns[name]
    near = difflib.get_close_matches(name, patterns, n=1)
    help_text = f"did you mean {near[0]!r}?" if near else f"the patterns are: {', '.join(sorted(patterns)) or 'none'}"
    raise error("IPU0621", f"the program has no pattern {name!r}", help=[help_text])


def _mask(name: str, given: Array, buckets: Buckets) -> tuple[Mask, Mask | None]:
    """The mask over blocks, and the one over elements where it was given so."""
    if given.shape not in (buckets.blocks, buckets.shape):
        raise _wrong(
            name, f"the mask has the shape {list(given.shape)}, the weight {list(buckets.shape)} in blocks of "
            f"{buckets.block[0]} x {buckets.block[1]} has {list(buckets.blocks)}",
        )  # fmt: skip
    if given.dtype.kind not in "biuf" or not np.isin(given, (0, 1)).all():
        raise _wrong(name, "the mask is not of bools or of numbers 0 and 1")
    kept = given.astype(bool)
    if given.shape == buckets.blocks:
        return kept, None
    return np.asarray(cut(kept, buckets.block).any(axis=(-2, -1))), kept


def _weight(name: str, given: Array, kept: Mask, buckets: Buckets) -> Array:
    if given.dtype.kind not in "fiu" and given.dtype.name != "bfloat16":
        raise _wrong(name, f"the values are of type {given.dtype.name}, not numbers")
    if given.shape == buckets.shape:
        return given
    count = int(kept.sum())
    if given.shape != (count, *buckets.block):
        raise _wrong(
            name, f"the values have the shape {list(given.shape)}, not that of the weight, {list(buckets.shape)}, or "
            f"of the {count:,} blocks of the mask, {[count, *buckets.block]}",
        )  # fmt: skip
    places = np.stack(np.nonzero(kept), axis=1)
    return buckets.decode(given, places)[0]


def _wrong(name: str, why: str) -> CompileError:
    return CompileError([Diagnostic("IPU0622", "error", f"pattern {name!r}: {why}")])
