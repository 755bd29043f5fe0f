"""What a codelet is: the numbers of a compute set's cells beside the cycles they take.

A codelet never sees tile memory. The engine hands it dense arrays, one cell per tile along the first dimension and
every cell padded to the largest, with the fill that the operand asked for outside a cell's true extent; it returns
arrays of the same form. Cycles depend on true extents only, so that the planner can ask for thousands of plans at
once and the simulator for the plan that was chosen, of one and the same function.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ipucc.target import Target

__all__ = [
    "Array",
    "Cells",
    "Codelet",
    "Counts",
    "Round",
    "Streams",
    "codelet_class",
    "codelet_from_json",
    "codelets",
    "per_worker",
    "register",
]

Array = NDArray[Any]
Counts = NDArray[np.int64]

Round = Literal["first", "next", "last"]
"""A reduced axis may be added up in serial rounds: the first one writes sums, the next ones add to them, and the last
one makes the result of them."""

Streams = tuple[tuple[int, ...], tuple[int, ...]]
"""Operands, and results, by their places in their lists."""

C = TypeVar("C", bound="Codelet")

_REGISTRY: dict[str, type["Codelet"]] = {}


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one compute set: per axis the first global index and the true extent on every tile.

    `sizes` gives the extents that results are padded to, where only some tiles of the compute set are at hand.
    """

    lo: Mapping[str, Counts]
    n: Mapping[str, Counts]
    sizes: Mapping[str, int] | None = None

    def padded(self, axis: str) -> int:
        """The extent of the largest cell of the compute set along an axis."""
        return self.sizes[axis] if self.sizes is not None else int(self.n[axis].max(initial=0))

    def cut(self, x: Array, *axes: str) -> Array:
        """`x`, [tiles, dimensions...], without what lies beyond the largest cell along `axes`, the last dimensions of
        x: a buffer for cells of all rounds is larger than those of one. Dimensions of size 1 stay."""
        index: list[Any] = [slice(0, self.padded(a)) for a in axes]
        return x[(..., *index)]

    def mask(self, axis: str, padded: int) -> NDArray[np.bool_]:
        """[tiles, padded]: which positions along an axis lie inside the cell."""
        return np.arange(padded)[None, :] < self.n[axis][:, None]


class Codelet(ABC):
    """A frozen dataclass whose fields are the static parameters: numbers, strings and (nested) tuples of them.

    `code_bytes` is the size of the code on a tile, charged once per tile and program (inferred: no vendor figure).
    `context` says what runs a vertex: the whole `tile`, where the supervisor shares the cell out to all workers, or
    one `worker`, of which a tile runs as many at once as it has.
    """

    name: ClassVar[str]
    code_bytes: ClassVar[int]
    context: ClassVar[Literal["tile", "worker"]] = "tile"

    @abstractmethod
    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """Cycles of one cell; `n` maps axes to extents, arrays of one shape. Of a vertex of the whole tile, tile cycles
        with all workers at work; of a vertex of one worker, the cycles of that worker, which issues in every sixth
        cycle of its tile (one in `Target.workers`)."""

    @abstractmethod
    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        """The results of all cells: operands and results are [tiles, cell...], float types as float32."""

    def temp_bytes(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """Scratch bytes on the tile while the vertex runs; none unless a codelet says otherwise."""
        return np.zeros_like(next(iter(n.values())))

    @property
    def has_scratch(self) -> bool:
        """Whether the last buffer that a compute set writes is the scratch of `temp_bytes`: `compute` returns nothing
        for it, and it holds nothing behind the step."""
        return False

    def in_round(self, round: Round) -> "Codelet | None":
        """The codelet of one of several rounds that add up the reduced axis, None for one that cannot. From the second
        round on, the sums are its last operand."""
        return None

    def joining(self, dtype: str) -> "Codelet | None":
        """Of a codelet that makes results of partials, the one that makes of some partials a single one, of type
        `dtype`; None where there is none."""
        return None

    @property
    def wide(self) -> tuple[int, ...]:
        """The operands that a vertex reads 128 bits at a time where they lie in interleaved memory. Elsewhere its
        cycles are those on `Target.plain`."""
        return ()

    @property
    def streams(self) -> Streams:
        """The operands and the results, as indices, that a vertex reaches in one issue. Where two of them share an
        element of the tile's memory, every issue takes as many as there are of them."""
        return (), ()

    @property
    def identity(self) -> float:
        """What stands in the place of a partial that a cell has room for and that is not there."""
        return 0.0

    @property
    def in_place(self) -> bool:
        """Whether the result may be written over the last operand: vertex by vertex the same cell."""
        return False

    def to_json(self) -> dict[str, object]:
        """The codelet's name and parameters, read back by `codelet_from_json`."""
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, params: Mapping[str, object]) -> Self:
        """The codelet with these parameters; lists become tuples. TypeError for unknown or missing ones."""
        return cls(**{k: _frozen(v) for k, v in params.items()})


def register(cls: type[C]) -> type[C]:
    """Class decorator: makes a codelet known by its name to programs that are read from a file."""
    if cls.name in _REGISTRY:
        raise ValueError(f"two codelets named {cls.name!r}")
    _REGISTRY[cls.name] = cls
    return cls


def codelets() -> Mapping[str, type[Codelet]]:
    """All registered codelets by name."""
    return _REGISTRY


def codelet_class(name: str) -> type[Codelet]:
    """The codelet registered under a name; KeyError if there is none."""
    return _REGISTRY[name]


def codelet_from_json(data: Mapping[str, object]) -> Codelet:
    """The codelet that `to_json` described. KeyError for an unknown name, TypeError for parameters that do not fit."""
    params = {k: v for k, v in data.items() if k != "name"}
    return _REGISTRY[str(data["name"])].from_json(params)


def per_worker(work: Counts, target: Target) -> Counts:
    """The share of `work` units that the busiest of a tile's workers has."""
    return -(-work // target.workers)


def _frozen(value: object) -> object:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
