"""Which node of the user's file a node comes from: metadata `ipucc.origin`, the name that messages show."""

from collections.abc import Mapping

import onnx_ir as ir

from ipucc.graph.edit import ORIGIN, describe


def name_nodes(model: ir.Model) -> None:
    """Give every node a unique name: its own, else that of its first result. Then mark each as its own origin.

    Nodes of functions are left out: inlined, they take the origin of the call.
    """
    taken: set[str] = set()
    for node in model.graph.all_nodes():
        wanted = node.name or next((v.name for v in node.outputs if v.name), None) or node.op_type
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        node.name = name
        # The name that the user knows has no counter.
        node.metadata_props.setdefault(ORIGIN, wanted)


def origins(model: ir.Model) -> dict[str, str]:
    """Origins by node name, for tools that drop metadata but keep names."""
    return {node.name: describe(node) for node in model.graph.all_nodes() if node.name}


def set_origins(model: ir.Model, remembered: Mapping[str, str]) -> None:
    """Give the nodes their origins back. A new node takes that of the first node beside it that has one.

    Beside it: the producer of an operand, or a user of a result.
    """
    new: list[ir.Node] = []
    for node in model.graph.all_nodes():
        if node.name is not None and node.name in remembered:
            node.metadata_props[ORIGIN] = remembered[node.name]
        else:
            new.append(node)
    for node in [*new, *reversed(new)]:
        if ORIGIN in node.metadata_props:
            continue
        users = [use.node for value in node.outputs for use in value.uses()]
        producers = [producer for v in node.inputs if v is not None and (producer := v.producer()) is not None]
        for neighbour in (*users, *producers):
            if found := neighbour.metadata_props.get(ORIGIN):
                node.metadata_props[ORIGIN] = found
                break
    name_nodes(model)
