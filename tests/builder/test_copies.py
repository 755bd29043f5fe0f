"""Copies of the program builder move what numpy would, whatever the mappings."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ipucc.builder import (
    Builder,
    Cells,
    Codelet,
    Mapping,
    Order,
    Target,
    Variable,
    grid,
    linear,
    on_tile,
    replicated,
)
from ipucc.diagnostics import CompileError
from ipucc.program.model import Exchange

Array = NDArray[Any]
TILES = 24


def filled(shape: tuple[int, ...], dtype: str) -> Array:
    return np.random.default_rng(0).integers(-99, 99, shape).astype(dtype)


def copied(b: Builder, src: Variable, dst: Variable, values: Array) -> Array:
    """What is in `dst` behind a run; checked, and in exactly the cycles that were predicted."""
    b.read(dst, "out")
    exe = b.compile()
    result = exe.run({"x": values}, checked=True)
    assert result.cycles == exe.cycles
    return np.asarray(result.outputs["out"])


@st.composite
def mappings(draw: st.DrawFn, shape: tuple[int, ...], halos: bool = True) -> Mapping:
    """Any mapping of float32 of that shape: cuts, odd edges, orders of tiles, several cells a tile, replicas, halos."""
    parts: list[int | list[int]] = []
    for size in shape:
        if draw(st.booleans()):
            parts.append(draw(st.integers(1, min(size, 4))))
        else:
            inner = draw(st.lists(st.integers(0, size), max_size=3))
            parts.append([0, *sorted(inner), size])
    counts = [p if isinstance(p, int) else len(p) - 1 for p in parts]
    cells = int(np.prod(counts))
    halo = None
    if halos and draw(st.booleans()):
        halo = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape]
    seed = draw(st.integers(0, 99))
    kind = draw(st.sampled_from(("apart", "together", "replicas")))
    rng = np.random.default_rng(seed)
    if kind == "apart" and cells <= TILES:
        tiles = rng.permutation(TILES)[:cells]
    elif kind == "replicas":
        tiles = np.stack([rng.permutation(TILES)[:2] for _ in range(cells)]).reshape(*counts, 2)
    else:
        tiles = rng.integers(0, TILES, cells)
    return grid(*parts, tiles=tiles, halo=halo)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 12), columns=st.integers(1, 12))
def test_a_copy_between_any_two_mappings_moves_the_tensor(data: st.DataObject, rows: int, columns: int) -> None:
    b = Builder("gc200")
    x = b.variable("x", "float32", (rows, columns), data.draw(mappings((rows, columns))))
    y = b.variable("y", "float32", (rows, columns), data.draw(mappings((rows, columns))))
    b.write(x)
    b.copy(x, y)
    values = filled((rows, columns), "float32")
    assert (copied(b, x, y, values) == values).all()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_copy_of_a_part_into_a_part_leaves_the_rest(data: st.DataObject) -> None:
    source, target = (9, 7), (8, 10)
    sizes = [data.draw(st.integers(1, 7)) for _ in source]
    at = [data.draw(st.integers(0, n - s)) for n, s in zip(source, sizes, strict=True)]
    to = [data.draw(st.integers(0, n - s)) for n, s in zip(target, sizes, strict=True)]
    here = tuple(slice(a, a + s) for a, s in zip(at, sizes, strict=True))
    there = tuple(slice(a, a + s) for a, s in zip(to, sizes, strict=True))
    b = Builder("gc200")
    x = b.variable("x", "int32", source, data.draw(mappings(source)))
    y = b.variable("y", "int32", target, data.draw(mappings(target, halos=False)))
    b.write(x)
    b.fill(y, -1)
    b.copy(x[here], y[there])
    values = filled(source, "int32")
    expected = np.full(target, -1)
    expected[there] = values[here]
    assert (copied(b, x, y, values) == expected).all()


@dataclass(frozen=True)
class Widen(Codelet):
    """A cell without halos into one with halos, which get a value that is wrong."""

    halo: tuple[tuple[int, int], ...]

    name: ClassVar[str] = "tests.widen"
    code_bytes: ClassVar[int] = 16

    def cycles(self, n: Any, target: Target) -> Array:
        return 10 + n["d0"] * n["d1"]

    def compute(self, operands: Any, cells: Cells) -> list[Array]:
        return [np.pad(operands[0], [(0, 0), *self.halo], constant_values=-7.0)]


@dataclass(frozen=True)
class Reach(Codelet):
    """Of every element the sum of those at the ends of its halos: in its row, its column, and across."""

    halo: tuple[tuple[int, int], ...]
    corners: bool

    name: ClassVar[str] = "tests.reach"
    code_bytes: ClassVar[int] = 16

    def cycles(self, n: Any, target: Target) -> Array:
        return 10 + n["d0"] * n["d1"]

    def compute(self, operands: Any, cells: Cells) -> list[Array]:
        return [reach(operands[0], self.halo, self.corners)]


def reach(x: Array, halo: Any, corners: bool) -> Array:
    """[tiles, rows, columns] with halos to the same without."""
    (up, down), (left, right) = halo
    rows, columns = x.shape[1] - up - down, x.shape[2] - left - right
    out = np.zeros((x.shape[0], rows, columns), x.dtype)
    for i in (0, up, up + down):
        for j in (0, left, left + right):
            if corners or i == up or j == left:
                out += x[:, i : i + rows, j : j + columns]
    return out


@settings(max_examples=40, deadline=None)
@given(data=st.data(), corners=st.booleans())
def test_an_exchange_of_halos_brings_every_cell_what_its_neighbours_own(data: st.DataObject, corners: bool) -> None:
    shape = (data.draw(st.integers(2, 10)), data.draw(st.integers(2, 10)))
    parts = [data.draw(st.integers(1, min(3, n))) for n in shape]
    halo = tuple((data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in shape)
    tiles = np.random.default_rng(1).permutation(TILES)[: parts[0] * parts[1]]
    b = Builder("gc200")
    x, y = (b.variable(name, "float32", shape, grid(*parts, tiles=tiles)) for name in "xy")
    wide = b.variable("wide", "float32", shape, grid(*parts, tiles=tiles, halo=halo))
    b.write(x)
    with b.repeat(2):
        b.compute("widen", Widen(halo), [x], [wide])
        b.halo_exchange(wide, corners=corners)
        b.compute("reach", Reach(halo, corners), [wide], [y])
    values = filled(shape, "float32")
    expected = reach(np.pad(values, halo)[None], halo, corners)[0]
    assert (copied(b, x, y, values) == expected).all()


def test_reshaped_transposed_and_broadcast_sources() -> None:
    b = Builder("gc200")
    x = b.variable("x", "float32", (6, 8), grid(3, 2))
    y = b.variable("y", "float32", (4, 8, 6), grid(2, 4))
    b.write(x)
    b.copy(x.transpose().reshape(1, 8, 6).broadcast_to(4, 8, 6), y)
    values = filled((6, 8), "float32")
    assert (copied(b, x, y, values) == np.broadcast_to(values.T, (4, 8, 6))).all()


def test_lists_of_indices_and_single_ones() -> None:
    b = Builder("gc200")
    x = b.variable("x", "int32", (9, 5), linear(9))
    y = b.variable("y", "int32", (4, 3), on_tile(3))
    b.write(x)
    b.fill(y, 0)
    b.copy(x[[7, 0, 3], 2], y[-1])
    b.copy(x[1, ::2], y[0, ...])
    values = filled((9, 5), "int32")
    expected = np.zeros((4, 3), np.int32)
    expected[-1], expected[0] = values[[7, 0, 3], 2], values[1, ::2]
    assert (copied(b, x, y, values) == expected).all()


def test_one_sender_serves_all_tiles_at_once() -> None:
    """Multicast: what 1,472 tiles receive is sent once."""
    b = Builder("gc200")
    x = b.variable("x", "float32", (1024,), on_tile(0))
    y = b.variable("y", "float32", (1024,), replicated())
    b.write(x)
    b.copy(x, y)
    b.read(y)
    exe = b.compile()
    assert exe.cycles.exchange < 2 * 4096 / 4
    values = filled((1024,), "float32")
    assert (exe.run({"x": values}).outputs["y"] == values).all()


def test_an_order_that_is_given_is_kept() -> None:
    b = Builder("gc200")
    x = b.variable("x", "float32", (64, 64), grid(8, 1))
    y = b.variable("y", "float32", (64, 64), grid(1, 8))
    b.write(x)
    order = Order("long", 1, 1)
    b.copy(x, y, order=order)
    b.read(y)
    (step,) = (s for s in b.compile().program.steps if isinstance(s, Exchange))
    assert step.order == order


def test_the_order_of_the_copies_may_be_that_of_the_transfers() -> None:
    """Four tiles send a block to each of four others: all to the first of them first, or each to another one. The same
    payload takes as long as its order makes it take."""

    def cycles(order: Order | None, turn: int) -> int:
        b = Builder("gc200")
        x = b.variable("x", "float32", (4, 4, 256), linear(4))
        y = b.variable("y", "float32", (4, 4, 256), linear(4, tiles=[8, 10, 12, 14]))
        b.write(x)
        b.fill(y, 0.0)
        b.exchange(
            [(x[s, (i + turn * s) % 4], y[(i + turn * s) % 4, s]) for i in range(4) for s in range(4)], order=order
        )
        b.read(y)
        exe = b.compile()
        values = filled((4, 4, 256), "float32")
        assert (exe.run({"x": values}, checked=True).outputs["y"] == values.transpose(1, 0, 2)).all()
        return exe.cycles.exchange

    listed = Order("given", 1, 1)
    assert cycles(listed, 0) == 256 * 7  # a queue at every receiver, one behind the other
    assert cycles(listed, 1) < 256 * 4 * 1.2
    assert cycles(None, 0) == cycles(listed, 1)  # what the search finds too


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_parts_of_words_are_refused(dtype: str) -> None:
    b = Builder("gc200")
    x = b.variable("x", dtype, (16,), linear(1))
    y = b.variable("y", dtype, (16,), on_tile(1))
    with pytest.raises(CompileError, match="IPU1003"):
        b.copy(x[1:4], y[0:3])


def test_two_parts_of_one_variable_may_be_exchanged_if_they_differ() -> None:
    b = Builder("gc200")
    x = b.variable("x", "float32", (4, 8), grid(4, 1))
    b.write(x)
    b.copy(x[0], x[3])
    values = filled((4, 8), "float32")
    expected = values.copy()
    expected[3] = values[0]
    assert (copied(b, x, x, values) == expected).all()


def test_a_copy_onto_what_it_reads_is_refused() -> None:
    b = Builder("gc200")
    x = b.variable("x", "float32", (4, 8), grid(4, 1))
    b.write(x)
    b.copy(x[0:3], x[1:4])
    with pytest.raises(CompileError, match=r"written where buffer %0 'x' is read"):
        b.compile()
