"""`ipucc inspect`: what is in a model or in a program."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from ipucc.cli.files import is_program
from ipucc.cli.options import (
    codelets_option,
    dim_option,
    input_shape_option,
    json_option,
    load_codelets,
    read_dims,
    read_shapes,
)
from ipucc.cli.output import pairs, table
from ipucc.cli.verb import Verb, show, show_json
from ipucc.diagnostics import CompileError, Diagnostic, JsonValue, error

if TYPE_CHECKING:
    import onnx_ir as ir

    from ipucc.api import Executable

__all__ = ["inspect_command"]

_SHOWN_STEPS = 20


@click.command("inspect", cls=Verb)
@click.argument("file", metavar="FILE")
@click.option("--sparsity", is_flag=True, help="Show zeros in the weights of a model, and what block sparsity buys.")
@click.option("--target", default="gc200", show_default=True, help="Machine that --sparsity predicts for.")
@click.option(
    "--precision", type=click.Choice(["model", "fp16"]), default="model", show_default=True,
    help="Element type that --sparsity predicts for.",
)  # fmt: skip
@dim_option
@input_shape_option
@codelets_option
@json_option
def inspect_command(
    file: str, sparsity: bool, target: str, precision: Literal["model", "fp16"], dims: tuple[str, ...],
    input_shapes: tuple[str, ...], load: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Show what a model (.onnx) or a program (.ipux) contains.

    Of a model: inputs, outputs, opset, nodes by op, bytes of weights, and what keeps it from being compiled.
    Of a program: where it comes from, predicted cycles by kind and by step, and memory per tile. With
    --sparsity, per weight of a model: zeros, by element and by block, predicted cycles dense and block-sparse,
    and the density below which block-sparse pays.
    """
    if is_program(file):
        if sparsity:
            raise error("IPU0308", "--sparsity looks at the weights of a model, and this is a program")
        from ipucc import api

        load_codelets(load)
        executable = api.load(file)
        if as_json:
            show_json("ipucc.inspect-program/1", _program(executable))
        else:
            show(_program_page(file, executable))
        return
    if sparsity:
        from ipucc.cli.inspect_sparsity import sparsity_document, sparsity_page
        from ipucc.compiler import CompileOptions

        options = CompileOptions(target, precision, dims=read_dims(dims), input_shapes=read_shapes(input_shapes))
        document, weights = sparsity_document(file, options)
        if as_json:
            show_json("ipucc.inspect-sparsity/1", document)
        else:
            show(sparsity_page(file, options, weights))
        return
    found = _model(file)
    if as_json:
        show_json("ipucc.inspect-model/1", found)
    else:
        show(_model_page(file, found))


def _model(file: str) -> dict[str, JsonValue]:
    from ipucc.compiler import CompileOptions
    from ipucc.frontend.files import open_model
    from ipucc.graph.tensors import is_missing
    from ipucc.optimise import lower_parts, optimise_model
    from ipucc.target import load_target

    model, _ = open_model(file)
    weights = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    held = set(model.graph.initializers)
    problems: tuple[Diagnostic, ...] = ()
    options = CompileOptions()
    try:
        lower_parts(optimise_model(file, options).module, load_target(options.target), options)
    except CompileError as failure:
        problems = failure.diagnostics
    ops = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in model.graph.all_nodes())
    counted: dict[str, int] = dict(sorted(ops.items(), key=lambda item: (-item[1], item[0])))
    # Nothing can be said about the ops of a model whose symbolic dimensions have no size yet.
    unbound = bool(problems) and all(found.id == "IPU0109" for found in problems)
    return {
        "name": model.graph.name or "",
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "ir_version": model.ir_version,
        "opset": {domain or "ai.onnx": version for domain, version in sorted(model.graph.opset_imports.items())},
        "inputs": [_value(v) for v in model.graph.inputs if v.name not in held],
        "outputs": [_value(v) for v in model.graph.outputs],
        "nodes": sum(ops.values()),
        "nodes_by_op": counted,
        "functions": len(model.functions),
        "weights": len(weights),
        "weight_bytes": sum(w.nbytes for w in weights),
        "absent_weights": sum(is_missing(w) for w in weights),
        "supported": None if unbound else not problems,
        "problems": [found.to_json() for found in problems],
    }


def _value(value: "ir.Value") -> dict[str, JsonValue]:
    """Name, type and shape; a dimension without a size is its name, or null."""
    shape = None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
    return {"name": value.name, "dtype": value.dtype.name.lower() if value.dtype else None, "shape": shape}


