"""The patterns of a program in its file: which inputs are block-sparse operands, and in what buckets."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Final

from ipucc.program.fields import Field
from ipucc.sparsity.buckets import Buckets, PatternInput

__all__ = ["pattern_entries", "read_patterns"]

_MAX_SIDE: Final = 1 << 31


def pattern_entries(patterns: Iterable[PatternInput]) -> list[dict[str, object]]:
    """The patterns as the manifest of a file lists them."""
    return [{"values": p.values, "places": p.places, **asdict(p.buckets)} for p in patterns]


def read_patterns(given: Field, inputs: Sequence[tuple[str, str, tuple[int, ...]]]) -> dict[str, PatternInput]:
    """The patterns by name; IPU0506 unless their values and places are `inputs` of the shapes that buckets have."""
    declared = {name: (kind, shape) for name, kind, shape in inputs}
    out: dict[str, PatternInput] = {}
    for f in given.elements():
        f.keys("values", "places", "shape", "block", "cell", "capacity", "reach")
        shape, block, cell = (f[key].integers(1, _MAX_SIDE) for key in ("shape", "block", "cell"))
        if (len(shape), len(block), len(cell)) != (2, 2, 2):
            raise f.wrong("shape, block and cell must be two numbers each")
        try:
            buckets = Buckets(
                (shape[0], shape[1]), (block[0], block[1]), (cell[0], cell[1]), f["capacity"].integer(1, _MAX_SIDE),
                f["reach"].integer(1, 2),
            )  # fmt: skip
        except ValueError as problem:
            raise f.wrong(str(problem)) from problem
        size = (*buckets.grid, buckets.capacity)
        made = PatternInput(f["values"].text(), f["places"].text(), buckets)
        for key, wanted in ((made.values, (*size, *block)), (made.places, (*size, 2))):
            if key not in declared or declared[key][1] != wanted:
                raise f.wrong(f"there is no input {key!r} of the shape {list(wanted)}")
        if declared[made.places][0] != "int16":
            raise f["places"].wrong("places must be of type int16")
        if made.name in out:
            raise f.wrong("the pattern stands twice")
        out[made.name] = made
    return out
