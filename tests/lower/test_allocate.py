"""Addresses of random programs: nothing that is live together shares bytes of a tile."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.passes.program.allocate import allocate
from ipucc.program.liveness import liveness
from ipucc.program.model import Buffer, Exchange, HostRead, HostWrite, Move, Program, Repeat, Step
from ipucc.target import load_target
from ipucc.tiles.cuts import cut_axis
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

TARGET = replace(load_target("gc200"), tiles=6)
START = 1_024


def layout(draw: st.DrawFn) -> Layout:
    tiles = draw(st.lists(st.integers(0, TARGET.tiles - 1), min_size=1, max_size=4, unique=True))
    cut = cut_axis(len(tiles) * 4 * draw(st.integers(1, 12)), len(tiles), 4)
    return Layout((int(cut[1][-1]),), (cut,), np.asarray(tiles, np.int32)[:, None], 4, 0)


def copy(src: int, dst: int, program: Program) -> Exchange:
    """A step that reads one buffer and writes another; what moves is of no matter to addresses."""
    return Exchange(f"{src}to{dst}", (Move(src, dst, (), View.identity(program.buffers[src].layout.shape)),))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Inputs, weights, then steps that read what was written before, a loop among them at times, and an output."""
    program = Program(TARGET, [], [], [], [], {})

    def buffer() -> int:
        program.buffers.append(Buffer(f"b{len(program.buffers)}", "float32", layout(draw)))
        return len(program.buffers) - 1

    def host(name: str) -> int:
        b = buffer()
        view = View.identity(program.buffers[b].layout.shape)
        program.steps.append(HostWrite(name, b, view))
        return b

    written = [host("x")]
    for i in range(draw(st.integers(0, 2))):
        program.weights[f"w{i}"] = None
        written.append(host(f"w{i}"))
    for _ in range(draw(st.integers(1, 14))):
        body: list[Step] = []
        for _ in range(draw(st.integers(1, 3))):
            src = draw(st.sampled_from(written))
            dst = buffer() if draw(st.integers(0, 4)) else draw(st.sampled_from(written[1:] or written))
            if dst not in written:
                written.append(dst)
            body.append(copy(src, dst, program))
        if draw(st.integers(0, 2)):
            program.steps.extend(body)
        else:
            program.steps.append(Repeat(3, tuple(body), {}))
    if draw(st.booleans()):
        root = draw(st.sampled_from(written))
        alias = program.buffers[root]
        program.buffers.append(Buffer("alias", "float32", alias.layout, alias=root))
        program.steps.append(copy(len(program.buffers) - 1, buffer(), program))
    last = draw(st.sampled_from(written))
    program.steps.append(HostRead("y", last, View.identity(program.buffers[last].layout.shape)))
    return program


@settings(max_examples=100, deadline=None, derandomize=True)
@given(program=programs())
def test_nothing_live_is_overwritten(program: Program) -> None:
    allocation = allocate(program, START)
    live = liveness(program)
    ends = []
    for b, buffer in enumerate(program.buffers):
        if buffer.alias >= 0:
            assert allocation.offsets[b] == allocation.offsets[buffer.alias] + buffer.alias_offset
            continue
        if live[b, 0] < 0:
            continue
        at, end = allocation.offsets[b], allocation.offsets[b] + buffer.nbytes
        assert at >= START
        assert at % 16 == 0
        ends.append(end)
        for c in range(b):
            other = program.buffers[c]
            if other.alias >= 0 or live[c, 0] < 0:
                continue
            together = live[b, 0] <= live[c, 1] and live[c, 0] <= live[b, 1]
            shared = np.intersect1d(buffer.layout.used_tiles, other.layout.used_tiles).size
            if together and shared:
                start = allocation.offsets[c]
                assert end <= start or start + other.nbytes <= at, (buffer.name, other.name)
    assert max(ends) <= allocation.peak <= max(ends) + 15
    # First fit leaves no more than the sum of all, and never beats what is live at once.
    fullest = 0
    for moment in range(int(live.max()) + 1):
        held = np.zeros(TARGET.tiles, np.int64)
        for b, buffer in enumerate(program.buffers):
            if buffer.alias < 0 and live[b, 0] <= moment <= live[b, 1] and live[b, 0] >= 0:
                held[buffer.layout.used_tiles] += buffer.nbytes
        fullest = max(fullest, int(held.max()))
    assert START + fullest <= allocation.peak