def _model_page(file: str, document: Mapping[str, JsonValue]) -> str:
    opset, ops = document["opset"], document["nodes_by_op"]
    inputs, outputs, problems = document["inputs"], document["outputs"], document["problems"]
    supported = document["supported"]
    assert isinstance(opset, dict) and isinstance(ops, dict)  # noqa: PT018
    assert isinstance(inputs, list) and isinstance(outputs, list) and isinstance(problems, list)  # noqa: PT018
    rows = [
        ("producer", str(document["producer"]) or "unknown"),
        ("opset", ", ".join(f"{domain} {version}" for domain, version in opset.items())),
        ("nodes", f"{document['nodes']:,}"),
        ("weights", f"{document['weights']:,} of {document['weight_bytes']:,} bytes"),
        ("absent weights", f"{document['absent_weights']:,}"),
        ("supported", f"no, {len(problems)} problems" if supported is False else "yes" if supported else "unknown"),
    ]
    values = [(kind, v["name"], str(v["dtype"]), _shape(v["shape"]))
              for kind, group in (("input", inputs), ("output", outputs)) for v in group]  # fmt: skip
    parts = [
        pairs(file, rows),
        table("inputs and outputs", ("", "name", "type", "shape"), values),
        table("nodes by op", ("op", "count"), [(op, str(n)) for op, n in ops.items()]),
    ]
    if problems:
        listed = [(p["id"], str(p["message"]).split("\n")[0]) for p in problems]
        parts.append(table("problems (ipucc validate shows them whole)", ("id", "problem"), listed))
    return "\n\n".join(parts)


def _shape(shape: object) -> str:
    if not isinstance(shape, list):
        return "unknown"
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar"


def _program(executable: "Executable") -> dict[str, JsonValue]:
    profile = executable.profile()
    kinds: dict[str, Counter[str]] = {}
    for step in profile.steps:
        found = kinds.setdefault(step.kind, Counter())
        found.update(steps=1, cycles=step.total, host=step.host)
    used = profile.tile_bytes
    steps: list[JsonValue] = [asdict(step) for step in profile.steps]
    return {
        "manifest": _plain(executable.manifest),
        "target": executable.target.name,
        "inputs": [{"name": n, "dtype": d, "shape": list(s)} for n, d, s in executable.inputs],
        "outputs": [{"name": n, "dtype": d, "shape": list(s)} for n, d, s in executable.outputs],
        "cycles": profile.cycles.to_json(),
        "cycles_by_kind": {kind: dict(count) for kind, count in kinds.items()},
        "memory": {
            "max_tile_bytes": int(used.max(initial=0)),
            "mean_tile_bytes": float(used.mean()),
            "tile_limit_bytes": executable.target.tile_bytes,
            "total_bytes": int(used.sum()),
            "code_bytes": executable.program.code_bytes,
        },
        "steps": steps,
    }


def _plain(value: object) -> JsonValue:
    """A value of the manifest, which the reader has checked to be JSON."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def _program_page(file: str, executable: "Executable") -> str:
    profile, manifest = executable.profile(), executable.manifest
    model, placement = manifest.get("model"), manifest.get("placement")
    cycles, used = profile.cycles, profile.tile_bytes
    rows = [
        ("model", str(model.get("name")) if isinstance(model, Mapping) else "unknown"),
        ("target", executable.target.name),
        ("precision", str(manifest.get("precision", "unknown"))),
        ("pipeline", str(manifest.get("pipeline", "unknown"))),
        ("placement", ", ".join(f"{k} {v}" for k, v in placement.items() if k in ("solver", "status", "gap"))
                      if isinstance(placement, Mapping) else "unknown"),
        ("cycles", f"{cycles.total:,}: compute {cycles.compute:,}, exchange {cycles.exchange:,}, sync {cycles.sync:,}"),
        ("host", f"{cycles.host:,} cycles"),
        ("memory", f"fullest tile {int(used.max(initial=0)):,} bytes, mean {used.mean():,.0f}, "
                   f"of {executable.target.tile_bytes:,}"),
    ]  # fmt: skip
    ports = [("input", *d) for d in executable.inputs] + [("output", *d) for d in executable.outputs]
    values = [(kind, name, dtype, "x".join(map(str, shape)) or "scalar") for kind, name, dtype, shape in ports]
    slow = sorted(profile.steps, key=lambda t: -t.total)[:_SHOWN_STEPS]
    steps = [(t.name, t.kind, f"{t.total:,}", f"{t.total / cycles.total:.1%}") for t in slow if t.total]
    return "\n\n".join([
        pairs(file, rows),
        table("inputs and outputs", ("", "name", "type", "shape"), values),
        table(f"slowest of {len(profile.steps):,} steps", ("step", "kind", "cycles", "share"), steps),
    ])  # fmt: skip
