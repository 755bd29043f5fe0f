"""Determinants of small matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.target import Target

__all__ = ["Determinant"]


@register
@dataclass(frozen=True)
class Determinant(Codelet):
    """det of [b, size, size], floats."""

    size: int

    name: ClassVar[str] = "determinant"
    code_bytes: ClassVar[int] = 500

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """LU decomposition, size^3 / 3 multiply-subtracts at 3 cycles, a matrix per worker. Inferred."""
        share = per_worker(n["b"], target)
        return np.asarray(target.launch_cycles + target.workers * share * (20 + self.size**3), np.int64)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        (x,) = operands
        # Places past the end of a short cell hold the fill of the operand, and their results are not stored.
        return [np.linalg.det(x).astype(np.float32)]
