"""Block-sparse times dense on simulated tiles: Y [m, n] = W [m, k] X [k, n], W with random blocks at a density.

    python benchmarks/spmm.py                                         m = k = 4096, 1/16, beside published measurements
    python benchmarks/spmm.py --m 768 --k 768 --n 128 --block 16 --density 0.1 --target gc200
    python benchmarks/spmm.py --heat-map --block 16                   the vendor's scheme against measured cells
    python benchmarks/spmm.py --orderings                             the claims S1 to S7 about sparse products

Every option may be repeated; rows are all combinations. `mode` is dense, static (a pattern known while compiling) or
dynamic (the pattern is an input). `scheme` is ipucc's own choice (best) or that of the vendor's library (vendor,
poplibs_plans.py), priced on the same machine: its static sparse products are lowered to programs like ours, its dense
ones are estimated. `compute` are the cycles of products, `reduce` those of adding up partials, `exchange` those of all
exchanges, `sync` of their phases; TFLOP/s count non-zeros only. `speedup` is over the dense product of the same scheme
with as many columns; without --n, rates are the best over several n and so is the speed-up. X is an input, which rests
in one copy; W lies where it is used.

Exit code 1: a row that cannot be compiled; with --orderings a claim that does not hold.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir
from banded import BandedFigures
from onnx import TensorProto, helper, numpy_helper
from poplibs_plans import dense_plan, moved_result, shared_gather, sparse_plan
from rows import count

from ipucc.cli.output import table
from ipucc.compiler import CompileOptions, compile_model
from ipucc.diagnostics import CompileError
from ipucc.ops.distribution import Pattern
from ipucc.ops.graph import TileGraph
from ipucc.optimise import schedule_model
from ipucc.passes.plan.build_problem import build_problem, candidate_of
from ipucc.passes.plan.grid import Plan
from ipucc.passes.plan.local_order import in_local_orders
from ipucc.passes.plan.place import place
from ipucc.passes.program.lower import lower, order_transfers
from ipucc.program.model import Buffer, Exchange, Program
from ipucc.program.order import Order
from ipucc.program.timing import Exchanges, program_times
from ipucc.target import Target, load_target

DATA = Path(__file__).parent / "data" / "measurements.csv"
COLUMNS = (64, 256, 2048)
"""The n among which the best is sought."""


_MANY_PIECES = 1 << 17
"""From so many pieces of memory on, one order of their transfers is taken."""


@dataclass(frozen=True)
class Case:
    """One product. Of a dense one block and density are those of the sparse one that it stands beside."""

    m: int
    k: int
    n: int
    block: int
    density: float
    dtype: str
    mode: str
    scheme: str


@dataclass
class Row:
    """A product and its cycles; None where there is no program, and `status` says why."""

    m: int
    k: int
    n: int
    block: int
    density: float
    dtype: str
    mode: str
    scheme: str
    cycles: int | None = None
    compute: int | None = None
    exchange: int | None = None
    reduce: int | None = None
    sync: int | None = None
    tflops: float | None = None
    speedup: float | None = None
    plan: str = ""
    status: str = ""
    measured: float | None = None
    over: list[int] = field(default_factory=list)


@lru_cache(maxsize=4)
def random_pattern(m: int, k: int, block: int, density: float) -> Pattern:
    """Blocks of W^T [k, m] at random places, as many as the density says, one at least."""
    high, wide = -(-k // block), -(-m // block)
    size = max(1, round(high * wide * density))
    places = np.sort(np.random.default_rng(0).permutation(high * wide)[:size])
    return Pattern(*np.divmod(places, wide), (high, wide), (block, block))


@lru_cache(maxsize=4)
def dealt(m: int, k: int, block: int, density: float) -> BandedFigures:
    """The fullest runs of `random_pattern`, whatever the number of columns."""
    return BandedFigures(random_pattern(m, k, block, density))


def sparse_model(case: Case, pattern: Pattern, distribution: str = "") -> onnx.ModelProto:
    """`x` [n, k] times a block-sparse W^T [k, m] -> `y` [n, m]."""
    kind = TensorProto.FLOAT16 if case.dtype == "fp16" else TensorProto.FLOAT
    values = np.random.default_rng(1).standard_normal((pattern.size, *pattern.block), np.float32)
    node = helper.make_node(
        "BlockSparseMatMul", ["x", "values"], ["y"], name="product", domain="ipucc", expr="x",
        rows=pattern.rows.tolist(), cols=pattern.cols.tolist(), block=pattern.block, shape=[case.k, case.m],
        **({"distribution": distribution} if distribution else {}),
    )  # fmt: skip
    return _model(case, node, values.astype(np.float16 if case.dtype == "fp16" else np.float32), "values", kind)


@lru_cache(maxsize=2)
def places(m: int, k: int, block: int, density: float) -> tuple[ir.Attr, ir.Attr]:
    """Rows and columns of `random_pattern` as attributes."""
    pattern = random_pattern(m, k, block, density)
    return ir.AttrInt64s("rows", pattern.rows.tolist()), ir.AttrInt64s("cols", pattern.cols.tolist())


def sparse_graph(case: Case, pattern: Pattern, distribution: str, options: CompileOptions) -> TileGraph:
    """The tile graph of `sparse_model` with one distribution, made without a file of it: importing millions of places
    takes longer than all that is done with them."""
    dtype = ir.DataType.FLOAT16 if case.dtype == "fp16" else ir.DataType.FLOAT
    x = ir.Value(name="x", shape=ir.Shape((case.n, case.k)), type=ir.TensorType(dtype))
    zeros = ir.tensor(np.zeros((pattern.size, *pattern.block), dtype.numpy()), name="values")
    values = ir.Value(name="values", shape=zeros.shape, type=ir.TensorType(dtype), const_value=zeros)
    y = ir.Value(name="y", shape=ir.Shape((case.n, case.m)), type=ir.TensorType(dtype))
    node = ir.Node("ipucc", "BlockSparseMatMul", [x, values], [
        ir.AttrString("expr", "x"), *places(case.m, case.k, case.block, case.density),
        ir.AttrInt64s("block", pattern.block), ir.AttrInt64s("shape", (case.k, case.m)),
        ir.AttrString("distribution", distribution),
    ], name="product", outputs=[y])  # fmt: skip
    graph = ir.Graph([x], [y], nodes=[node], initializers=[values], opset_imports={"": 20, "ipucc": 1}, name="spmm")
    return schedule_model(ir.Model(graph, ir_version=10), load_target(options.target), options)


def dense_model(case: Case) -> onnx.ModelProto:
    """The same with all of W."""
    kind = TensorProto.FLOAT16 if case.dtype == "fp16" else TensorProto.FLOAT
    weight = np.random.default_rng(1).standard_normal((case.k, case.m), np.float32)
    node = helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")
    return _model(case, node, weight.astype(np.float16 if case.dtype == "fp16" else np.float32), "weight", kind)


def _model(case: Case, node: onnx.NodeProto, held: np.ndarray, name: str, kind: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node], "spmm", [helper.make_tensor_value_info("x", kind, [case.n, case.k])],
        [helper.make_tensor_value_info("y", kind, [case.n, case.m])], [numpy_helper.from_array(held, name)],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("ipucc", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def split(program: Program, exchanges: Exchanges | None = None) -> dict[str, int]:
    """Cycles of a program by what they are for."""
    times = program_times(program, exchanges)
    joins = sum(t.compute for t in times if t.name.startswith("product") and ".partials" not in t.name)
    compute = sum(t.compute for t in times)
    sparse = any(".partials" in t.name for t in times)
    return {
        "cycles": sum(t.total for t in times), "compute": compute - joins if sparse else compute,
        "exchange": sum(t.exchange for t in times), "reduce": joins if sparse else 0,
        "sync": sum(t.sync for t in times),
    }  # fmt: skip


def compiled(model: onnx.ModelProto, target: str, passes: str = "") -> tuple[dict[str, int], str]:
    """Figures and plans of our own program."""
    found = compile_model(model, CompileOptions(target=target, passes=passes))
    return split(found.program), "; ".join(op.plan for op in found.program.ops)


class FewOrders(Exchanges):
    """Orders of transfers; of the largest exchanges only the longest transfers first, where one rule takes seconds and
    this one has come out best."""

    def best_order(self, step: Exchange, buffers: list[Buffer]) -> Order:
        pieces = sum(prod(int(t.count.sum()) for t in move.tracks) for move in step.moves)
        return super().best_order(step, buffers) if pieces < _MANY_PIECES else Order("long", 64, 1)


def vendor_sparse(case: Case, target: str) -> tuple[dict[str, int], str]:
    """The vendor's plan of a static block-sparse product, lowered to a program, and the result moved behind it."""
    machine = load_target(target)
    pattern = random_pattern(case.m, case.k, case.block, case.density)
    plan = sparse_plan(pattern, case.n, case.dtype, machine, dealt(case.m, case.k, case.block, case.density))
    graph = sparse_graph(case, pattern, str(plan.scheme), CompileOptions(target=target, passes="", partials="fp32"))
    placed = place(
        build_problem(graph, machine, machine.usable_bytes, 4), machine.usable_bytes, "greedy", "default"
    )  # fmt: skip
    at = next(i for i, op in enumerate(graph.ops) if op.name.endswith(".partials"))
    cut = Plan((("r", plan.scheme.count), ("m", plan.parts), ("p", 1)), None, plan.parts > 1)
    made = candidate_of(graph, at, 0, cut, machine)
    chosen = tuple(made if i == at else c for i, c in enumerate(placed.chosen))
    exchanges = FewOrders(machine)
    program = lower(graph, in_local_orders(replace(placed, chosen=chosen)), machine)
    order_transfers(program, exchanges)
    figures = split(program, exchanges)
    ordered, exchange, sync = moved_result(case.m, case.n, case.dtype, machine)
    exchange -= shared_gather(pattern, plan, case.n, case.dtype, machine)
    for name, more in (("reduce", ordered), ("exchange", exchange), ("sync", sync)):
        figures[name] += more
        figures["cycles"] += more
    return figures, f"{plan.scheme}, dense side in {plan.parts}"


