"""One network of every kind at a size that runs faithfully in seconds, with inputs for it."""

from collections.abc import Callable
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from networks.routing import detector, experts, graph_attention
from networks.sequences import generate, mamba, t5_decoder, whisper_encoder
from networks.transformers import bert, gpt2, vit

__all__ = ["TINY", "inputs_of"]

Inputs = dict[str, NDArray[np.generic]]

TINY: Final[dict[str, Callable[[], onnx.ModelProto]]] = {
    "bert": lambda: bert("bert", 2, 64, 4, 1, 16, True, 0),
    "vit": lambda: vit(2, 64, 4, 1, 32, 8, 10, 0),
    "gpt2": lambda: gpt2(2, 64, 4, 100, 1, 16, "tied", 0),
    "whisper-encoder": lambda: whisper_encoder(2, 64, 4, 16, 32, 1, 0),
    "t5-decoder": lambda: t5_decoder(2, 64, 4, 128, 100, 8, 12, 1, 0),
    "mamba": lambda: mamba(2, 32, 8, 100, 32, 1, 0),
    "detector": lambda: detector(64, 8, 3, 16, 1, 0),
    "graph-attention": lambda: graph_attention(30, 90, 16, 4, 2, 3, 0),
    "experts": lambda: experts(16, 32, 48, 4, 0),
    "generate": lambda: generate(2, 32, 4, 64, 32, None, 0),
    "generate-until": lambda: generate(2, 32, 4, 64, 32, 48, 0),
}
"""By the names of samples/make_models.py; the last one stops at the token 48."""


def inputs_of(name: str, model: onnx.ModelProto, seed: int = 0) -> Inputs:
    """Values for the inputs of a network of TINY."""
    rng = np.random.default_rng(seed)
    highest = {"bert": 2, "graph-attention": 30}.get(name, 64)
    found: Inputs = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        if kind.elem_type == onnx.TensorProto.INT64:
            found[value.name] = rng.integers(0, highest, shape)
        else:
            found[value.name] = rng.standard_normal(shape, np.float32)
    if name == "graph-attention":
        # Every node hears of itself.
        found["edges"][:, :30] = np.arange(30)
    if name.startswith("generate"):
        found["first"][:] = 3
    if name == "bert":
        found["attention_mask"] = (np.arange(16) < 12).astype(np.int64)[None]
    return found
