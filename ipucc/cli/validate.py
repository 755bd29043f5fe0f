"""`ipucc validate`: can this model be compiled, is this program sound?"""

import click

from ipucc.cli.files import is_program
from ipucc.cli.options import (
    bind_option,
    codelets_option,
    dim_option,
    input_shape_option,
    load_codelets,
    read_bound,
    read_dims,
    read_shapes,
)
from ipucc.cli.progress import watched
from ipucc.cli.verb import Verb, report, show

__all__ = ["validate_command"]


@click.command("validate", cls=Verb)
@click.argument("file", metavar="FILE")
@dim_option
@input_shape_option
@bind_option
@codelets_option
def validate_command(
    file: str, dims: tuple[str, ...], input_shapes: tuple[str, ...], bind: tuple[str, ...], load: tuple[str, ...]
) -> None:
    """Say everything that keeps a model from being compiled, or check a program file.

    A model (.onnx) is imported and goes through the default passes; every node that cannot be lowered is
    listed. A program (.ipux) is read and held against the rules of the verifier, and every exchange is run
    once to see that it brings every element to its place.
    """
    if is_program(file):
        from ipucc.program.file import load_program
        from ipucc.runtime.fingerprint import check_exchanges

        load_codelets(load)
        program = load_program(file)
        count = check_exchanges(program)
        show(f"{file}: sound, {len(program.steps):,} steps for {program.target.name}, {count:,} exchanges checked")
        return
    from ipucc.compiler import CompileOptions
    from ipucc.frontend import parts_of
    from ipucc.optimise import lower_parts, optimise_model
    from ipucc.pass_manager import count_nodes
    from ipucc.target import load_target

    options = CompileOptions(dims=read_dims(dims), input_shapes=read_shapes(input_shapes), bind=read_bound(bind))
    with watched() as watch:
        done = optimise_model(file, options, on_start=watch.started)
    report(done.remarks)
    lower_parts(done.module, load_target(options.target), options)
    nodes = sum(count_nodes(part.model) for part in parts_of(done.module.region))
    show(f"{file}: can be compiled, {nodes:,} nodes after the graph passes")
