"""The program builder: variables on tiles, copies between them, compute sets over them, in the order in which they run.

What it makes is the `Program` that the compiler makes: exchanges are derived from the difference of two layouts, one
allocator gives addresses, one verifier checks, one engine runs it, one function counts its cycles.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ipucc.api import Executable
from ipucc.builder.finish import finish
from ipucc.builder.mapping import Mapping
from ipucc.builder.variable import Part, Variable, into
from ipucc.builder.vertices import Axes, ComputeSet, Operand
from ipucc.codelets.base import Array, Codelet
from ipucc.codelets.elementwise import Elementwise
from ipucc.diagnostics import error
from ipucc.dtypes import STORAGE, itemsize
from ipucc.program.model import Buffer, Call, Exchange, Fill, HostRead, HostWrite, Move, Repeat, Step
from ipucc.program.order import Order
from ipucc.target import Target, load_target
from ipucc.tiles.cuts import Cut
from ipucc.tiles.intersect import intersect
from ipucc.tiles.tracks import word_bytes
from ipucc.tiles.view import View
from ipucc.values import Declared, declared_type

__all__ = ["Builder"]

_WORD = 4


class Builder:
    """A program under construction for one target, given by name, as a machine file, or as a `Target`.

    Variables are made first, then copies and compute sets are executed in the order in which they are written down;
    `compile` makes the program. Nothing is computed before a run.
    """

    def __init__(self, target: str | Path | Target = "gc200") -> None:
        self.target = target if isinstance(target, Target) else load_target(target)
        self._buffers: list[Buffer] = []
        self._inputs: list[Declared] = []
        self._outputs: list[Declared] = []
        self._weights: dict[str, Array | None] = {}
        self._writes: list[Step] = []
        self._reads: list[Step] = []
        self._functions: dict[str, tuple[Step, ...]] = {}
        # The sequences that are being written down, the outermost first.
        self._open: list[list[Step]] = [[]]
        self._given: set[int] = set()

    # Variables

    def variable(self, name: str, dtype: str, shape: Sequence[int], mapping: Mapping) -> Variable:
        """A tensor in tile memory. Element types are those of `ipucc.dtypes.STORAGE`, by their numpy names.

        Raises IPU1001 for a mapping that fits neither the shape nor the target.
        """
        if dtype not in STORAGE:
            raise error("IPU1001", f"variable {name!r}: no element type {dtype!r}",
                        help=[f"types in tile memory: {', '.join(STORAGE)}"])  # fmt: skip
        if any(n < 0 for n in shape):
            raise error("IPU1001", f"variable {name!r}: no shape {list(shape)}")
        layout = mapping.layout(name, shape, itemsize(dtype), self.target)
        self._buffers.append(Buffer(name, dtype, layout))
        return Variable(name, dtype, layout, len(self._buffers) - 1, self)

    def constant(self, name: str, values: ArrayLike, mapping: Mapping, dtype: str | None = None) -> Variable:
        """A variable that the host writes once, before the program runs, and that stays as it is."""
        array = np.asarray(values)
        kind = array.dtype.name if dtype is None else dtype
        variable = self.variable(name, kind, array.shape, mapping)
        self._named(name)
        self._weights[name] = array.astype(declared_type(kind))
        self._writes.append(HostWrite(name, variable.buffer, View.identity(array.shape)))
        return variable

    def write(self, variable: Variable, name: str | None = None) -> None:
        """The host writes the variable before the program runs: an input of the program, called as the variable is."""
        self._mine(variable)
        called = name or variable.name
        self._named(called)
        self._inputs.append((called, variable.dtype, variable.shape))
        self._writes.append(HostWrite(called, variable.buffer, View.identity(variable.shape)))

    def read(self, variable: Variable, name: str | None = None) -> None:
        """The host reads the variable after the program has run: an output of the program."""
        self._mine(variable)
        called = name or variable.name
        if any(called == known for known, _, _ in self._outputs):
            raise error("IPU1006", f"there are two outputs {called!r}")
        self._outputs.append((called, variable.dtype, variable.shape))
        self._reads.append(HostRead(called, variable.buffer, View.identity(variable.shape)))

    # Steps

    def copy(self, src: Part, dst: Part, *, name: str | None = None, order: Order | None = None) -> None:
        """Copies a variable, or part of one, into another: one exchange phase, of what is not where it should be.

        Both have one shape and one element type. A copy into part of a variable leaves the rest as it is. Raises
        IPU1002 for shapes or types that differ, IPU1003 for a copy of parts of words.
        """
        self.exchange([(src, dst)], name=name, order=order)

    def exchange(
        self, copies: Sequence[tuple[Part, Part]], *, name: str | None = None, order: Order | None = None
    ) -> None:
        """Several copies (source, destination) in one exchange phase. All are read before any is written.

        `order` is the rule that orders the transfers, by default the best that a search finds.
        """
        moves = [self._move(*pair) for pair in copies]
        self._exchange(name or "copy", [m for m in moves if m is not None], order)

    def halo_exchange(
        self, variable: Variable, *, corners: bool = False, name: str | None = None, order: Order | None = None
    ) -> None:
        """Fills the halos of a variable from the cells that own those elements, nothing else.

        Without `corners` halos are filled that lie beyond a cell in one dimension only. Raises IPU1007 for a variable
        without halos.
        """
        self._mine(variable)
        layout = variable.layout
        if layout.core is None:
            raise error("IPU1007", f"{variable.name!r} has no halos", help=["map it with grid(..., halo=1)"])
        sides: list[list[Cut]] = []
        for (lo, hi), (begin, end) in zip(layout.cuts, layout.core, strict=True):
            beyond = [(begin, end), (lo, begin), (end, hi)]
            sides.append([cut for i, cut in enumerate(beyond) if i == 0 or (cut[1] > cut[0]).any()])
        moves = []
        view = View.identity(variable.shape)
        for at in product(*(range(len(s)) for s in sides)):
            away = sum(i > 0 for i in at)
            if away == 0 or (away > 1 and not corners):
                continue
            tracks = intersect(layout, layout, view, [s[i] for s, i in zip(sides, at, strict=True)])
            if tracks:
                moves.append(self._words(Move(variable.buffer, variable.buffer, tracks, view, keeps=True)))
        self._exchange(name or f"{variable.name}.halo", moves, order)

    def fill(self, variable: Variable, value: float, *, name: str | None = None) -> None:
        """Sets all elements to one value, on the tiles."""
        self._mine(variable)
        self._open[-1].append(Exchange(name or f"{variable.name}.fill", (), (Fill(variable.buffer, float(value)),)))

    def compute_set(self, name: str) -> ComputeSet:
        """An empty compute set: add vertices to it, then `execute` it, as often as it should run."""
        return ComputeSet(name, self, self.target)

    def execute(self, compute_set: ComputeSet) -> None:
        """Runs a compute set."""
        if compute_set.owner is not self:
            raise error("IPU1006", f"{compute_set.name!r} is a compute set of another builder")
        self._open[-1].append(compute_set.step())

    def compute(
        self, name: str, codelet: Codelet, operands: Sequence[Operand], results: Sequence[Operand], *,
        axes: Axes | None = None, tiles: ArrayLike | None = None, workers: ArrayLike | None = None,
        fills: Sequence[float] | None = None, macs: int = 0,
    ) -> None:  # fmt: skip
        """Runs a compute set of vertices of one codelet; the parameters are those of `ComputeSet.vertices`."""
        made = self.compute_set(name)
        made.vertices(codelet, operands, results, axes=axes, tiles=tiles, workers=workers, fills=fills, macs=macs)
        self.execute(made)

    def elementwise(self, name: str, expression: str, operands: Sequence[Variable], result: Variable) -> None:
        """Runs one fused expression over variables that are mapped alike: `Add(a0, Mul(a1, 3.0))`.

        The language is that of `ipucc.graph.expr`; a0, a1, ... are the operands, of which the result may be one. They
        have as many dimensions as the result, and broadcast along those of size 1. Raises IPU1005 for others.
        """
        shape = result.shape
        for x in operands:
            if len(x.shape) != len(shape) or any(n not in (1, m) for n, m in zip(x.shape, shape, strict=True)):
                raise error(
                    "IPU1005",
                    f"compute set {name!r}: {x.name!r} of the shape {list(x.shape)} does not broadcast to that of "
                    f"{result.name!r}, {list(shape)}",
                    help=["give it as many dimensions: (1, n) instead of (n,)"],
                )
        # A codelet writes over its last operand only, and reads every variable once.
        once = [x for x in dict.fromkeys(operands) if x is not result] + [result] * (result in operands)
        place = {f"a{i}": f"a{once.index(x)}" for i, x in enumerate(operands)}
        text = re.sub(r"\ba\d+\b", lambda m: place.get(m[0], m[0]), expression)
        axes = tuple(f"d{d}" for d in range(len(result.shape)))
        codelet = Elementwise(text, tuple(x.dtype for x in once), result.dtype, axes)
        self.compute(name, codelet, once, [result])

    # Control

    @contextmanager
    def repeat(self, count: int) -> Iterator[None]:
        """What is written down inside runs `count` times."""
        if count < 1:
            raise error("IPU1006", f"a loop runs at least once, not {count} times")
        self._open.append([])
        try:
            yield
        finally:
            body = self._open.pop()
        if body:
            self._open[-1].append(Repeat(count, tuple(body), {}))

    @contextmanager
    def function(self, name: str) -> Iterator[None]:
        """What is written down inside runs where `call` names it; its code is on the tiles once."""
        if name in self._functions:
            raise error("IPU1006", f"there are two functions {name!r}")
        self._open.append([])
        try:
            yield
        finally:
            body = self._open.pop()
        self._functions[name] = tuple(body)

    def call(self, name: str) -> None:
        """Runs a function that has been written down."""
        if name not in self._functions:
            raise error("IPU1006", f"there is no function {name!r}", help=["write it down before it is called"])
        self._open[-1].append(Call(name, (), ()))

    def compile(self, *, name: str = "program", flops: int = 0) -> Executable:
        """The program, with addresses, its transfers in order, and verified: to run, to time, to save.

        `flops` are the floating-point operations of one run, for reports. Raises IPU0406 or IPU0407 where the target
        has too little memory for data or code, IPU0509 where a step reads what nobody has written, IPU1006 inside of a
        loop or a function.
        """
        if len(self._open) > 1:
            raise error("IPU1006", "a loop or a function is still open")
        steps = [*self._writes, *self._open[0], *self._reads]
        buffers = [replace(b) for b in self._buffers]
        return finish(
            self.target, buffers, steps, self._functions, self._inputs, self._outputs, self._weights,
            frozenset(self._given), name, flops,
        )  # fmt: skip

    # Details

    def _exchange(self, name: str, moves: Sequence[Move], order: Order | None) -> None:
        if not moves:
            return
        step = Exchange(name, tuple(moves)) if order is None else Exchange(name, tuple(moves), (), order)
        if order is not None:
            self._given.add(id(step))
        self._open[-1].append(step)

    def _move(self, src: Part, dst: Part) -> Move | None:
        """The move of one copy, None where there is nothing to move."""
        a, b = (x.whole if isinstance(x, Variable) else x for x in (src, dst))
        self._mine(a.variable)
        self._mine(b.variable)
        ends = f"from {a.variable.name!r} to {b.variable.name!r}"
        if a.shape != b.shape:
            raise error("IPU1002", f"the copy {ends}: the shapes are {list(a.shape)} and {list(b.shape)}",
                        help=["reshape(...), transpose(...) and broadcast_to(...) of the source"])  # fmt: skip
        if STORAGE[a.variable.dtype] != STORAGE[b.variable.dtype]:
            raise error(
                "IPU1002",
                f"the copy {ends}: the types are {a.variable.dtype} and {b.variable.dtype}",
                help=["a copy converts nothing: a vertex does, elementwise(..., 'Cast(a0, to=...)')"],
            )
        view = a.view.then(into(b))
        tracks = intersect(a.variable.layout, b.variable.layout, view)
        if not tracks:
            return None
        return self._words(Move(a.variable.buffer, b.variable.buffer, tracks, view, keeps=not view.is_total))

    def _words(self, move: Move) -> Move:
        if word_bytes(move.tracks) < _WORD:
            src, dst = self._buffers[move.src], self._buffers[move.dst]
            grain = _WORD // src.layout.itemsize
            raise error(
                "IPU1003",
                f"the copy from {src.name!r} to {dst.name!r} moves parts of words of {_WORD} bytes",
                help=[
                    f"let cells and slices of the last dimension begin and end at multiples of {grain} elements",
                    "a transposition of such small elements takes a vertex",
                ],
            )
        return move

    def _mine(self, variable: Variable) -> None:
        if variable.owner is not self:
            raise error("IPU1006", f"{variable.name!r} is a variable of another builder")

    def _named(self, name: str) -> None:
        if name in self._weights or any(name == known for known, _, _ in self._inputs):
            raise error("IPU1006", f"the host writes two tensors {name!r}", help=["give one another name"])
