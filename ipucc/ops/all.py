"""Every family of ops: importing this module fills the table of lowerings."""

import importlib
from typing import Final

__all__ = ["FAMILIES", "load_all"]

FAMILIES: Final = (
    *(
        "boxes",
        "composed",
        "conv",
        "determinant",
        "dynamic_sparse",
        "elementwise",
        "gather",
        "indices",
        "matmul",
        "normalise",
        "pool",
        "reduce",
        "resize",
        "rotary",
        "scatter",
        "softmax",
        "sparse",
        "sparse_conv",
        "topk",
        "views",
    ),
)
"""Modules of `ipucc.ops` that register lowerings."""


def load_all() -> None:
    """Register all lowerings; calling it again does nothing."""
    for name in FAMILIES:
        importlib.import_module(f"ipucc.ops.{name}")
