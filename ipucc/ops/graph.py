"""The tile graph: tensors and tile ops in the order in which they run."""

from dataclasses import dataclass, field
from math import prod
from typing import Literal

from ipucc.codelets.base import Array
from ipucc.dtypes import itemsize
from ipucc.ops.spec import Source, TileOp
from ipucc.sparsity.buckets import PatternInput
from ipucc.tiles.view import View

__all__ = ["Output", "Ref", "TileGraph", "TileTensor", "live_results", "tensor_bytes"]


@dataclass(frozen=True)
class TileTensor:
    """A tensor of the tile graph. `grain_dim` is the dimension whose grains stay together wherever it rests.

    `key` is the name under which the host writes an input or a weight; `view` is how the host's tensor is seen. What is
    received of another part of the program is like an input that no host writes: it arrives over the exchange.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Literal["input", "weight", "received", "result"]
    grain_dim: int
    key: str = ""
    view: View | None = None


@dataclass(frozen=True, eq=False)
class Ref:
    """A value of the graph level: one tensor seen through a view, or several that are parts of one value.

    Elements without a source have the value `gap`.
    """

    sources: tuple[Source, ...]
    shape: tuple[int, ...]
    dtype: str
    gap: float = 0.0


@dataclass(frozen=True, eq=False)
class Output:
    """A graph output: the tensor that holds it and how the host sees it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Source
    gap: float = 0.0


@dataclass(eq=False)
class TileGraph:
    """Tensors, ops in running order, inputs (name, declared ONNX type, shape), outputs and weights by key.

    A weight is None where the model file names data that is absent; an input that has one runs with it until it is
    given. `patterns` are the inputs that are block-sparse operands, by name; `extents` those of the program (see
    `ipucc.program.model.Program`).
    """

    tensors: list[TileTensor] = field(default_factory=list)
    ops: list[TileOp] = field(default_factory=list)
    inputs: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    weights: dict[str, Array | None] = field(default_factory=dict)
    patterns: dict[str, PatternInput] = field(default_factory=dict)
    extents: dict[str, tuple[tuple[int, str], ...]] = field(default_factory=dict)


def tensor_bytes(tensor: TileTensor) -> int:
    """Bytes of all elements of a tensor, once."""
    return prod(tensor.shape) * itemsize(tensor.dtype)


def live_results(graph: TileGraph) -> list[list[int]]:
    """Per step of a graph the results that are alive in it, in the order in which they were made.

    A result is alive from the op that makes it to the last op that reads it, one that the host reads to the end.
    """
    last = {op.result.tensor: i for i, op in enumerate(graph.ops)}
    for i, op in enumerate(graph.ops):
        last.update({s.tensor: i for operand in op.operands for s in operand.sources if s.tensor in last})
    last.update({out.source.tensor: len(graph.ops) - 1 for out in graph.outputs})
    live: list[int] = []
    found = []
    for i, op in enumerate(graph.ops):
        live = [t for t in live if last[t] >= i] + [op.result.tensor]
        found.append(live)
    return found
