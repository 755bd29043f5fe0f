"""The verifier: every rule is broken once, and every program that is compiled holds them all."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ipucc.codelets.matmul import MatMul
from ipucc.diagnostics import CompileError
from ipucc.program.model import (
    Binding,
    Buffer,
    Call,
    Compute,
    Exchange,
    HostRead,
    HostWrite,
    If,
    Move,
    Program,
    Repeat,
    Step,
    While,
)
from ipucc.program.verify import RULES, verify_program
from ipucc.tiles.intersect import Track
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

Programs = Callable[[str], Program]
Break = Callable[[Program], None]


@pytest.mark.parametrize("name", ["mlp", "half", "conv", "layers", "call"])
def test_compiled_programs_hold_all_rules(name: str, compiled: Programs) -> None:
    verify_program(compiled(name))


def exchange(p: Program, nth: int = 0) -> tuple[int, Exchange]:
    return [(i, s) for i, s in enumerate(p.steps) if isinstance(s, Exchange) and s.moves][nth]


def compute(p: Program, nth: int = 0) -> tuple[int, Compute]:
    return [(i, s) for i, s in enumerate(p.steps) if isinstance(s, Compute)][nth]


def with_track(p: Program, change: Callable[[Track], Track], nth: int = 0) -> None:
    """Change the carrying track of the first move of an exchange."""
    at, step = exchange(p, nth)
    move = step.moves[0]
    moves = (replace(move, tracks=(*move.tracks[:-1], change(move.tracks[-1]))), *step.moves[1:])
    p.steps[at] = replace(step, moves=moves)


def with_operand(p: Program, change: Callable[[Binding], Binding]) -> None:
    at, step = compute(p, 1)
    p.steps[at] = replace(step, operands=(change(step.operands[0]), *step.operands[1:]))


def with_layout(p: Program, buffer: int, **fields: object) -> None:
    p.buffers[buffer].layout = replace(p.buffers[buffer].layout, **fields)  # type: ignore[arg-type]


def moved_destination(p: Program) -> int:
    return exchange(p)[1].moves[0].dst


def unknown_function(p: Program) -> None:
    p.steps.append(Call("nobody", (), ()))


def endless_function(p: Program) -> None:
    p.functions["f"] = (Call("f", (), ()),)
    p.steps.append(Call("f", (), ()))


def empty_loop(p: Program) -> None:
    p.steps.append(Repeat(0, (), {}))


def loop_with_names_for_one_iteration(p: Program) -> None:
    p.steps.append(Repeat(2, (Exchange("e", ()),), {}, (("e",),)))


def endless_loop(p: Program) -> None:
    p.steps.append(Repeat(1 << 30, (Repeat(1 << 30, (Exchange("e", ()),), {}),), {}))


def unknown_buffer(p: Program) -> None:
    p.steps.append(HostRead("y", 99, View.identity((1,))))


def tile_outside(p: Program) -> None:
    b = moved_destination(p)
    tiles = p.buffers[b].layout.tiles.copy()
    tiles.flat[0] = p.target.tiles
    with_layout(p, b, tiles=tiles)


def shared_tile(p: Program) -> None:
    b = compute(p)[1].results[0].buffer
    tiles = p.buffers[b].layout.tiles.copy()
    tiles.flat[1] = tiles.flat[0]
    with_layout(p, b, tiles=tiles)


def cuts_of_another_grid(p: Program) -> None:
    b = moved_destination(p)
    lo, hi = p.buffers[b].layout.cuts[0]
    with_layout(p, b, cuts=((np.append(lo, 0), np.append(hi, 0)), *p.buffers[b].layout.cuts[1:]))


def larger_than_a_tile(p: Program) -> None:
    layout = Layout.on_one_tile((1 << 20, 16), 4, 1)
    p.buffers[moved_destination(p)].layout = layout


def another_type(p: Program) -> None:
    p.buffers[0].dtype = "float16"


def another_view(p: Program) -> None:
    at, step = exchange(p)
    shape = step.moves[0].view.src
    p.steps[at] = replace(step, moves=(replace(step.moves[0], view=View.identity((*shape, 1))), *step.moves[1:]))


def another_input(p: Program) -> None:
    at = next(i for i, s in enumerate(p.steps) if isinstance(s, HostWrite))
    p.steps[at] = replace(p.steps[at], tensor="nobody")  # type: ignore[type-var]


def output_twice(p: Program) -> None:
    p.steps.append(p.steps[-1])


def weight_of_another_shape(p: Program) -> None:
    p.weights["w"] = np.zeros((3, 3), np.float32)


def beyond_memory(p: Program) -> None:
    p.buffers[moved_destination(p)].offset = p.target.tile_bytes - 16


def inside_the_code(p: Program) -> None:
    p.buffers[moved_destination(p)].offset = p.target.reserved_bytes


def odd_address(p: Program) -> None:
    p.buffers[moved_destination(p)].offset += 4


def stride_beyond_memory(p: Program) -> None:
    at, loop = next((i, s) for i, s in enumerate(p.steps) if isinstance(s, Repeat))
    p.steps[at] = replace(loop, strides=dict.fromkeys(loop.strides, 1 << 19))


def alias_of_an_alias(p: Program) -> None:
    aliases = [b for b in p.buffers if b.alias >= 0]
    aliases[0].alias = p.buffers.index(aliases[1])


def alias_elsewhere(p: Program) -> None:
    next(b for b in p.buffers if b.alias >= 0).offset += 16


def two_at_one_address(p: Program) -> None:
    _, step = compute(p)
    p.buffers[step.results[0].buffer].offset = p.buffers[step.operands[0].buffer].offset


def foreign_cell(p: Program) -> None:
    with_operand(p, lambda b: replace(b, cells=np.roll(b.cells, 1)))


def cell_outside(p: Program) -> None:
    with_operand(p, lambda b: replace(b, cells=b.cells + 1000))


def missing_cells(p: Program) -> None:
    with_operand(p, lambda b: replace(b, cells=b.cells[:-1]))


def unlike_arguments(p: Program) -> None:
    at, call = next((i, s) for i, s in enumerate(p.steps) if isinstance(s, Call))
    other = next(i for i, b in enumerate(p.buffers) if not b.layout.same_as(p.buffers[call.inputs[0][0]].layout))
    p.steps[at] = replace(call, inputs=((other, call.inputs[0][1]),))


def dropped_transfer(p: Program) -> None:
    with_track(p, lambda t: Track(*(getattr(t, f)[1:] for f in Track.FIELDS)))


def doubled_transfer(p: Program) -> None:
    with_track(p, lambda t: Track(*(np.append(getattr(t, f), getattr(t, f)[0]) for f in Track.FIELDS)))


def shifted_transfer(p: Program) -> None:
    with_track(p, lambda t: replace(t, dst_at=np.where(np.arange(t.dst_at.size) == 0, t.dst_at + 16, t.dst_at)))


def source_outside(p: Program) -> None:
    with_track(p, lambda t: replace(t, src_at=t.src_at + 4096))


def cell_of_source_outside(p: Program) -> None:
    with_track(p, lambda t: replace(t, src_cell=t.src_cell + 1000))


def half_words(p: Program) -> None:
    with_track(p, lambda t: replace(t, src_at=t.src_at + 2, run=t.run - 2))


def onto_itself(p: Program) -> None:
    at, step = exchange(p)
    m = step.moves[0]
    p.steps[at] = replace(step, moves=(Move(m.dst, m.dst, m.tracks, View.identity(m.view.dst)),))


def written_twice(p: Program) -> None:
    at, step = compute(p)
    b = step.results[0]
    cells, tiles = b.cells.copy(), step.tiles.copy()
    cells[1], tiles[1] = cells[0], tiles[0]
    operands = tuple(replace(o, cells=np.append(o.cells[:1], [o.cells[0], *o.cells[2:]])) for o in step.operands)
    p.steps[at] = replace(step, tiles=tiles, operands=operands, results=(replace(b, cells=cells),))


def unknown_axis(p: Program) -> None:
    at, step = compute(p)
    p.steps[at] = replace(step, codelet=replace(step.codelet, batch=("nobody",)))  # type: ignore[call-arg, type-var]


def unwritten(p: Program) -> None:
    del p.steps[compute(p)[0]]


def no_scratch(p: Program) -> None:
    at, step = next((i, s) for i, s in enumerate(p.steps) if isinstance(s, Compute) and isinstance(s.codelet, MatMul))
    p.steps[at] = replace(step, codelet=replace(step.codelet, method="swapped"), results=step.results[:0])


def unwritten_in_a_loop(p: Program) -> None:
    at, loop = next((i, s) for i, s in enumerate(p.steps) if isinstance(s, Repeat))
    p.steps[at] = replace(loop, body=tuple(s for s in loop.body if not isinstance(s, Exchange)), names=())
    # What is read before it is written lives through all of the loop: it gets an address that nobody else has.
    end = p.target.tile_bytes
    for b in sorted({m.dst for s in loop.body if isinstance(s, Exchange) for m in s.moves}):
        end -= -(-p.buffers[b].nbytes // 16) * 16
        p.buffers[b].offset = end


def unwritten_member_of_a_stack(p: Program) -> None:
    at = max(i for i, s in enumerate(p.steps) if isinstance(s, HostWrite) and s.tensor == "w3")
    del p.steps[at]


def condition_of_numbers(p: Program) -> None:
    at, step = exchange(p)
    p.steps[at] = If("branch", step.moves[0].src, (step,), ())


def unbounded_strides(p: Program) -> None:
    at, step = exchange(p)
    p.steps[at] = While("loop", step.moves[0].src, (step,), None, {step.moves[0].dst: 16})


def written_in_one_branch(p: Program) -> None:
    """Every tile has the condition; what only one of the branches writes is read behind them."""
    at, step = exchange(p)
    p.buffers.append(Buffer("c", "bool", Layout((), (), np.arange(p.target.tiles, dtype=np.int32), 1, 0)))
    p.buffers[-1].offset = p.target.tile_bytes - 16
    p.weights["c"] = np.array(True)
    p.steps[at] = If("branch", len(p.buffers) - 1, (step,), ())
    p.steps.insert(0, HostWrite("c", len(p.buffers) - 1, View.identity(())))


BROKEN: list[tuple[str, str, Break, str]] = [
    ("structure", "mlp", unbounded_strides, "a bound is at least 1"),
    ("conditions", "mlp", condition_of_numbers, "is not one bool on every tile"),
    ("reads", "mlp", written_in_one_branch, "before anything is written"),
    ("structure", "mlp", unknown_function, "no such function"),
    ("structure", "mlp", endless_function, "call themselves"),
    ("structure", "mlp", empty_loop, "at least once"),
    ("names", "mlp", loop_with_names_for_one_iteration, "one name per iteration"),
    ("structure", "mlp", endless_loop, "at most"),
    ("structure", "mlp", unknown_buffer, "refers to buffer %99"),
    ("layouts", "mlp", tile_outside, "tile outside"),
    ("layouts", "mlp", shared_tile, "two cells lie at the same place"),
    ("layouts", "mlp", cuts_of_another_grid, "do not fit the grid"),
    ("layouts", "mlp", larger_than_a_tile, "bytes of a tile"),
    ("layouts", "mlp", another_type, "are no float16"),
    ("views", "mlp", another_view, "a view of"),
    ("ports", "mlp", another_input, "no such input"),
    ("ports", "mlp", output_twice, "are read"),
    ("ports", "mlp", weight_of_another_shape, "it has the shape (3, 3)"),
    ("addresses", "mlp", beyond_memory, "lies at bytes"),
    ("addresses", "mlp", inside_the_code, "lies at bytes"),
    ("addresses", "mlp", odd_address, "no multiple of 16"),
    ("addresses", "layers", stride_beyond_memory, "lies at bytes"),
    ("aliases", "layers", alias_of_an_alias, "alias too"),
    ("aliases", "layers", alias_elsewhere, "behind the start"),
    ("overlaps", "mlp", two_at_one_address, "while both are live"),
    ("bindings", "mlp", foreign_cell, "holds"),
    ("bindings", "mlp", cell_outside, "outside of 0.."),
    ("bindings", "mlp", missing_cells, "vertices"),
    ("calls", "call", unlike_arguments, "different layouts"),
    ("exchanges", "mlp", dropped_transfer, "is not written"),
    ("exchanges", "mlp", doubled_transfer, "is written twice|bytes into"),
    ("exchanges", "conv", shifted_transfer, "written|destination bytes"),
    ("exchanges", "mlp", source_outside, "source bytes"),
    ("exchanges", "mlp", cell_of_source_outside, "source cells"),
    ("exchanges", "half", half_words, "parts of words"),
    ("exchanges", "mlp", onto_itself, "writes bytes that it reads"),
    ("results", "mlp", written_twice, "two vertices write"),
    ("codelets", "mlp", unknown_axis, "cannot count its cycles"),
    ("codelets", "mlp", no_scratch, "has 0 bytes of scratch"),
    ("reads", "mlp", unwritten, "before anything is written"),
    ("reads", "layers", unwritten_in_a_loop, "before anything is written"),
    ("reads", "layers", unwritten_member_of_a_stack, "before anything is written"),
]


@pytest.mark.parametrize(("rule", "name", "damage", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_every_rule_is_noticed_when_broken(
    rule: str, name: str, damage: Break, message: str, program: Programs
) -> None:
    p = program(name)
    damage(p)
    with pytest.raises(CompileError) as raised:
        verify_program(p, "p.ipux")
    found = raised.value.diagnostics
    assert len(found) <= 8
    assert all(d.where == "p.ipux" for d in found)
    about = [d for d in found if d.notes == (f"rule: {rule}",)]
    assert any(re.search(message.replace("(3, 3)", r"\(3, 3\)"), d.message) for d in about), [d.message for d in found]


def test_every_rule_of_the_table_is_broken_here() -> None:
    assert {rule for group in RULES for rule in group} == {rule for rule, *_ in BROKEN}


def test_partial_exchanges_together_fill_a_buffer(program: Programs) -> None:
    """A concatenation may arrive in several phases: only all of them together must cover."""
    p = program("mlp")
    at, step = exchange(p)
    move = step.moves[0]
    t = move.tracks[-1]

    def half(part: slice) -> Exchange:
        own = Track(*(getattr(t, f)[part] for f in Track.FIELDS))
        return replace(step, moves=(replace(move, tracks=(*move.tracks[:-1], own)),))

    middle = len(t) // 2
    first, second = half(slice(0, middle)), half(slice(middle, None))
    steps: list[Step] = [*p.steps[:at], first, second, *p.steps[at + 1 :]]
    p.steps = steps
    verify_program(p)
    p.steps = [*steps[: at + 1], first, *steps[at + 2 :]]
    with pytest.raises(CompileError, match="before anything is written"):
        verify_program(p)
