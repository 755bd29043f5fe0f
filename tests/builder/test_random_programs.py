"""Programs of random steps in nested loops do what numpy does, and what is damaged in them is noticed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ipucc.builder import Builder, Variable, grid, linear
from ipucc.diagnostics import CompileError
from ipucc.program.model import Compute, Exchange, Program
from ipucc.program.verify import verify_program
from ipucc.tiles.layout import Layout

Array = NDArray[Any]
SHAPE = (6, 8)
MAPPINGS = (grid(3, 2), grid(1, 4, tiles=[5, 3, 1, 0]), linear(6), grid(3, 2, halo=1))

Step = tuple[Any, ...]
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("copy"), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("part"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 4), st.integers(0, 4)),
    st.tuples(st.just("add"), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("fill"), st.integers(0, 3), st.integers(-3, 3)),
    st.tuples(st.just("halo")),
)


def bodies(depth: int) -> st.SearchStrategy[list[Step]]:
    one = STEPS
    if depth:
        one = one | st.tuples(st.just("loop"), st.integers(1, 3), bodies(depth - 1))
    return st.lists(one, min_size=1, max_size=5)


def write(b: Builder, x: list[Variable], steps: list[Step]) -> None:
    """Variables 0 to 3 lie in different ways; adding takes both through a third that lies like the first."""
    for kind, *args in steps:
        if kind == "loop":
            with b.repeat(args[0]):
                write(b, x, args[1])
        elif kind == "copy" and args[0] != args[1]:
            b.copy(x[args[0]], x[args[1]])
        elif kind == "part" and args[0] != args[1]:
            source, target, i, j = args
            b.copy(x[source][i : i + 2, ::2], x[target][j : j + 2, :4])
        elif kind == "add":
            other = b.variable("beside", "int32", SHAPE, MAPPINGS[args[1]])
            b.copy(x[args[0]], other)
            b.elementwise("add", "Add(a0, a1)", [x[args[1]], other], x[args[1]])
        elif kind == "fill":
            b.fill(x[args[0]], float(args[1]))
        elif kind == "halo":
            b.halo_exchange(x[3], corners=True)


def expect(x: list[Array], steps: list[Step]) -> None:
    for kind, *args in steps:
        if kind == "loop":
            for _ in range(args[0]):
                expect(x, args[1])
        elif kind == "copy":
            x[args[1]][:] = x[args[0]]
        elif kind == "part" and args[0] != args[1]:
            source, target, i, j = args
            x[target][j : j + 2, :4] = x[source][i : i + 2, ::2]
        elif kind == "add":
            x[args[1]] += x[args[0]]
        elif kind == "fill":
            x[args[0]][:] = args[1]


@settings(max_examples=40, deadline=None)
@given(steps=bodies(2))
def test_random_programs_do_what_numpy_does(steps: list[Step]) -> None:
    b = Builder("gc200")
    x = [b.variable(f"x{i}", "int32", SHAPE, m) for i, m in enumerate(MAPPINGS)]
    for v in x:
        b.write(v)
    write(b, x, steps)
    for v in x:
        b.read(v)
    exe = b.compile()
    values = [np.random.default_rng(i).integers(-9, 9, SHAPE).astype(np.int32) for i in range(4)]
    result = exe.run({f"x{i}": v for i, v in enumerate(values)}, checked=True)
    assert result.cycles == exe.cycles
    expected = [v.copy() for v in values]
    expect(expected, steps)
    for i, v in enumerate(expected):
        assert (result.outputs[f"x{i}"] == v).all(), i


def halos() -> Program:
    """A halo exchange, a copy, and a compute set of two expressions side by side."""
    b = Builder("gc200")
    x = b.variable("x", "float32", SHAPE, grid(3, 2, halo=1))
    y, z = (b.variable(name, "float32", SHAPE, grid(3, 2)) for name in "yz")
    b.write(x)
    b.halo_exchange(x)
    b.copy(x, y)
    b.elementwise("double", "Mul(a0, 2.0)", [y], z)
    b.read(z)
    b.read(x)
    return b.compile().program


def damaged(p: Program, kind: type, change: Callable[[Any], Any]) -> None:
    at = next(i for i, s in enumerate(p.steps) if isinstance(s, kind))
    p.steps[at] = change(p.steps[at])


def with_core(p: Program, change: Callable[[Array], Array]) -> None:
    layout = p.buffers[0].layout
    assert layout.core is not None
    (lo, hi), *rest = layout.core
    p.buffers[0].layout = Layout(
        layout.shape, layout.cuts, layout.tiles, 4, layout.grain_dim, None, True, ((change(lo), hi), *rest)
    )


def no_update(p: Program) -> None:
    damaged(p, Exchange, lambda s: replace(s, moves=tuple(replace(m, keeps=False) for m in s.moves)))


def read_and_written(p: Program) -> None:
    """The halos are taken from halos that the same exchange fills."""

    def change(step: Exchange) -> Exchange:
        first = step.moves[0]
        *outer, carrier = first.tracks
        swapped = replace(carrier, dst_cell=carrier.src_cell, dst_at=carrier.src_at, dst_step=carrier.src_step)
        return replace(step, moves=(replace(first, tracks=(*outer, swapped)),))

    damaged(p, Exchange, change)


def named_workers(p: Program) -> None:
    damaged(p, Compute, lambda s: replace(s, workers=np.zeros(s.tiles.size, np.int32)))


def beside_itself(p: Program) -> None:
    damaged(p, Compute, lambda s: replace(s, beside=(s,)))


def beside_beside(p: Program) -> None:
    damaged(p, Compute, lambda s: replace(s, beside=(replace(s, beside=(s,)),)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_update, "writes bytes that it reads"),
        (read_and_written, "is written where buffer"),
        (named_workers, "runs on the whole tile, and its vertices name workers"),
        (beside_itself, "where those of 'elementwise' work"),
        (beside_beside, "vertices beside it have vertices beside them"),
        (lambda p: with_core(p, lambda lo: lo - 2), "what cells own lies outside of them"),
        (lambda p: with_core(p, lambda lo: np.zeros_like(lo)), "what cells own lies outside of them"),
    ],
    ids=["no_update", "read_and_written", "named_workers", "beside_itself", "beside_beside", "outside", "descends"],
)
def test_what_is_damaged_is_noticed(damage: Callable[[Program], None], message: str) -> None:
    p = halos()
    verify_program(p)
    damage(p)
    with pytest.raises(CompileError) as found:
        verify_program(p)
    assert any(message in d.message for d in found.value.diagnostics), [d.message for d in found.value.diagnostics]
