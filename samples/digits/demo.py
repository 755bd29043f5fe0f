"""The main job on real data: a digits network on a simulated IPU, dense and block-sparse side by side.

Compiles samples/digits/digits.onnx for one chip, runs the held-back test images through the program on simulated tiles
and prints accuracy, cycles, time on the device, memory per tile and utilisation.

    python samples/digits/demo.py [--target gc200] [--images 448]
"""

from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import ipucc

HERE = Path(__file__).parent
VARIANTS = (("dense", None, None), ("16x16, density 0.5", 16, 0.5), ("16x16, density 0.25", 16, 0.25))


def accuracy(exe: "ipucc.Executable", images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images that the program classifies as labelled, batch by batch."""
    name, _, shape = exe.inputs[0]
    right = 0
    for start in range(0, len(images), shape[0]):
        batch = images[start : start + shape[0]]
        logits = exe.run({name: batch}).outputs[exe.outputs[0][0]]
        right += int((logits.argmax(axis=1) == labels[start : start + shape[0]]).sum())
    return right / len(images)


@click.command()
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--images", "count", default=448, show_default=True, help="How many test images to run.")
def main(target: str, count: int) -> None:
    """Compile and run the digits network, dense and block-sparse."""
    data = np.load(HERE / "test_images.npz")
    images, labels = data["images"][:count], data["labels"][:count]
    console = Console()
    table = Table(title=f"digits on {target}, fp16, {len(images)} held-back images")
    for heading in ("network", "accuracy", "cycles", "µs per batch", "KiB of the fullest tile", "utilisation"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for label, block, density in VARIANTS:
        console.print(f"compiling and running: {label}", highlight=False)
        # The network was trained to have zero blocks, and the default passes would use them.
        passes = "clean-up,fuse,precision{to=fp16}" if block is None else None
        exe = ipucc.compile(
            HERE / "digits.onnx", target=target, precision="fp16", passes=passes, block=block, density=density
        )
        score = accuracy(exe, images, labels)
        timing = exe.run(timing_only=True)
        profile = exe.profile()
        table.add_row(
            label,
            f"{score:.1%}",
            f"{timing.cycles.total:,}",
            f"{timing.device_seconds * 1e6:.1f}",
            f"{profile.tile_bytes.max() / 1024:.1f}",
            f"{timing.utilisation:.2%}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
