"""ONNX in: load, convert the opset, inline functions, bind dimensions, fold, name every unsupported node."""

from ipucc.frontend.files import ModelSource
from ipucc.frontend.importer import load_model
from ipucc.frontend.native import NATIVE_OPS
from ipucc.frontend.unsupported import unsupported_nodes
from ipucc.graph.tensors import MissingTensor

__all__ = ["NATIVE_OPS", "MissingTensor", "ModelSource", "load_model", "unsupported_nodes"]
