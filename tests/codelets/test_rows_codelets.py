"""Statistics of parts of rows, and what is made of them, against float64: the numbers are those of whole rows."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.codelets.base import Array, Cells, Codelet
from ipucc.codelets.normalise import Moments, Normalise, NormaliseParts
from ipucc.codelets.rows import parts_axis
from ipucc.codelets.softmax import Peaks, Softmax, SoftmaxParts
from ipucc.target import load_target

AXES = ("r", "c")


def in_parts(x: Array, edges: Sequence[int], first: Codelet, second: Codelet, fill: float) -> Array:
    """[rows, columns] computed in two stages, a tile for every part of all rows, cells padded to the largest."""
    lo, hi = np.asarray(edges[:-1]), np.asarray(edges[1:])
    width = int((hi - lo).max())
    padded = np.full((lo.size, x.shape[0], width), fill, np.float32)
    for i, (a, b) in enumerate(zip(lo, hi, strict=True)):
        padded[i, :, : b - a] = x[:, a:b]
    rows = np.full(lo.size, x.shape[0])
    cells = Cells({"r": 0 * rows, "c": lo}, {"r": rows, "c": hi - lo, parts_axis("c"): np.full(lo.size, lo.size)})
    with np.errstate(all="ignore"):
        (found,) = first.compute([padded], cells)
        assert found.shape[:2] == (lo.size, x.shape[0])
        heard = np.broadcast_to(found, (lo.size, *found.shape))
        (y,) = second.compute([heard, padded], cells)
    return np.concatenate([y[i, :, : b - a] for i, (a, b) in enumerate(zip(lo, hi, strict=True))], axis=1)


def whole(x: Array, codelet: Codelet) -> Array:
    n = {"r": np.full(1, x.shape[0]), "c": np.full(1, x.shape[1])}
    with np.errstate(all="ignore"):
        (y,) = codelet.compute([x[None]], Cells({"r": np.zeros(1, int), "c": np.zeros(1, int)}, n))
    return np.asarray(y[0])


@st.composite
def cuts(draw: st.DrawFn, size: int) -> list[int]:
    """Edges of parts of a row, some of them empty."""
    return [0, *sorted(draw(st.lists(st.integers(0, size), max_size=9))), size]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    edges=cuts(77), offset=st.sampled_from([0.0, 3.0, 1e3, -1e5]), spread=st.sampled_from([1e-3, 1.0, 1e4]),
    centred=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_normalised_parts(edges: list[int], offset: float, spread: float, centred: bool, seed: int) -> None:
    x = (offset + spread * np.random.default_rng(seed).normal(size=(3, 77))).astype(np.float32)
    eps = 1e-5
    form = (AXES, ("c",), eps, centred, False, False, "float32")
    exact = x.astype(np.float64)
    if centred:
        exact = exact - exact.mean(axis=1, keepdims=True)
    exact = exact / np.sqrt((exact**2).mean(axis=1, keepdims=True) + eps)
    got = in_parts(x, edges, Moments(AXES, ("c",), centred, "float32"), NormaliseParts(*form), 0.0)
    # A mean of float32 is off by some parts in 10^7 of itself, for parts as for whole rows.
    near = 1e-6 * (4 + 2 * abs(offset) / spread if centred else 4)
    assert np.abs(whole(x, Normalise(*form)) - exact).max() <= near * np.abs(exact).max()
    assert np.abs(got - exact).max() <= near * np.abs(exact).max()


def test_squares_of_parts_far_from_zero_do_not_cancel() -> None:
    # The squares of 4096 are 2^24: the difference of sums of squares would leave nothing of a variance of 1.
    x = (4096 + np.random.default_rng(0).normal(size=(2, 600))).astype(np.float32)
    found = in_parts(
        x, range(0, 601, 50), Moments(AXES, ("c",), True, "float32"),
        NormaliseParts(AXES, ("c",), 0.0, True, False, False, "float32"), 0.0,
    )  # fmt: skip
    # Means of float32 are off by 2e-4 here.
    np.testing.assert_allclose(found.std(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=5e-4)


VALUES = st.one_of(st.floats(-30, 30, width=16), st.just(-np.inf), st.sampled_from([60_000.0, -60_000.0, 0.0]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(edges=cuts(12), rows=st.lists(st.lists(VALUES, min_size=12, max_size=12), min_size=1, max_size=3))
@pytest.mark.parametrize("kind", ["softmax", "log", "hard"])
def test_softmax_of_parts(kind: str, edges: list[int], rows: list[list[float]]) -> None:
    x = np.asarray(rows, np.float32)
    form = (kind, AXES, "c", "float32")
    got, wanted = in_parts(x, edges, Peaks(*form), SoftmaxParts(*form), -np.inf), whole(x, Softmax(*form))
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_fills_its_row_alone(value: float) -> None:
    x = np.zeros((3, 8), np.float32)
    x[1, 5] = value
    if value == -np.inf:
        x[1] = value
    form = ("softmax", AXES, "c", "float32")
    got = in_parts(x, [0, 3, 8], Peaks(*form), SoftmaxParts(*form), -np.inf)
    assert np.isnan(got[1]).all() == np.isnan(whole(x, Softmax(*form))[1]).all()
    assert np.isnan(got[1]).any()
    np.testing.assert_array_equal(got[[0, 2]], 0.125)


@pytest.mark.parametrize("codelet", [Moments(AXES, ("c",), True, "float16"), Peaks("softmax", AXES, "c", "float16")])
def test_more_parts_are_never_dearer(codelet: Codelet) -> None:
    target = load_target("gc200")
    n = {"r": np.full(90, 2), "c": 8 * np.arange(1, 91)}
    assert (np.diff(codelet.cycles(n, target)) >= 0).all()
    parts = {"r": np.full(90, 2), "c": np.full(90, 64), parts_axis("c"): np.arange(1, 91)}
    form = NormaliseParts(AXES, ("c",), 1e-5, True, True, True, "float16")
    for second in (form, SoftmaxParts("softmax", AXES, "c", "float16")):
        assert (np.diff(second.cycles(parts, target)) >= 0).all()


# Cycles of one tile for a row of 1,152 fp16 elements with scale and bias, each with a call of 290 to 350 cycles
# (osmarks/ipu-stack on a C600: docs/KERNEL_PIPELINES_2026_09_13.md and docs/NORM_GELU_KERNELS_2026_09_11.md).
CALL = 320
MEASURED = {"whole": 6_732, "apply": 4_686}


@pytest.mark.parametrize("form", MEASURED)
def test_measured_layer_norms(form: str) -> None:
    codelet = {"whole": Normalise, "apply": NormaliseParts}[form](AXES, ("c",), 1e-5, True, True, True, "float16")
    n = {"r": np.ones(1, np.int64), "c": np.full(1, 1152), parts_axis("c"): np.ones(1, np.int64)}
    assert int(codelet.cycles(n, load_target("c600"))[0]) == pytest.approx(MEASURED[form] - CALL, rel=0.08)
