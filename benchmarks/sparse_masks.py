"""Masks that fill the tiles evenly against masks that are free: score kept, fullest tile, cycles, accuracy.

    python benchmarks/sparse_masks.py                              the digits network, and BERT-base with random weights
    python benchmarks/sparse_masks.py --model M.onnx --grid 8x12   a model of one's own

`free, runs` is what `sparsify` does: the best blocks by L1 norm, dealt to the tiles as placement likes. `free, grid`
has the same blocks on tiles that hold a fixed part of the weight each, as those of a pattern that is an input must;
`even, grid` the best blocks under equal capacities of these tiles, `even 10 %` with a tenth more room. `score` is the
L1 norm that is kept, over that of the free mask; `max / mean` is the worst layer's, over the tiles that have blocks.
Everything in fp16; cycles are those of the whole model. The digits are images of its held-back set.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime
from rows import count
from sparse_figures import blocks_per_tile, kept_score

from ipucc.cli.output import table
from ipucc.compiler import CompileOptions, compile_model
from ipucc.diagnostics import CompileError
from ipucc.graph.schemas import oracle_model

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
WAYS = (("free, runs", None), ("free, grid", 1e6), ("even, grid", 0.0), ("even 10 %, grid", 0.1))


@dataclass
class Row:
    """One model under one way of choosing and dealing blocks."""

    model: str
    block: int
    density: float
    grid: str
    way: str
    score: float | None = None
    fullest: float | None = None
    cycles: int | None = None
    accuracy: float | None = None
    status: str = ""


def accuracy(model: onnx.ModelProto) -> float:
    """The share of held-back digits that the model behind the passes classifies right, run by onnxruntime."""
    data = np.load(SAMPLES / "digits" / "test_images.npz")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (given,) = session.get_inputs()
    right = 0
    for at in range(0, len(data["images"]), given.shape[0]):
        images = data["images"][at : at + given.shape[0]]
        kind = np.float16 if given.type == "tensor(float16)" else np.float32
        (logits,) = session.run(None, {given.name: images.astype(kind)})
        right += int((logits.argmax(axis=1) == data["labels"][at : at + given.shape[0]]).sum())
    return right / len(data["labels"])


def measure(
    name: str, path: Path, block: int, density: float, grid: tuple[int, int], target: str, labelled: bool
) -> list[Row]:
    """All ways for one model."""
    rows: list[Row] = []
    free: float | None = None
    for way, slack in WAYS:
        row = Row(name, block, density, "{}x{}".format(*grid), way)
        rows.append(row)
        even = "" if slack is None else f",balance={list(grid)},slack={slack}"
        pruned = f"clean-up,fuse,precision{{to=fp16}},sparsify{{block={block},density={density}{even}}}"
        try:
            made = compile_model(path, CompileOptions(target=target, precision="fp16", passes=pruned))
        except CompileError as refusal:
            row.status = " ".join(dict.fromkeys(d.id for d in refusal.diagnostics))
            continue
        score = kept_score(made.model)
        free = score if free is None else free
        row.score, row.cycles = score / free, made.cycles["total"]
        row.fullest = max(b.fullest / b.mean for b in blocks_per_tile(made.program))
        row.accuracy = accuracy(oracle_model(made.model)) if labelled else None
        click.echo(f"{name} {block} {density} {way}: {row.cycles}", err=True)
    return rows


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--model", "models", type=click.Path(exists=True, dir_okay=False, path_type=Path), multiple=True,
              help="An ONNX file, may be repeated.  [default: the digits and BERT-base]")  # fmt: skip
@click.option("--grid", default="8x12", show_default=True, metavar="BxA", help="Bands of rows x groups of columns.")
@click.option("--block", "blocks", type=int, multiple=True, default=(16, 8), show_default=True)
@click.option("--density", "densities", type=float, multiple=True, default=(0.1,), show_default=True)
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(
    models: tuple[Path, ...], grid: str, blocks: tuple[int, ...], densities: tuple[float, ...], target: str,
    document: Path | None,
) -> None:  # fmt: skip
    sides = grid.split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
        raise click.UsageError(f"--grid {grid} is not BxA, two whole numbers from 1")
    cells = int(sides[0]), int(sides[1])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        asked = [(path.stem, path, False) for path in models]
        if not asked:
            bert = Path(folder) / "bert-base.onnx"
            made = [sys.executable, str(SAMPLES / "make_models.py"), "bert-base", "--seq", "128", "-o", str(bert)]
            subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
            asked = [("digits", SAMPLES / "digits" / "digits.onnx", True), ("bert-base", bert, False)]
        for name, path, labelled in asked:
            for block in blocks:
                for density in densities:
                    rows += measure(name, path, block, density, cells, target, labelled)
    names = ("model", "block", "density", "grid", "mask", "score", "max / mean", "cycles", "accuracy", "")
    click.echo(f"fp16 on {target}")
    click.echo(table("", names, [
        (r.model, str(r.block), f"{r.density:g}", r.grid, r.way, "" if r.score is None else f"{r.score:.4f}",
         "" if r.fullest is None else f"{r.fullest:.2f}", count(r.cycles),
         "" if r.accuracy is None else f"{r.accuracy:.1%}", r.status)
        for r in rows
    ]))  # fmt: skip
    if document is not None:
        held = {"schema": "ipucc.sparse-masks/1", "target": target, "rows": [asdict(r) for r in rows]}
        document.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
