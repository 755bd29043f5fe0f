"""What kept plans save: a model compiled where a relative of it was compiled before.

    python benchmarks/reuse.py                          relatives of BERT-base: other length, layers, one op more
    python benchmarks/reuse.py --json out.json

Every compilation has a process of its own. `cold` starts with an empty folder, `kept` with the plans that the
compilation of the first model has left there, `again` with those of the model itself; programs are not kept. Seconds
are wall time of compiling, imports apart; `plan` is the part of it in which plans and edges are priced. Exit code 1: a
program depends on what was kept.
"""

import hashlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from typing import Any

import click
from models import Precision, alone, made
from rows import count, write_rows

NETWORK = "bert-base"
MODELS: dict[str, tuple[str, ...]] = {
    "128 tokens": (), "96 tokens": ("--seq", "96"), "6 layers": ("--layers", "6"), "a pooler": ("--pooler",),
}  # fmt: skip
"""The first one fills the folder."""


@dataclass
class Row:
    """One model. `parts` are seconds per part of the compilation, by name of the folder: cold, kept, again."""

    model: str
    seconds: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    entries: int | None = None
    kept_bytes: int | None = None
    digests: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def fault(self) -> str:
        """What must not be, or the empty text."""
        return self.note or ("another program" if len(set(self.digests.values())) > 1 else "")


def compiled(model: Path, target: str, precision: Precision, program: Path | None) -> dict[str, Any]:
    """Compile with the plans of the folder that IPUCC_CACHE_DIR names."""
    from ipucc.cache import cache_folder
    from ipucc.compiler import CompileOptions, compile_model
    from ipucc.program.file import save_program

    start = time.perf_counter()
    found = compile_model(model, CompileOptions(target=target, precision=precision), cache=cache_folder())
    seconds = time.perf_counter() - start
    file = model.with_suffix(".ipux")
    save_program(found.program, file)
    return {"seconds": seconds, "parts": dict(found.seconds), "digest": hashlib.sha256(file.read_bytes()).hexdigest()}


def measure(name: str, model: Path, target: str, precision: Precision, kept: Path | None, own: Path) -> Row:
    """The row of one model; `kept` is the folder that another model has left, `own` a new one that is left filled."""
    row = Row(name)
    folders = {"cold": own, **({"kept": kept} if kept is not None else {}), "again": own}
    for how, folder in folders.items():
        used = folder
        if how == "kept":
            # What this model adds is of no use to the next one.
            used = own.with_name(f"{own.name}-kept")
            copytree(folder, used)
        os.environ["IPUCC_CACHE_DIR"] = str(used)
        found = alone(compiled, model, target, precision, None)
        if "note" in found:
            row.note = found["note"]
            return row
        row.seconds[how], row.parts[how], row.digests[how] = (found[key] for key in ("seconds", "parts", "digest"))
    files = [path.stat().st_size for path in own.rglob("*.plan")]
    row.entries, row.kept_bytes = len(files), sum(files)
    return row


def shown(rows: list[Row]) -> str:
    """The rows as a table."""
    from ipucc.cli.output import table

    ways = ("cold", "kept", "again")
    columns = ("model", *(text for way in ways for text in (f"{way} s", "plan")), "entries", "bytes", "")
    cells = []
    for row in rows:
        times = (x for way in ways for x in (row.seconds.get(way), row.parts.get(way, {}).get("plan")))
        texts = ("" if x is None else f"{x:.2f}" for x in times)
        cells.append((row.model, *texts, count(row.entries), count(row.kept_bytes), row.fault))
    return table("", columns, cells)


@click.command(help=__doc__.split("\n")[0])
@click.option("--target", default="gc200", show_default=True, help="A machine or a machine file.")
@click.option("--precision", type=click.Choice(["model", "fp16"]), default="fp16", show_default=True)
@click.option("--json", "document", type=click.Path(path_type=Path), help="Write all rows to this file.")
def main(target: str, precision: Precision, document: Path | None) -> None:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as text:
        folder, first = Path(text), None
        for i, (name, arguments) in enumerate(MODELS.items()):
            model = made([NETWORK, *arguments], folder / "model.onnx")
            rows.append(measure(name, model, target, precision, first, folder / str(i)))
            click.echo(f"{name}: {rows[-1].seconds} {rows[-1].fault}".rstrip(), err=True)
            first = first or folder / str(i)
    click.echo(f"{NETWORK}, {precision} on {target}; plans of {next(iter(MODELS))} kept")
    click.echo(shown(rows))
    write_rows(document, "ipucc.reuse/1", target, rows)
    sys.exit(1 if any(row.fault for row in rows) else 0)


if __name__ == "__main__":
    main()