def dynamic(case: Case, target: str) -> tuple[dict[str, int], str]:
    """Our program for a pattern that is an input, with buckets for random patterns of this density."""
    pruned = f"dynamic-sparse{{block={case.block},density={case.density!r}}}"
    return compiled(dense_model(case), target, pruned)


@cache
def figures_of(case: Case, target: str) -> Row:
    """The row of a product, its speed-up left out."""
    row = Row(**asdict(case))
    machine = load_target(target)
    try:
        if case.mode == "dense" and case.scheme == "vendor":
            plan = dense_plan(case.m, case.k, case.n, case.dtype, machine)
            parts = {name: getattr(plan, name) for name in ("cycles", "compute", "exchange", "reduce", "sync")}
            text = "n/{} k/{} m/{}".format(*plan.parts)
        elif case.mode == "dense":
            parts, text = compiled(dense_model(case), target)
        elif case.mode == "dynamic":
            parts, text = dynamic(case, target)
        elif case.scheme == "vendor":
            parts, text = vendor_sparse(case, target)
        else:
            pattern = random_pattern(case.m, case.k, case.block, case.density)
            parts, text = compiled(sparse_model(case, pattern), target)
    except CompileError as refusal:
        row.status = " ".join(dict.fromkeys(d.id for d in refusal.diagnostics))
        return row
    for name, value in parts.items():
        setattr(row, name, value)
    row.plan = text
    kept = 1.0 if case.mode == "dense" else case.density
    row.tflops = 2.0 * case.m * case.k * case.n * kept / machine.cycles_to_seconds(parts["cycles"]) / 1e12
    return row


