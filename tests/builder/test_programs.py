"""Compute sets, loops, functions and files of the program builder."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import ipucc
from ipucc.builder import Builder, Cells, Codelet, Target, grid, linear, on_tile, replicated
from ipucc.cli.main import cli
from ipucc.diagnostics import CompileError, DoesNotFit
from ipucc.program.printing import print_program
from ipucc.runtime.fingerprint import check_exchanges
from ipucc.target import load_target

Array = NDArray[Any]
GC200 = load_target("gc200")


@dataclass(frozen=True)
class Scale(Codelet):
    """x * by, one cycle of its worker per element."""

    by: float

    name: ClassVar[str] = "tests.scale"
    code_bytes: ClassVar[int] = 16
    context: ClassVar[Literal["tile", "worker"]] = "worker"

    def cycles(self, n: Any, target: Target) -> Array:
        return np.asarray(n["d0"])

    @property
    def in_place(self) -> bool:
        return True

    def compute(self, operands: Any, cells: Cells) -> list[Array]:
        return [operands[0] * np.float32(self.by)]


@dataclass(frozen=True)
class Add(Codelet):
    """x + y, a hundred cycles of the tile."""

    name: ClassVar[str] = "tests.add"
    code_bytes: ClassVar[int] = 16

    def cycles(self, n: Any, target: Target) -> Array:
        return np.full_like(n["rows"], 100)

    def compute(self, operands: Any, cells: Cells) -> list[Array]:
        return [operands[0] + operands[1]]


def vector(b: Builder, name: str, *sizes: int, tile: int = 0) -> Any:
    """A variable whose cells of these sizes all lie on one tile."""
    edges = np.concatenate([[0], np.cumsum(sizes)])
    return b.variable(name, "float32", (int(edges[-1]),), grid(edges.tolist(), tiles=np.full(len(sizes), tile)))


def compute_cycles(b: Builder) -> int:
    return b.compile().cycles.compute


def test_vertices_of_one_worker_share_the_workers_by_list_scheduling() -> None:
    """In their order each goes to the worker that is free first; workers issue every sixth cycle."""
    b = Builder("gc200")
    x = vector(b, "x", 9, 1, 1, 1, 1, 1, 5, 4)
    b.write(x)
    b.compute("scale", Scale(2.0), [x], [x])
    # The seventh waits for one cycle, the eighth too: 9, and 1 + 5 and 1 + 4 beside it.
    assert compute_cycles(b) == GC200.launch_cycles + 6 * 9


def test_a_vertex_may_name_its_worker() -> None:
    b = Builder("gc200")
    x = vector(b, "x", 9, 1, 1, 1, 1, 1, 5, 4)
    b.write(x)
    b.compute("scale", Scale(2.0), [x], [x], workers=[0, 1, 2, 3, 4, 5, 0, 5])
    assert compute_cycles(b) == GC200.launch_cycles + 6 * (9 + 5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=40))
def test_list_scheduling_is_that_of_a_plain_loop(vertices: list[tuple[int, int]]) -> None:
    b = Builder("gc200")
    sizes, tiles = zip(*vertices, strict=True)
    edges = [0, *np.cumsum(sizes).tolist()]
    x = b.variable("x", "float32", (edges[-1],), grid(edges, tiles=np.asarray(tiles)))
    b.write(x)
    b.compute("scale", Scale(2.0), [x], [x])
    free = {t: [0] * 6 for t in tiles}
    for size, tile in vertices:
        first = min(range(6), key=lambda w: (free[tile][w], w))
        free[tile][first] += size
    assert compute_cycles(b) == GC200.launch_cycles + 6 * max(max(f) for f in free.values())


def test_codelets_of_one_compute_set_share_the_tile() -> None:
    b = Builder("gc200")
    x, y, z = (vector(b, name, 8, 8) for name in "xyz")
    b.write(x)
    b.write(y)
    both = b.compute_set("both")
    both.vertices(Scale(3.0), [x], [x])
    both.vertices(Add(), [y, y], [z], axes={"rows": (z, 0)})
    b.execute(both)
    b.read(x)
    b.read(z)
    exe = b.compile()
    assert exe.cycles.compute == 2 * 100 + GC200.launch_cycles + 6 * 8
    values = {"x": np.arange(16, dtype=np.float32), "y": np.ones(16, np.float32)}
    got = exe.run(values, checked=True)
    assert (got.outputs["x"] == 3 * values["x"]).all()
    assert (got.outputs["z"] == 2).all()
    assert "beside both: 2 vertices" in print_program(exe.program)


def test_codelets_of_one_compute_set_do_not_read_what_another_writes() -> None:
    b = Builder("gc200")
    x, z = (vector(b, name, 8, 8) for name in "xz")
    b.write(x)
    both = b.compute_set("both")
    both.vertices(Scale(3.0), [x], [x])
    both.vertices(Add(), [x, x], [z], axes={"rows": (z, 0)})
    b.execute(both)
    with pytest.raises(CompileError, match=r"write buffer %0 'x' where those of 'tests.add' work"):
        b.compile()


def test_a_matrix_product_over_a_grid_of_tiles() -> None:
    """Left operand by rows of tiles, right one by columns: copies replicate them, vertices multiply cells."""
    from ipucc.codelets.matmul import MatMul

    b = Builder("gc200")
    tiles = np.arange(12).reshape(3, 4)
    left = b.variable("left", "float32", (12, 16), grid(3, 1, tiles=tiles.reshape(3, 1, 4)))
    right = b.variable("right", "float32", (16, 32), grid(1, 4, tiles=tiles.T.reshape(1, 4, 3)))
    out = b.variable("out", "float32", (12, 32), grid(3, 4))
    x = b.variable("x", "float32", (12, 16), linear())
    w = np.random.default_rng(0).integers(-9, 9, (16, 32)).astype(np.float32)
    b.write(x)
    b.exchange([(x, left), (b.constant("w", w, linear(16)), right)])
    product = MatMul((), "float32", "float32", "", (), "amp")
    b.compute(
        "product", product, [left, right], [out], axes={"m": (left, 0), "k": (left, 1), "n": (right, 1)}, macs=6144
    )
    b.read(out)
    exe = b.compile(flops=2 * 6144)
    values = np.random.default_rng(1).integers(-9, 9, (12, 16)).astype(np.float32)
    result = exe.run({"x": values}, checked=True)
    assert (result.outputs["out"] == values @ w).all()
    assert result.flops == 12288


def test_loops_and_functions_count_every_turn() -> None:
    b = Builder("gc200")
    x = vector(b, "x", 4)
    b.write(x)
    with b.function("double"):
        b.compute("scale", Scale(2.0), [x], [x])
    with b.repeat(3):
        b.call("double")
        with b.repeat(2):
            b.elementwise("inc", "Add(a0, 1.0)", [x], x)
    b.read(x)
    exe = b.compile()
    expected = np.arange(4, dtype=np.float32)
    for _ in range(3):
        expected = expected * 2 + 2
    result = exe.run({"x": np.arange(4, dtype=np.float32)})
    assert (result.outputs["x"] == expected).all()
    assert [s.name for s in result.steps if s.kind == "compute"] == ["scale", "inc", "inc"] * 3
    assert result.cycles == exe.cycles


def test_a_program_comes_back_from_its_file(tmp_path: Path) -> None:
    b = Builder("gc200")
    x = b.variable("x", "float32", (20, 12), grid(4, 2, halo=1))
    y = b.variable("y", "float32", (20, 12), grid(4, 2, tiles=np.arange(8)[::-1]))
    b.write(x)
    b.halo_exchange(x)
    both = b.compute_set("both")
    both.vertices(Scale(2.0), [x], [x], workers=0)
    b.execute(both)
    b.copy(x, y)
    b.read(y)
    exe = b.compile(name="round trip")
    exe.save(tmp_path / "p.ipux")
    again = ipucc.load(tmp_path / "p.ipux")
    values = np.random.default_rng(0).standard_normal((20, 12), np.float32)
    assert (again.run({"x": values}).outputs["y"] == 2 * values).all()
    assert again.cycles == exe.cycles
    assert print_program(again.program) == print_program(exe.program)
    assert again.manifest["model"] == {"name": "round trip"}
    assert check_exchanges(again.program) == 2
    again.save(tmp_path / "q.ipux")
    assert (tmp_path / "p.ipux").read_bytes() == (tmp_path / "q.ipux").read_bytes()


def test_a_process_that_does_not_know_a_codelet_says_so(tmp_path: Path) -> None:
    b = Builder("gc200")
    x = vector(b, "x", 4)
    b.write(x)
    b.compute("scale", Scale(2.0), [x], [x])
    b.compile().save(tmp_path / "p.ipux")
    code = "import sys, ipucc; ipucc.load(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "p.ipux")], capture_output=True, text=True)
    assert "IPU0511" in done.stderr
    assert "'tests.scale'" in done.stderr


def test_the_command_line_runs_programs_with_codelets_from_a_file(tmp_path: Path) -> None:
    codelet = tmp_path / "halve.py"
    codelet.write_text(
        """
