"""A budget of cycles against uniform and ERK densities: score and accuracy at equal cycles.

    python benchmarks/budget.py [--model digits|bert]... [--share 0.9]... [--block 16] [--target gc200] [--json OUT]

Of the dense model's cycles a `--share` is allowed. `sparsify{cycles=...}` chooses block and density of every layer;
uniform and ERK get blocks of `--block` and the highest density at which the quick placement of the model, which is what
the budget is held against, keeps to the same cycles (bisection). fp16, one chip. Per row: what layers keep of their L1
norm in the mean, that of the model as a whole, the share of held-back images classified right (digits), the cycles of
the quick placement, and, with `--compile`, those of the compiled program. `digits` is the digits network with its
convolutions, `bert` the products of encoder layers of BERT-base size with random weights whose rows and columns are
scaled unevenly.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import ipucc
from ipucc.cli.output import table
from ipucc.compiler import CompileOptions
from ipucc.diagnostics import CompileError
from ipucc.graph.schemas import oracle_model
from ipucc.optimise import Optimised, optimise_model, predictor
from ipucc.pass_manager import PassContext
from ipucc.passes.graph.products import find_products

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
COLUMNS = ("model", "allowed", "densities", "kept per layer", "kept", "accuracy", "placed", "compiled")
DENSE = "clean-up,fuse,precision"


@dataclass(frozen=True)
class Row:
    """One way of choosing. `kept` are shares of the L1 norm of the weights."""

    model: str
    allowed: int
    way: str
    kept_per_layer: float
    kept: float
    accuracy: float | None
    placed: int
    compiled: int | None

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return (
            self.model, f"{self.allowed:,}", self.way, f"{self.kept_per_layer:.2%}", f"{self.kept:.2%}",
            "" if self.accuracy is None else f"{self.accuracy:.1%}", f"{self.placed:,}",
            "" if self.compiled is None else f"{self.compiled:,}",
        )  # fmt: skip


def encoder(layers: int, tokens: int = 128, width: int = 768, seed: int = 0) -> onnx.ModelProto:
    """The products of encoder layers: Q, K and V as one, the projection, and the two of the feed-forward part, each
    with a Relu behind it. Attention between them is left out."""
    rng = np.random.default_rng(seed)
    nodes, weights, value = [], [], "x"
    for layer in range(layers):
        for name, k, n in (("qkv", width, 3 * width), ("proj", 3 * width, width), ("up", width, 4 * width),
                           ("down", 4 * width, width)):  # fmt: skip
            scale = np.exp(0.5 * rng.standard_normal((k, 1))) * np.exp(0.5 * rng.standard_normal((1, n)))
            w = rng.standard_normal((k, n)) * scale / np.sqrt(k)
            label = f"l{layer}.{name}"
            weights.append(numpy_helper.from_array(w.astype(np.float32), f"{label}.weight"))
            nodes.append(helper.make_node("MatMul", [value, f"{label}.weight"], [f"{label}.p"], name=label))
            nodes.append(helper.make_node("Relu", [f"{label}.p"], [f"{label}.y"], name=f"{label}.relu"))
            value = f"{label}.y"
    x = helper.make_tensor_value_info("x", 1, [tokens, width])
    y = helper.make_tensor_value_info(value, 1, [tokens, width])
    graph = helper.make_graph(nodes, "encoder", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def norms(model: onnx.ModelProto) -> dict[str, float]:
    """The L1 norm of the weight of every product, by the name of its node, dense."""
    found = optimise_model(model, CompileOptions(passes=DENSE)).model
    products = find_products(found, ("matmul", "conv"), PassContext())
    return {str(p.node.name): float(np.abs(np.asarray(p.read(), np.float64)).sum()) for p in products}


def kept(done: Optimised, dense: dict[str, float]) -> tuple[float, float]:
    """The share of the L1 norm that layers keep in the mean, and that of all of them together."""
    left = dict(dense)
    for node in done.model.graph:
        if node.op_type in ("BlockSparseMatMul", "BlockSparseConv"):
            values = np.asarray(node.inputs[1].const_value.numpy(), np.float64)
            left[str(node.name)] = float(np.abs(values).sum())
    return float(np.mean([left[name] / dense[name] for name in dense])), sum(left.values()) / sum(dense.values())


def accuracy(done: Optimised) -> float:
    """The share of the held-back images that the digits network classifies right, by onnx's reference evaluator."""
    data = np.load(SAMPLES / "digits" / "test_images.npz")
    run = ReferenceEvaluator(oracle_model(done.model))
    images = data["images"].astype(np.float16)
    batch = int(done.model.graph.inputs[0].shape[0])  # type: ignore[index]
    right = 0
    for i in range(0, len(images), batch):
        (logits,) = run.run(None, {"image": images[i : i + batch]})
        right += int((np.asarray(logits).argmax(axis=1) == data["labels"][i : i + batch]).sum())
    return right / len(images)


