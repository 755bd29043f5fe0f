"""All nodes of a model that cannot be compiled, at once."""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ipucc.diagnostics import Diagnostic
from ipucc.graph.edit import describe

# What to write instead; shown as help.
REWRITES: Mapping[str, str] = {
    "Bernoulli": "draw the random numbers on the host and pass them as an input",
    "ImageDecoder": "decode images on the host and pass the pixels",
    "Multinomial": "draw the random numbers on the host and pass them as an input",
    "Optional": "export the model without optional values",
    "RandomNormal": "draw the random numbers on the host and pass them as an input",
    "RandomNormalLike": "draw the random numbers on the host and pass them as an input",
    "RandomUniform": "draw the random numbers on the host and pass them as an input",
    "RandomUniformLike": "draw the random numbers on the host and pass them as an input",
    "STFT": "use Conv with the constant windowed DFT matrix",
    "SequenceAt": "export the model with tensors instead of sequences (Split, Concat)",
    "SequenceConstruct": "export the model with tensors instead of sequences (Split, Concat)",
    "SequenceMap": "export the model with tensors instead of sequences (Split, Concat)",
    "SplitToSequence": "use Split, which gives tensors",
    "StringNormalizer": "process text on the host",
    "TfIdfVectorizer": "process text on the host",
}
_CONTRIB_REWRITES: Mapping[str, str] = {
    "Attention": "export without onnxruntime's transformer optimisations",
    "EmbedLayerNormalization": "export without onnxruntime's transformer optimisations",
    "MultiHeadAttention": "use Attention of opset 23",
}


def unsupported_nodes(
    model: ir.Model, supported: Callable[[ir.Node], str | None], where: str | None = None
) -> list[Diagnostic]:
    """One IPU0201 for every node for which `supported` gives a reason against it (None means yes).

    In the order of the graph, with the nodes of subgraphs left out where the node around them is unsupported.
    """
    problems: list[Diagnostic] = []
    _collect(model.graph, supported, where, problems)
    return problems


def _collect(
    graph: ir.Graph, supported: Callable[[ir.Node], str | None], where: str | None, problems: list[Diagnostic]
) -> None:
    for node in graph:
        reason = supported(node)
        if reason is not None:
            problems.append(_describe(node, reason, where))
            continue
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _collect(attribute.as_graph(), supported, where, problems)
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    _collect(body, supported, where, problems)


def _describe(node: ir.Node, reason: str, where: str | None) -> Diagnostic:
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    helps = nearest_rewrite(node)
    return Diagnostic("IPU0201", "error", f"unsupported: {reason}", describe(node), op, where, help=helps)


def nearest_rewrite(node: ir.Node) -> tuple[str, ...]:
    """What the user could write instead of a node, if that is known."""
    table = _CONTRIB_REWRITES if node.domain == "com.microsoft" else REWRITES if not node.domain else {}
    return (table[node.op_type],) if node.op_type in table else ()
