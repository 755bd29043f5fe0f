"""Matmuls alone: cycles, share of the matrix unit's peak, lower bounds, and T10's plans in the same cycle model.

    python benchmarks/gemm.py                                         the shapes of benchmarks/data/gemm.toml on gc200
    python benchmarks/gemm.py --shape 512x1024x4096 --target bow      a shape M x K x N, may be repeated
    python benchmarks/gemm.py --dense-curve                           beside the vendor's library on a Bow

A shape M x K x N is an activation M x K, an input, against a constant weight K x N, compiled from ONNX; cycles are
those that the compiler predicts, and a run for timing counts the same. The activation rests in one copy and is fetched;
the weight lies wherever it is used. `bound` is what no plan of any kind goes below (gemm_bounds.py), `peak` the share
of the matrix unit's peak. `t10` is the fastest compute-shift plan (t10_plans.py) under the same rules, lowered and
counted like ours where it is one of our plans, which it is if nothing rotates in it or sums alone along one loop, else
as priced there, in its favour; `ratio` is its cycles over ours; `T10's own` are the cycles of its released search under
its own cost model, where they were measured.

Exit code 1: T10's kind of plan is faster, cycles are below a bound, or a shape does not compile.
"""

import re
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import click
import numpy as np
import onnx
from gemm_bounds import gemm_bound
from onnx import TensorProto, helper, numpy_helper
from rows import ProgramRow, count, program_figures, share, write_rows
from t10_plans import fastest_plan

import ipucc
from ipucc.cli.output import table
from ipucc.compiler import Compiled, CompileOptions, compile_model
from ipucc.diagnostics import CompileError
from ipucc.passes.plan.build_problem import candidate_of
from ipucc.passes.plan.grid import Plan
from ipucc.passes.program.lower import lower, order_transfers
from ipucc.program.timing import Exchanges, program_times
from ipucc.target import Target, load_target

DATA = tomllib.loads((Path(__file__).parent / "data" / "gemm.toml").read_text(encoding="utf-8"))
Dtype = Literal["fp16", "fp32"]
Shape = tuple[int, int, int]


@dataclass
class Row(ProgramRow):
    """One shape on one target.

    `peak_share` is multiply-accumulates over what the matrix unit does in `cycles`; `*_bound` are the parts of
    `bound_cycles`, `memory_bound` the bytes that operands and result take of an average tile.
    """

    shape: str
    origin: str
    target: str
    dtype: Dtype
    amp_bound: int
    compute_bound: int
    exchange_bound: int
    memory_bound: int
    plan: str = ""
    peak_share: float | None = None
    tflops: float | None = None
    t10_cycles: int | None = None
    t10_plan: str = ""
    t10_ratio: float | None = None
    t10_published: int | None = None
    measured_tflops: float | None = None

    @property
    def fault(self) -> str:
        """What must not be: a refusal, a faster plan of T10's kind, cycles below a bound."""
        if self.cycles is None:
            return self.status
        if self.t10_cycles is not None and self.t10_cycles < self.cycles:
            return "slower"
        return "below bound" if self.cycles < self.bound_cycles else ""


