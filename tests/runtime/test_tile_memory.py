"""Tile memory and its cells: what is stored is what is loaded, and nothing else is touched."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.diagnostics import CompileError
from ipucc.dtypes import STORAGE, compute_type, storage_type
from ipucc.program.model import Binding, Buffer
from ipucc.runtime.cells import extents, load, store
from ipucc.runtime.memory import TileMemory
from ipucc.target import Target, load_target
from ipucc.tiles.cuts import cut_axis
from ipucc.tiles.layout import Layout


@pytest.fixture(scope="module")
def target() -> Target:
    return load_target("gc2")


def whole(layout: Layout) -> Binding:
    return Binding(0, np.arange(int(np.prod(layout.grid)), dtype=np.int32), 0.0)


def spread(shape: tuple[int, ...], parts: tuple[int, ...], itemsize: int, grain_dim: int) -> Layout:
    grain = max(1, 16 // itemsize)
    cuts = tuple(
        cut_axis(n, p, grain if d == grain_dim else 1) for d, (n, p) in enumerate(zip(shape, parts, strict=True))
    )
    grid = tuple(c[0].size for c in cuts)
    return Layout(shape, cuts, np.arange(np.prod(grid), dtype=np.int32).reshape(*grid, 1), itemsize, grain_dim)


def test_memory_is_zero_and_lazy(target: Target) -> None:
    memory = TileMemory(target)
    assert memory.bytes.size >= target.memory_bytes
    assert not memory.bytes[:: 1 << 20].any()


def test_a_machine_that_is_too_large_to_simulate(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    with pytest.raises(CompileError, match="Cannot allocate memory"):
        TileMemory(target)


@pytest.mark.parametrize("offset", [-16, -1, 256 * 1024 - 15, 1 << 40])
def test_addresses_outside_of_a_tile_are_refused(offset: int, target: Target) -> None:
    memory = TileMemory(target)
    buffer = Buffer("b", "float32", Layout.on_one_tile((4,), 4, 0))
    with pytest.raises(CompileError, match="IPU0507"):
        memory.base(buffer, np.array([0]), offset)


@pytest.mark.parametrize("tile", [-1, 1216])
def test_tiles_outside_of_the_machine_are_refused(tile: int, target: Target) -> None:
    memory = TileMemory(target)
    buffer = Buffer("b", "float32", Layout.on_one_tile((4,), 4, 0))
    with pytest.raises(CompileError, match="IPU0507"):
        memory.base(buffer, np.array([tile]), 0)


def test_rows_do_not_touch(target: Target) -> None:
    memory = TileMemory(target)
    buffer = Buffer("b", "float32", Layout.on_one_tile((4,), 4, 0))
    last = memory.base(buffer, np.array([0, 1]), target.tile_bytes - 16)
    assert last[0] + 16 <= memory.base(buffer, np.array([1]), 0)[0]


SHAPES = st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from(sorted(STORAGE)), st.data())
def test_cells_come_back(shape: tuple[int, ...], dtype: str, data: st.DataObject) -> None:
    kind = storage_type(dtype)
    parts = tuple(data.draw(st.integers(1, n)) for n in shape)
    grain_dim = data.draw(st.integers(0, max(0, len(shape) - 1)))
    layout = spread(shape, parts, kind.itemsize, grain_dim).in_order(data.draw(st.booleans()))
    memory = TileMemory(load_target("gc2"))
    buffer, binding = Buffer("b", dtype, layout, 64), whole(layout)
    tiles = layout.tiles.reshape(-1)
    # An exponent alone has no zero.
    least = 1 if dtype == "float8_e8m0fnu" else 0
    values = np.random.default_rng(0).integers(least, least + 2, (tiles.size, *layout.cell)).astype(compute_type(dtype))
    store(memory, buffer, tiles, binding, slice(None), 64, values)
    loaded = load(memory, buffer, tiles, Binding(0, binding.cells, 1.0), slice(None), 64)
    assert loaded.dtype == compute_type(dtype)
    inside = np.ones(loaded.shape, bool)
    for d, (first, stop) in enumerate(extents(layout, binding.cells)):
        at = np.arange(layout.cell[d])[None, :]
        inside &= ((at >= first[:, None]) & (at < stop[:, None])).reshape(
            [tiles.size, *(-1 if i == d else 1 for i in range(len(shape)))]
        )
    assert np.array_equal(loaded, np.where(inside, values, 1))


@pytest.mark.parametrize(("by_rows", "storage"), [(False, (3, 3, 4)), (True, (3, 12))])
def test_an_element_lies_where_the_layout_says(target: Target, by_rows: bool, storage: tuple[int, ...]) -> None:
    """By grains: grains outermost, then the other dimension, then the grain. By rows: rows of whole grains."""
    layout = Layout.on_one_tile((3, 10), 4, 1, tile=5).in_order(by_rows)
    memory = TileMemory(target)
    buffer = Buffer("b", "float32", layout, 32)
    values = np.arange(30, dtype=np.float32).reshape(1, 3, 10)
    store(memory, buffer, np.array([5]), whole(layout), slice(None), 32, values)
    row = memory.bytes[5 * memory.pitch + 32 :]
    for i in range(3):
        for j in range(10):
            at = int(layout.positions(0, np.array([i]))[0] + layout.positions(1, np.array([j]))[0])
            assert row[at : at + 4].view(np.float32)[0] == values[0, i, j]
    assert layout.storage == storage


def test_results_are_rounded_once_when_they_are_stored(target: Target) -> None:
    layout = Layout.on_one_tile((3,), 2, 0)
    values = np.array([[1 + 2**-12, 70000.0, 2**-26]], np.float32)
    for dtype, kind in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        memory = TileMemory(target)
        buffer = Buffer("b", dtype, layout, 0)
        store(memory, buffer, np.array([0]), whole(layout), slice(None), 0, values)
        with np.errstate(over="ignore"):
            expected = values.astype(kind).astype(np.float32)
        assert np.array_equal(load(memory, buffer, np.array([0]), whole(layout), slice(None), 0), expected)


def test_cells_in_slots_lie_behind_each_other(target: Target) -> None:
    cuts = (cut_axis(8, 2, 4),)
    layout = Layout((8,), cuts, np.zeros((2, 1), np.int32), 4, 0, np.array([0, 1], np.int32))
    memory = TileMemory(target)
    buffer = Buffer("b", "float32", layout, 0)
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    store(memory, buffer, np.array([0, 0]), whole(layout), slice(None), 0, values)
    assert layout.nbytes == 32
    assert np.array_equal(memory.bytes[:32].view(np.float32), np.arange(8))


def test_a_halo_is_filled_and_never_stored(target: Target) -> None:
    cuts = ((np.array([-2], np.int32), np.array([6], np.int32)),)
    layout = Layout((4,), cuts, np.zeros((1, 1), np.int32), 4, 0)
    memory = TileMemory(target)
    buffer = Buffer("b", "float32", layout, 0)
    memory.bytes[:32] = 0xFF
    cell = np.arange(8, dtype=np.float32).reshape(1, 8)
    store(memory, buffer, np.array([0]), whole(layout), slice(None), 0, cell)
    loaded = load(memory, buffer, np.array([0]), Binding(0, np.zeros(1, np.int32), -1.0), slice(None), 0)
    assert loaded.tolist() == [[-1, -1, 2, 3, 4, 5, -1, -1]]
