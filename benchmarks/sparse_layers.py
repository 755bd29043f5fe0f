"""Block-sparse against dense: the digits network and linear layers of 1024 x 1024 at n = 64 and 1024.

    python benchmarks/sparse_layers.py [--target gc200] [--density 0.25]... [--block 16]... [--json OUT]

Everything in fp16 on one chip. For every density and block: the share of held-back images that the network classifies
right, the error of the program's outputs against the dense model whose dropped blocks are zeroed here (so the pass and
the program are checked together), cycles of the whole program beside those of the dense one, and how many blocks a tile
multiplies: the mean over the tiles that have some, and the fullest, layer by layer. n counts the rows of the dense
operand. Exit code 1 if an error exceeds 2e-2 of the scale of the outputs.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import numpy_helper
from sparse_figures import Blocks, blocks_per_tile

import ipucc
from ipucc.cli.output import table
from ipucc.oracle import check

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "samples"))
from linear import linear

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
COLUMNS = (
    "model", "block", "density", "accuracy", "error", "cycles dense", "cycles sparse", "dense / sparse",
    "blocks per tile, mean", "fullest", "tiles",
)  # fmt: skip


@dataclass(frozen=True)
class Network:
    """A model to prune: the weights that become sparse, the inputs to run, and labels where it classifies."""

    name: str
    model: onnx.ModelProto
    weights: tuple[str, ...]
    inputs: tuple[dict[str, np.ndarray], ...]
    labels: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Row:
    """One program. `block` and `density` are None for the dense one."""

    model: str
    block: int | None
    density: float | None
    accuracy: float | None
    error: float
    cycles: int
    compute: int
    exchange: int
    sync: int
    dense_cycles: int
    blocks: tuple[Blocks, ...]

    def cells(self) -> tuple[str, ...]:
        """The row as text; layers are separated by a slash."""
        return (
            self.model, "dense" if self.block is None else str(self.block),
            "" if self.density is None else f"{self.density:g}",
            "" if self.accuracy is None else f"{self.accuracy:.1%}", f"{self.error:.1e}", f"{self.dense_cycles:,}",
            "" if self.block is None else f"{self.cycles:,}",
            "" if self.block is None else f"{self.dense_cycles / self.cycles:.2f}",
            " / ".join(f"{b.mean:.2f}" for b in self.blocks), " / ".join(str(b.fullest) for b in self.blocks),
            " / ".join(str(b.tiles) for b in self.blocks),
        )  # fmt: skip


def networks(seed: int) -> list[Network]:
    """The digits network with its test images, and the two linear layers."""
    digits = onnx.load(SAMPLES / "digits" / "digits.onnx")
    data = np.load(SAMPLES / "digits" / "test_images.npz")
    batch = digits.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    parts = [slice(i, i + batch) for i in range(0, len(data["images"]), batch)]
    images = tuple({"image": data["images"][part]} for part in parts)
    labels = tuple(data["labels"][part] for part in parts)
    found = [Network("digits", digits, ("linear1.weight", "linear2.weight"), images, labels)]
    for n in (64, 1024):
        x = np.random.default_rng(seed + n).standard_normal((n, 1024), np.float32)
        found.append(Network(f"linear n={n}", linear(1024, 1024, n, seed), ("weight",), ({"x": x},)))
    return found


def masked(network: Network, block: int, density: float) -> onnx.ModelProto:
    """The dense model in which all but the blocks of largest L1 norm are zero."""
    copy = onnx.ModelProto()
    copy.CopyFrom(network.model)
    for weight in copy.graph.initializer:
        if weight.name in network.weights:
            dense = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(keep_blocks(dense, block, density), weight.name))
    return copy


def keep_blocks(dense: np.ndarray, block: int, density: float) -> np.ndarray:
    """`dense` in fp16 with the share `density` of its blocks, one at least, and zeros; norms are those of fp16."""
    rows, cols = dense.shape
    dense = dense.astype(np.float16).astype(dense.dtype)
    padded = np.pad(dense, ((0, -rows % block), (0, -cols % block)))
    view = padded.reshape(padded.shape[0] // block, block, -1, block)
    norms = np.abs(view.astype(np.float64)).sum(axis=(1, 3))
    count = max(1, floor(density * norms.size + 0.5))
    keep = np.zeros(norms.size, bool)
    keep[np.argsort(-norms, axis=None, kind="stable")[:count]] = True
    return (view * keep.reshape(norms.shape)[:, None, :, None]).reshape(padded.shape)[:rows, :cols]


def measure(network: Network, target: str, block: int | None, density: float | None, dense: int | None) -> Row:
    """Compile, run on all inputs and compare with the masked model."""
    # The digits network has zero blocks, which the default passes would use.
    passes = "clean-up,fuse,precision{to=fp16}" if block is None else None
    exe = ipucc.compile(
        network.model, target=target, precision="fp16", passes=passes, block=block, density=density
    )  # fmt: skip
    reference = network.model if block is None or density is None else masked(network, block, density)
    worst, right = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.onnx"
        onnx.save(reference, path)
        for i, inputs in enumerate(network.inputs):
            result = exe.run(inputs)
            verdict = check(result.outputs, inputs, path, precision="fp16", flops=result.flops)
            worst = max(worst, verdict.max_rel_error)
            if network.labels:
                (logits,) = result.outputs.values()
                right += int((logits.argmax(axis=1) == network.labels[i]).sum())
    accuracy = right / sum(map(len, network.labels)) if network.labels else None
    cycles = exe.cycles
    return Row(
        network.name, block, density, accuracy, worst, cycles.total, cycles.compute, cycles.exchange, cycles.sync,
        cycles.total if dense is None else dense, blocks_per_tile(exe.program),
    )  # fmt: skip


def collect(target: str, blocks: Sequence[int], densities: Sequence[float], seed: int) -> list[Row]:
    """Every network dense, then in every density and block."""
    rows = []
    for network in networks(seed):
        dense = measure(network, target, None, None, None)
        rows.append(dense)
        for density in densities:
            for block in blocks:
                click.echo(f"{network.name}: block {block}, density {density:g}", err=True)
                rows.append(measure(network, target, block, density, dense.cycles))
    return rows


@click.command(help=__doc__.split("\n")[0])
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--block", "blocks", type=int, multiple=True, default=(16, 8, 4), show_default=True)
@click.option("--density", "densities", type=float, multiple=True, default=(0.5, 0.25, 0.1), show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the weights and inputs of the linear layers.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(target: str, blocks: tuple[int, ...], densities: tuple[float, ...], seed: int, document: Path | None) -> None:
    rows = collect(target, blocks, densities, seed)
    click.echo(table(f"fp16 on {target}", COLUMNS, [row.cells() for row in rows]))
    if document is not None:
        found = {"schema": "ipucc.sparse-layers/1", "target": target, "rows": [asdict(row) for row in rows]}
        document.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if any(row.error > 2e-2 for row in rows) else 0)


if __name__ == "__main__":
    main()
