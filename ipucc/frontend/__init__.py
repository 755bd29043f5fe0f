"""ONNX in: load, convert the opset, inline functions, bind dimensions, fold, name every unsupported node."""

from ipucc.frontend.files import ModelSource
from ipucc.frontend.importer import Module, load_model, load_module, straight
from ipucc.frontend.joining import joined
from ipucc.frontend.native import NATIVE_OPS
from ipucc.frontend.region import Branch, Loop, Part, Region, parts_of
from ipucc.frontend.unsupported import unsupported_nodes
from ipucc.graph.tensors import MissingTensor

__all__ = [
    "NATIVE_OPS", "Branch", "Loop", "MissingTensor", "ModelSource", "Module", "Part", "Region", "joined",
    "load_model", "load_module", "parts_of", "straight", "unsupported_nodes",
]  # fmt: skip
