"""Live bytes before and behind the schedule step: what the order of independent branches saves.

    python benchmarks/schedule.py [FILE.onnx]... [--target gc200] [--precision fp16] [--json OUT]

Without files: the networks of samples/make_models.py in their published sizes, and the light models that the onnx
package brings along for its tests. Peak and mean count all results that are alive in a step, once with all their
elements, per step of the tile graph; `given` is the order of the model's nodes.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import onnx

from ipucc.compiler import CompileOptions
from ipucc.ops.graph import TileGraph, live_results, tensor_bytes
from ipucc.optimise import lower_ops, optimise_model
from ipucc.passes.plan.schedule import schedule
from ipucc.target import load_target

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
NETWORKS = {
    "unet": (), "resnet50": (), "mobilenet-v2": (), "efficientnet-b0": (), "bert-base": ("--seq", "128"),
    "gpt2": ("--seq", "64"), "vit-base": (), "llama-step": (),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Bytes alive in the fullest step and on average, in the model's order and in ours, and seconds of the step."""

    model: str
    ops: int
    given_peak: int
    peak: int
    given_mean: int
    mean: int
    seconds: float


def live_bytes(graph: TileGraph) -> list[int]:
    """Bytes of all results that are alive, per step."""
    return [sum(tensor_bytes(graph.tensors[t]) for t in live) for live in live_results(graph)]


def measure(name: str, file: Path, options: CompileOptions) -> Row:
    """Order the ops of one model."""
    target = load_target(options.target)
    graph = lower_ops(optimise_model(file, options).model, target, options)
    begin = time.perf_counter()
    ordered = schedule(graph)
    seconds = time.perf_counter() - begin
    old, new = live_bytes(graph), live_bytes(ordered)
    return Row(name, len(old), max(old), max(new), sum(old) // len(old), sum(new) // len(new), seconds)


@click.command(help=__doc__.split("\n")[0])
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--precision", type=click.Choice(["model", "fp16"]), default="fp16", show_default=True)
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all figures to this file.")
def main(files: tuple[Path, ...], target: str, precision: str, document: Path | None) -> None:
    options = CompileOptions(target=target, precision=precision)  # type: ignore[arg-type]
    rows = []
    click.echo(
        f"{'model':<18} {'ops':>5} {'peak MB':>9} {'given':>9} {'less':>6}  {'mean MB':>9} {'given':>9} {'less':>6}  s"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, file in [(f.stem, f) for f in files] or [*networks(Path(folder)), *light()]:
            row = measure(name, file, options)
            rows.append(row)
            click.echo(
                f"{row.model:<18} {row.ops:>5} {row.peak / 1e6:>9.3f} {row.given_peak / 1e6:>9.3f} "
                f"{1 - row.peak / row.given_peak:>6.1%}  {row.mean / 1e6:>9.3f} {row.given_mean / 1e6:>9.3f} "
                f"{1 - row.mean / row.given_mean:>6.1%}  {row.seconds:.2f}"
            )
    if document is not None:
        rows_json = [asdict(row) for row in rows]
        text = json.dumps({"schema": "ipucc.schedule/1", "target": target, "rows": rows_json}, indent=1)
        document.write_text(text + "\n", encoding="utf-8")


def networks(folder: Path) -> list[tuple[str, Path]]:
    """The networks of samples/make_models.py, written into a folder."""
    found = []
    for name, options in NETWORKS.items():
        file = folder / f"{name}.onnx"
        make = [sys.executable, str(SAMPLES / "make_models.py"), name, *options, "-o", str(file)]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        found.append((name, file))
    return found


def light() -> list[tuple[str, Path]]:
    """The light models of the onnx package that have branches."""
    names = ("densenet121", "inception_v1", "inception_v2", "shufflenet", "squeezenet")
    return [(name, LIGHT / f"light_{name}.onnx") for name in names]


if __name__ == "__main__":
    main()
