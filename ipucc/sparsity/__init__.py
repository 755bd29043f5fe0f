"""Which blocks of a weight to keep: scores, masks, patterns, densities per layer, and a scan for zeros.

Everything here is numpy and knows no graph. A weight is an array [taps, k, n]: k inputs and n outputs of a product,
taps the positions of a convolution's kernel (1 for a matmul). It is cut into blocks (bk, bn), zero padded at the edges;
what is said of blocks is an array over their grid [taps, ceil(k / bk), ceil(n / bn)]: floats are scores, bools a mask
(True: kept).
"""

from ipucc.sparsity.blocks import BLOCK_SIDES, Block, check_block, cut, grid_of, join
from ipucc.sparsity.buckets import BeyondCapacity, Buckets, capacity_for
from ipucc.sparsity.density import erk, uniform
from ipucc.sparsity.masks import blocks_with_any, choose, kept_count, read_mask
from ipucc.sparsity.patterns import PATTERNS, banded, block_diagonal, butterfly
from ipucc.sparsity.scan import Scan, scan
from ipucc.sparsity.scores import SCORES, Gram, block_scores, obs_update

__all__ = [
    "BLOCK_SIDES",
    "PATTERNS",
    "SCORES",
    "BeyondCapacity",
    "Block",
    "Buckets",
    "Gram",
    "Scan",
    "banded",
    "block_diagonal",
    "block_scores",
    "blocks_with_any",
    "butterfly",
    "capacity_for",
    "check_block",
    "choose",
    "cut",
    "erk",
    "grid_of",
    "join",
    "kept_count",
    "obs_update",
    "read_mask",
    "scan",
    "uniform",
]