@settings(max_examples=60, deadline=None, derandomize=True)
@given(program=programs())
def test_weights_and_what_is_read_later_stay(program: Program) -> None:
    live = liveness(program)
    text: list[Step] = []
    for step in program.steps:
        # A loop is a moment of its own, before its body.
        text += [step, *step.body] if isinstance(step, Repeat) else [step]
    last = len(text) - 1

    def root(b: int) -> int:
        return program.buffers[b].alias if program.buffers[b].alias >= 0 else b

    for moment, step in enumerate(text):
        if isinstance(step, HostWrite):
            assert live[step.buffer, 0] == 0
            if step.tensor in program.weights:
                assert live[step.buffer, 1] >= last
        elif isinstance(step, Exchange):
            for b in (root(m) for move in step.moves for m in (move.src, move.dst)):
                assert live[b, 0] <= moment <= live[b, 1]
        elif isinstance(step, HostRead):
            assert live[root(step.buffer), 1] >= moment


def test_short_lived_buffers_take_turns() -> None:
    program = Program(TARGET, [], [], [], [], {})
    cut = cut_axis(64, 1)
    one = Layout((64,), (cut,), np.zeros((1, 1), np.int32), 4, 0)
    program.buffers = [Buffer(f"b{i}", "float32", one) for i in range(9)]
    program.steps = [HostWrite("x", 0, View.identity((64,)))]
    program.steps += [copy(i, i + 1, program) for i in range(8)]
    program.steps.append(HostRead("y", 8, View.identity((64,))))
    # Two buffers of 256 bytes are live at a time.
    assert allocate(program, START).peak == START + 512


def crowd(seed: int, count: int) -> Program:
    """Buffers of random sizes on one tile, each written at a random step and read for the last time at a later one."""
    rng = np.random.default_rng(seed)
    program = Program(TARGET, [], [], [], [], {})
    for i, size in enumerate([16, 16, *(64 * rng.integers(1, 17, count)).tolist()]):
        one = Layout((size // 4,), (cut_axis(size // 4, 1),), np.zeros((1, 1), np.int32), 4, 0)
        program.buffers.append(Buffer(f"b{i}", "float32", one))
    program.steps.append(HostWrite("x", 0, View.identity((4,))))
    begun: set[int] = set()
    for b in rng.permutation(np.repeat(np.arange(2, count + 2), 2)).tolist():
        program.steps.append(copy(b, 1, program) if b in begun else copy(0, b, program))
        begun.add(b)
    program.steps.append(HostRead("y", 1, View.identity((4,))))
    return program


@pytest.mark.parametrize("seed", [2, 3, 9])
def test_a_tile_that_is_just_large_enough_is_filled(seed: int) -> None:
    program = crowd(seed, 40)
    live = liveness(program)
    sizes = np.asarray([b.nbytes for b in program.buffers])
    moments = range(int(live.max()) + 1)
    least = START + max(int(sizes[(live[:, 0] <= now) & (now <= live[:, 1])].sum()) for now in moments)
    # With room to spare the first orders are enough, and waste some.
    assert allocate(program, START).peak > least
    program.target = replace(TARGET, tile_bytes=least)
    assert allocate(program, START).peak == least
    # Nothing helps where more is alive than fits.
    program.target = replace(TARGET, tile_bytes=least - 16)
    assert allocate(program, START).peak > least
