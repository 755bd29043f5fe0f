"""Ops of onnxruntime's domain com.microsoft that ONNX has under the same name with the same meaning."""

import onnx_ir as ir

# Gelu there is the erf form without attributes, as in ONNX with the default of `approximate`.
_SAME = frozenset({"Gelu"})


def rewrite_contrib(model: ir.Model) -> int:
    """Move such nodes to the default domain; the number moved."""
    count = 0
    for node in model.graph.all_nodes():
        if node.domain == "com.microsoft" and node.op_type in _SAME:
            node.domain = ""
            count += 1
    return count
