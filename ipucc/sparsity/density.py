"""Densities per layer from one density of all."""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = ["erk", "uniform"]


def uniform(shapes: Sequence[Sequence[int]], density: float) -> NDArray[np.float64]:
    """The same density for every layer."""
    return np.full(len(shapes), density)


def erk(shapes: Sequence[Sequence[int]], density: float) -> NDArray[np.float64]:
    """Erdos-Renyi-Kernel densities (RigL, arXiv 1911.11134): eps * sum(dims) / prod(dims), dims those of a kernel too.

    eps is solved so that all layers together keep `density` of their elements. Layers that would exceed 1 are dense,
    and eps is solved again for the others until none does.
    """
    sizes = np.array([prod(shape) for shape in shapes], np.float64)
    raw = np.array([sum(shape) for shape in shapes], np.float64) / sizes
    dense = np.zeros(len(shapes), bool)
    while not dense.all():
        left = density * sizes.sum() - sizes[dense].sum()
        eps = left / (raw * sizes)[~dense].sum()
        over = ~dense & (eps * raw > 1)
        if not over.any():
            return np.where(dense, 1.0, eps * raw)
        dense |= over
    return np.ones(len(shapes))
