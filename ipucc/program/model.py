"""The program: supersteps over buffers in tile memory.

A buffer is a tensor's storage: a layout, an element type, and one offset that holds on every tile. Steps are data: what
moves between buffers, which codelet runs over which cells. Nothing here computes; the runtime runs a program and
`ipucc.program.timing` counts its cycles, from the same fields.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ipucc.codelets.base import Array, Cells, Codelet, Counts
from ipucc.program.order import FIRST_ORDER, Order
from ipucc.sparsity.buckets import PatternInput
from ipucc.target import Target
from ipucc.tiles.intersect import Track
from ipucc.tiles.layout import Ints, Layout
from ipucc.tiles.view import View

__all__ = [
    "Binding", "Buffer", "Call", "Compute", "Exchange", "Extents", "Fill", "HostRead", "HostWrite", "If", "Move",
    "PlannedOp", "Program", "Repeat", "Step", "While", "bodies", "walk", "with_bodies",
]  # fmt: skip


Extents = dict[str, tuple[tuple[int, str], ...]]
"""Output -> the dimensions that are cut, each with the output that says where."""


@dataclass(eq=False)
class Buffer:
    """Storage of one tensor version. `offset` is in bytes from the start of a tile's memory, -1 before allocation.

    A buffer with `alias` is another reading of that buffer's bytes from `alias_offset` on: a tensor in another view, or
    one member of a stack.
    """

    name: str
    dtype: str
    layout: Layout
    offset: int = -1
    alias: int = -1
    alias_offset: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes on every tile that holds part of it."""
        return self.layout.nbytes


@dataclass(frozen=True, eq=False)
class Move:
    """Bytes from one buffer to another: the product of the tracks (see `ipucc.tiles.intersect`).

    `view` says which elements they are: the destination's tensor as a view of the source's. A run needs the tracks
    alone; checks hold the two against each other. With `keeps` the destination keeps what the move does not write: an
    update of a part, such as the halos of cells. Such a move may have one buffer on both its sides.
    """

    src: int
    dst: int
    tracks: tuple[Track, ...]
    view: View
    keeps: bool = False


@dataclass(frozen=True)
class Fill:
    """Sets a buffer to one value on all its tiles, for the elements that no move covers."""

    buffer: int
    value: float


@dataclass(frozen=True, eq=False)
class Exchange:
    """One exchange phase: fills, then all moves at once. `order` is the rule that orders the transfers."""

    name: str
    moves: tuple[Move, ...]
    fills: tuple[Fill, ...] = ()
    order: Order = FIRST_ORDER


@dataclass(frozen=True, eq=False)
class Binding:
    """An operand or a result of a compute set: vertex i works on cell `cells[i]` (flat index) of the buffer."""

    buffer: int
    cells: Ints
    fill: float = 0.0


@dataclass(frozen=True, eq=False)
class Compute:
    """One compute set: vertex i runs on `tiles[i]` over the cell whose extents are `cells.n[axis][i]`.

    Vertices of one worker each (`Codelet.context`) share the workers of their tile: vertex i runs on worker
    `workers[i]`, or, without that table, on the worker that is free first, in the order of the vertices. `beside` are
    the vertices of other codelets in the same compute set; nothing that one of them writes is read or written by
    another, and none has vertices beside it.
    """

    name: str
    codelet: Codelet
    tiles: Ints
    cells: Cells
    operands: tuple[Binding, ...]
    results: tuple[Binding, ...]
    macs: int = 0
    workers: Ints | None = None
    beside: tuple["Compute", ...] = ()

    @property
    def parts(self) -> tuple["Compute", ...]:
        """All vertices of the compute set, codelet by codelet."""
        return (self, *self.beside)


@dataclass(frozen=True)
class HostWrite:
    """The host writes a named tensor (an input or a weight), seen through `view`, into a buffer."""

    tensor: str
    buffer: int
    view: View
    fill: float = 0.0


@dataclass(frozen=True)
class HostRead:
    """The host reads a buffer and hands it out, seen through `view`, as a named output."""

    tensor: str
    buffer: int
    view: View
    fill: float = 0.0


@dataclass(frozen=True, eq=False)
class Repeat:
    """Runs `body` `count` times. In iteration i the offset of buffer b is its own plus i times `strides[b]` bytes.

    `names[i]` are the names that the steps of the body have in iteration i, those of the layer that it carries out;
    without any (and where a name is empty) every iteration has the names of the body.
    """

    count: int
    body: tuple["Step", ...]
    strides: dict[int, int]
    names: tuple[tuple[str, ...], ...] = ()

    def names_in(self, iteration: int) -> tuple[str, ...]:
        """One name per step of the body, empty for the step's own."""
        return self.names[iteration] if self.names else ("",) * len(self.body)


