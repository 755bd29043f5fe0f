"""Programs and placements as text: short, stable, and different where programs are."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ipucc.compiler import CompileOptions, compile_model
from ipucc.ops.printing import print_placement
from ipucc.program.model import Exchange, Program
from ipucc.program.printing import print_program
from ipucc.program.timing import program_times
from ipucc.tiles.layout import Layout
from ipucc.tiles.printing import layout_text, tile_ranges

Programs = Callable[[str], Program]


@pytest.mark.parametrize(
    ("tiles", "text"),
    [
        ([], "tiles[]"),
        ([3], "tiles[3:4]"),
        ([2, 0, 1, 1], "tiles[0:3]"),
        ([0, 1, 4, 5, 9], "tiles[0:2 4:6 9:10]"),
    ],
)
def test_tiles_are_ranges(tiles: list[int], text: str) -> None:
    assert tile_ranges(np.array(tiles, np.int32)) == text


def test_many_ranges_are_cut_short_and_still_differ() -> None:
    even, odd = tile_ranges(np.arange(0, 40, 2)), tile_ranges(np.append(np.arange(0, 36, 2), [37, 38]))
    assert even.startswith("tiles[0:1 2:3 4:5 .. 38:39 20 tiles in 20 ranges #")
    assert even != odd
    assert len(even) < 80


def test_a_layout_says_what_is_out_of_the_ordinary() -> None:
    layout = Layout.on_one_tile((4, 6), 4, 0, tile=7)
    assert layout_text(layout).startswith("[4 6] grain 0 tiles[7:8] #")
    copies = Layout((4, 6), layout.cuts, np.array([[[1, 2]]], np.int32), 4, 1)
    assert layout_text(copies).startswith("[4 6] x2 tiles[1:3] #")
    assert layout_text(layout) != layout_text(replace(layout, tiles=layout.tiles + 1))


@pytest.mark.parametrize("name", ["mlp", "conv", "layers", "call"])
def test_the_text_has_every_buffer_and_step(name: str, compiled: Programs) -> None:
    program = compiled(name)
    text = print_program(program)
    assert text == print_program(program)
    lines = text.splitlines()
    for i, b in enumerate(program.buffers):
        assert sum(line.startswith(f"  %{i} {b.name}: {b.dtype} [") for line in lines) == 1
    assert sum("host write" in line for line in lines) == sum(n.startswith("HostWrite") for n in kinds(program))
    assert bool(re.search(r"repeat \d times", text)) == (name == "layers")
    assert ("function last" in text) == (name == "call")
    assert max(map(len, lines)) < 300


def kinds(program: Program) -> list[str]:
    return [type(s).__name__ for s in program.steps]


def test_the_text_has_the_cycles_of_a_run(compiled: Programs) -> None:
    program = compiled("mlp")
    text = print_program(program)
    for t in program_times(program):
        cycles = {"compute": t.compute, "exchange": t.exchange}.get(t.kind, t.host)
        assert f" {cycles} " in text.replace(",", "")


def test_two_programs_with_other_transfers_differ(program: Programs) -> None:
    p = program("mlp")
    before = print_program(p)
    at, step = next((i, s) for i, s in enumerate(p.steps) if isinstance(s, Exchange) and s.moves)
    move = step.moves[0]
    track = move.tracks[-1]
    other = replace(track, src_cell=np.roll(track.src_cell, 1))
    p.steps[at] = replace(step, moves=(replace(move, tracks=(*move.tracks[:-1], other)),))
    assert print_program(p) != before


def test_a_placement_shows_axes_plans_and_memory(
    model_of: Callable[..., object], machine_file: Callable[..., Path]
) -> None:
    text = "g (float[13, 24] x) => (float[13, 10] y) { h = MatMul(x, w) y = Relu(h) }"
    options = CompileOptions(target=str(machine_file(tiles=16)), solver="greedy")
    done = compile_model(model_of(text, {"w": (24, 10)}), options)  # type: ignore[arg-type]
    shown = print_placement(done.graph, done.placement)
    assert shown == print_placement(done.graph, done.placement)
    first, *rest = shown.splitlines()
    assert first.startswith("placement by greedy: feasible, ")
    assert any("over m=13 n=10" in line and "k+=24" in line for line in rest)
    assert any("B resident" in line and "cycles" in line for line in rest)
    assert rest[-1].startswith("output y: float32 of ")
