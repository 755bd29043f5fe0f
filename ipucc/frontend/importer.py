"""`load_model` and `load_module`: from any ONNX model to the static, folded graphs that the passes start from."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from numpy.typing import ArrayLike
from onnx_ir.passes.common import (
    LiftSubgraphInitializersToMainGraphPass,
    RemoveInitializersFromInputsPass,
)

from ipucc.diagnostics import CompileError, error
from ipucc.frontend.attention import expand_attention
from ipucc.frontend.bind import bind_values, bound_shapes
from ipucc.frontend.control import Signature, cut, first_control
from ipucc.frontend.decompose import decompose, waits
from ipucc.frontend.dims import bind_dims
from ipucc.frontend.extents import move_trims, stuck_trims, take_trims
from ipucc.frontend.files import ModelSource, open_model
from ipucc.frontend.functions import inline_local_functions, inline_schema_functions
from ipucc.frontend.native import NATIVE_OPS
from ipucc.frontend.opset import complete_imports, convert_opset, raise_ir_version
from ipucc.frontend.origin import name_nodes
from ipucc.frontend.region import Part, Region, parts_of
from ipucc.frontend.shapes import check_static, forget_shapes
from ipucc.frontend.simplify import fix_names, scalar_ranges, settle, tidy
from ipucc.frontend.unsupported import unsupported_nodes
from ipucc.graph.edit import dtype_name
from ipucc.graph.fold import lift_constants
from ipucc.graph.schemas import register
from ipucc.graph.verify import verify_graph

__all__ = ["Module", "Port", "load_model", "load_module", "straight"]

Port = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Module:
    """A model as straight parts, loops and branches, in the order in which they run, and what its users give and get:
    (name, element type, shape) of inputs and outputs."""

    name: str
    region: Region
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def straight(module: Module) -> ir.Model:
    """The model itself where nothing in it is left to decide. Raises IPU0334 for others."""
    left = [item.name for item in module.region if not isinstance(item, Part)]
    if left:
        raise error("IPU0334", f"{left[0]!r} is a loop or branch of the program, and this takes one straight graph",
                    help=["ipucc compile takes such a model, and runs the passes on each of its parts"])  # fmt: skip
    (part,) = parts_of(module.region)
    return part.model


def load_model(
    source: ModelSource,
    *,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    bind: Mapping[str, ArrayLike] | None = None,
    native: Collection[str] = NATIVE_OPS,
    supported: Callable[[ir.Node], str | None] | None = None,
) -> ir.Model:
    """Import a model in which data decides nothing. The source stays as it is, and its external weights stay on disk.

    Guaranteed of the result: opset 26 to 28 and no functions; every value has a type and a static shape; names are
    unique, nodes in topological order; each node says in its metadata `ipucc.origin` which node of the file it
    comes from; inputs and outputs have their names and their order; ONNX function ops outside `native` are
    replaced by their bodies, Attention by matmuls and softmax; constants are initializers; weights whose file is
    absent are MissingTensors.

    `dims` gives sizes to symbolic dimensions, `input_shapes` to whole inputs; `bind` makes constants
    of inputs. Raises CompileError with everything
    that was found wrong at the first step that finds something. If `supported` is given, the nodes for which it
    returns a reason are among that (see `unsupported_nodes`). IPU0334 for a model with a loop or branch that is left.
    """
    module = load_module(source, dims=dims, input_shapes=input_shapes, bind=bind, native=native, supported=supported)
    return straight(module)


def load_module(
    source: ModelSource,
    *,
    dims: Mapping[str, int] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    bind: Mapping[str, ArrayLike] | None = None,
    native: Collection[str] = NATIVE_OPS,
    supported: Callable[[ir.Node], str | None] | None = None,
) -> Module:
    """Import a model. Of each of its straight parts holds what `load_model` guarantees of a model, which is one part.

    Raises as `load_model` does, but for IPU0334; IPU0330 to IPU0333 for control flow that a program cannot have.
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
    inline_schema_functions(model, native, where, typed=False)
    scalar_ranges(model)
    forget_shapes(model)
    inputs, outputs = list(model.graph.inputs), [str(v.name) for v in model.graph.outputs]
    reader = _Reader(native, supported, where)
    region, signature = reader.region(model, frozenset())
    given = {str(v.name): (v.type, v.shape) for v in inputs}
    return Module(
        model.graph.name or "model",
        region,
        tuple(_port(name, *given[name]) for name in given),
        tuple(_port(name, *signature[name]) for name in outputs),
    )


@dataclass(eq=False)
class _Reader:
    """Imports what is behind the first steps, part by part."""

    native: Collection[str]
    supported: Callable[[ir.Node], str | None] | None
    where: str | None

    def region(self, model: ir.Model, received: frozenset[str]) -> tuple[Region, Signature]:
        settle(model, self.where)
        # The body of a function may hold functions whose own bodies depend on types.
        while (
            expand_attention(model, self.where)
            + inline_schema_functions(model, self.native, self.where)
            + decompose(model)
            + move_trims(model)
        ):
            settle(model, self.where)
        node = first_control(model)
        if node is not None:
            fix_names(model)
            return cut(model, node, received, self.region)
        stuck = stuck_trims(model, self.where)
        if take_trims(model):
            settle(model, self.where)
        tidy(model)
        # What is said of a node's own result says more than that it is not supported.
        unsupported = unsupported_nodes(model, self._refused, self.where)
        problems = {problem.node: problem for problem in (*unsupported, *stuck)}
        own = {problem.node: problem for problem in check_static(model, self.where)}
        problems |= {node: problem for node, problem in own.items() if node not in {found.node for found in stuck}}
        if problems:
            raise CompileError(list(problems.values()))
        verify_graph(model)
        names = {str(v.name) for v in model.graph.inputs}
        signature: dict[str, tuple[ir.TypeProtocol, ir.Shape]] = {}
        for value in model.graph.outputs:
            tensor = value.const_value
            kind = value.type if tensor is None else ir.TensorType(tensor.dtype)
            shape = value.shape if tensor is None else ir.Shape(tensor.shape.numpy())
            assert kind is not None
            assert shape is not None
            signature[str(value.name)] = kind, shape
        return [Part(model, received & names, frozenset())], signature

    def _refused(self, node: ir.Node) -> str | None:
        """Why a node is not supported; None for one that is, or that would be written in others that may be."""
        return None if self.supported is None or waits(node) else self.supported(node)


def _port(name: str, kind: ir.TypeProtocol | None, shape: ir.Shape | None) -> Port:
    assert isinstance(kind, ir.TensorType)
    assert shape is not None
    return name, dtype_name(kind.dtype), tuple(int(d) for d in shape.numpy())
