"""What the methods of products and convolutions are worth: one op at a time, with all of its forms and with one.

    python benchmarks/methods.py [--target gc200] [--precision fp16] [--json OUT]

Cycles are those of the program, which a run counts again: the op, and the fetching of its input from the one copy that
the host writes.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ipucc.compiler import CompileOptions
from ipucc.optimise import optimise_model, schedule_model
from ipucc.passes.program.fit import fit
from ipucc.program.timing import program_times
from ipucc.target import load_target

PRODUCTS = {f"{m} x {k} x {n}": (m, k, n) for m, k, n in [
    (1, 4096, 4096), (4, 4096, 4096), (16, 5120, 5120), (128, 768, 3072),
]}  # fmt: skip
# Name -> channels in, channels out, size of the image, kernel, stride, groups.
CONVOLUTIONS = {
    "7x7/2, 3 to 64 channels, 224": (3, 64, 224, 7, 2, 1),
    "3x3/2, 3 to 32 channels, 224": (3, 32, 224, 3, 2, 1),
    "3x3, 32 groups of 4 channels, 56": (128, 128, 56, 3, 1, 32),
    "3x3 depthwise, 32 channels, 112": (32, 32, 112, 3, 1, 32),
    "5x5 depthwise, 240 channels, 28": (240, 240, 28, 5, 1, 240),
    "1x1, 480 to 20 channels, 1 position": (480, 20, 1, 1, 1, 1),
}


@dataclass(frozen=True)
class Row:
    """A shape, the form chosen for it, and cycles in this form and in the usual one."""

    shape: str
    form: str
    cycles: int
    usual_cycles: int


def model_of(name: str) -> onnx.ModelProto:
    """A model of one op."""
    if name in PRODUCTS:
        m, k, n = PRODUCTS[name]
        shape, weight = [m, k], (k, n)
        node = helper.make_node("MatMul", ["x", "w"], ["y"], name="op")
    else:
        ic, oc, size, kernel, stride, groups = CONVOLUTIONS[name]
        shape, weight = [1, ic, size, size], (oc, ic // groups, kernel, kernel)
        pads = [kernel // 2] * 4
        node = helper.make_node("Conv", ["x", "w"], ["y"], name="op", strides=[stride] * 2, pads=pads, group=groups)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    weights = [numpy_helper.from_array(np.zeros(weight, np.float32), "w")]
    graph = helper.make_graph([node], "g", [x], [onnx.ValueInfoProto(name="y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def measure(name: str, options: CompileOptions) -> Row:
    """Compile one shape twice."""
    target = load_target(options.target)
    found = []
    for every in (True, False):
        graph = schedule_model(optimise_model(model_of(name), options).model, target, options)
        if not every:
            graph.ops[:] = [replace(op, forms=()) for op in graph.ops]
        fitted = fit([graph], target, options.keep, options.solver, options.effort, lambda part, seconds=0.0: None)
        cycles = sum(t.total for t in program_times(fitted.program))
        found.append((graph.ops[-1].in_form(fitted.placement.chosen[-1].form).form, cycles))
    return Row(name, found[0][0], found[0][1], found[1][1])


@click.command()
@click.option("--target", default="gc200")
@click.option("--precision", default="fp16")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False))
def main(target: str, precision: str, out: Path | None) -> None:
    """Print a table, and write its rows as JSON."""
    options = CompileOptions(target=target, precision=precision)  # type: ignore[arg-type]
    rows = []
    print(f"{'shape':<36} {'usual form':>10} {'fastest':>8}  form")
    for name in (*PRODUCTS, *CONVOLUTIONS):
        row = measure(name, options)
        rows.append(row)
        print(f"{row.shape:<36} {row.usual_cycles:>10,} {row.cycles:>8,}  {row.form}".rstrip())
    if out is not None:
        out.write_text(json.dumps({"rows": [vars(r) for r in rows]}, indent=1) + "\n")
    sys.exit(any(r.cycles > r.usual_cycles for r in rows))


if __name__ == "__main__":
    main()
