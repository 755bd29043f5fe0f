"""Where buffers lie in a tile's memory, and what it costs where they do not lie as codelets want them."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from ipucc.api import Executable
from ipucc.builder import Builder, Codelet, linear
from ipucc.codelets.matmul import MatMul
from ipucc.diagnostics import CompileError
from ipucc.program.model import Compute, Repeat
from ipucc.program.regions import Regions
from ipucc.program.timing import program_times
from ipucc.program.usage import tile_bytes
from ipucc.target import Target, load_target

GC200 = load_target("gc200")
M, K, N = 48, 64, 32
PRODUCT = MatMul((), "float16", "float16")


@dataclass(frozen=True)
class Blend(Codelet):
    """Both operands and the result in one issue."""

    name: ClassVar[str] = "tests.blend"
    code_bytes: ClassVar[int] = 64

    def cycles(self, n, target):
        return 10 + n["d0"]

    @property
    def streams(self):
        return (0, 1), (0,)

    def compute(self, operands, cells):
        return [operands[0] + operands[1]]


def product(target: Target, codelet: MatMul = PRODUCT) -> Executable:
    """One product on one tile."""
    b = Builder(target)
    x = b.variable("x", "float16", (M, K), linear(1))
    w = b.variable("w", "float16", (K, N), linear(1))
    y = b.variable("y", "float16", (M, N), linear(1))
    b.write(x)
    b.write(w)
    b.compute("product", codelet, [x, w], [y], axes={"m": (x, 0), "k": (x, 1), "n": (w, 1)})
    b.read(y)
    return b.compile()


def blend(target: Target, elements: int) -> Executable:
    b = Builder(target)
    x, y, z = (b.variable(name, "float32", (elements,), linear(1)) for name in "xyz")
    b.write(x)
    b.write(y)
    b.compute("blend", Blend(), [x, y], [z])
    b.read(z)
    return b.compile()


def alone(codelet: Codelet, target: Target, **n: int) -> int:
    return int(codelet.cycles({axis: np.array([size]) for axis, size in n.items()}, target)[0])


def placed(exe: Executable, name: str) -> int:
    return next(b.offset for b in exe.program.buffers if b.name == name)


def test_weights_of_the_matrix_unit_lie_in_interleaved_memory() -> None:
    exe = product(GC200)
    assert placed(exe, "w") >= GC200.interleaved_from > placed(exe, "x")
    assert exe.cycles.compute == alone(PRODUCT, GC200, m=M, k=K, n=N)
    swapped = product(GC200, replace(PRODUCT, method="axpy"))
    assert placed(swapped, "w") < GC200.interleaved_from


def test_weights_that_find_no_room_there_are_loaded_by_64_bits() -> None:
    tight = replace(GC200, interleaved_bytes=2 * K * N - 16)
    narrow = alone(PRODUCT, GC200.plain, m=M, k=K, n=N)
    assert narrow > alone(PRODUCT, GC200, m=M, k=K, n=N)
    assert product(tight).cycles.compute == narrow
    assert product(tight.plain).cycles.compute == narrow
    wide = replace(GC200, interleaved_bytes=2 * K * N)
    assert product(wide).cycles.compute == alone(PRODUCT, GC200, m=M, k=K, n=N)


def test_what_one_issue_reaches_lies_in_different_elements() -> None:
    exe = blend(GC200, 100)
    elements = {placed(exe, name) // GC200.element_bytes for name in "xyz"}
    assert len(elements) == 3
    assert exe.cycles.compute == alone(Blend(), GC200, d0=100)


@pytest.mark.parametrize(("element", "times"), [(1 << 14, 1), (1 << 20, 3)])
def test_where_they_share_one_every_access_takes_an_issue(element: int, times: int) -> None:
    target = replace(GC200.plain, element_bytes=element)
    assert blend(target, 100).cycles.compute == times * alone(Blend(), target, d0=100)


def test_a_run_counts_what_was_predicted() -> None:
    target = replace(GC200.plain, element_bytes=1 << 20)
    exe = product(target)
    x = np.ones((M, K), np.float16)
    run = exe.run({"x": x, "w": np.ones((K, N), np.float16)})
    assert run.cycles == exe.cycles
    assert run.cycles.compute == 2 * alone(PRODUCT, target, m=M, k=K, n=N)
    assert (run.outputs["y"] == K).all()


def test_a_loop_counts_the_worst_of_its_iterations() -> None:
    """Weights that a loop walks along begin in plain memory: all of its products are those of plain memory."""
    exe = product(GC200)
    program = exe.program
    at, step = next((i, s) for i, s in enumerate(program.steps) if isinstance(s, Compute))
    w = step.operands[1].buffer
    size = program.buffers[w].nbytes
    program.steps[at] = Repeat(3, (step,), {w: size})
    one = alone(PRODUCT, GC200, m=M, k=K, n=N)
    assert [t.compute for t in program_times(program) if t.kind == "compute"] == [one] * 3
    program.buffers[w].offset = GC200.interleaved_from - size
    narrow = alone(PRODUCT, GC200.plain, m=M, k=K, n=N)
    assert [t.compute for t in program_times(program) if t.kind == "compute"] == [narrow] * 3
    assert Regions(program).narrow(step)


def test_room_that_stays_free_is_not_counted_as_used() -> None:
    exe = product(GC200)
    buffers = 2 * (M * K + K * N + M * N)
    assert tile_bytes(exe.program)[0] == GC200.reserved_bytes + -(-exe.program.code_bytes // 16) * 16 + buffers
    assert placed(exe, "w") + 2 * K * N > tile_bytes(exe.program)[0]


def test_before_addresses_are_given_nothing_is_slower() -> None:
    program = product(GC200).program
    for buffer in program.buffers:
        buffer.offset = -1
    step = next(s for s in program.steps if isinstance(s, Compute))
    assert not Regions(program).narrow(step)
    assert Regions(program).accesses(step) == 1


def test_a_product_without_its_weights_is_refused() -> None:
    b = Builder(GC200)
    x, y = b.variable("x", "float16", (M, K), linear(1)), b.variable("y", "float16", (M, N), linear(1))
    b.write(x)
    with pytest.raises(CompileError, match="IPU1004"):
        b.compute("product", PRODUCT, [x], [y], axes={"m": (x, 0), "k": (x, 1), "n": (y, 1)})