def product(shape: Shape, dtype: Dtype) -> onnx.ModelProto:
    """`x` [M, K] times a constant [K, N] -> `y`."""
    m, k, n = shape
    weight = np.random.default_rng(0).standard_normal((k, n), np.float32) / np.float32(np.sqrt(k))
    kind = TensorProto.FLOAT16 if dtype == "fp16" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")], "gemm",
        [helper.make_tensor_value_info("x", kind, [m, k])],
        [helper.make_tensor_value_info("y", kind, [m, n])],
        [numpy_helper.from_array(weight.astype(np.float16 if dtype == "fp16" else np.float32), "weight")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def compiled(shape: Shape, dtype: Dtype, target: str) -> Compiled:
    """The program, its predicted cycles held against those of a run."""
    found = compile_model(product(shape, dtype), CompileOptions(target=target))
    counted = ipucc.Executable(found.program).run(timing_only=True).cycles
    if counted.total != found.cycles["total"]:
        raise AssertionError(f"{shape}: predicted {found.cycles['total']} cycles, counted {counted.total}")
    return found


def lowered(found: Compiled, parts: dict[str, int], sums: tuple[str, int] | None) -> int | None:
    """Cycles of the product cut into these parts in space, in time only while `sums` rotate (loop and steps), lowered
    to a program as ours is: the best of all forms and axis orders. None where none of them can be cut so."""
    graph, target = found.graph, found.program.target
    exchanges = Exchanges(target)
    at = next(i for i, op in enumerate(graph.ops) if op.name.startswith("product"))
    best: int | None = None
    for form in range(len(graph.ops[at].forms) + 1):
        for order in (("k", "m", "n"), ("k", "n", "m")):
            plan = Plan(tuple((axis, parts[axis]) for axis in order), sums, rotates=sums is not None)
            try:
                made = candidate_of(graph, at, form, plan, target)
            except ValueError:
                continue
            chosen = tuple(made if i == at else c for i, c in enumerate(found.placement.chosen))
            program = lower(graph, replace(found.placement, chosen=chosen), target)
            order_transfers(program, exchanges)
            cycles = sum(t.total for t in program_times(program, exchanges))
            best = cycles if best is None else min(best, cycles)
    return best


def plan_of(found: Compiled) -> str:
    """The plan of the product."""
    return next(op.plan for op in found.program.ops if op.name.startswith("product"))


def measure(shape: Shape, origin: str, dtype: Dtype, target: Target, name: str) -> Row:
    """The row of one shape."""
    bound = gemm_bound(*shape, dtype, target)
    text = "x".join(map(str, shape))
    row = Row(
        text, origin, target.name, dtype, bound.amp_cycles, bound.compute_cycles, bound.exchange_cycles,
        bound.memory_bytes, bound_cycles=bound.cycles,
        t10_published=next((t["cycles"] for t in DATA["t10"] if t["shape"] == text and target.name == "gc200"), None),
    )  # fmt: skip
    flops = 2.0 * shape[0] * shape[1] * shape[2]

    def tera(cycles: int) -> float:
        return flops / target.cycles_to_seconds(cycles) / 1e12

    try:
        found = compiled(shape, dtype, name)
        total = found.cycles["total"]
        row.take({
            **program_figures(found), "plan": plan_of(found), "tflops": tera(total),
            "peak_share": bound.amp_cycles / total,
        })  # fmt: skip
    except CompileError as refusal:
        row.status = " ".join(dict.fromkeys(d.id for d in refusal.diagnostics))
        click.echo(str(refusal), err=True)
    if (other := fastest_plan(*shape, dtype, target)) is not None:
        row.t10_cycles, row.t10_plan = other.cycles, other.text
        if row.cycles is not None and (other.sums is not None or not other.rotates):
            # Nothing of it is left out of our plans, so it is priced as they are, with its fragments and copies.
            row.t10_cycles = lowered(found, other.parts, other.sums) or other.cycles
        row.t10_ratio = row.t10_cycles / row.cycles if row.cycles else None
    return row


def shown(rows: list[Row]) -> str:
    """The rows as a table."""
    curve = any(row.measured_tflops is not None for row in rows)
    columns = (
        "shape", "cycles", "compute", "exchange", "sync", "bound", "peak", "t10", "ratio",
        *(("TFLOP/s", "measured") if curve else ("T10's own",)), "plan", "",
    )  # fmt: skip
    cells = []
    for row in rows:
        last = (
            tuple("" if v is None else f"{v:.1f}" for v in (row.tflops, row.measured_tflops))
            if curve
            else (count(row.t10_published),)
        )
        cells.append((
            row.shape, count(row.cycles), count(row.compute), count(row.exchange), count(row.sync),
            count(row.bound_cycles), share(row.peak_share, 1), count(row.t10_cycles),
            "" if row.t10_ratio is None else f"{row.t10_ratio:.3f}", *last, row.plan, row.fault,
        ))  # fmt: skip
    return table("", columns, cells)


def read_shape(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[Shape]:
    """Shapes from `MxKxN`."""
    for text in values:
        if not re.fullmatch(r"[1-9]\d{0,5}x[1-9]\d{0,5}x[1-9]\d{0,5}", text):
            raise click.BadParameter(f"{text!r} is not MxKxN, three whole numbers from 1")
    return [tuple(int(size) for size in text.split("x")) for text in values]  # type: ignore[misc]


@click.command(help=__doc__.split("\n")[0])
@click.option("--shape", "shapes", multiple=True, callback=read_shape, metavar="MxKxN", help="May be repeated.")
@click.option("--dense-curve", is_flag=True, help="The shapes of the vendor's curve, beside its measurements.")
@click.option("--target", help="A machine or a machine file.  [default: gc200; bow for the curve]")
@click.option("--dtype", type=click.Choice(["fp16", "fp32"]), default="fp16", show_default=True)
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(shapes: list[Shape], dense_curve: bool, target: str | None, dtype: Dtype, document: Path | None) -> None:
    curve = DATA["dense_curve"]
    if dense_curve and shapes:
        raise click.UsageError("--dense-curve has shapes of its own")
    name = target or (curve["target"] if dense_curve else "gc200")
    try:
        machine = load_target(name)
    except CompileError as refusal:
        raise click.ClickException(str(refusal)) from refusal
    asked: list[tuple[Shape, str, float | None]] = [(shape, "", None) for shape in shapes]
    if dense_curve:
        asked = [((int(n), curve["k"], curve["n"]), f"dense curve, n = {n}", t) for n, t in curve["tflops"].items()]
    elif not shapes:
        asked = [(read_shape(None, None, (s["shape"],))[0], s["origin"], None) for s in DATA["shape"]]  # type: ignore[arg-type]
    rows = []
    for shape, origin, measured in asked:
        rows.append(measure(shape, origin, dtype, machine, name))
        if dtype == curve["dtype"] and machine.clock_hz == curve["clock_hz"]:
            rows[-1].measured_tflops = measured
        click.echo(f"{rows[-1].shape}: {rows[-1].cycles} cycles {rows[-1].fault}", err=True)
    click.echo(f"{dtype} on {name}, {machine.tiles:,} tiles at {machine.clock_hz / 1e9:.3f} GHz")
    click.echo(shown(rows))
    bad = [row for row in rows if row.fault]
    click.echo(f"{len(rows)} shapes, {len(bad)} at fault")
    write_rows(document, "ipucc.gemm/1", machine.name, rows)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
