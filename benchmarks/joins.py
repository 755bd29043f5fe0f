"""What it is worth to join partials in groups first: reductions, long rows and thin products, one op at a time.

    python benchmarks/joins.py [--target gc200] [--precision fp16] [--json OUT]

Cycles are those of the program, which a run counts again: the op, and the fetching of its input from the one copy that
the host writes. `at once` has plans alone that join all partials of a result, or all statistics of a row, in one stage.
Exit code 1: an op is slower with all of its plans.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rows import write_rows

from ipucc.cli.output import table
from ipucc.codelets.normalise import NormaliseParts
from ipucc.codelets.reduce import Reduce
from ipucc.codelets.softmax import SoftmaxParts
from ipucc.compiler import CompileOptions, compile_model

Shape = tuple[int, ...]

# Name -> op, input, weight or dimensions reduced.
OPS: dict[str, tuple[str, Shape, Shape | None]] = {
    "sum of 4,194,304": ("ReduceSum", (4_194_304,), (0,)),
    "sum of 1,048,576": ("ReduceSum", (1_048_576,), (0,)),
    "sum of 65,536 x 64 to 64": ("ReduceSum", (65_536, 64), (0,)),
    "sum of 16,384 x 16 to 16": ("ReduceSum", (16_384, 16), (0,)),
    "mean of 4,096 x 1,024 to 1,024": ("ReduceMean", (4_096, 1_024), (0,)),
    "pool of 3 channels, 512": ("GlobalAveragePool", (1, 3, 512, 512), None),
    "pool of 32 channels, 112": ("GlobalAveragePool", (1, 32, 112, 112), None),
    "pool of 1,280 channels, 7": ("GlobalAveragePool", (1, 1_280, 7, 7), None),
    "softmax of a row of 32,768": ("Softmax", (1, 32_768), None),
    "softmax of a row of 1,048,576": ("Softmax", (1, 1_048_576), None),
    "layer norm of a row of 262,144": ("LayerNormalization", (1, 262_144), (262_144,)),
    "softmax of 128 rows of 512": ("Softmax", (128, 512), None),
    "1 x 65,536 x 64": ("MatMul", (1, 65_536), (65_536, 64)),
    "8 x 100,000 x 8": ("MatMul", (8, 100_000), (100_000, 8)),
    "64 x 65,536 x 64": ("MatMul", (64, 65_536), (65_536, 64)),
    "1 x 4,096 x 4,096": ("MatMul", (1, 4_096), (4_096, 4_096)),
}


@dataclass
class Row:
    """An op, its cycles where all partials are joined at once and with all plans, and the plan that is chosen."""

    op: str
    at_once: int
    cycles: int
    plan: str

    @property
    def fault(self) -> str:
        """What must not be: more cycles for more plans."""
        return "slower" if self.cycles > self.at_once else ""


def model_of(name: str) -> onnx.ModelProto:
    """A model of one op."""
    kind, shape, other = OPS[name]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    node = helper.make_node(kind, ["x"] if other is None else ["x", "w"], ["y"], name="op")
    weights = []
    if other is not None:
        value = np.asarray(other, np.int64) if kind.startswith("Reduce") else np.zeros(other, np.float32)
        weights.append(numpy_helper.from_array(value, "w"))
    graph = helper.make_graph([node], "g", [x], [onnx.ValueInfoProto(name="y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@contextmanager
def no_groups() -> Iterator[None]:
    """No codelet makes one partial of several."""
    codelets = Reduce, NormaliseParts, SoftmaxParts
    patches = [patch.object(codelet, "joining", lambda *_: None) for codelet in codelets]
    for p in patches:
        p.start()
    try:
        yield
    finally:
        for p in patches:
            p.stop()


def measure(name: str, options: CompileOptions) -> Row:
    """Compile one op twice."""
    with no_groups():
        at_once = compile_model(model_of(name), options)
    every = compile_model(model_of(name), options)
    plan = every.placement.chosen[-1].plan.describe()
    return Row(name, at_once.cycles["total"], every.cycles["total"], plan)


@click.command()
@click.option("--target", default="gc200")
@click.option("--precision", default="fp16")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False))
def main(target: str, precision: str, out: Path | None) -> None:
    """Print a table, and write its rows as JSON."""
    options = CompileOptions(target=target, precision=precision)  # type: ignore[arg-type]
    rows = [measure(name, options) for name in OPS]
    cells = [[r.op, f"{r.at_once:,}", f"{r.cycles:,}", f"{r.at_once / r.cycles:.2f}", r.plan] for r in rows]
    click.echo(table(f"{precision} on {target}", ("op", "at once", "cycles", "ratio", "plan"), cells))
    write_rows(out, "ipucc.benchmarks.joins/1", target, rows)
    sys.exit(any(r.fault for r in rows))


if __name__ == "__main__":
    main()
