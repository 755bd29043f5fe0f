"""`ipucc compile`: an ONNX model in, a program file out."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from ipucc.cli.explain import explanation_text
from ipucc.cli.options import (
    bind_option,
    dim_option,
    input_shape_option,
    json_option,
    load_option,
    read_block,
    read_bound,
    read_dims,
    read_shapes,
)
from ipucc.cli.output import pairs, writable, write_text
from ipucc.cli.progress import watched
from ipucc.cli.verb import INTERRUPTED, Verb, report, show, show_json
from ipucc.diagnostics import Diagnostic, JsonValue, error

if TYPE_CHECKING:
    from ipucc.compiler import Compiled, CompileOptions
    from ipucc.passes.plan.explain import Explanation
    from ipucc.program.model import Program

__all__ = ["compile_command"]

Emit = Literal["graph", "placement", "program"]


@click.command("compile", cls=Verb)
@click.argument("model", metavar="MODEL.onnx")
@click.option("-o", "--output", metavar="FILE", help="Program file (.ipux), or with --emit a text file.")
@click.option("--target", default="gc200", show_default=True, help="Machine, or a machine file (.toml).")
@click.option(
    "--precision", type=click.Choice(["model", "fp16"]), default="model", show_default=True,
    help="Element type of weights and activations: the model's own, or fp16.",
)  # fmt: skip
@click.option(
    "--partials", type=click.Choice(["fp16", "fp32"]), default="fp16", show_default=True,
    help="Type in which products of fp16 are summed; fp32 runs at half the rate.",
)  # fmt: skip
@dim_option
@input_shape_option
@bind_option
@click.option("--passes", metavar="PIPELINE", help="Passes of the graph level, instead of the default ones.")
@click.option("--block", metavar="B", help="Make linear layers block-sparse: edge of a block (1, 4, 8, 16), or 16x8.")
@click.option("--density", type=float, help="Share of the blocks to keep, those that matter most.  [default: 0.1]")
@click.option(
    "--score", type=click.Choice(["l1", "l2", "max", "wanda", "sparsegpt"]), help="What makes a block matter."
)
@click.option(
    "--pattern", type=click.Choice(["top", "banded", "butterfly", "block-diagonal", "zeros"]),
    help="Which blocks to keep: those that matter most, those of a pattern, or those that are not zero.",
)  # fmt: skip
@click.option("--mask", metavar="FILE.npz", help="Keep what these masks say; arrays named after weights or nodes.")
@click.option(
    "--budget", type=int, metavar="CYCLES",
    help="Choose block and density of every linear layer: the least score is lost for so many cycles of the model.",
)  # fmt: skip
@click.option("--calibrate", metavar="FILE.npz", help="Inputs of the model, for the scores wanda and sparsegpt.")
@click.option(
    "--solver", type=click.Choice(["cpsat", "greedy"]), default="cpsat", show_default=True,
    help="What chooses the plans of all ops.",
)  # fmt: skip
@click.option(
    "--effort", type=click.Choice(["fast", "default", "max"]), default="default", show_default=True,
    help="How many plans are looked at, and how long for the best choice among them.",
)  # fmt: skip
@click.option(
    "--recompute", type=click.Choice(["auto", "off"]), default="auto", show_default=True,
    help="Whether tensors may be computed again, instead of kept, where the model does not fit otherwise.",
)  # fmt: skip
@load_option
@click.option(
    "--cache", metavar="FOLDER",
    help="Keep compiled programs and plans here, and read what was made before. Default: $IPUCC_CACHE_DIR, else none.",
)  # fmt: skip
@click.option("--dump-ir", metavar="FOLDER", help="Write the text of every stage into this folder.")
@click.option(
    "--print-after", multiple=True, metavar="PASS|all",
    help="Print the graph behind a pass, or the stages schedule, place and lower, to standard error. May be repeated.",
)  # fmt: skip
@click.option(
    "--emit", type=click.Choice(["graph", "placement", "program"]),
    help="Write this as text, to -o or standard output, instead of a program file.",
)  # fmt: skip
@click.option(
    "--explain", multiple=True, metavar="NODE",
    help="Show the plans that were considered for an op or ONNX node, by name or pattern, and why the chosen one won. "
    "May be repeated.",
)  # fmt: skip
@json_option
def compile_command(
    model: str, output: str | None, target: str, precision: Literal["model", "fp16"],
    partials: Literal["fp16", "fp32"], dims: tuple[str, ...], input_shapes: tuple[str, ...],
    bind: tuple[str, ...], passes: str | None,
    block: str | None, density: float | None, score: str | None, pattern: str | None, mask: str | None,
    budget: int | None, calibrate: str | None, solver: Literal["cpsat", "greedy"],
    effort: Literal["fast", "default", "max"], recompute: Literal["auto", "off"], load: tuple[str, ...],
    cache: str | None, dump_ir: str | None, print_after: tuple[str, ...], emit: Emit | None, explain: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Compile an ONNX model to a program for the IPU.

    The summary says how many cycles a run takes, as predicted for the finished program, what the solver
    estimated, and how much memory the fullest tile needs. With --explain no program file needs to be named.
    """
    begin = time.perf_counter()
    if output is None and emit is None and not explain:
        raise click.UsageError("name the program file: -o FILE.ipux")
    if emit == "graph" and explain:
        raise error("IPU0308", "--emit graph ends before placement, so --explain cannot be used with it")
    if output in (None, "-") and emit is not None and as_json:
        raise error("IPU0308", "--emit and --json cannot both have standard output", help=["give --emit a file: -o"])
    if output == "-" and emit is not None:
        output = None
    if output is not None:
        writable(output, model, target, *load, mask, calibrate)
    from ipucc.cache import cache_folder, find_entry, unusable
    from ipucc.compiler import CompileOptions, compile_model
    from ipucc.optimise import optimise_model
    from ipucc.pass_manager import DumpFolder

    options = CompileOptions(
        target,
        precision,
        partials,
        read_dims(dims),
        read_shapes(input_shapes),
        passes,
        read_block(block),
        density,
        solver,
        load,
        effort,
        recompute=recompute,
        score=score,
        pattern=pattern,
        mask=mask,
        calibrate=calibrate,
        budget=budget,
        bind=read_bound(bind),
    )
    folder = cache_folder(cache)
    if folder is not None and (reason := unusable(folder)):
        report((Diagnostic("IPU0616", "warning", f"nothing is kept in {folder}: {reason}"),))
    dump = DumpFolder(dump_ir) if dump_ir is not None else None

    if emit == "graph" and not as_json:
        from ipucc.frontend import joined
        from ipucc.graph.printing import print_graph

        with watched() as watch:
            done = optimise_model(
                model, options, on_start=watch.started, print_after=print_after, stream=watch.say, dump=dump
            )  # fmt: skip
        report(done.remarks)
        _emit(print_graph(joined(done.module)), output)
        return
    whole = emit is None and not explain and dump is None and not print_after
    entry = find_entry(model, options, folder) if whole else None
    kept = entry.load() if entry is not None else None
    if kept is not None:
        program, remarks = kept
        spent: Mapping[str, float] = {}
        explanations: tuple[Explanation, ...] = ()
    else:
        with watched() as watch:
            compiled = compile_model(
                model, options, on_start=watch.started, print_after=print_after, stream=watch.say, dump=dump,
                progress=watch.placing, stop=watch.stop, explain=explain, cache=folder,
            )  # fmt: skip
        program, remarks, spent = compiled.program, compiled.remarks, compiled.seconds
        explanations = compiled.explanations
        if entry is not None and not compiled.interrupted:
            entry.store(program, remarks)
    report(remarks)
    if emit is not None:
        _emit(_text(compiled, emit), output)
    elif output is not None:
        from ipucc.program.file import save_program

        save_program(program, output)
    seconds = time.perf_counter() - begin
    if as_json:
        show_json("ipucc.compile/1", _document(model, options, program, spent, seconds, explanations))
    elif emit is None:
        show(_summary(model, output, options, program, remarks, seconds))
    if not as_json:
        for found in explanations:
            show("\n" + explanation_text(found))
    placement = _figures(program)["placement"]
    if placement["status"] == "interrupted":
        gap = f"gap {placement['gap']:.1%}" if placement["bound_cycles"] else "no bound known"
        click.echo(f"interrupted: this is the best placement that was found until then, {gap}", err=True)
        click.get_current_context().exit(INTERRUPTED)