@dataclass(frozen=True, eq=False)
class Call:
    """Runs a function of the program with its formal buffers bound by local copies.

    `inputs` are copied (actual, formal) before the body runs and `outputs` (formal, actual) after it; both buffers of
    a pair have the same layout, so that the copies stay on the tile.
    """

    function: str
    inputs: tuple[tuple[int, int], ...]
    outputs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class While:
    """Runs `body` as long as `condition` holds: every tile tests its own copy of that one bool before every trip.

    It ends behind `bound` trips in any case, if there is a bound. In trip i the offset of buffer b is its own plus i
    times `strides[b]` bytes; strides need a bound. `name` is what trip counts are given and reported for.
    """

    name: str
    condition: int
    body: tuple["Step", ...]
    bound: int | None = None
    strides: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class If:
    """Runs `then` where `condition` holds, one bool of which every tile has a copy, else `otherwise`."""

    name: str
    condition: int
    then: tuple["Step", ...]
    otherwise: tuple["Step", ...]


Step = Exchange | Compute | HostWrite | HostRead | Repeat | While | If | Call


def bodies(step: Step) -> tuple[tuple[Step, ...], ...]:
    """The lists of steps that a step runs: of a loop its body, of an If both branches."""
    if isinstance(step, Repeat | While):
        return (step.body,)
    return (step.then, step.otherwise) if isinstance(step, If) else ()


def with_bodies(step: Step, change: Callable[[Step], Step]) -> Step:
    """A loop or an If with every step of its bodies changed; any other step as it is."""
    if isinstance(step, Repeat | While):
        return replace(step, body=tuple(map(change, step.body)))
    if isinstance(step, If):
        return replace(step, then=tuple(map(change, step.then)), otherwise=tuple(map(change, step.otherwise)))
    return step


@dataclass(frozen=True)
class PlannedOp:
    """What placement chose for one op: its plan as text, the estimated cycles of the op alone, and bytes on the fullest
    tile (see `ipucc.passes.plan.problem.Candidate`). `nodes` are the ONNX nodes that the op comes from. Ops that come
    from one node may have one name.
    """

    name: str
    kind: str
    plan: str
    cycles: int
    resident_bytes: int
    result_bytes: int
    temporary_bytes: int
    nodes: tuple[str, ...]


@dataclass(eq=False)
class Program:
    """A compiled program. `steps` run in order, host writes first and host reads last.

    `inputs` and `outputs` are (name, ONNX element type, shape); `weights` maps the names that host writes use to
    arrays, None for a weight that is absent (such a program can only be timed). An input that has a weight runs with it
    where it is not given. `patterns` are the block-sparse operands that are inputs, by name. `extents` says of
    outputs whose extent depends on data which dimensions they are: of each the output that counts, a scalar, how many
    indices are the result's; those behind it are not. `ops` says what the steps carry out, in running order; it is for
    people and tools, a run does not need it.
    """

    target: Target
    buffers: list[Buffer]
    steps: list[Step]
    inputs: list[tuple[str, str, tuple[int, ...]]]
    outputs: list[tuple[str, str, tuple[int, ...]]]
    weights: dict[str, Array | None]
    functions: dict[str, tuple[Step, ...]] = field(default_factory=dict)
    code_bytes: int = 0
    manifest: dict[str, object] = field(default_factory=dict)
    ops: tuple[PlannedOp, ...] = ()
    patterns: dict[str, PatternInput] = field(default_factory=dict)
    extents: Extents = field(default_factory=dict)

    @property
    def counters(self) -> frozenset[str]:
        """The outputs that say how much of others counts."""
        return frozenset(counter for cuts in self.extents.values() for _, counter in cuts)

    @property
    def resident(self) -> frozenset[str]:
        """The tensors that stay on the tiles from run to run: weights, and inputs that are patterns."""
        patterns = {name for p in self.patterns.values() for name in (p.values, p.places)}
        return frozenset(self.weights).difference(name for name, _, _ in self.inputs) | patterns

    @property
    def held(self) -> frozenset[str]:
        """The inputs that have a value, with which the program runs where they are not given."""
        return frozenset(name for name, _, _ in self.inputs if self.weights.get(name) is not None)


def walk(steps: Sequence[Step], functions: dict[str, tuple[Step, ...]]) -> Iterator[Step]:
    """Every step once in order of the text; bodies of loops, branches, called functions, and the vertices beside those
    of a compute set behind the step that runs them."""
    seen: set[str] = set()
    stack = list(reversed(steps))
    while stack:
        step = stack.pop()
        yield step
        for body in reversed(bodies(step)):
            stack.extend(reversed(body))
        if isinstance(step, Compute):
            stack.extend(reversed(step.beside))
        elif isinstance(step, Call) and step.function not in seen:
            seen.add(step.function)
            stack.extend(reversed(functions[step.function]))


def busy_cells(cells: Cells) -> Counts:
    """1 for every vertex whose cell has elements, 0 for empty cells."""
    first, *rest = cells.n.values()
    busy = first > 0
    for n in rest:
        busy = busy & (n > 0)
    return busy.astype("int64")
