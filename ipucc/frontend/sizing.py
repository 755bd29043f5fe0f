"""Inputs from which shapes, axes or counts follow: the ones that must be bound to values while compiling."""

from collections.abc import Collection
from typing import Final

import onnx

__all__ = ["SIZING", "sizing_inputs"]

SIZING: Final = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1, 2), "ConstantOfShape": (0,),
    "CumProd": (1,), "CumSum": (1,), "DFT": (1, 2), "Dropout": (1, 2), "Expand": (1,), "HammingWindow": (0,),
    "HannWindow": (0,), "MelWeightMatrix": (0, 1, 2, 3, 4), "MaxUnpool": (2,), "OneHot": (1,), "Pad": (1, 3),
    "NonMaxSuppression": (2,),
    "Range": (0, 1, 2), "Reshape": (1,), "Resize": (1, 2, 3), "STFT": (1, 3), "Slice": (1, 2, 3, 4), "Split": (1,),
    "Squeeze": (1,), "Tile": (1,), "TopK": (1,), "Trilu": (1,), "Unsqueeze": (1,), "Upsample": (1,), "Loop": (0,),
    **{
        f"Reduce{kind}": (1,)
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}  # fmt: skip
"""Operands of ops that say where elements are or how many there are: no value of an element follows from them."""


def sizing_inputs(graph: onnx.GraphProto) -> set[str]:
    """The inputs of a graph from which a shape, an axis or a count follows, through whatever nodes."""
    return _sizing(graph) & {value.name for value in graph.input}


def _sizing(graph: onnx.GraphProto, results: Collection[str] = ()) -> set[str]:
    """The values of a graph, and of those around it, from which `results`, a shape, an axis or a count follows."""
    wanted = set(results)
    for node in reversed(graph.node):
        asked = any(name in wanted for name in node.output) and node.op_type not in ("Shape", "Size")
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
                wanted |= _sizing(body, [value.name for value in body.output] if asked else ())
        if asked:
            wanted |= set(node.input)
        wanted |= {node.input[i] for i in SIZING.get(node.op_type, ()) if i < len(node.input)}
    return wanted
