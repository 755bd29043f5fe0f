"""`ipucc opt`: graph passes from ONNX to ONNX."""

from typing import TYPE_CHECKING

import click

from ipucc.cli.options import (
    bind_option,
    dim_option,
    input_shape_option,
    load_option,
    read_bound,
    read_dims,
    read_shapes,
)
from ipucc.cli.output import replacing, writable
from ipucc.cli.progress import watched
from ipucc.cli.verb import Verb, report, show

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["opt_command"]

# Weights beyond this lie in a second file: a protobuf message ends at 2 GiB, and the nodes need some of it.
INLINE_BYTES = 2**31 - 2**24


@click.command("opt", cls=Verb)
@click.argument("model", metavar="MODEL.onnx")
@click.option("-o", "--output", required=True, metavar="FILE.onnx", help="The model behind the passes.")
@click.option("--passes", required=True, metavar="PIPELINE", help='What to run, such as "clean-up,fuse".')
@dim_option
@input_shape_option
@bind_option
@load_option
def opt_command(
    model: str,
    output: str,
    passes: str,
    dims: tuple[str, ...],
    input_shapes: tuple[str, ...],
    bind: tuple[str, ...],
    load: tuple[str, ...],
) -> None:
    """Run graph passes on an ONNX model and write it as ONNX.

    Ops that ipucc adds come with function bodies, so that the file still runs in onnxruntime. Weights of more
    than 2 GB are written to FILE.onnx.data.
    """
    writable(output)
    from ipucc.compiler import CompileOptions
    from ipucc.frontend import joined
    from ipucc.graph.schemas import attach_functions
    from ipucc.optimise import optimise_model
    from ipucc.pass_manager import count_nodes

    options = CompileOptions(
        dims=read_dims(dims), input_shapes=read_shapes(input_shapes), bind=read_bound(bind), passes=passes, load=load
    )
    with watched() as watch:
        done = optimise_model(model, options, on_start=watch.started)
    report(done.remarks)
    whole = joined(done.module)
    attach_functions(whole)
    _write(whole, output)
    show(f"{output}: {count_nodes(whole)} nodes after {done.pipeline or 'the import alone'}")


def _write(model: "ir.Model", output: str) -> None:
    import onnx_ir as ir

    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    inline = size <= INLINE_BYTES
    if inline:
        # External weights would be looked for beside the new file.
        ir.external_data.load_to_model(model)
    with replacing(output) as draft:
        ir.save(model, draft, external_data=None if inline else f"{draft.name}.data")
