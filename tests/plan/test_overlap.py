"""Edge costs against a count of elements, one by one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.passes.plan.overlap import EdgeCost, Overlaps
from ipucc.program.model import Buffer, Move
from ipucc.program.timing import exchange_code
from ipucc.target import load_target
from ipucc.tiles.cuts import cut_axis
from ipucc.tiles.intersect import intersect
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

TARGET = load_target("gc200")
FABRIC = replace(TARGET, fragment_cycles=0)
TILES = 16


def counted(src: Layout, dst: Layout, view: View) -> EdgeCost:
    """The cost by its definition: every element that every tile needs is looked up where it lies. The last grain of a
    tensor comes whole where it is the last of both."""
    size = weights(src, dst, view)
    home: dict[int, tuple[int, ...]] = {}
    for cell in np.ndindex(*src.grid):
        ranges = [range(int(lo[i]), int(hi[i])) for (lo, hi), i in zip(src.cuts, cell, strict=True)]
        for at in np.array(np.meshgrid(*ranges, indexing="ij")).reshape(len(src.shape), -1).T:
            home[int(np.ravel_multi_index(at, src.shape))] = tuple(src.tiles[cell].tolist())
    source = view.apply(np.arange(np.prod(src.shape)).reshape(src.shape), -1)
    received: Counter[int] = Counter()
    local: Counter[int] = Counter()
    sent: Counter[int] = Counter()
    # What stays on a tile is sent all the same where other tiles want it, too; without replicas none does.
    alone = src.replicas == dst.replicas == 1
    for cell in np.ndindex(*dst.grid):
        box = tuple(slice(max(int(lo[i]), 0), int(hi[i])) for (lo, hi), i in zip(dst.cuts, cell, strict=True))
        wanted, moved = source[box].reshape(-1), size[box].reshape(-1)
        for element, n in zip(wanted[wanted >= 0].tolist(), moved[wanted >= 0].tolist(), strict=True):
            if not alone or home[element][0] != dst.tiles[cell][0]:
                sent[home[element][0]] += n
            for tile in dst.tiles[cell].tolist():
                (local if tile in home[element] else received)[tile] += n
    copy = ceil(max(local.values(), default=0) / TARGET.copy_bytes_per_cycle)
    if not received:
        return EdgeCost(0, copy, 0)
    pairs = dst.replicas % 2 == 0 and all(
        a % 2 == 0 and b == a + 1
        for tiles in np.sort(dst.tiles.reshape(-1, dst.replicas), axis=1).tolist()
        for a, b in zip(tiles[::2], tiles[1::2], strict=True)
    )
    rate = TARGET.pair_bytes_per_cycle if pairs else TARGET.exchange_bytes_per_cycle
    port = max(max(received.values()), min(max(sent.values()), sum(received.values())))
    return EdgeCost(ceil(port / rate * TARGET.exchange_factor), copy, TARGET.phase_cycles)


def weights(src: Layout, dst: Layout, view: View) -> np.ndarray:
    """Bytes that come with every element of the destination: the last of a row brings the rest of its grain."""
    size = np.full(dst.shape, dst.itemsize)
    for g in view.groups:
        a, b = ([d for d in dims if shape[d] > 1] for dims, shape in ((g.src, view.src), (g.dst, view.dst)))
        if (a, b) == ([src.grain_dim], [dst.grain_dim]) and g.is_identity and view.src[a[0]] == view.dst[b[0]]:
            at = tuple(-1 if d == b[0] else slice(None) for d in range(len(dst.shape)))
            size[at] += -dst.shape[b[0]] % dst.grain * dst.itemsize
    return size


@st.composite
def layouts(draw: st.DrawFn, shape: Sequence[int], replicas: int = 1) -> Layout:
    """A tensor cut at random, its cells on any tiles, each tile at most once."""
    cuts, left = [], TILES // replicas
    grain_dim = draw(st.integers(0, len(shape) - 1))
    for d, n in enumerate(shape):
        cut = cut_axis(n, draw(st.integers(1, min(left, 4))), 4 if d == grain_dim else 1)
        left //= cut[0].size
        cuts.append(cut)
    grid = [lo.size for lo, _ in cuts]
    order = draw(st.one_of(st.just(list(range(TILES))), st.permutations(range(TILES))))
    tiles = np.asarray(order[: int(np.prod(grid)) * replicas], np.int32).reshape(*grid, replicas)
    return Layout(tuple(shape), tuple(cuts), tiles, 4, grain_dim)


@st.composite
def edges(draw: st.DrawFn) -> tuple[Layout, Layout, View]:
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    rank = len(shape)
    kind = draw(st.sampled_from(["identity", "transpose", "reshape", "take", "broadcast"]))
    view = View.identity(shape)
    if kind == "transpose":
        view = View.transpose(shape, draw(st.permutations(range(rank))))
    elif kind == "reshape":
        view = View.reshape(shape, [int(np.prod(shape[: rank // 2])), int(np.prod(shape[rank // 2 :]))])
    elif kind == "take":
        dim = draw(st.integers(0, rank - 1))
        index = draw(st.lists(st.integers(-1, shape[dim] - 1), min_size=1, max_size=10))
        view = View.take(shape, dim, index)
    elif kind == "broadcast":
        view = View.broadcast(shape, (3, *shape))
    src = draw(layouts(shape, draw(st.sampled_from([1, 1, 2]))))
    return src, draw(layouts(view.dst, draw(st.sampled_from([1, 2, 4])))), view


@settings(max_examples=150, deadline=None, derandomize=True)
@given(edge=edges())
def test_costs_are_those_of_the_elements(edge: tuple[Layout, Layout, View]) -> None:
    src, dst, view = edge
    wanted = EdgeCost(0, 0, 0) if view.is_identity and src.same_as(dst) else counted(src, dst, view)
    assert replace(Overlaps(FABRIC).cost(src, dst, view), code=0) == wanted


@st.composite
def whole_grains(draw: st.DrawFn) -> tuple[Layout, Layout, View]:
    """Two cuts of one half-precision tensor on two sets of tiles, seen plainly or transposed."""
    rows = draw(st.one_of(st.integers(1, 6).map(lambda n: 8 * n), st.integers(1, 40)))
    grain_dim = draw(st.integers(0, 2))
    shape = [draw(st.integers(1, 12)), draw(st.integers(1, 5))]
    shape.insert(grain_dim, rows)
    view = View.identity(shape)
    if draw(st.booleans()):
        view = View.transpose(shape, draw(st.permutations(range(3))))
    made = []
    for side, dims in enumerate((view.src, view.dst)):
        grain = grain_dim if side == 0 else next(j for j, g in enumerate(view.groups) if g.src == (grain_dim,))
        grain = grain if side == 0 else view.groups[grain].dst[0]
        cuts, left = [], TILES
        for d, n in enumerate(dims):
            cut = cut_axis(n, draw(st.integers(1, min(left, 4))), 8 if d == grain else 1)
            left //= cut[0].size
            cuts.append(cut)
        grid = [lo.size for lo, _ in cuts]
        tiles = np.arange(int(np.prod(grid)), dtype=np.int32).reshape(*grid, 1) + TILES * side
        made.append(Layout(tuple(dims), tuple(cuts), tiles, 2, grain))
    return made[0], made[1], view


@settings(max_examples=150, deadline=None, derandomize=True)
@given(edge=whole_grains(), by_rows=st.tuples(st.booleans(), st.booleans()))
def test_fragments_are_those_of_the_exchange(edge: tuple[Layout, Layout, View], by_rows: tuple[bool, bool]) -> None:
    src, dst, view = edge
    src, dst = src.in_order(by_rows[0]), dst.in_order(by_rows[1])
    buffers = [Buffer("a", "float16", src), Buffer("b", "float16", dst)]
    move = Move(0, 1, intersect(src, dst, view), view)
    exact = int(exchange_code((move,), buffers, TARGET).max())
    cost = Overlaps(TARGET).cost(src, dst, view)
    # Exact but for cells of unequal size: some have longer runs than it takes them for, or their longest runs are sent
    # in more pieces than the mean one.
    assert exact <= 1.5 * cost.code
    assert cost.code <= 1.5 * exact
    assert cost.exchange >= ceil(cost.code / 2 / TARGET.fragment_code_bytes)


def test_an_element_on_two_tiles_is_needed_once() -> None:
    # Cells with a halo of one element on each side, as a convolution's input rests.
    lo, hi = np.array([-1, 3, 7], np.int32), np.array([5, 9, 13], np.int32)
    src = Layout((12,), ((lo, hi),), np.array([[0], [1], [2]], np.int32), 4, 0)
    dst = Layout((12,), (cut_axis(12, 1),), np.array([[8]], np.int32), 4, 0)
    cost = Overlaps(TARGET).cost(src, dst, View.identity((12,)))
    assert replace(cost, code=0) == EdgeCost(ceil(12 * 4 / 4 * TARGET.exchange_factor), 0, TARGET.phase_cycles)


def test_a_second_edge_of_the_same_cuts_costs_the_same() -> None:
    overlaps = Overlaps(TARGET)
    src = Layout((16, 16), (cut_axis(16, 4), cut_axis(16, 1)), np.arange(4, dtype=np.int32).reshape(4, 1, 1), 4, 1)
    moved = Layout(src.shape, src.cuts, src.tiles + 4, 4, 1)
    view = View.identity(src.shape)
    there = overlaps.cost(src, moved, view)
    assert there == Overlaps(TARGET).cost(src, moved, view)
    assert there.exchange > 0
    assert overlaps.cost(src, src, view).total == 0
    assert overlaps.cost(src, Layout(src.shape, src.cuts, src.tiles.copy(), 4, 1), view).total == 0


@settings(max_examples=50, deadline=None, derandomize=True)
@given(edge=edges())
def test_wider_elements_never_cost_less(edge: tuple[Layout, Layout, View]) -> None:
    src, dst, view = edge
    wide = [Layout(x.shape, x.cuts, x.tiles, 8, x.grain_dim) for x in (src, dst)]
    narrow, double = Overlaps(TARGET).cost(src, dst, view), Overlaps(TARGET).cost(*wide, view)
    assert (double.exchange, double.copy, double.sync) >= (narrow.exchange, narrow.copy, narrow.sync)
    assert double.exchange >= narrow.exchange
    assert double.copy >= narrow.copy
