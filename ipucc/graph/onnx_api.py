"""Calls of onnx's C++ functions on an onnx_ir model, with the weights left out.

The functions take a serialised model. Weights would have to be copied into it, and a model of more than 2 GiB
cannot be serialised at all, so every large or absent constant is shown to them as an input of the same type.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.graph.edit import describe
from ipucc.graph.tensors import is_missing

# Constants up to this size take part: they carry the shapes, axes and pads that inference reads.
_KEPT_BYTES = 1024
# One entry of the list that strict inference throws.
_ENTRY = re.compile(r"\(op_type:\s*([\w.]+)(?:, node name: (.*?))?\): (.*?)(?=\(op_type:|$)", re.DOTALL)
# What it says of every node behind one that failed.
_FOLLOWS = "expected to have type but instead is null"
_KIND = re.compile(r"\[\w+Error\] ?")


@dataclass(frozen=True, slots=True)
class Stripped:
    """A serialised model without large constants, and what is needed to put them back."""

    proto: onnx.ModelProto
    tensors: Mapping[str, ir.TensorProtocol]


def strip(model: ir.Model) -> Stripped:
    """Serialise a model whose large constants have become inputs. The model itself is as before afterwards.

    Large initializers of subgraphs must have been lifted to the main graph. Not for use by two threads on one
    model: the model changes while it is serialised.
    """
    graph = model.graph
    constants, inputs = list(graph.initializers.values()), list(graph.inputs)
    taken: dict[str, ir.TensorProtocol] = {}
    external: list[tuple[ir.Value, ir.ExternalTensor]] = []
    try:
        for value in constants:
            tensor, name = value.const_value, value.name
            if tensor is not None and name is not None and (is_missing(tensor) or tensor.nbytes > _KEPT_BYTES):
                taken[name] = tensor
                value.shape = ir.Shape(tensor.shape.numpy())
                value.type = ir.TensorType(tensor.dtype)
                del graph.initializers[name]
                if not value.is_graph_input():
                    graph.inputs.append(value)
            elif isinstance(tensor, ir.ExternalTensor):
                # A serialised reference to a file would forget the folder that it is relative to.
                external.append((value, tensor))
                value.const_value = ir.external_data.convert_tensors_from_external([tensor])[0]
        return Stripped(ir.to_proto(model), taken)
    finally:
        for value, held in external:
            value.const_value = held
        graph.inputs.clear()
        graph.inputs.extend(inputs)
        graph.initializers.clear()
        for value in constants:
            graph.initializers.add(value)


def restore(proto: onnx.ModelProto, tensors: Mapping[str, ir.TensorProtocol]) -> ir.Model:
    """The model of a stripped and then changed proto, with its constants back in place."""
    model = ir.from_proto(proto)
    graph = model.graph
    inputs = list(graph.inputs)
    graph.inputs.clear()
    graph.inputs.extend(value for value in inputs if value.name not in tensors)
    for value in inputs:
        if value.name is not None and value.name in tensors:
            value.const_value = tensors[value.name]
            graph.register_initializer(value)
    return model


def run_inference(model: ir.Model, where: str | None = None) -> onnx.ModelProto:
    """The stripped model with the types and shapes that onnx's inference (with data propagation) finds.

    Shapes that the model states are taken as given. Raises IPU0114 for every node whose operands, attributes and
    stated results contradict each other.
    """
    proto = strip(model).proto
    failure: Exception | None = None
    # Data propagation finds more shapes, and contradictions where there are none (it confuses a number with a vector
    # of one). So it is tried first, and not believed.
    for data_prop in (True, False):
        try:
            return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=data_prop)
        except Exception as cause:  # InferenceError, or RuntimeError from an assertion of the C++ code
            failure = cause
    raise CompileError(_contradictions(model, str(failure), where)) from failure


def _contradictions(model: ir.Model, text: str, where: str | None) -> list[Diagnostic]:
    names = {node.name: describe(node) for node in model.graph.all_nodes()}
    problems: list[Diagnostic] = []
    entries = _ENTRY.findall(text)
    causes = [entry for entry in entries if _FOLLOWS not in entry[2]]
    for op, name, reason in causes or entries:
        message = f"the operands or attributes do not fit together: {_KIND.sub('', reason).strip()}"
        problems.append(Diagnostic("IPU0114", "error", message, node=names.get(name, name), op=op, where=where))
    if not problems:
        reason = _KIND.sub("", text).strip()
        problems.append(Diagnostic("IPU0114", "error", f"shape inference failed: {reason}", where=where))
    return problems
