"""Compilations one by one in processes of their own, with a limit of time: what compile time and memory grow with."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from ipucc.compiler import CompileOptions, compile_model
from ipucc.diagnostics import DoesNotFit

__all__ = ["Make", "over_layers", "over_tiles"]

Make = Callable[..., Path]
Row = dict[str, object]


def over_layers(
    make: Make, target: str, options: CompileOptions, layers: Sequence[int], hidden: int, limit: float
) -> Iterator[Row]:
    """Ever more layers of BERT, 128 tokens."""
    for count in layers:
        model = make("bert-base", "--layers", str(count), "--hidden", str(hidden))
        yield {"over": "layers", "count": count, **alone(model, replace(options, target=target), limit)}
        model.unlink()


def over_tiles(
    make: Make, folder: Path, target: str, options: CompileOptions, tiles: Sequence[int], hidden: int, limit: float
) -> Iterator[Row]:
    """Two layers of BERT on ever more tiles of the same kind."""
    model = make("bert-base", "--layers", "2", "--hidden", str(hidden))
    for count in tiles:
        machine = folder / f"tiles{count}.toml"
        machine.write_text(f'base = "{target}"\ntiles = {count}\n', encoding="utf-8")
        yield {"over": "tiles", "count": count, **alone(model, replace(options, target=str(machine)), limit)}


def alone(source: Path, options: CompileOptions, limit: float) -> Row:
    """What `compiled` says in a fresh process, so that the peak of memory is its own, or "timeout"."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=compiled, args=(there, source, options))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(limit) else {"status": "timeout", "seconds": limit}  # type: ignore[no-any-return]
    except EOFError:
        return {"status": "died"}
    finally:
        process.kill()
        process.join()


def compiled(to: Connection, source: Path, options: CompileOptions) -> None:
    """Compile in this process, which does nothing else, and send what came of it."""
    begin = time.perf_counter()
    row: Row = {}
    try:
        done = compile_model(source, options)
        row = {"status": done.placement.status, "gap": done.placement.gap, "cycles": done.cycles["total"],
               "ops": len(done.graph.ops), "steps": len(done.times), "passes": dict(done.seconds)}  # fmt: skip
    except DoesNotFit as refused:
        row = {"status": refused.diagnostics[0].id}
    row["seconds"] = time.perf_counter() - begin
    row["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    to.send(row)