def dense_of(case: Case) -> Case:
    """The dense product beside a sparse one, whatever its block and density."""
    return replace(case, mode="dense", block=1, density=1.0)


def measured_row(case: Case, target: str) -> Row:
    """A product with its speed-up over the dense one."""
    row = replace(figures_of(case, target))
    dense = figures_of(dense_of(case), target)
    if row.cycles and dense.cycles:
        row.speedup = dense.cycles / row.cycles
    return row


def best_over(case: Case, target: str, columns: Sequence[int] = COLUMNS) -> Row:
    """The product with the n that gives most FLOP/s, and its speed-up over the best rate of the dense one."""
    rows = [figures_of(replace(case, n=n), target) for n in columns]
    dense = [figures_of(replace(dense_of(case), n=n), target) for n in columns]
    best = max(rows, key=lambda r: r.tflops or 0.0)
    rate = max((r.tflops or 0.0 for r in dense), default=0.0)
    kept = 1.0 if case.mode == "dense" else case.density
    made = replace(best, over=list(columns))
    if best.tflops and rate:
        made.speedup = best.tflops / kept / rate
    return made


def shown(rows: Iterable[Row]) -> str:
    """The rows as a table."""

    def text(value: float | None, digits: int = 2) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    rows = list(rows)
    names = ("m", "k", "n", "block", "density", "dtype", "mode", "scheme", "cycles", "compute", "exchange", "reduce",
             "TFLOP/s", "speed-up", "measured", "plan")  # fmt: skip
    cells = [
        (str(r.m), str(r.k), str(r.n), "" if r.mode == "dense" else str(r.block),
         "" if r.mode == "dense" else f"{r.density:.4g}", r.dtype, r.mode, r.scheme, count(r.cycles), count(r.compute),
         count(r.exchange), count(r.reduce), text(r.tflops, 1), text(r.speedup), text(r.measured), r.plan or r.status)
        for r in rows
    ]  # fmt: skip
    return table("", names, cells)


