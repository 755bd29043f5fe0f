"""Methods of products and convolutions: which one is fastest for which shape, and what holds for all shapes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipucc.codelets.conv import METHODS as CONV_METHODS
from ipucc.codelets.conv import Conv
from ipucc.codelets.copy import Pack
from ipucc.codelets.macs import transpose
from ipucc.codelets.matmul import METHODS, MatMul
from ipucc.target import load_target

GC200 = load_target("gc200")
MATMUL = MatMul((), "float16", "float16")


def product(method: str, m: int, k: int, n: int, dtype: str = "float16", partials: str = "float16") -> int:
    extents = {"m": np.array([m]), "k": np.array([k]), "n": np.array([n])}
    return int(MatMul((), dtype, partials, method=method).cycles(extents, GC200)[0])


def conv(
    method: str, g: int, ic: int, oc: int, size: tuple[int, int], kernel: int = 3, stride: int = 1, **fields
) -> int:
    extents = {"n": 1, "g": g, "ic": ic, "oc": oc, "o0": size[0], "o1": size[1]}
    codelet = Conv((kernel,) * 2, (stride,) * 2, (1, 1), (0, 0), (1, 1), "float16", "float16", method=method)
    return int(replace(codelet, **fields).cycles({a: np.array([v]) for a, v in extents.items()}, GC200)[0])


def packed(dtype: str, **extents: int) -> int:
    """Cycles of bringing a cell from grains of n to grains of k."""
    n = {axis: np.array([size]) for axis, size in extents.items()}
    return int(Pack(tuple(n), "n", "k", dtype).cycles(n, GC200)[0])


def fastest(*methods: str, cycles) -> str:
    return min(methods, key=cycles)


@pytest.mark.parametrize(
    ("m", "k", "n", "best"),
    [
        (1, 512, 24, "dot"),
        (1, 4096, 16, "dot"),
        (4, 64, 184, "swapped"),
        (16, 160, 112, "swapped"),
        (16, 64, 512, "swapped"),
        (256, 64, 64, "amp"),
        (205, 256, 16, "amp"),
    ],
)
def test_the_fastest_way_to_multiply_follows_the_shape(m: int, k: int, n: int, best: str) -> None:
    assert fastest("amp", "swapped", "dot", cycles=lambda way: product(way, m, k, n)) == best


def test_swapping_pays_until_the_rows_are_many() -> None:
    gain = [product("amp", m, 160, 112) / product("swapped", m, 160, 112) for m in (16, 48, 112, 448)]
    assert gain[0] > 2
    assert sorted(gain, reverse=True) == gain
    assert gain[-1] < 1


def test_a_dot_product_multiplies_a_vector_per_issue() -> None:
    # Twelve columns are two for each of the six workers; four elements of k more are one issue more for each.
    longer, shorter = product("dot", 1, 4096 + 256, 12), product("dot", 1, 4096, 12)
    assert longer - shorter == 6 * 2 * 256 // 4
    assert product("dot", 1, 4096, 12, "float32", "float32") > 1.9 * shorter


def test_what_lies_in_grains_of_columns_is_slower_to_multiply_and_needs_no_packing() -> None:
    pack = packed("float16", k=128, n=64)
    dot, axpy = product("dot", 1, 128, 64), product("axpy", 1, 128, 64)
    assert dot < axpy < dot + pack


def test_packing_costs_as_much_as_transposing_what_swapped_operands_leave() -> None:
    # 64 x 256 results by a product that takes the rows for columns, and the same elements in other grains.
    results = product("swapped", 64, 16, 256) - product("amp", 256, 16, 64)
    assert packed("float16", k=64, n=256) == GC200.launch_cycles + results


def test_the_workers_share_matrices_or_their_rows() -> None:
    assert packed("float16", b=1, k=16, n=16) < packed("float16", b=6, k=16, n=16) < 2 * packed("float16", k=16, n=16)
    assert packed("float16", k=96, n=96) < 6 * packed("float16", k=16, n=96)
    assert packed("float16", b=6, k=96, n=96) > 4 * packed("float16", k=96, n=96)


def test_transposing_takes_less_than_a_cycle_an_element() -> None:
    one = np.ones(1, np.int64)
    for rows, columns in ((112, 16), (512, 16), (1024, 64)):
        halves = int(transpose(one, rows * one, columns * one, "float16", GC200)[0])
        assert rows * columns / 4 < halves < rows * columns
        assert halves < int(transpose(one, rows * one, columns * one, "float32", GC200)[0])


@pytest.mark.parametrize("kernel", [3, 7])
def test_few_input_channels_share_the_matrix_unit_with_several_taps(kernel: int) -> None:
    ways = ("amp", "amp 2x1", "amp 4x1")
    assert fastest(*ways, cycles=lambda way: conv(way, 1, 3, 16, (4, 9), kernel, 2)) == "amp 4x1"
    assert fastest(*ways, cycles=lambda way: conv(way, 1, 8, 16, (8, 12), kernel)) == "amp 2x1"
    assert fastest(*ways, cycles=lambda way: conv(way, 1, 16, 16, (8, 12), kernel)) == "amp"


def test_groups_of_four_channels_take_the_short_window_unit() -> None:
    ways = ("amp", "amp 2x1", "amp 4x1", "slic")
    assert fastest(*ways, cycles=lambda way: conv(way, 1, 4, 4, (4, 19))) == "slic"
    assert conv("amp", 4, 4, 4, (8, 20)) > 2 * conv("slic", 4, 4, 4, (8, 20))
    assert fastest(*ways, cycles=lambda way: conv(way, 1, 16, 16, (8, 20))) == "amp"


def test_depthwise_convolutions_leave_the_matrix_unit() -> None:
    # 64 positions x 8 vectors of groups, 22 + 27 cycles each: poplibs' vertical MAC.
    assert 25_000 < conv("vmac", 64, 1, 1, (8, 8)) < 31_000
    ways = ("amp", "vmac", "slic depthwise")
    assert fastest(*ways, cycles=lambda way: conv(way, 8, 1, 1, (3, 5))) == "vmac"
    assert fastest(*ways, cycles=lambda way: conv(way, 8, 1, 1, (24, 28))) == "slic depthwise"


def test_one_group_costs_no_more_than_the_eight_that_are_computed_at_once() -> None:
    for method in ("vmac", "slic depthwise"):
        assert conv(method, 1, 1, 1, (8, 14)) == conv(method, 8, 1, 1, (8, 14)) < conv(method, 9, 1, 1, (8, 14))


def test_strided_rows_take_twice_as_long_on_the_short_window_unit() -> None:
    long = [conv("slic", 1, 4, 4, (6, 200), stride=s) for s in (1, 2)]
    short = [conv("slic", 1, 4, 4, (6, 100), stride=s) for s in (1, 2)]
    assert long[1] - short[1] == 2 * (long[0] - short[0])


def test_single_precision_partials_take_longer() -> None:
    for method in ("amp", "swapped", "axpy"):
        assert product(method, 8, 128, 96, partials="float32") > product(method, 8, 128, 96)
    for method in ("vmac", "slic", "slic depthwise"):
        assert conv(method, 8, 4, 4, (6, 20), partials="float32") > conv(method, 8, 4, 4, (6, 20))


@given(st.sampled_from(sorted(METHODS)), st.lists(st.integers(1, 400), min_size=3, max_size=3))
def test_every_method_has_a_price_for_every_shape(method: str, sizes: list[int]) -> None:
    m, k, n = sizes
    once = product(method, m, k, n)
    assert once > 0
    # Four times the depth is more work whatever the method.
    assert product(method, m, 4 * k + 16, n) > once
    codelet = replace(MATMUL, method=method)
    scratch = int(codelet.temp_bytes({"m": np.array([m]), "k": np.array([k]), "n": np.array([n])}, GC200)[0])
    assert (scratch > 0) == codelet.has_scratch == (method == "swapped")
    assert scratch % 2 == 0


@given(
    st.sampled_from([m for m in CONV_METHODS if m not in METHODS or m == "amp"]),
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20), st.integers(1, 30),
    st.integers(1, 7), st.sampled_from([1, 2]), st.sampled_from(["float16", "float32"]),
)  # fmt: skip
def test_every_way_to_convolve_has_a_price(
    method: str, g: int, ic: int, oc: int, high: int, wide: int, kernel: int, stride: int, partials: str
) -> None:
    once = conv(method, g, ic, oc, (high, wide), kernel, stride, partials=partials)
    assert 0 < once < conv(method, g + 8, ic, oc, (high, wide), kernel, stride, partials=partials)


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(KeyError):
        product("guess", 1, 1, 1)
    for method in ("guess", "swapped", "dot"):
        with pytest.raises(ValueError, match=method):
            conv(method, 1, 1, 1, (1, 1))
