"""One encoder layer of BERT, dense and block-sparse: how much faster every product is, and where its cycles go.

Builds the layer with random weights (attention, two products of 4 times its width, normalisation), compiles it dense
and with most blocks of its six weights left out, and prints per product the cycles, their split and how placement
distributes it. `products` are the cycles of multiplying, `reduce` those of adding partials up, with bias and
activation; `exchange` and `sync` those of all its exchanges. Attention itself has no weights and stays dense.

    python samples/sparse_bert_layer.py [--block 16] [--density 0.1] [--target gc200] [--seq 128] [-o layer.onnx]
"""

from dataclasses import dataclass
from pathlib import Path

import click
import onnx
from networks.transformers import bert_layer

import ipucc
from ipucc.cli.output import table
from ipucc.diagnostics import CompileError
from ipucc.program.op_cycles import owner

HEAD = 64
GROUPS = {"query, key, value": ("query", "key", "value"), "output": ("output",), "up": ("up",), "down": ("down",)}
"""Products by name; query, key and value may run as one."""
REST = "attention, norms"
COLUMNS = (
    "product", "outputs x inputs", "form", "cycles", "products", "reduce", "exchange", "sync", "dense / sparse",
    "placement",
)  # fmt: skip


@dataclass
class Part:
    """Cycles of some ops, and their plans."""

    products: int = 0
    reduce: int = 0
    exchange: int = 0
    sync: int = 0
    plans: str = ""

    @property
    def cycles(self) -> int:
        return self.products + self.reduce + self.exchange + self.sync


def parts(exe: ipucc.Executable) -> dict[str, Part]:
    """The cycles of a run by product; everything else is the rest."""
    ops = {op.name: op for op in exe.program.ops}
    steps = [step for step in exe.profile().steps if step.kind not in ("host write", "host read")]
    in_parts = {owner(step.name, ops) for step in steps if ".partials" in step.name}
    in_parts |= {name.removesuffix(".partials") for name in in_parts}
    found = {name: Part() for name in (*GROUPS, REST)}
    for step in steps:
        name = owner(step.name, ops)
        part = found[group_of(name)]
        # Behind products in parts, what is left of an op adds them up.
        adds = name in in_parts and ".partials" not in step.name
        part.products += 0 if adds else step.compute
        part.reduce += step.compute if adds else 0
        part.exchange += step.exchange
        part.sync += step.sync
    for name, part in found.items():
        if name in GROUPS:
            plans = dict.fromkeys(op.plan for op in ops.values() if group_of(op.name) == name)
            part.plans = "; ".join(plans)
    return found


def group_of(op: str) -> str:
    """The group of an op, by the names of the nodes that it comes from."""
    for group, names in GROUPS.items():
        if any(f"layer.{name}" in op for name in names):
            return group
    return REST


def rows(dense: dict[str, Part], sparse: dict[str, Part], hidden: int) -> list[tuple[str, ...]]:
    """Two rows for every product, one for the rest and one for the whole layer."""
    square = f"{hidden}x{hidden}"
    sizes = {"query, key, value": f"3 x {square}", "output": square, "up": f"{4 * hidden}x{hidden}",
             "down": f"{hidden}x{4 * hidden}"}  # fmt: skip
    lines = []
    for name in (*GROUPS, REST):
        for kind, part, ratio in (("dense", dense[name], ""), ("sparse", sparse[name], ratio_of(dense, sparse, name))):
            figures = (part.cycles, part.products, part.reduce, part.exchange, part.sync)
            label = (name, sizes.get(name, "")) if kind == "dense" else ("", "")
            lines.append((*label, kind, *(f"{n:,}" for n in figures), ratio, part.plans))
    whole = [sum(part.cycles for part in found.values()) for found in (dense, sparse)]
    blank = ("",) * 4
    lines.append(("layer", "", "dense", f"{whole[0]:,}", *blank, "", ""))
    lines.append(("", "", "sparse", f"{whole[1]:,}", *blank, f"{whole[0] / whole[1]:.2f}", ""))
    return lines


def ratio_of(dense: dict[str, Part], sparse: dict[str, Part], name: str) -> str:
    return f"{dense[name].cycles / sparse[name].cycles:.2f}" if sparse[name].cycles else ""


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--block", type=click.Choice(["4", "8", "16"]), default="16", show_default=True)
@click.option("--density", type=click.FloatRange(0, 1, min_open=True), default=0.1, show_default=True)
@click.option("--hidden", type=click.IntRange(min=HEAD), default=768, show_default=True, help="A multiple of 64.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--seq", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens of a sequence.")
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--precision", type=click.Choice(["model", "fp16"]), default="fp16", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the weights.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the dense layer as ONNX.")
def main(
    block: str, density: float, hidden: int, batch: int, seq: int, target: str, precision: str, seed: int,
    output: Path | None,
) -> None:  # fmt: skip
    if hidden % HEAD:
        raise click.UsageError(f"--hidden is a multiple of {HEAD}")
    model = bert_layer(hidden, hidden // HEAD, batch, seq, seed)
    if output is not None:
        onnx.save(model, output)
    try:
        dense = ipucc.compile(model, target=target, precision=precision)
        sparse = ipucc.compile(model, target=target, precision=precision, block=int(block), density=density)
    except CompileError as failure:
        raise click.ClickException(str(failure)) from failure
    title = f"{batch} x {seq} tokens, {precision}, blocks of {block}, density {density:g}, on {dense.target.name}"
    click.echo(table(title, COLUMNS, rows(parts(dense), parts(sparse), hidden)))


if __name__ == "__main__":
    main()
