"""Weights as blocks and back."""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_SIDES", "Array", "Block", "Mask", "check_block", "cut", "grid_of", "join"]

Array: TypeAlias = NDArray[np.generic]
Mask: TypeAlias = NDArray[np.bool_]
Block: TypeAlias = tuple[int, int]
"""Sides of a block, along k and along n."""

BLOCK_SIDES: Final = (1, 4, 8, 16)
"""Sides that codelets exist for. Both sides are 1, for single elements, or neither is."""


def check_block(block: int | Sequence[int]) -> Block:
    """A block's sides from one number or two. Raises ValueError for sides that no codelet has."""
    sides = (block, block) if isinstance(block, int) else tuple(block)
    whole = len(sides) == 2 and all(side in BLOCK_SIDES for side in sides)
    if not whole or (1 in sides and sides != (1, 1)):
        raise ValueError(f"a block is 1 x 1, or 4, 8 or 16 long and wide, not {' x '.join(map(str, sides))}")
    return sides[0], sides[1]


def grid_of(shape: Sequence[int], block: Block) -> tuple[int, int, int]:
    """The grid of blocks of a weight [taps, k, n]."""
    taps, k, n = shape
    return taps, -(-k // block[0]), -(-n // block[1])


def cut(weight: Array, block: Block) -> Array:
    """[..., k, n] as [..., block rows, block columns, bk, bn], zero padded at the edges; a view where it can be."""
    *lead, k, n = weight.shape
    (bk, bn), (pad_k, pad_n) = block, (-k % block[0], -n % block[1])
    if pad_k or pad_n:
        weight = np.pad(weight, [(0, 0)] * len(lead) + [(0, pad_k), (0, pad_n)])
    cells = weight.reshape(*lead, (k + pad_k) // bk, bk, (n + pad_n) // bn, bn)
    return np.moveaxis(cells, -3, -2)


def join(blocks: Array, shape: Sequence[int]) -> Array:
    """The inverse of `cut`: [..., block rows, block columns, bk, bn] as [..., k, n] of `shape`, padding cut off."""
    *lead, rows, columns, bk, bn = blocks.shape
    whole = np.moveaxis(blocks, -3, -2).reshape(*lead, rows * bk, columns * bn)
    return whole[..., : shape[-2], : shape[-1]]