from dataclasses import dataclass
from typing import ClassVar
from ipucc.builder import Builder, Codelet, linear, register

@register
@dataclass(frozen=True)
class Halve(Codelet):
    name: ClassVar[str] = "tests.halve"
    code_bytes: ClassVar[int] = 16
    def cycles(self, n, target):
        return 7 * n["d0"]
    def compute(self, operands, cells):
        return [operands[0] / 2]

if __name__ == "__main__":
    b = Builder("gc200")
    x, y = (b.variable(name, "float32", (64,), linear(4)) for name in "xy")
    b.write(x)
    b.compute("halve", Halve(), [x], [y])
    b.read(y)
    b.compile(name="halves").save("p.ipux")
"""
    )
    subprocess.run([sys.executable, str(codelet)], cwd=tmp_path, check=True)
    runner, program = CliRunner(), str(tmp_path / "p.ipux")
    bare = runner.invoke(cli, ["run", program, "--timing-only"])
    assert bare.exit_code == 1
    assert "--load FILE.py" in bare.output
    done = runner.invoke(cli, ["run", program, "--load", str(codelet), "--input", "x=ones"])
    assert done.exit_code == 0, done.output
    assert "112" in done.output
    assert "halves" in runner.invoke(cli, ["inspect", program]).output  # the codelet is known by now
    checked = runner.invoke(cli, ["validate", program])
    assert "sound" in checked.output


def test_what_does_not_fit_says_where() -> None:
    b = Builder("gc200")
    x = b.variable("big", "float32", (200_000,), on_tile(7))
    b.write(x)
    b.read(x)
    with pytest.raises(DoesNotFit, match="IPU0406") as found:
        b.compile()
    assert found.value.diagnostics[0].data["tile"] == 7


def test_reading_what_nobody_wrote_is_refused() -> None:
    b = Builder("gc200")
    x = vector(b, "x", 4)
    b.read(x)
    with pytest.raises(CompileError, match=r"IPU0509.*reads buffer %0 'x' before anything is written"):
        b.compile()


def wrong(what: str) -> None:
    b, other = Builder("gc200"), Builder("gc200")
    x = b.variable("x", "float32", (12,), linear(4))
    match what:
        case "type":
            b.variable("y", "float128", (4,), linear())
        case "parts":
            b.variable("y", "float32", (4,), linear(5))
        case "edges":
            b.variable("y", "float32", (4,), grid([0, 3]))
        case "many":
            b.variable("y", "float32", (2000,), linear(1999))
        case "tile":
            b.variable("y", "float32", (4,), on_tile(1472))
        case "tiles":
            b.variable("y", "float32", (4,), linear(4, tiles=[1, 2, 3]))
        case "shapes":
            b.copy(x[:4], b.variable("y", "float32", (5,), on_tile(0)))
        case "types":
            b.copy(x, b.variable("y", "int32", (12,), on_tile(0)))
        case "index":
            x[12]
        case "ranks":
            x[0, 0]
        case "order":
            b.copy(x, x.reshape(3, 4).reshape(12))
        case "place":
            b.compute("scale", Scale(2.0), [x], [b.variable("y", "float32", (12,), linear(4, tiles=[0, 1, 2, 9]))])
        case "grid":
            b.compute("scale", Scale(2.0), [x], [b.variable("y", "float32", (12,), linear(3))])
        case "cell":
            b.compute("scale", Scale(2.0), [x], [(x, [4])])
        case "results":
            b.compute("scale", Scale(2.0), [x], [])
        case "axis":
            b.compute("scale", Scale(2.0), [x], [x], axes={"d0": (x, 1)})
        case "broadcast":
            b.elementwise("add", "Add(a0, a1)", [x, b.variable("y", "float32", (1, 12), linear(1))], x)
        case "foreign":
            other.write(x)
        case "twice":
            b.write(x)
            b.write(x)
        case "open":
            with b.repeat(2):
                b.compile()
        case "call":
            b.call("nobody")
        case "halos":
            b.halo_exchange(x)
        case "empty":
            b.execute(b.compute_set("nothing"))


@pytest.mark.parametrize(
    ("what", "id"),
    [
        *((w, "IPU1001") for w in ("type", "parts", "edges", "many", "tile", "tiles")),
        *((w, "IPU1002") for w in ("shapes", "types", "index", "ranks", "order")),
        *((w, "IPU1004") for w in ("place", "grid", "cell", "results", "empty")),
        *((w, "IPU1005") for w in ("axis", "broadcast")),
        *((w, "IPU1006") for w in ("foreign", "twice", "open", "call")),
        ("halos", "IPU1007"),
    ],
)
def test_mistakes_are_named(what: str, id: str) -> None:
    with pytest.raises(CompileError) as found:
        wrong(what)
    assert found.value.diagnostics[0].id == id


def test_all_tiles_and_all_workers_stay_fast() -> None:
    """1,472 tiles x 6 vertices with a copy each way are a matter of numpy, not of loops over tiles."""
    b = Builder("gc200")
    tiles = np.repeat(np.arange(1472), 6)
    x = b.variable("x", "float32", (1472 * 6 * 8,), linear(1472 * 6, tiles=tiles))
    y = b.variable("y", "float32", (8,), replicated())
    b.write(x)
    b.compute("scale", Scale(2.0), [x], [x])
    b.copy(x[:8], y)
    b.read(y)
    exe = b.compile()
    assert exe.cycles.compute >= 6 * 8
    values = np.arange(1472 * 48, dtype=np.float32)
    assert (exe.run({"x": values}).outputs["y"] == 2 * values[:8]).all()
