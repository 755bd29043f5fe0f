"""Cycles of a bucket, held against poplibs' formulas worked out by hand."""

import numpy as np
import pytest

from ipucc.codelets.dynamic_sparse import bucket_cycles, sampled_cycles
from ipucc.target import load_target

BOW = load_target("bow")


def cycles(function, rows, blocks, outputs, side, dtype, partials, **more):
    one = [np.array([v]) for v in (rows, blocks, outputs)]
    return int(function(*one, (side, side), dtype, partials, BOW, **more)[0])


@pytest.mark.parametrize(
    ("side", "dtype", "partials", "want"),
    [
        # 144 + outputs + blocks x (coefficients + 3 + 12) + 6 x (start + blocks x (inner - 3 + columns x rate))
        (16, "float16", "float16", 144 + 5 + 10 * (64 + 15) + 6 * (22 + 10 * (22 - 3 + 8 * 4))),
        (8, "float16", "float16", 144 + 5 + 10 * (16 + 15) + 6 * (23 + 10 * (20 - 3 + 8 * 4))),
        (4, "float16", "float16", 144 + 5 + 10 * (4 + 15) + 6 * (26 + 10 * (17 - 3 + 8 * 2))),
        (4, "float32", "float32", 144 + 5 + 10 * (8 + 15) + 6 * (26 + 10 * (14 - 3 + 8 * 4))),
        # fp32 blocks of 16 load the unit twice, and a row takes 8 cycles
        (16, "float32", "float32", 144 + 5 + 10 * (128 + 27) + 6 * (23 + 20 * (24 - 3 + 8 * 8))),
    ],
)
def test_blocks_forward(side, dtype, partials, want):
    assert cycles(bucket_cycles, 48, 10, 5, side, dtype, partials) == want


def test_elements_forward():
    # 48 rows in passes of 8: 6 workers with 2 of 12 outputs and 10 of 60 elements each
    want = 120 + 6 * (30 + 11 * 2 + 16 * 2 + 6 * 3 * 10)
    assert cycles(bucket_cycles, 48, 60, 12, 1, "float16", "float16") == want


def test_a_transposed_product_transposes_blocks_first():
    forward = cycles(bucket_cycles, 48, 12, 5, 16, "float16", "float16")
    assert cycles(bucket_cycles, 48, 12, 5, 16, "float16", "float16", transposed=True) == (
        forward + 18 + 6 * (34 + 2 * (6 + 4 * 23))
    )


def test_sampled_blocks_take_the_faster_unit():
    # Matrix unit: 101 + 23 + 8 x 4 + 32 x 5 + 10 x (10 + 15 + 2 x 4 + 3 x 242) + 6 x (10 + 10 x (33 x 3 - 4 x 2))
    want = 101 + 23 + 32 + 160 + 10 * (25 + 8 + 3 * 242) + 6 * (10 + 10 * (99 - 8))
    assert cycles(sampled_cycles, 48, 10, 5, 16, "float16", "float16") == want
    # Vector unit: 101 + 6 x (27 + 9 + blocks of a worker x (29 + 6 rows))
    want = 101 + 6 * (27 + 9 * 1 + 2 * (29 + 6 * 48))
    assert cycles(sampled_cycles, 48, 10, 5, 4, "float16", "float16") == want
