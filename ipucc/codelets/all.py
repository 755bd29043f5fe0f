"""Every family of codelets: programs that are read from a file find theirs by name."""

import importlib
from typing import Final

__all__ = ["FAMILIES", "load_all"]

FAMILIES: Final = (
    "boxes",
    "conv",
    "copy",
    "determinant",
    "dynamic_sparse",
    "elementwise",
    "gather",
    "matmul",
    "normalise",
    "pool",
    "positions",
    "reduce",
    "resize",
    "scatter",
    "softmax",
    "sparse",
    "sparse_conv",
    "topk",
)
"""Modules of `ipucc.codelets` that register codelets."""


def load_all() -> None:
    """Register all codelets; calling it again does nothing."""
    for name in FAMILIES:
        importlib.import_module(f"ipucc.codelets.{name}")