def measurements(**wanted: str) -> list[dict[str, str]]:
    """Published measurements with these fields."""
    with DATA.open(newline="", encoding="utf-8") as file:
        return [r for r in csv.DictReader(file) if all(r[k] == v for k, v in wanted.items())]


def beside_measured(target: str) -> list[Row]:
    """m = k = 4096, density 1/16, the best over n, blocks of 1 and 16, beside what was measured."""
    rows = []
    for mode, dtype, block in product(("static", "dynamic"), ("fp16", "fp32"), (1, 16)):
        for scheme in ("best", "vendor") if mode == "static" else ("best",):
            found = best_over(Case(4096, 4096, 0, block, 0.0625, dtype, mode, scheme), target)
            seen = measurements(op=f"{mode} block sparse vs dense", block=str(block), dtype=dtype)
            found.measured = float(seen[0]["value"]) if seen else None
            rows.append(found)
            click.echo(f"{mode} {dtype} block {block} {scheme}: {found.speedup}", err=True)
    return rows


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--m", "ms", type=click.IntRange(1, 65536), multiple=True, help="Rows of W.")
@click.option("--k", "ks", type=click.IntRange(1, 65536), multiple=True, help="Columns of W.  [default: m]")
@click.option(
    "--n",
    "ns",
    type=click.IntRange(1, 1 << 20),
    multiple=True,
    help="Columns of X.  [default: the best of 64, 256, 2048]",
)
@click.option("--block", "blocks", type=click.Choice(["1", "4", "8", "16"]), multiple=True, help="[default: 16]")
@click.option("--density", "densities", type=click.FloatRange(0, 1, min_open=True), multiple=True,
              help="[default: 1/16]")  # fmt: skip
@click.option("--dtype", "dtypes", type=click.Choice(["fp16", "fp32"]), multiple=True, help="[default: fp16]")
@click.option("--mode", "modes", type=click.Choice(["dense", "static", "dynamic"]), multiple=True,
              help="[default: static]")  # fmt: skip
@click.option("--scheme", "schemes", type=click.Choice(["best", "vendor"]), multiple=True, help="[default: best]")
@click.option("--target", default="bow", show_default=True, help="A machine or a machine file.")
@click.option("--heat-map", is_flag=True, help="The vendor's scheme against measured cells.")
@click.option("--orderings", is_flag=True, help="The claims S1 to S7.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(
    ms: tuple[int, ...], ks: tuple[int, ...], ns: tuple[int, ...], blocks: tuple[str, ...],
    densities: tuple[float, ...], dtypes: tuple[str, ...], modes: tuple[str, ...], schemes: tuple[str, ...],
    target: str, heat_map: bool, orderings: bool, document: Path | None,
) -> None:  # fmt: skip
    try:
        machine = load_target(target)
    except CompileError as refusal:
        raise click.ClickException(str(refusal)) from refusal
    others = any((ms, ks, ns, densities, dtypes, modes, schemes))
    given = others or bool(blocks)
    if heat_map + orderings + (others if heat_map else given) > 1:
        raise click.UsageError("--heat-map (but for --block) and --orderings have products of their own")
    if heat_map or orderings:
        from spmm_checks import heat_map_rows, ordering_checks

        sys.exit(heat_map_rows(target, document, blocks) if heat_map else ordering_checks(target, document))
    if not given:
        rows = beside_measured(target)
    else:
        rows = []
        for m, block, density, dtype, mode, scheme in product(
            ms or (4096,), blocks or ("16",), densities or (0.0625,), dtypes or ("fp16",), modes or ("static",),
            schemes or ("best",),
        ):  # fmt: skip
            if mode == "dynamic" and scheme == "vendor":
                raise click.UsageError("the vendor's scheme is known for dense and static products only")
            for k in ks or (m,):
                case = Case(m, k, 0, int(block), density, dtype, mode, scheme)
                if mode == "dense":
                    case = dense_of(case)
                rows += [measured_row(replace(case, n=n), target) for n in ns] or [best_over(case, target)]
    click.echo(f"{machine.name}, {machine.tiles:,} tiles at {machine.clock_hz / 1e9:.3f} GHz")
    click.echo(shown(rows))
    write(document, machine, rows)
    sys.exit(1 if any(r.cycles is None for r in rows) else 0)


def write(document: Path | None, machine: Target, rows: Sequence[Any], **more: Any) -> None:
    """Writes rows to a file, if one is named."""
    if document is not None:
        held = {"schema": "ipucc.spmm/1", "target": machine.name, "rows": [asdict(r) for r in rows], **more}
        document.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