def compare(
    name: str, model: onnx.ModelProto, ops: str, shares: Sequence[float], block: int, target: str, compiled: bool
) -> list[Row]:  # fmt: skip
    """The three ways at every share of the dense model's cycles."""
    planner = predictor(CompileOptions(target=target, precision="fp16"))

    def made(step: str) -> tuple[Optimised, int, str]:
        passes = DENSE + (f",sparsify{{{step},ops=[{ops}]}}" if step else "")
        done = optimise_model(model, CompileOptions(target=target, passes=passes), known=planner.known)
        return done, planner.whole(done.model), passes

    weights = norms(model)
    dense = made("")

    def row(way: str, allowed: int, found: tuple[Optimised, int, str]) -> Row:
        done, cycles, passes = found
        program = ipucc.compile(model, target=target, passes=passes).cycles.total if compiled else None
        right = accuracy(done) if name == "digits" else None
        return Row(name, allowed, way, *kept(done, weights), right, cycles, program)

    rows = [row("dense", dense[1], dense)]
    for share in shares:
        allowed = int(share * dense[1])
        for way, rule in (("uniform", ""), ("ERK", ",distribution=erk")):
            low, high, best = 0.01, 1.0, None
            for _ in range(7):
                middle = (low * high) ** 0.5
                found = made(f"block={block},density={middle:.4f}{rule}")
                if found[1] <= allowed:
                    low, best = middle, found
                else:
                    high = middle
            if best is not None:
                rows.append(row(f"{way}, {low:.3f}", allowed, best))
            click.echo(f"{name}: {way} at {allowed:,}", err=True)
        try:
            rows.append(row("by budget", allowed, made(f"cycles={allowed}")))
        except CompileError as failure:
            click.echo(str(failure), err=True)
    return rows


@click.command(help=__doc__.split("\n")[0])
@click.option("--model", "models", type=click.Choice(["digits", "bert"]), multiple=True, default=("digits", "bert"))
@click.option("--share", "shares", type=float, multiple=True, default=(0.95, 0.85, 0.75), show_default=True)
@click.option("--block", default=16, show_default=True, help="Block of uniform and ERK densities.")
@click.option("--layers", default=2, show_default=True, help="Encoder layers of `bert`.")
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--compile", "compiled", is_flag=True, help="Compile every choice too.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(
    models: tuple[str, ...], shares: tuple[float, ...], block: int, layers: int, target: str, compiled: bool,
    document: Path | None,
) -> None:  # fmt: skip
    rows: list[Row] = []
    for name in models:
        digits = name == "digits"
        source = onnx.load(SAMPLES / "digits" / "digits.onnx") if digits else encoder(layers)
        rows += compare(name, source, "matmul,conv" if digits else "matmul", shares, block, target, compiled)
    click.echo(table(f"fp16 on {target}, uniform and ERK with blocks of {block}", COLUMNS, [r.cells() for r in rows]))
    if document is not None:
        found = {"schema": "ipucc.budget/1", "target": target, "rows": [asdict(row) for row in rows]}
        document.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(0)


if __name__ == "__main__":
    main()
