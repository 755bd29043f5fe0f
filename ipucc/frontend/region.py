"""What a model with control flow falls apart into: straight parts, loops and branches (`ipucc.frontend.control`)."""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Branch", "Carried", "Loop", "Part", "Region", "Sliced", "Stacked", "parts_of"]


@dataclass(eq=False)
class Part:
    """A straight model. `received` are the inputs that other parts hand on to it, `handed` the outputs that others
    receive; both lie on the tiles all the time."""

    model: ir.Model
    received: frozenset[str]
    handed: frozenset[str]


@dataclass(frozen=True)
class Carried:
    """A value that a loop carries: what it is before the first trip, its name within a trip, what a trip makes of it,
    and its name behind the loop."""

    before: str
    inside: str
    after: str
    result: str


@dataclass(frozen=True)
class Sliced:
    """A value of which trip i reads slice i along its first dimension, or the i-th from behind."""

    whole: str
    inside: str
    backwards: bool


@dataclass(frozen=True)
class Stacked:
    """A value of which trip i makes slice i along its first dimension, or the i-th from behind."""

    inside: str
    whole: str
    backwards: bool


@dataclass(eq=False)
class Loop:
    """`body` is run `count` times; where that is None as long as the carried value that is called `condition` inside
    holds, but no more than `bound` times if there is a bound."""

    name: str
    count: int | None
    bound: int | None
    condition: str | None
    carried: tuple[Carried, ...]
    sliced: tuple[Sliced, ...]
    stacked: tuple[Stacked, ...]
    body: "Region"


@dataclass(eq=False)
class Branch:
    """`then` where the value `condition` holds, else `otherwise`. Results are (name behind, name in then, name in
    otherwise)."""

    name: str
    condition: str
    results: tuple[tuple[str, str, str], ...]
    then: "Region"
    otherwise: "Region"


Region = list[Part | Loop | Branch]


def parts_of(region: Region) -> Iterator[Part]:
    """All straight parts of a region in order of the text, those of bodies and branches included."""
    for item in region:
        if isinstance(item, Part):
            yield item
        elif isinstance(item, Loop):
            yield from parts_of(item.body)
        else:
            yield from parts_of(item.then)
            yield from parts_of(item.otherwise)
