"""Checked mode: silent on programs that are right, and exact about those that are not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ipucc.diagnostics import CompileError
from ipucc.program.model import Exchange, Program, Repeat, Step
from ipucc.program.timing import program_times
from ipucc.program.verify import verify_program
from ipucc.runtime.checked import TagChecker, checked_engine
from ipucc.runtime.engine import Engine
from ipucc.tiles.intersect import Track

Programs = Callable[[str], Program]
Feeds = Callable[[Program, int], dict[str, np.ndarray]]


@pytest.mark.parametrize("name", ["mlp", "half", "conv", "layers", "call"])
def test_right_programs_give_the_same_numbers(name: str, compiled: Programs, feeds: Feeds) -> None:
    program = compiled(name)
    plain, checked = Engine(program), checked_engine(program)
    for seed in (0, 1, 2):
        x = feeds(program, seed)
        assert np.array_equal(plain.run(x)["y"], checked.run(x)["y"])
    assert plain.times == checked.times


def test_tags_are_renumbered_when_they_run_out(compiled: Programs, feeds: Feeds) -> None:
    program = compiled("layers")
    engine = Engine(program, observer=TagChecker(program, last_tag=80))
    for seed in range(6):
        x = feeds(program, seed)
        assert np.array_equal(Engine(program).run(x)["y"], engine.run(x)["y"])
    assert len(program_times(program)) < 80


def test_fresh_memory_between_runs(compiled: Programs, feeds: Feeds) -> None:
    program = compiled("mlp")
    engine = checked_engine(program)
    for seed in (0, 1):
        engine.run(feeds(program, seed))
        engine.memory = None


def dropped(steps: list[Step] | tuple[Step, ...], nth: int) -> list[Step]:
    """The steps with the first sequence of the nth exchange that moves anything taken out, loops included."""
    left = [nth]

    def visit(step: Step) -> Step:
        if isinstance(step, Repeat):
            return replace(step, body=tuple(visit(s) for s in step.body))
        if not isinstance(step, Exchange) or not step.moves:
            return step
        left[0] -= 1
        if left[0] != -1:
            return step
        move = step.moves[0]
        short = Track(*(getattr(move.tracks[-1], f)[1:] for f in Track.FIELDS))
        return replace(step, moves=(replace(move, tracks=(*move.tracks[:-1], short)), *step.moves[1:]))

    return [visit(s) for s in steps]


@pytest.mark.parametrize(
    ("name", "nth"), [("mlp", 0), ("half", 0), ("conv", 0), ("conv", 1), ("layers", 1), ("call", 0)]
)
def test_a_missing_transfer_is_named(name: str, nth: int, program: Programs, feeds: Feeds) -> None:
    broken = program(name)
    broken.steps = dropped(broken.steps, nth)
    engine = checked_engine(broken)
    with pytest.raises(CompileError) as raised:
        engine.run(feeds(broken, 0))
    (found,) = raised.value.diagnostics
    assert found.id == "IPU0611"
    assert "tile" in found.data
    tile, buffer = found.data["tile"], found.data["buffer"]
    assert isinstance(tile, int)
    assert isinstance(buffer, int)
    assert tile in broken.buffers[buffer].layout.used_tiles


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_data_of_the_last_run_does_not_hide_a_missing_transfer(name: str, program: Programs, feeds: Feeds) -> None:
    """A right run first, then the broken program on the same memory, in which nobody else uses the destination."""
    p = program(name)
    dst = p.buffers[next(s for s in p.steps if isinstance(s, Exchange) and s.moves).moves[0].dst]
    dst.offset = (p.target.tile_bytes - dst.nbytes) // 16 * 16
    engine = checked_engine(p)
    engine.run(feeds(p, 0))
    p.steps[:] = dropped(p.steps, 0)
    with pytest.raises(CompileError, match=r"an earlier version of it .* in run 1"):
        engine.run(feeds(p, 0))


def test_data_of_the_last_iteration_does_not_hide_a_missing_transfer(program: Programs, feeds: Feeds) -> None:
    """Only the first iteration is whole: the second one finds what the first has left."""
    p = program("layers")
    at, loop = next((i, s) for i, s in enumerate(p.steps) if isinstance(s, Repeat))
    short = replace(loop, count=loop.count - 1, body=tuple(dropped(loop.body, 0)), names=())
    whole = replace(loop, count=1)
    p.steps[at : at + 1] = [whole, short]
    with pytest.raises(CompileError, match="it holds"):
        checked_engine(p).run(feeds(p, 0))


def test_what_a_loop_hands_on_must_be_whole(program: Programs, feeds: Feeds) -> None:
    """The buffer is written before the loop and at the end of its body: both must fill it."""
    p = program("layers")
    at, loop = next((i, s) for i, s in enumerate(p.steps) if isinstance(s, Repeat))
    last = sum(isinstance(s, Exchange) for s in loop.body) - 1
    p.steps[at] = replace(loop, body=tuple(dropped(loop.body, last)), names=())
    with pytest.raises(CompileError, match="an earlier version of it"):
        checked_engine(p).run(feeds(p, 0))
    with pytest.raises(CompileError, match="before anything is written"):
        verify_program(p)


def test_a_buffer_that_is_used_too_early_is_named(program: Programs, feeds: Feeds) -> None:
    """Two live buffers at one address: the second one's data is found where the first one's should be."""
    p = program("conv")
    pool = next(s for s in p.steps if isinstance(s, Exchange) and s.moves)
    weight = next(i for i, b in enumerate(p.buffers) if b.name == "v")
    p.buffers[pool.moves[0].dst].offset = p.buffers[weight].offset
    with pytest.raises(CompileError, match="it holds buffer") as raised:
        checked_engine(p).run(feeds(p, 0))
    assert repr(p.buffers[weight].name) in str(raised.value)


def test_a_step_that_never_ran_is_noticed(program: Programs, feeds: Feeds) -> None:
    p = program("call")
    function = p.functions["last"]
    p.functions["last"] = ()
    with pytest.raises(CompileError, match="something else"):
        checked_engine(p).run(feeds(p, 0))
    p.functions["last"] = function
    checked_engine(p).run(feeds(p, 0))


def test_a_word_that_arrives_twice_is_noticed(program: Programs, feeds: Feeds) -> None:
    p = program("mlp")
    at, step = next((i, s) for i, s in enumerate(p.steps) if isinstance(s, Exchange) and s.moves)
    p.steps[at] = replace(step, moves=(step.moves[0], step.moves[0]))
    with pytest.raises(CompileError, match="twice"):
        checked_engine(p).run(feeds(p, 0))
