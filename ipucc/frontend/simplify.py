"""Clean-up during import: fold to a fixpoint, identities, decided branches, duplicates, dead code."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    LiftSubgraphInitializersToMainGraphPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from ipucc.frontend.shapes import forget_symbols, infer_shapes
from ipucc.frontend.trips import count_trips
from ipucc.frontend.unroll import unroll_loops
from ipucc.graph.edit import all_graphs
from ipucc.graph.fold import fold_constants
from ipucc.graph.tensors import is_missing

# Each round of folding makes new shapes known. Real files need two to five; a bound keeps a hostile one finite.
_MAX_ROUNDS = 100


def settle(model: ir.Model, where: str | None = None) -> None:
    """Infer shapes, fold constants, take decided branches, write out loops of known trips and drop dead code until
    nothing changes.

    The last thing done is an inference, so types and shapes belong to the graph as it is. Raises IPU0114.
    """
    for _ in range(_MAX_ROUNDS):
        RemoveUnusedNodesPass()(model)
        infer_shapes(model, where)
        changed = fold_constants(model) + take_decided_branches(model) + remove_identities(model)
        changed += count_trips(model) + unroll_loops(model)
        if not changed:
            return
        forget_symbols(model)
    infer_shapes(model, where)


def scalar_ranges(model: ir.Model) -> None:
    """Let every Range take scalars: files have vectors of one element there, which onnxruntime takes and onnx's
    inference does not."""
    scalar = ir.Value(
        name="ipucc/scalar", shape=ir.Shape([0]), type=ir.TensorType(ir.DataType.INT64),
        const_value=ir.tensor(np.zeros(0, np.int64)),
    )  # fmt: skip
    for node in list(model.graph):
        if node.domain != "" or node.op_type != "Range":
            continue
        for i, value in enumerate(node.inputs):
            if value is None or (value.shape is not None and len(value.shape) == 0):
                continue
            model.graph.initializers.setdefault(str(scalar.name), scalar)
            made = ir.node("Reshape", [value, scalar], name=f"{node.name}/scalar_{i}",
                           metadata_props=dict(node.metadata_props))  # fmt: skip
            made.outputs[0].name = made.name
            model.graph.insert_before(node, made)
            node.replace_input_with(i, made.outputs[0])


def tidy(model: ir.Model) -> None:
    """Remove identities, duplicates, dead code and unused imports; make the names unique."""
    remove_identities(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    LiftSubgraphInitializersToMainGraphPass()(model)
    fix_names(model)


def remove_identities(model: ir.Model) -> int:
    """Remove Identity and the Dropout of inference; the number removed.

    Guaranteed: inputs and outputs of the graph and of subgraphs keep their names and their order. A node stays
    where an output would otherwise be an input, a constant, or a value of another graph, or be listed twice.
    """
    count = 0
    for node in model.graph.all_nodes():
        if not _is_identity(node):
            continue
        source, result = node.inputs[0], node.outputs[0]
        if source is None:
            continue
        if result.is_graph_output():
            producer = source.producer()
            if producer is None or producer.graph is not node.graph or source.is_graph_output():
                continue
            name = result.name
            result.replace_all_uses_with(source, replace_graph_outputs=True)
            result.name = None
            source.name = name
        else:
            result.replace_all_uses_with(source)
        graph = node.graph
        assert graph is not None  # the node was found in one
        graph.remove(node, safe=True)
        count += 1
    return count


def _is_identity(node: ir.Node) -> bool:
    if node.domain != "":
        return False
    if node.op_type == "Identity":
        return len(node.inputs) == 1
    if node.op_type != "Dropout" or any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return True
    tensor = mode.const_value
    return tensor is not None and not is_missing(tensor) and not bool(tensor.numpy())


def take_decided_branches(model: ir.Model) -> int:
    """Replace every If whose condition is constant by the nodes of the branch it takes; the number replaced."""
    count = 0
    for node in model.graph.all_nodes():
        condition = node.inputs[0] if node.inputs else None
        tensor = condition.const_value if condition is not None else None
        if node.domain != "" or node.op_type != "If" or tensor is None or is_missing(tensor):
            continue
        name = "then_branch" if bool(tensor.numpy().item()) else "else_branch"
        branch = node.attributes[name].as_graph()
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        _hoist(graph, node, branch)
        count += 1
    return count


def _hoist(graph: ir.Graph, node: ir.Node, branch: ir.Graph) -> None:
    taken = {value.name for value in ir.convenience.create_value_mapping(graph).values()}
    for value in list(branch.initializers.values()):
        name = value.name or "constant"
        del branch.initializers[name]
        value.name = _fresh(name, taken)
        graph.register_initializer(value)
    inner = list(branch)
    results = list(branch.outputs)
    branch.outputs.clear()
    branch.remove(inner)
    for child in inner:
        for value in child.outputs:
            if value.name:
                value.name = _fresh(value.name, taken)
    for old, new in zip(node.outputs, results, strict=True):
        if old.is_graph_output():
            # An Identity keeps the name of the output; it goes again where that is allowed.
            keep = ir.node("Identity", [new], metadata_props=dict(node.metadata_props))
            keep.outputs[0].name, keep.outputs[0].type = old.name, old.type
            old.name = None
            inner.append(keep)
            new = keep.outputs[0]
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        else:
            old.replace_all_uses_with(new)
    graph.insert_before(node, inner)
    graph.remove(node, safe=True)


def fix_names(model: ir.Model) -> None:
    """Make the names of all values unique across the graph and its subgraphs.

    Inputs and outputs of the main graph keep theirs. Results that the file leaves out (optional ones) keep having
    no name: onnx_ir's NameFixPass would name them, and so ask the op for them.
    """
    graph = model.graph
    interface = list(dict.fromkeys([*graph.inputs, *graph.outputs]))
    taken: set[str | None] = {value.name for value in interface}
    settled = set(interface)
    for scope in all_graphs(model):
        results = [value for node in scope for value in node.outputs]
        for value in [*scope.inputs, *scope.initializers.values(), *results, *scope.outputs]:
            used = bool(value.name or value.uses() or value.is_graph_output() or value.is_graph_input())
            if value in settled or not used:
                continue
            settled.add(value)
            value.name = _fresh(value.name or "value", taken)


def _fresh(name: str, taken: set[str | None]) -> str:
    fresh, count = name, 1
    while fresh in taken:
        count += 1
        fresh = f"{name}_{count}"
    taken.add(fresh)
    return fresh
