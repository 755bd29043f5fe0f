"""Exchanges on tile memory: random pairs of layouts, checked by numbers and by fingerprint, and faults made by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.diagnostics import CompileError
from ipucc.dtypes import storage_type
from ipucc.program.model import Buffer, Exchange, Fill, HostRead, HostWrite, Move, Program
from ipucc.program.verify import verify_program
from ipucc.runtime.checked import checked_engine
from ipucc.runtime.engine import Engine
from ipucc.runtime.fingerprint import check_exchange, check_exchanges
from ipucc.target import load_target
from ipucc.tiles.cuts import cut_axis
from ipucc.tiles.intersect import Track, intersect
from ipucc.tiles.layout import Layout
from ipucc.tiles.tracks import extent, flatten, word_bytes
from ipucc.tiles.view import View

START = 1 << 16


def layout_of(shape: tuple[int, ...], parts: tuple[int, ...], dtype: str, replicas: int, seed: int) -> Layout:
    """A tensor cut into cells on random tiles."""
    size = storage_type(dtype).itemsize
    last = len(shape) - 1
    cuts = tuple(
        cut_axis(n, p, max(1, 16 // size) if d == last else 1)
        for d, (n, p) in enumerate(zip(shape, parts, strict=True))
    )
    grid = tuple(c[0].size for c in cuts)
    tiles = np.random.default_rng(seed).permutation(400)[: int(np.prod(grid)) * replicas].astype(np.int32)
    return Layout(shape, cuts, tiles.reshape(*grid, replicas), size, last)


def program_of(src: Layout, dst: Layout, view: View, dtype: str, gap: float | None = None) -> Program:
    """The host writes a tensor, one exchange brings it from one layout to the other, the host reads it."""
    buffers = [Buffer("a", dtype, src, START), Buffer("b", dtype, dst, START + -(-src.nbytes // 16) * 16)]
    fills = () if gap is None else (Fill(1, gap),)
    steps = [
        HostWrite("x", 0, View.identity(src.shape)),
        Exchange("e", (Move(0, 1, intersect(src, dst, view), view),), fills),
        HostRead("y", 1, View.identity(dst.shape)),
    ]
    ports = [("x", dtype, src.shape)], [("y", dtype, dst.shape)]
    return Program(load_target("gc2"), buffers, list(steps), *ports, {})


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_layout_reaches_any_other(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    dtype = data.draw(st.sampled_from(["float32", "int32", "float16", "int8", "bool"]))

    def layout() -> Layout:
        parts = tuple(data.draw(st.integers(1, min(4, n))) for n in shape)
        made = layout_of(shape, parts, dtype, data.draw(st.integers(1, 2)), data.draw(st.integers(0, 9)))
        return made.in_order(data.draw(st.booleans()))

    src, dst = layout(), layout()
    src = replace(src, tiles=src.tiles[..., :1])
    program = program_of(src, dst, View.identity(shape), dtype)
    verify_program(program)
    check_exchanges(program)
    x = np.random.default_rng(0).integers(0, 2, shape).astype(storage_type(dtype))
    for engine in (Engine(program), checked_engine(program)):
        assert np.array_equal(engine.run({"x": x})["y"], x)


def test_gaps_are_filled_before_the_moves() -> None:
    view = View.take((4, 8), 0, [-1, 0, 1, 2, 3, -1])
    program = program_of(
        layout_of((4, 8), (2, 2), "float32", 1, 0), layout_of((6, 8), (3, 1), "float32", 2, 1), view, "float32", -7.5
    )
    verify_program(program)
    check_exchanges(program)
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    expected = np.pad(x, ((1, 1), (0, 0)), constant_values=-7.5)
    for engine in (Engine(program), checked_engine(program)):
        assert np.array_equal(engine.run({"x": x})["y"], expected)
    step = program.steps[1]
    assert isinstance(step, Exchange)
    program.steps[1] = replace(step, fills=())
    with pytest.raises(CompileError, match="is not written"):
        verify_program(program)


def test_the_fingerprint_names_the_element_and_what_is_there() -> None:
    src, dst = layout_of((8, 8), (4, 1), "float32", 1, 0), layout_of((8, 8), (1, 2), "float32", 1, 1)
    program = program_of(src, dst, View.identity((8, 8)), "float32")
    step = program.steps[1]
    assert isinstance(step, Exchange)
    move = step.moves[0]
    at = next(i for i, t in enumerate(move.tracks) if np.unique(t.src_cell).size > 1)
    t = move.tracks[at]
    other = replace(t, src_cell=np.roll(t.src_cell, 1))
    wrong = replace(step, moves=(replace(move, tracks=(*move.tracks[:at], other, *move.tracks[at + 1 :])),))
    check_exchange(program, step)
    with pytest.raises(CompileError, match="IPU0902") as raised:
        check_exchange(program, wrong)
    (found,) = raised.value.diagnostics
    assert "element (" in found.message
    assert "%0 'a'" in found.notes[0]


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_narrow_elements_are_told_apart(dtype: str) -> None:
    """A byte has 256 values: one wrong element of 64 must be seen all the same."""
    src, dst = layout_of((4, 16), (4, 1), dtype, 1, 0), layout_of((4, 16), (2, 1), dtype, 1, 1)
    program = program_of(src, dst, View.identity((4, 16)), dtype)
    for a in range(16):
        view = View.take((4, 16), 1, [(a + 1) % 16 if j == a else j for j in range(16)])
        step = program.steps[1]
        assert isinstance(step, Exchange)
        with pytest.raises(CompileError, match="IPU0902"):
            check_exchange(program, replace(step, moves=(replace(step.moves[0], view=view),)))


def test_checked_mode_reads_only_what_a_cell_has() -> None:
    """The last grain of an uneven cell is half empty; that its rest was never written is no fault."""
    src, dst = layout_of((5, 9), (5, 3), "float32", 1, 0), layout_of((5, 9), (2, 2), "float32", 1, 1)
    program = program_of(src, dst, View.identity((5, 9)), "float32")
    x = np.ones((5, 9), np.float32)
    assert np.array_equal(checked_engine(program).run({"x": x})["y"], x)


def test_bounds_of_tracks_are_those_of_their_steps() -> None:
    src, dst = layout_of((6, 20), (3, 2), "float16", 1, 0), layout_of((20, 6), (2, 1), "float16", 1, 1)
    tracks = intersect(src, dst, View.transpose((6, 20), (1, 0)))
    sc, dc, sa, da = flatten(tracks)
    t: Track = tracks[-1]
    nth = np.arange(int(t.count.max()))[None, :]
    inside = nth < t.count[:, None]
    s = (t.src_at[:, None] + nth * t.src_step[:, None])[inside]
    d = (t.dst_at[:, None] + nth * t.dst_step[:, None])[inside]
    run = np.broadcast_to(t.run[:, None], inside.shape)[inside]
    x = extent(tracks)
    assert x.src_cells == (sc.min() + t.src_cell.min(), sc.max() + t.src_cell.max())
    assert x.dst_cells == (dc.min() + t.dst_cell.min(), dc.max() + t.dst_cell.max())
    assert x.src_bytes == (sa.min() + s.min(), sa.max() + (s + run).max())
    assert x.dst_bytes == (da.min() + d.min(), da.max() + (d + run).max())
    assert x.bytes == run.sum() * sc.size
    assert word_bytes(tracks) == 2
