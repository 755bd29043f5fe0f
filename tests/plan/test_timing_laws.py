"""Laws that predicted cycles obey, whatever the figures of the machine: more work is never faster."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.codelets.rows import parts_axis
from ipucc.ops.graph import TileGraph
from ipucc.program.model import Buffer, Exchange, Move
from ipucc.program.order import Order
from ipucc.program.timing import Exchanges, exchange_code, exchange_time
from ipucc.target import load_target
from ipucc.tiles.cuts import cut_axis
from ipucc.tiles.intersect import intersect
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

TARGET = replace(load_target("gc200"), tiles=16)
GRAIN = 4
ORDERS = [Order(queue, look, pieces) for queue in ("near", "long", "wide") for look in (1, 64) for pieces in (1, 4)]


def layout(parts: tuple[int, int], grains: tuple[int, int], tiles: list[int], stretch: int) -> Layout:
    """A matrix of `grains` rows and grains of columns, every row and column `stretch` times as long."""
    rows, columns = grains[0], grains[1] * GRAIN
    cuts = [cut_axis(rows, parts[0]), cut_axis(columns, parts[1], GRAIN)]
    cuts = [(lo * k, hi * k) for (lo, hi), k in zip(cuts, (1, stretch), strict=True)]
    grid = [lo.size for lo, _ in cuts]
    ids = np.asarray(tiles[: grid[0] * grid[1]], np.int32).reshape(*grid, 1)
    return Layout((rows, columns * stretch), tuple(cuts), ids, 4, 1)


@st.composite
def exchanges(draw: st.DrawFn) -> Callable[[int], tuple[Exchange, list[Buffer]]]:
    """An exchange between two layouts, by how many times longer its rows are made."""
    grains = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    pair = []
    for _ in range(2):
        parts = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        pair.append((parts, draw(st.permutations(range(TARGET.tiles)))))

    def make(stretch: int) -> tuple[Exchange, list[Buffer]]:
        src, dst = (layout(parts, grains, list(tiles), stretch) for parts, tiles in pair)
        view = View.identity(src.shape)
        buffers = [Buffer("src", "float32", src), Buffer("dst", "float32", dst)]
        return Exchange("move", (Move(0, 1, intersect(src, dst, view), view),)), buffers

    return make


@settings(max_examples=100, deadline=None, derandomize=True)
@given(make=exchanges())
def test_twice_the_bytes_are_never_faster(make: Callable[[int], tuple[Exchange, list[Buffer]]]) -> None:
    (small, before), (large, after) = make(1), make(2)
    best = []
    for order in ORDERS:
        a = exchange_time(replace(small, order=order), before, TARGET)
        b = exchange_time(replace(large, order=order), after, TARGET)
        assert b.exchange >= a.exchange
        assert b.copy >= a.copy
        assert (b.sent_bytes, b.received_bytes) == (2 * a.sent_bytes, 2 * a.received_bytes)
        # No order beats the ports.
        assert a.exchange >= a.port_cycles
        best.append(a.exchange)
    order = Exchanges(TARGET).best_order(small, before)
    chosen = exchange_time(replace(small, order=order), before, TARGET)
    assert chosen.bound_cycles <= chosen.exchange <= min(best)
    assert exchange_code(large.moves, after, TARGET).sum() >= exchange_code(small.moves, before, TARGET).sum()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(make=exchanges(), rate=st.sampled_from([1.0, 2.0, 4.0]))
def test_a_slower_fabric_is_never_faster(make: Callable[[int], tuple[Exchange, list[Buffer]]], rate: float) -> None:
    step, buffers = make(1)
    slow = replace(TARGET, exchange_bytes_per_cycle=rate, pair_bytes_per_cycle=2 * rate)
    assert exchange_time(step, buffers, slow).exchange >= exchange_time(step, buffers, TARGET).exchange
    assert exchange_time(step, buffers, slow).copy == exchange_time(step, buffers, TARGET).copy


@pytest.mark.parametrize("name", ["mlp", "attention", "convolutions", "moves"])
@pytest.mark.parametrize("precision", ["model", "fp16"])
def test_cells_eight_times_as_long_never_take_fewer_cycles(
    name: str, precision: str, models: Mapping[str, onnx.ModelProto], tile_graph: Callable[..., TileGraph]
) -> None:
    # Twice as long may do: where a result keeps a worker busy alone, no worker waits for another.
    rng = np.random.default_rng(0)
    for op in tile_graph(models[name], precision=precision).ops:
        for codelet in (op.codelet, op.partial, op.combine):
            if codelet is None:
                continue
            n = {a.name: rng.integers(1, 3 * a.size + 1, 500) for a in op.axes}
            n |= {parts_axis(a): rng.integers(1, 100, 500) for a in op.rows}
            cycles = np.broadcast_to(codelet.cycles(n, TARGET), 500)
            assert (cycles > 0).all()
            twice, eight = (
                np.broadcast_to(codelet.cycles({a: k * x for a, x in n.items()}, TARGET), 500) for k in (2, 8)
            )
            assert (4 * twice >= 3 * cycles).all(), op.name
            assert (eight >= cycles).all(), op.name
