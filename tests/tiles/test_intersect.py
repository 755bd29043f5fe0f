"""Layouts and views against numpy: whatever the cuts, orders, replicas and views, the moves rebuild the tensor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.tiles.cuts import cut_axis, nested_cut, useful_parts
from ipucc.tiles.intersect import intersect, pairs
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View


def put(layout: Layout, tensor: np.ndarray, tiles: int) -> np.ndarray:
    """Memory images of all tiles with the tensor stored element by element, from the layout's own address rule."""
    mem = np.zeros((tiles, layout.nbytes), np.uint8)
    for cell in np.ndindex(*layout.grid):
        for local in np.ndindex(
            *[
                int(h - lo)
                for (lo, h), _ in zip(
                    [(layout.cuts[d][0][c], layout.cuts[d][1][c]) for d, c in enumerate(cell)], cell, strict=True
                )
            ]
        ):
            index = tuple(int(layout.cuts[d][0][c]) + i for d, (c, i) in enumerate(zip(cell, local, strict=True)))
            if any(i < 0 or i >= n for i, n in zip(index, layout.shape, strict=True)):
                continue
            at = sum(int(layout.positions(d, np.asarray(i))) for d, i in enumerate(local))
            if layout.slots is not None:
                at += int(layout.slots[cell]) * layout.slot_bytes
            raw = np.frombuffer(tensor[index].tobytes(), np.uint8)
            for tile in layout.tiles[cell]:
                mem[tile, at : at + raw.size] = raw
    return mem


def move(tracks, src: Layout, dst: Layout, src_mem: np.ndarray, tiles: int) -> np.ndarray:
    """Carry the moves out one run at a time; a byte written twice is an error."""
    out = np.zeros((tiles, dst.nbytes), np.uint8)
    seen = np.zeros((tiles, dst.nbytes), bool)
    src_tiles, dst_tiles = src.tiles.reshape(-1, src.replicas), dst.tiles.reshape(-1, dst.replicas)
    src_slots = np.zeros(len(src_tiles), int) if src.slots is None else src.slots.reshape(-1)
    dst_slots = np.zeros(len(dst_tiles), int) if dst.slots is None else dst.slots.reshape(-1)

    def walk(k, sc, dc, sa, da):
        t = tracks[k]
        for i in range(len(t)):
            for c in range(int(t.count[i])):
                a = (
                    sc + t.src_cell[i],
                    dc + t.dst_cell[i],
                    sa + t.src_at[i] + c * t.src_step[i],
                    da + t.dst_at[i] + c * t.dst_step[i],
                )
                if k + 1 < len(tracks):
                    walk(k + 1, *a)
                    continue
                n = int(t.run[i])
                s = a[2] + src_slots[a[0]] * src.slot_bytes
                d = a[3] + dst_slots[a[1]] * dst.slot_bytes
                for tile in dst_tiles[a[1]]:
                    assert not seen[tile, d : d + n].any()
                    seen[tile, d : d + n] = True
                    out[tile, d : d + n] = src_mem[src_tiles[a[0], 0], s : s + n]

    if tracks:
        walk(0, 0, 0, 0, 0)
    return out


