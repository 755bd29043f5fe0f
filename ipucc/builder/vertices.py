"""Compute sets of a program under construction: vertices of codelets, bound to cells of variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipucc.builder.variable import Variable
from ipucc.codelets.base import Cells, Codelet
from ipucc.diagnostics import CompileError, error
from ipucc.program.model import Binding, Compute
from ipucc.target import Target

__all__ = ["Axes", "ComputeSet", "Operand"]

Operand: TypeAlias = Variable | tuple[Variable, ArrayLike]
"""A variable, or a variable and the cell of it that every vertex works on."""

Axes: TypeAlias = Mapping[str, tuple[Variable, int] | ArrayLike]
"""The axes that a codelet asks for: each along a dimension of a variable, or an extent for every vertex."""


@dataclass(eq=False)
class ComputeSet:
    """Vertices that run at once, in one superstep. Made by `Builder.compute_set`, run by `Builder.execute`."""

    name: str
    owner: object
    target: Target
    groups: list[Compute] = field(default_factory=list)

    def vertices(
        self,
        codelet: Codelet,
        operands: Sequence[Operand],
        results: Sequence[Operand],
        *,
        axes: Axes | None = None,
        tiles: ArrayLike | None = None,
        workers: ArrayLike | None = None,
        fills: Sequence[float] | None = None,
        macs: int = 0,
    ) -> None:
        """Adds vertices of a codelet: one for every cell of the first result, on every tile that holds it.

        An operand whose grid is that of the first result, or has one cell where that has several, gives each vertex the
        cell at its place; anything else is said cell by cell, (variable, cells). The axes of the codelet are by default
        d0, d1, ... along the dimensions of the first result, extents those of what the cell owns; `axes` names others.
        `tiles` says which tile a vertex runs on, by default the first that holds its result where cells are given;
        `workers` gives each vertex of one worker its worker. `fills` stand outside of the tensors of the operands,
        `macs` are multiply-accumulates, for reports.

        Raises IPU1004 where a vertex would work on a cell that its tile does not hold, IPU1005 for axes that fit no
        vertex.
        """
        if not results:
            raise self._wrong("IPU1004", "vertices write at least one result")
        first, cells, at = self._places(results[0], tiles)
        bound = [self._bound(x, first, cells, at) for x in operands]
        written = [Binding(first.buffer, cells)]
        written += [self._bound(x, first, cells, at) for x in results[1:]]
        if fills is not None:
            if len(fills) != len(bound):
                raise self._wrong("IPU1004", f"{len(fills)} fills for {len(bound)} operands")
            bound = [Binding(b.buffer, b.cells, float(f)) for b, f in zip(bound, fills, strict=True)]
        reads, writes = codelet.streams
        if max((*codelet.wide, *reads), default=-1) >= len(bound) or max(writes, default=-1) >= len(written):
            raise self._wrong(
                "IPU1004", f"codelet {codelet.name!r} takes more than {len(bound)} operands and {len(written)} results"
            )
        own = {f"d{d}": (first, d) for d in range(len(first.shape))} if axes is None else axes
        picked = None if workers is None else self._table(workers, at.size, "workers")
        self.groups.append(
            Compute(
                self.name, codelet, at, self._cells(own, first, cells, [*bound, *written], [*operands, *results]),
                tuple(bound), tuple(written), macs, picked,
            )
        )  # fmt: skip

    def step(self) -> Compute:
        """The compute set as a step of a program. Raises IPU1004 for one without vertices."""
        if not self.groups:
            raise self._wrong("IPU1004", "the compute set has no vertices")
        first, *rest = self.groups
        return replace(first, beside=tuple(rest))

    def _places(
        self, result: Operand, tiles: ArrayLike | None
    ) -> tuple[Variable, NDArray[np.int32], NDArray[np.int32]]:
        """The first result, and of every vertex its cell and its tile."""
        variable, given = result if isinstance(result, tuple) else (result, None)
        self._mine(variable)
        held = variable.tiles
        if given is None:
            cells = np.repeat(np.arange(variable.cells, dtype=np.int32), held.shape[1])
            at = np.ascontiguousarray(held.reshape(-1)) if tiles is None else self._table(tiles, cells.size, "tiles")
        else:
            cells = self._table(given, None, f"cells of {variable.name!r}")
            self._inside(variable, cells)
            at = held[cells, 0] if tiles is None else self._table(tiles, cells.size, "tiles")
        self._held(variable, cells, at)
        return variable, cells, at

    def _bound(self, operand: Operand, first: Variable, cells: NDArray[np.int32], at: NDArray[np.int32]
               ) -> Binding:  # fmt: skip
        variable, given = operand if isinstance(operand, tuple) else (operand, None)
        self._mine(variable)
        if given is not None:
            own = self._table(given, at.size, f"cells of {variable.name!r}")
        else:
            own = self._alike(variable, first, cells)
        self._inside(variable, own)
        self._held(variable, own, at)
        return Binding(variable.buffer, own)

    def _alike(self, variable: Variable, first: Variable, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """The cells at the places of those of the first result: grids agree from the last dimension on, as numpy's
        shapes do."""
        grid, own = first.layout.grid, variable.layout.grid
        if own == grid:
            return cells
        if variable.cells == 1:
            return np.zeros_like(cells)
        lead = len(grid) - len(own)
        if lead < 0 or any(n not in (1, m) for n, m in zip(own, grid[lead:], strict=True)):
            raise self._wrong(
                "IPU1004", f"{variable.name!r} has a grid of {list(own)} cells, {first.name!r} one of {list(grid)}",
                "say the cell of every vertex: (variable, cells)",
            )  # fmt: skip
        flat = np.zeros(cells.size, np.int64)
        for n, index in zip(own, np.unravel_index(cells, grid)[lead:], strict=True):
            flat = flat * n + (index if n > 1 else 0)
        return flat.astype(np.int32)

    def _cells(
        self, axes: Axes, first: Variable, cells: NDArray[np.int32], bindings: Sequence[Binding],
        operands: Sequence[Operand],
    ) -> Cells:  # fmt: skip
        """Where the cells of all axes begin, and their extents."""
        lo: dict[str, NDArray[np.int64]] = {}
        n: dict[str, NDArray[np.int64]] = {}
        own = {id(first): cells} | {
            id(x[0] if isinstance(x, tuple) else x): b.cells for x, b in zip(operands, bindings, strict=True)
        }
        for axis, given in axes.items():
            if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Variable):
                variable, dim = given
                if id(variable) not in own or not 0 <= dim < len(variable.shape):
                    raise self._wrong("IPU1005", f"axis {axis!r} is along no dimension of an operand or a result")
                index = np.unravel_index(own[id(variable)], variable.layout.grid)[dim]
                begin, end = variable.layout.cuts[dim] if variable.layout.core is None else variable.layout.core[dim]
                lo[axis] = begin[index].astype(np.int64)
                n[axis] = (end - begin)[index].astype(np.int64)
            else:
                sizes = np.broadcast_to(np.asarray(given), cells.shape)
                if sizes.dtype.kind not in "iu" or (sizes.size and int(sizes.min()) < 0):
                    raise self._wrong("IPU1005", f"axis {axis!r} has extents that are no counts")
                n[axis] = sizes.astype(np.int64)
                lo[axis] = np.zeros(cells.size, np.int64)
        if not n:
            lo["all"], n["all"] = np.zeros(cells.size, np.int64), np.ones(cells.size, np.int64)
        return Cells(lo, n)

    def _table(self, given: ArrayLike, size: int | None, what: str) -> NDArray[np.int32]:
        table = np.asarray(given)
        if table.dtype.kind not in "iu" or table.ndim > 1:
            raise self._wrong("IPU1004", f"{what} are a list of whole numbers, one per vertex")
        table = np.atleast_1d(table).astype(np.int32)
        if size is not None and table.size not in (1, size):
            raise self._wrong("IPU1004", f"{table.size} {what} for {size} vertices")
        return table if size is None else np.ascontiguousarray(np.broadcast_to(table, (size,)))

    def _inside(self, variable: Variable, cells: NDArray[np.int32]) -> None:
        if cells.size and not 0 <= int(cells.min()) <= int(cells.max()) < variable.cells:
            raise self._wrong("IPU1004", f"a cell outside of the {variable.cells} of {variable.name!r}")

    def _held(self, variable: Variable, cells: NDArray[np.int32], at: NDArray[np.int32]) -> None:
        wrong = np.flatnonzero(~(variable.tiles[cells] == at[:, None]).any(axis=1))
        if wrong.size:
            i = int(wrong[0])
            raise self._wrong(
                "IPU1004",
                f"vertex {i} runs on tile {at[i]} and works on cell {cells[i]} of {variable.name!r}, which tile "
                f"{variable.tiles[cells[i], 0]} holds",
                "map the variable alike, or copy it into one that is",
            )

    def _mine(self, variable: Variable) -> None:
        if variable.owner is not self.owner:
            raise self._wrong("IPU1006", f"{variable.name!r} is a variable of another builder")

    def _wrong(self, id: str, why: str, *help: str) -> CompileError:
        return error(id, f"compute set {self.name!r}: {why}", help=help)
