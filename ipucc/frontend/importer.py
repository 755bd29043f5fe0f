"""`load_model`: from any ONNX model to the static, folded graph that the passes start from."""

from collections.abc import Callable, Collection, Mapping, Sequence

import onnx_ir as ir
from numpy.typing import ArrayLike
from onnx_ir.passes.common import (
    LiftSubgraphInitializersToMainGraphPass,
    RemoveInitializersFromInputsPass,
)

from ipucc.diagnostics import CompileError
from ipucc.frontend.attention import expand_attention
from ipucc.frontend.bind import bind_values, bound_shapes
from ipucc.frontend.contrib import rewrite_contrib
from ipucc.frontend.decompose import decompose
from ipucc.frontend.dims import bind_dims
from ipucc.frontend.extents import move_trims, stuck_trims, take_trims
from ipucc.frontend.files import ModelSource, open_model
from ipucc.frontend.functions import inline_local_functions, inline_schema_functions
from ipucc.frontend.native import NATIVE_OPS
from ipucc.frontend.opset import complete_imports, convert_opset, raise_ir_version
from ipucc.frontend.origin import name_nodes
from ipucc.frontend.shapes import check_static, forget_shapes
from ipucc.frontend.simplify import scalar_ranges, settle, tidy
from ipucc.frontend.unsupported import unsupported_nodes
from ipucc.graph.fold import lift_constants
from ipucc.graph.schemas import register
from ipucc.graph.verify import verify_graph


def load_model(
    source: ModelSource,
    *,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    bind: Mapping[str, ArrayLike] | None = None,
    native: Collection[str] = NATIVE_OPS,
    supported: Callable[[ir.Node], str | None] | None = None,
) -> ir.Model:
    """Import a model. The source stays as it is, and its external weights stay on disk.

    Guaranteed of the result: opset 26 to 28 and no functions; every value has a type and a static shape; names are
    unique, nodes in topological order; each node says in its metadata `ipucc.origin` which node of the file it
    comes from; inputs and outputs have their names and their order; ONNX function ops outside `native` are
    replaced by their bodies, Attention by matmuls and softmax; constants are initializers; weights whose file is
    absent are MissingTensors.

    `dims` gives sizes to symbolic dimensions, `input_shapes` to whole inputs; `bind` makes constants
    of inputs. Raises CompileError with everything
    that was found wrong at the first step that finds something. If `supported` is given, the nodes for which it
    returns a reason are among that (see `unsupported_nodes`).
    """
    register()  # A model may use the ops of ipucc's own domain: onnx must know their shapes.
    model, where = open_model(source)
    raise_ir_version(model)
    RemoveInitializersFromInputsPass()(model)
    complete_imports(model)
    name_nodes(model)
    inline_local_functions(model, where)
    LiftSubgraphInitializersToMainGraphPass()(model)
    lift_constants(model)
    bind_dims(model, dims or {}, {**(input_shapes or {}), **bound_shapes(bind or {})}, where)
    bind_values(model, bind or {}, where)
    model.graph.sort()
    model = convert_opset(model)
    rewrite_contrib(model)
    inline_schema_functions(model, native, where, typed=False)
    scalar_ranges(model)
    forget_shapes(model)
    settle(model, where)
    # The body of a function may hold functions whose own bodies depend on types.
    while (
        expand_attention(model, where)
        + inline_schema_functions(model, native, where)
        + decompose(model)
        + move_trims(model)
    ):
        settle(model, where)
    stuck = stuck_trims(model, where)
    if take_trims(model):
        settle(model, where)
    tidy(model)
    # What is said of a node's own result says more than that it is not supported.
    unsupported = unsupported_nodes(model, supported, where) if supported is not None else []
    problems = {problem.node: problem for problem in (*unsupported, *stuck)}
    own = {problem.node: problem for problem in check_static(model, where)}
    problems |= {node: problem for node, problem in own.items() if node not in {found.node for found in stuck}}
    if problems:
        raise CompileError(list(problems.values()))
    verify_graph(model)
    return model
