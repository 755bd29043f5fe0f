"""How much a block matters: norms of its weights, and criteria that know the inputs of the layer."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ipucc.sparsity.blocks import Array, Block, Mask, cut

__all__ = ["CALIBRATED", "SCORES", "Gram", "additive", "block_scores", "element_mask", "obs_update"]

Floats = NDArray[np.float64]

SCORES: Final = ("l1", "l2", "max", "wanda", "sparsegpt")
"""The criteria of `block_scores`."""

CALIBRATED: Final = ("wanda", "sparsegpt")
"""Those that need inputs of the layer."""

_PANEL: Final = 128
"""Rows of the weight whose errors are gathered before the rows behind them are updated."""


@dataclass(eq=False)
class Gram:
    """What the criteria need of a layer's inputs X [samples, taps * k]: X^T X, summed as samples come.

    With `whole` False only the diagonal is kept, which is all that Wanda needs.
    """

    size: int
    whole: bool = True
    samples: int = 0
    matrix: Floats = field(init=False)
    _factors: dict[float, Floats] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.matrix = np.zeros((self.size, self.size) if self.whole else self.size)

    def add(self, x: Array) -> None:
        """Adds inputs [..., size] of the layer. Raises ValueError for another size or numbers that are not finite."""
        rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1] if x.ndim else 1)
        if rows.shape[1] != self.size:
            raise ValueError(f"inputs of {rows.shape[1]} elements for a layer that takes {self.size}")
        if not np.isfinite(rows).all():
            raise ValueError("inputs that are not finite")
        self.matrix += rows.T @ rows if self.whole else np.einsum("ij,ij->j", rows, rows)
        self.samples += len(rows)
        self._factors.clear()

    @property
    def norms(self) -> Floats:
        """The norm of every input element over all samples: ||x_j||_2 [size]."""
        return np.sqrt(np.diagonal(self.matrix) if self.whole else self.matrix)

    def factor(self, damping: float = 0.01) -> Floats:
        """The upper Cholesky factor U of the inverse of H = X^T X + damping * mean(diag) * I.

        U[j, j]^2 is the j-th diagonal element of the inverse of what remains of H when inputs before j are fixed.
        Inputs that are zero in every sample get a diagonal element of 1, as in SparseGPT's code.
        """
        if not self.whole:
            raise ValueError("the inverse needs the whole matrix")
        if damping in self._factors:
            return self._factors[damping]
        h = self.matrix.copy()
        at = np.arange(self.size)
        h[at, at] = np.where(np.diagonal(h) == 0, 1.0, np.diagonal(h))
        h[at, at] += damping * float(np.diagonal(h).mean())
        # inverse = U^T U with U upper: the Cholesky factor of the inverse, transposed.
        made = self._factors[damping] = np.asarray(np.linalg.cholesky(np.linalg.inv(h)).T)
        return made


def block_scores(weight: Array, block: Block, score: str = "l1", inputs: Gram | None = None) -> Floats:
    """Scores [taps, block rows, block columns] of the blocks of a weight [taps, k, n], in float64.

    - `l1`, `l2`, `max`: the norms of a block's elements (sum of magnitudes, root of the sum of squares, largest).
    - `wanda` (arXiv 2306.11695): the sum of |w_ij| * ||x_j||_2, j the input element that w_ij multiplies. Comparable
      within one output only: choose with `choose(..., within="output")`.
    - `sparsegpt` (arXiv 2301.00774): the sum of w_ij^2 / U_jj^2, U from `Gram.factor`.

    `inputs` are those of the layer, needed by the last two. Raises ValueError for an unknown score, or without inputs.
    """
    if score not in SCORES:
        raise ValueError(f"no score {score!r}; there are {', '.join(SCORES)}")
    magnitude = np.abs(np.asarray(weight, np.float64))
    if score in CALIBRATED:
        if inputs is None:
            raise ValueError(f"the score {score} needs inputs of the layer")
        taps, k, _ = weight.shape
        if score == "wanda":
            magnitude *= inputs.norms.reshape(taps, k, 1)
        else:
            magnitude /= np.diagonal(inputs.factor()).reshape(taps, k, 1)
    blocks = cut(magnitude, block)
    if score == "max":
        return np.asarray(blocks.max(axis=(-2, -1)))
    if score == "l2":
        return np.asarray(np.sqrt(np.square(blocks).sum(axis=(-2, -1))))
    if score == "sparsegpt":
        return np.asarray(np.square(blocks).sum(axis=(-2, -1)))
    return np.asarray(blocks.sum(axis=(-2, -1)))


def additive(scores: Floats, score: str) -> Floats:
    """Scores of blocks as sums over their elements, so that what is dropped in blocks of one size compares with what is
    dropped in blocks of another: norms `l2` are squared. Raises ValueError for `max`, which is no sum."""
    if score == "max":
        raise ValueError("largest elements of blocks of different sizes cannot be compared")
    return np.square(scores) if score == "l2" else scores


def obs_update(weight: Array, keep: Mask, inputs: Gram, damping: float = 0.01) -> Floats:
    """The weight [taps, k, n] with dropped elements zero and kept ones changed so that outputs change little.

    `keep` [taps, k, n] says which elements stay; any mask will do. Rows (input elements) are visited in order; the
    error of a dropped element is made up for by the rows behind it: w_l -= w_j / U_jj * U_jl (SparseGPT's form of
    Optimal Brain Surgeon, arXiv 2301.00774, algorithm 1). Rows whose input is always zero become zero.
    """
    taps, k, n = weight.shape
    size = taps * k
    w = np.array(weight, np.float64).reshape(size, n)
    stays = keep.reshape(size, n)
    upper = inputs.factor(damping)
    w[np.diagonal(inputs.matrix) == 0] = 0
    for first in range(0, size, _PANEL):
        last = min(first + _PANEL, size)
        errors = np.zeros((last - first, n))
        for j in range(first, last):
            errors[j - first] = np.where(stays[j], 0.0, w[j]) / upper[j, j]
            w[j:last] -= np.outer(upper[j, j:last], errors[j - first])
        w[last:] -= upper[first:last, last:].T @ errors
    return np.where(stays, w, 0.0).reshape(taps, k, n)


def element_mask(mask: Mask, block: Block, shape: tuple[int, int, int]) -> Mask:
    """A mask over blocks as one over the elements of a weight of `shape` [taps, k, n]."""
    whole = mask.repeat(block[0], axis=1).repeat(block[1], axis=2)
    return whole[:, : shape[1], : shape[2]]