def random_layout(rng, shape, itemsize, tiles):
    grain_dim = int(rng.integers(len(shape)))
    cuts, budget = [], tiles
    for d, n in enumerate(shape):
        cut = cut_axis(n, int(rng.integers(1, 4)), max(1, 16 // itemsize) if d == grain_dim else 1)
        cut = cut if cut[0].size <= budget else cut_axis(n, 1)
        budget //= cut[0].size
        cuts.append(cut)
    grid = [c[0].size for c in cuts]
    cells = int(np.prod(grid))
    replicas = int(rng.integers(1, tiles // cells + 1))
    ids = rng.permutation(tiles)[: cells * replicas].astype(np.int32)
    by_rows = bool(rng.integers(2))
    return Layout(tuple(shape), tuple(cuts), ids.reshape(*grid, replicas), itemsize, grain_dim, None, by_rows)


def random_view(rng, shape):
    view = View.identity(shape)
    for _ in range(int(rng.integers(0, 4))):
        kind = int(rng.integers(4))
        now = view.dst
        if kind == 0:
            view = view.then(View.transpose(now, rng.permutation(len(now)).tolist()))
        elif kind == 1:
            flat = int(np.prod(now))
            divisors = [d for d in range(1, flat + 1) if flat % d == 0]
            a = int(rng.choice(divisors))
            view = view.then(View.reshape(now, (a, flat // a)))
        elif kind == 2:
            d = int(rng.integers(len(now)))
            a = int(rng.integers(now[d]))
            view = view.then(View.take(now, d, range(a, now[d])))
        else:
            d = int(rng.integers(len(now)))
            view = view.then(View.take(now, d, [-1, *range(now[d]), -1]))
    return view


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), itemsize=st.sampled_from([1, 2, 4]))
def test_moves_rebuild_the_tensor(seed, itemsize):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 9, int(rng.integers(1, 4))))
    dtype = {1: np.uint8, 2: np.uint16, 4: np.uint32}[itemsize]
    tensor = rng.integers(1, 200, shape).astype(dtype)
    view = random_view(rng, shape)
    src = random_layout(rng, shape, itemsize, 24)
    dst = random_layout(rng, view.dst, itemsize, 24)
    tracks = intersect(src, dst, view)
    got = move(tracks, src, dst, put(src, tensor, 24), 24)
    want = put(dst, view.apply(tensor).astype(dtype), 24)
    assert np.array_equal(got, want)
    if tracks:
        total = np.prod([pairs(t)[2].sum() for t in tracks])
        held = int((view.apply(np.ones(shape, np.uint8)) > 0).sum())
        # The end of a tensor is moved in whole grains, at worst one per element.
        assert held * itemsize <= total <= held * 16


def test_halo_cells_receive_only_what_exists():
    lo, hi = cut_axis(8, 4)
    src = Layout((8,), ((lo, hi),), np.arange(4, dtype=np.int32).reshape(4, 1), 4, 0)
    dst = Layout((8,), ((lo - 1, hi + 1),), np.arange(4, dtype=np.int32).reshape(4, 1), 4, 0)
    tensor = np.arange(1, 9, dtype=np.uint32)
    got = move(intersect(src, dst, View.identity((8,))), src, dst, put(src, tensor, 4), 4)
    assert got.view(np.uint32)[0].tolist() == [0, 1, 2, 3]
    assert got.view(np.uint32)[3].tolist() == [6, 7, 8, 0]


def test_same_local_order_moves_in_long_runs():
    # [k/8][m][8] on both sides: each pair of cells is one run per block of the coarser cut.
    a = Layout(
        (128, 768), (cut_axis(128, 5), cut_axis(768, 12, 16)), np.arange(60, dtype=np.int32).reshape(5, 12, 1), 2, 1
    )
    b = Layout(
        (128, 768),
        (cut_axis(128, 5), cut_axis(768, 12, 16)),
        np.arange(60, 120, dtype=np.int32).reshape(5, 12, 1),
        2,
        1,
    )
    tracks = intersect(a, b, View.identity((128, 768)))
    assert len(tracks) <= 2
    assert tracks[-1].run.min() >= 25 * 16


def test_rows_that_arrive_one_by_one_are_one_run_each_by_rows():
    # A row per tile, gathered to cells of 32 rows: by grains every grain of a row lands apart.
    one = Layout((64, 256), (cut_axis(64, 64), cut_axis(256, 1)), np.arange(64, dtype=np.int32).reshape(64, 1, 1), 2, 1)
    many = Layout(
        (64, 256), (cut_axis(64, 2), cut_axis(256, 2, 8)), np.arange(64, 68, dtype=np.int32).reshape(2, 2, 1), 2, 1
    )
    view = View.identity((64, 256))

    def fragments(*tracks):
        return int(np.prod([pairs(t)[3].sum() for t in tracks]))

    assert fragments(*intersect(one, many, view)) == 64 * 32
    assert fragments(*intersect(one.in_order(True), many.in_order(True), view)) == 64 * 2


def test_layouts_whose_cells_are_alike_in_both_orders_are_the_same():
    cut = cut_axis(64, 64), cut_axis(256, 1)
    row = Layout((64, 256), cut, np.arange(64, dtype=np.int32).reshape(64, 1, 1), 2, 1)
    assert row.same_as(row.in_order(True))
    whole = Layout.on_one_tile((64, 256), 2, 1)
    assert not whole.same_as(whole.in_order(True))


def test_nested_cut_refines():
    lo, hi = nested_cut(cut_axis(100, 3, 8), 4, 8)
    assert lo.size == 12
    assert lo[0] == 0
    assert hi[-1] == 100
    assert (lo[1:] == hi[:-1]).all()


def test_useful_parts_change_the_largest_cell():
    parts = useful_parts(100, 1000)
    assert parts[0] == 1
    assert parts[-1] == 100
    assert len(set((-(-100 // parts)).tolist())) == len(parts)


@pytest.mark.parametrize(
    ("src", "dst"), [((2, 3, 4), (6, 4)), ((1, 16, 768), (16, 12, 64)), ((4, 6), (3, 8)), ((5,), (1, 5, 1))]
)
def test_reshape_agrees_with_numpy(src, dst):
    tensor = np.arange(np.prod(src)).reshape(src)
    assert np.array_equal(View.reshape(src, dst).apply(tensor), tensor.reshape(dst))


@pytest.mark.parametrize("limit", [0, 1 << 16])
def test_rows_that_follow_each_other_are_one_run_however_long_the_tracks(limit: int, monkeypatch):
    monkeypatch.setattr("ipucc.tiles.intersect._FOLD_LIMIT", limit)
    index = (np.asarray([2, 0, 3, 1, 2, 0])[:, None] * 8 + np.arange(8)).reshape(-1)

    def spread(shape: tuple[int, int], rows: int, columns: int) -> Layout:
        tiles = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns, 1)
        return Layout(shape, (cut_axis(shape[0], rows), cut_axis(shape[1], columns, 8)), tiles, 2, 1)

    src, dst = spread((12, 32), 6, 2), spread((12, 48), 3, 3)
    tensor = np.random.default_rng(0).integers(0, 1 << 15, (12, 32)).astype(np.uint16)
    tracks = intersect(src, dst, View.take(src.shape, 1, index))
    want = put(dst, tensor[:, index], 12)
    np.testing.assert_array_equal(move(tracks, src, dst, put(src, tensor, 12), 12), want)
    # Two rows of a cell, in one grain: 32 bytes at once, for 6 cells of rows and 6 grains.
    assert {int(r) for r in tracks[-1].run} == {32}
    assert int(np.prod([t.count.sum() for t in tracks])) == 36