def _emit(text: str, output: str | None) -> None:
    if output is None:
        show(text.rstrip("\n"))
    else:
        write_text(output, text)


def _text(compiled: "Compiled", emit: Emit) -> str:
    from ipucc.compiler import stage_text
    from ipucc.frontend import joined
    from ipucc.graph.printing import print_graph

    if emit == "graph":
        return print_graph(joined(compiled.module))
    return stage_text(compiled, "place" if emit == "placement" else "lower")


def _document(
    model: str, options: "CompileOptions", program: "Program", passes: Mapping[str, float], seconds: float,
    explanations: "Sequence[Explanation]",
) -> dict[str, JsonValue]:  # fmt: skip
    said = _figures(program)
    return {
        "model": model,
        "target": program.target.name,
        "precision": options.precision,
        "nodes": said["nodes"],
        "placement": said["placement"],
        "cycles": said["cycles"],
        "memory": said["memory"],
        "explain": [found.to_json() for found in explanations],
        "passes": [{"name": name, "seconds": spent} for name, spent in passes.items()],
        "seconds": seconds,
    }


def _figures(program: "Program") -> dict[str, Any]:
    """What a compiled program says of itself; the compiler has written it, so nothing is missing."""
    return dict(program.manifest)


def _summary(
    model: str, output: str | None, options: "CompileOptions", program: "Program", remarks: Sequence[Diagnostic],
    seconds: float,
) -> str:  # fmt: skip
    said = _figures(program)
    placement, cycles, memory = said["placement"], said["cycles"], said["memory"]
    device = program.target.cycles_to_seconds(cycles["total"])
    off = (cycles["estimated"] - cycles["total"]) / cycles["total"] if cycles["total"] else 0.0
    bound = cycles["exchange_bound"]
    over = (cycles["exchange"] - bound) / bound if bound else 0.0
    rows = [
        ("target", f"{program.target.name}, {program.target.tiles} tiles"),
        ("precision", options.precision if options.precision == "model" else f"fp16, {options.partials} partials"),
        ("nodes", f"{said['nodes']} after the graph passes"),
        ("placement", f"{placement['solver']}, {placement['status']}, gap {placement['gap']:.1%}"),
        ("cycles", f"{cycles['total']:,} ({device * 1e6:,.1f} us): compute {cycles['compute']:,}, "
                   f"exchange {cycles['exchange']:,}, sync {cycles['sync']:,}"),
        ("exchange", f"{over:.1%} above the bound of the ports, {cycles['exchange_bound']:,}"),
        ("estimated", f"{cycles['estimated']:,} by the solver ({off:+.1%})"),
        ("memory", f"{memory['max_tile_bytes']:,} of {memory['tile_limit_bytes']:,} bytes on the fullest tile"),
        ("time", f"{seconds:.2f} s"),
    ]  # fmt: skip
    if again := [found.data for found in remarks if found.id == "IPU0413"]:
        spent = sum(int(str(data["cycles"])) for data in again)
        tensors = "1 tensor" if len(again) == 1 else f"{len(again)} tensors"
        rows.insert(-1, ("recomputed", f"{tensors} again, {spent:,} cycles"))
    return pairs(model if output is None else f"{model} -> {output}", rows)
