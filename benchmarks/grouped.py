"""Grouped convolutions: EfficientNet-B0 beside ResNet-50, and its windows as layers alone, by the size of a group.

    python benchmarks/grouped.py [--target gc200] [--json OUT]

fp16, batch 1, 224 x 224 images. The first table has whole networks: EfficientNet-B0 as published, one channel a group,
and with 16 channels a group (Masters et al., arXiv 2106.03640, propose them for the machine). `MAC/cycle` is what a
tile multiplies and adds per cycle, `of AMP peak` that against 64 in fp16; `windows` is the part of the cycles that the
convolutions with a window of more than one tap take, steps of their exchange included.

The second table has every distinct depthwise layer of the network alone, input and weights where they are used, with
groups of 1, 4 and 16 channels and with a single one: multiply-accumulates in millions, cycles, and MAC/cycle.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto

import ipucc
from ipucc.cli.output import table
from ipucc.program.op_cycles import cycles_by_op
from ipucc.target import load_target

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "samples"))
from networks.builder import GraphBuilder
from networks.convolutional import EFFICIENTNET_B0, efficientnet_b0, resnet50

SIZE, GROUPS = 224, (1, 4, 16, 0)


@dataclass(frozen=True)
class Figures:
    """One program. `group` counts the channels of a group, 0 for one group of all."""

    name: str
    group: int
    macs: int
    cycles: int
    compute: int
    exchange: int
    sync: int
    windows: int
    tiles: int

    @property
    def rate(self) -> float:
        """Multiply-accumulates of a tile per cycle."""
        return self.macs / self.cycles / self.tiles


def measured(name: str, group: int, model: onnx.ModelProto, target: str) -> Figures:
    """The program of a model, for timing."""
    exe = ipucc.compile(model, target=target, precision="fp16")
    windows = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Conv" and any(a.name == "kernel_shape" and max(a.ints) > 1 for a in node.attribute)
    }
    nodes = {node.name for node in model.graph.node if node.output[0] in windows}
    ops = {op.name: op for op in exe.program.ops}
    by_op = cycles_by_op(exe.profile().steps, ops)
    taken = sum(c.total for op, c in by_op.items() if op in ops and nodes & set(ops[op].nodes))
    cycles = exe.cycles
    flops = int(exe.manifest["flops"])
    return Figures(
        name, group, flops // 2, cycles.total, cycles.compute, cycles.exchange, cycles.sync, taken, exe.target.tiles
    )  # fmt: skip


def layers() -> list[tuple[int, int, int, int]]:
    """(channels, window, stride, extent of the input) of every distinct window of EfficientNet-B0."""
    found, channels, extent = [], 32, SIZE // 2
    for expand, window, stride, width, blocks in EFFICIENTNET_B0:
        for block in range(blocks):
            step = stride if block == 0 else 1
            found.append((expand * channels, window, step, extent))
            extent, channels = -(-extent // step), width
    return list(dict.fromkeys(found))


def layer(channels: int, window: int, stride: int, extent: int, group: int) -> onnx.ModelProto:
    """One convolution."""
    g = GraphBuilder(0)
    y = g.conv("x", "window", channels, channels, window, stride=stride, groups=channels // (group or channels))
    size = (extent + 2 * (window // 2) - window) // stride + 1
    model = g.model(
        "layer", [("x", TensorProto.FLOAT, [1, channels, extent, extent])], [(y, [1, channels, size, size])]
    )  # fmt: skip
    assert np.prod([d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]) == channels * size * size
    return model


def networks(target: str) -> list[Figures]:
    """The whole networks."""
    found = [measured("ResNet-50", 0, resnet50(1, 0), target)]
    for group in (1, 16):
        click.echo(f"EfficientNet-B0, groups of {group}", err=True)
        found.append(measured("EfficientNet-B0", group, efficientnet_b0(1, SIZE, 1000, 0, group=group), target))
    return found


@click.command(help=__doc__.split("\n")[0])
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(target: str, document: Path | None) -> None:
    whole = networks(target)
    peak = load_target(target).amp_macs_per_cycle("fp16", "fp16")
    cells = [
        (f.name, str(f.group or "all"), f"{f.macs / 1e6:,.0f}", f"{f.cycles:,}", f"{f.compute:,}", f"{f.exchange:,}",
         f"{f.sync:,}", f"{f.windows / f.cycles:.0%}", f"{f.rate:.1f}", f"{f.rate / peak:.1%}")
        for f in whole
    ]  # fmt: skip
    head = ("network", "group", "M MAC", "cycles", "compute", "exchange", "sync", "windows", "MAC/cycle", "of AMP peak")
    click.echo(table(f"fp16, batch 1, {target}", head, cells))
    rows, alone = [], []
    for channels, window, stride, extent in layers():
        click.echo(f"{channels} channels, window {window}", err=True)
        found = [
            measured(f"{channels}x{window}x{window}/{stride} at {extent}", group,
                     layer(channels, window, stride, extent, group), target)
            for group in GROUPS
        ]  # fmt: skip
        alone += found
        each = [cell for f in found for cell in (f"{f.macs / 1e6:,.1f}", f"{f.cycles:,}", f"{f.rate:.2f}")]
        rows.append((found[0].name, *each))
    names = [f"{what} {group or 'all'}" for group in GROUPS for what in ("M MAC", "cycles", "rate")]
    click.echo()
    click.echo(table("windows alone, by the channels of a group", ("layer", *names), rows))
    if document is not None:
        tables = {"networks": [asdict(f) for f in whole], "layers": [asdict(f) for f in alone]}
        document.write_text(json.dumps({"schema": "ipucc.grouped/1"} | tables, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
