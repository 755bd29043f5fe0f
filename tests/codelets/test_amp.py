"""The matrix unit's cycle formula against a published measurement and against sense."""

import numpy as np
import pytest

from ipucc.codelets.amp import amp_1x1, amp_nx1
from ipucc.target import load_target

# tessellate-ipu, "IPU Peak Flops": [N,16] x [16,16] fp16 on every tile of a Bow chip, cycles from published TFLOPS.
MEASURED = {
    16: 402.0, 32: 461.3, 48: 524.0, 64: 584.0, 96: 716.0, 128: 845.3, 256: 1352.0, 512: 2381.3, 1024: 4424.0,
    2048: 8525.3,
}  # fmt: skip


def one(rows: int, k: int, n: int, dtype: str, partials: str, target) -> int:
    ones = np.ones(1, np.int64)
    return int(amp_1x1(ones, rows * ones, k * ones, n * ones, dtype, partials, target)[0])


@pytest.mark.parametrize("rows", MEASURED)
def test_measured_curve_of_a_bow_chip(rows):
    # The operands of the benchmark lie in plain memory.
    bow = load_target("bow").plain
    assert abs(one(rows, 16, 16, "float16", "float16", bow) - MEASURED[rows]) <= 7


def test_half_precision_partials_double_the_rate():
    target = load_target("gc200")
    rows = 4096
    half = one(rows, 256, 256, "float16", "float16", target)
    single = one(rows, 256, 256, "float16", "float32", target)
    full = one(rows, 256, 256, "float32", "float32", target)
    assert 1.8 < single / half < 2.1
    assert 3.6 < full / half < 4.2


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_more_work_never_takes_fewer_cycles(dtype):
    # From 3 rows a worker on: below, the table itself is not monotone.
    target = load_target("gc200")
    rows = np.arange(18, 400)
    ones = np.ones_like(rows)
    by_rows = amp_1x1(ones, rows, 64 * ones, 64 * ones, dtype, dtype, target)
    assert (np.diff(by_rows) >= 0).all()
    one = ones[:1]
    by_window = [int(amp_nx1(one, 8 * one, 8 * one, 16 * one, 16 * one, w, 1, dtype, dtype, target)[0])
                 for w in range(1, 20)]  # fmt: skip
    assert (np.diff(by_window) > 0).all()
