"""Whole models, 90 % block-sparse: cycles, tile memory and gap of the placement beside the dense model.

    python benchmarks/sparse_models.py                       BERT-base and ResNet-50 in fp16, BERT-large in fp32
    python benchmarks/sparse_models.py --model M.onnx        a model of one's own, may be repeated
    python benchmarks/sparse_models.py --run                 also run faithfully, numbers held against onnxruntime

All products with constant weights and all convolutions of one group lose nine blocks in ten; weights are random, so
only cycles and memory say something. The dense row has the ids of its diagnostics where it does not fit.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import onnxruntime
from rows import count

import ipucc
from ipucc.cli.output import table
from ipucc.compiler import CompileOptions, compile_model
from ipucc.diagnostics import CompileError
from ipucc.graph.schemas import oracle_model

MAKE_MODELS = Path(__file__).resolve().parents[1] / "samples" / "make_models.py"
MODELS = (
    ("bert-base", ("bert-base", "--seq", "128"), "fp16", (16, 8)),
    ("resnet50", ("resnet50",), "fp16", (16, 8)),
    ("bert-large", ("bert-large", "--seq", "128"), "model", (16,)),
)


@dataclass
class Row:
    """One program; None where there is none, and `status` has the ids of the diagnostics then, else the solver's."""

    model: str
    precision: str
    block: int | None
    status: str = ""
    gap: float | None = None
    cycles: int | None = None
    compute: int | None = None
    exchange: int | None = None
    sync: int | None = None
    tile_bytes: int | None = None
    seconds: float | None = None
    error: float | None = None


def measure(name: str, path: Path, precision: str, block: int | None, density: float, target: str, run: bool) -> Row:
    """Compile, and run where asked."""
    row = Row(name, precision, block)
    half = "precision{to=fp16}," if precision == "fp16" else ""
    pruned = f"clean-up,fuse,{half}sparsify{{block={block},density={density},ops=[matmul,conv]}}"
    options = CompileOptions(target=target, precision=precision, passes=None if block is None else pruned)
    start = time.perf_counter()
    try:
        made = compile_model(path, options)
    except CompileError as refusal:
        row.status, row.seconds = (
            " ".join(dict.fromkeys(d.id for d in refusal.diagnostics)),
            time.perf_counter() - start,
        )
        return row
    row.seconds, row.status, row.gap = time.perf_counter() - start, made.placement.status, made.placement.gap
    row.cycles = made.cycles["total"]
    row.compute, row.exchange, row.sync = (made.cycles[part] for part in ("compute", "exchange", "sync"))
    exe = ipucc.Executable(made.program)
    row.tile_bytes = int(exe.profile().tile_bytes.max())
    if run:
        rng = np.random.default_rng(0)
        session = onnxruntime.InferenceSession(oracle_model(made.model).SerializeToString())
        inputs = {}
        for given in session.get_inputs():
            whole = "int" in given.type
            x = rng.integers(0, 2, given.shape) if whole else rng.standard_normal(given.shape)
            kind = np.int64 if "int64" in given.type else np.int32 if whole else np.float32
            inputs[given.name] = x.astype(kind if "float16" not in given.type else np.float16)
        want = session.run(None, inputs)
        got = exe.run({k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in inputs.items()}).outputs
        row.error = max(
            float(np.abs(got[o.name].astype(np.float64) - w).max() / np.abs(w.astype(np.float64)).max())
            for o, w in zip(session.get_outputs(), want, strict=True)
        )
    return row


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--model", "models", type=click.Path(exists=True, dir_okay=False, path_type=Path), multiple=True,
              help="An ONNX file, may be repeated.")  # fmt: skip
@click.option("--block", "blocks", type=int, multiple=True, help="[default: 16 and 8, BERT-large 16]")
@click.option("--density", default=0.1, show_default=True)
@click.option("--precision", type=click.Choice(["model", "fp16"]), default="fp16", help="Of models given.")
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--run", is_flag=True, help="Also run faithfully, but for BERT-large.")
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(
    models: tuple[Path, ...], blocks: tuple[int, ...], density: float, precision: str, target: str, run: bool,
    document: Path | None,
) -> None:  # fmt: skip
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        asked = [(path.stem, path, precision, blocks or (16, 8)) for path in models]
        for name, arguments, kind, usual in () if models else MODELS:
            path = Path(folder) / f"{name}.onnx"
            command = [sys.executable, str(MAKE_MODELS), *arguments, "-o", str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            asked.append((name, path, kind, blocks or usual))
        for name, path, kind, sizes in asked:
            for block in (None, *sizes):
                ran = run and block is not None and name != "bert-large"
                rows.append(measure(name, path, kind, block, density, target, ran))
                click.echo(f"{name} {block}: {rows[-1].cycles} cycles {rows[-1].status}", err=True)
    names = ("model", "precision", "block", "status", "gap", "cycles", "compute", "exchange", "sync", "tile bytes",
             "seconds", "dense / sparse", "error")  # fmt: skip
    dense = {row.model: row.cycles for row in rows if row.block is None}
    cells = []
    for r in rows:
        ratio = dense[r.model] / r.cycles if r.cycles and r.block and dense[r.model] else None
        cells.append((
            r.model, r.precision, "dense" if r.block is None else str(r.block), r.status,
            "" if r.gap is None else f"{r.gap:.1%}", count(r.cycles), count(r.compute), count(r.exchange),
            count(r.sync), count(r.tile_bytes), f"{r.seconds:.1f}", "" if ratio is None else f"{ratio:.2f}",
            "" if r.error is None else f"{r.error:.1e}",
        ))  # fmt: skip
    click.echo(f"density {density:g} on {target}")
    click.echo(table("", names, cells))
    if document is not None:
        held = {"schema": "ipucc.sparse-models/1", "target": target, "rows": [asdict(r) for r in rows]}
        document.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if any(r.block is not None and r.cycles is None for r in rows) else 0)


if __name__ == "__main__":
    main()
