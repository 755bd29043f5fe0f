"""Scan of opset 8, which runs over a batch of sequences: one Scan of opset 9 for each of them.

The converter of onnx changes the shapes of inputs instead.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.frontend.emit import Emitter, shape_or_none
from ipucc.frontend.shapes import infer_shapes
from ipucc.graph.edit import describe

__all__ = ["split_scans"]


def split_scans(model: ir.Model, domain: str, changed: Callable[[str], bool]) -> None:
    """Replace the Scans of a model of opset 8 by those of opset 9, in `domain`, from which the converter keeps off.

    Raises IPU0113 where sequences have lengths of their own, and for bodies with ops that are `changed` later.
    """
    scans = [node for node in model.graph if node.op_type == "Scan" and not node.domain]
    if scans:
        infer_shapes(model)
    for node in scans:
        body = node.attributes["body"].as_graph()
        shapes = [shape_or_none(value) for value in node.inputs[1:]]
        old = [child.op_type for child in body.all_nodes() if changed(child.op_type)]
        if old or node.inputs[0] is not None or any(not shape for shape in shapes):
            why = f"its body has {old[0]}" if old else "its sequences have lengths or shapes that are not known"
            raise error("IPU0113", f"a Scan of opset 8 cannot be brought to a later one: {why}", node=describe(node),
                        op="Scan", help=["export the model with a newer opset"])  # fmt: skip
        e = Emitter(node)
        count = node.attributes.get_int("num_scan_inputs")
        directions = list(node.attributes.get_ints("directions", [0] * count))
        found = []
        for at in range((shapes[0] or (0,))[0]):
            inputs = [e.op("Gather", value, e.constant(np.int64(at)), axis=0) for value in node.inputs[1:]]
            attributes: dict[str, int | Sequence[int]] = {"num_scan_inputs": count, "scan_input_directions": directions}
            scan = ir.node("Scan", inputs, attributes, domain=domain, num_outputs=len(node.outputs),
                           name=f"{e.prefix}/{at}", metadata_props=dict(node.metadata_props))  # fmt: skip
            scan.attributes["body"] = ir.AttrGraph("body", body.clone(allow_outer_scope_values=True))
            for i, value in enumerate(scan.outputs):
                value.name = f"{scan.name}/{i}"
            e.graph.insert_before(node, scan)
            found.append([e.op("Unsqueeze", value, axes=[0]) for value in scan.outputs])
        e.finish(*(e.op("Concat", *values, axis=0) for values in zip(*found, strict=True)))
