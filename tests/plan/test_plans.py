"""Every plan that is enumerated, for ops of all families: its grid, its stages, its rounds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod

import numpy as np
import onnx
import pytest

from ipucc.ops.graph import TileGraph
from ipucc.ops.spec import Operand, TileOp
from ipucc.passes.plan.enumerate import enumerate_plans
from ipucc.passes.plan.grid import Plan, grid_of, operand_layout
from ipucc.passes.plan.price import Hosted
from ipucc.passes.plan.stages import partial_operand, stages_of
from ipucc.target import Target, load_target
from ipucc.tiles.layout import Layout

Build = Callable[..., TileGraph]
GraphFor = Callable[[str, Target], TileGraph]
Held = Callable[[Layout], np.ndarray]

NAMES = ("mlp", "attention", "convolutions", "moves")


def machine(tiles: int, tile_bytes: int = 638_976) -> Target:
    return replace(load_target("gc200"), tiles=tiles, tile_bytes=tile_bytes, phase_cycles=tiles)


def plans(
    graph: TileGraph, target: Target, budget: int | None = None, keep: int = 12
) -> Iterator[tuple[TileOp, list[Plan]]]:
    for op in graph.ops:
        hosted = tuple(_hosted(graph, o) for o in op.operands)
        found = enumerate_plans((op, *op.forms), hosted, target, budget or target.usable_bytes, keep).plans
        for form in sorted({f for f, _ in found}):
            yield op.in_form(form), [plan for f, plan in found if f == form]


def _hosted(graph: TileGraph, operand: Operand) -> Hosted:
    kind = graph.tensors[operand.sources[0].tensor].kind
    return "" if kind == "result" else kind


@pytest.fixture(scope="module")
def graph_for(models: Mapping[str, onnx.ModelProto], tile_graph: Build) -> Callable[[str, Target], TileGraph]:
    """The tile graph of a model by its name for a target; `halves` and `sparse` are further forms of two of them."""
    special: dict[str, tuple[str, dict[str, object]]] = {
        "halves": ("attention", {"precision": "fp16"}),
        "sparse": ("mlp", {"precision": "fp16", "block": 8, "density": 0.25}),
    }

    def build(name: str, target: Target) -> TileGraph:
        model, options = special.get(name, (name, {}))
        return tile_graph(models[model], target, **options)

    return build


@pytest.mark.parametrize("tiles", [1, 7, 64])
@pytest.mark.parametrize("name", [*NAMES, "halves", "sparse"])
def test_grids_are_valid(name: str, tiles: int, graph_for: GraphFor) -> None:
    target = machine(tiles)
    for op, found in plans(graph_for(name, target), target):
        assert 1 <= len(found) <= 12
        assert len({(p.parts, p.serial, p.gathered, p.rotates) for p in found}) == len(found)
        for plan in found:
            grid = grid_of(op, plan)
            assert set(grid.axes) == {a.name for a in op.axes}
            assert grid.tiles.shape == tuple(grid.cells[a][0].size for a in grid.axes)
            assert 0 <= grid.tiles.min() <= grid.tiles.max() < tiles
            for axis in op.axes:
                lo, hi = grid.cells[axis.name]
                # The cells follow each other and hold the whole axis, in whole grains.
                assert lo[0] == 0
                assert hi[-1] == axis.size
                assert (lo[1:] == hi[:-1]).all()
                assert (lo % axis.grain == 0).all()
                if axis.kind == "whole" and not axis.pinned:
                    assert lo.size == 1
                if axis.pinned:
                    assert (hi - lo == 1).all()
            rounds = [grid.round(turn) for turn in range(grid.rounds)]
            assert sum(r.tiles.size for r in rounds) == grid.tiles.size
            for r in rounds:
                # A tile computes one cell at a time, the same one of the grid in every round.
                assert np.unique(r.tiles).size == r.tiles.size
                np.testing.assert_array_equal(r.tiles, rounds[0].tiles)


@pytest.mark.parametrize("tiles", [7, 64])
@pytest.mark.parametrize("name", [*NAMES, "halves", "sparse"])
def test_results_and_partials_lie_once_on_the_tiles(name: str, tiles: int, graph_for: GraphFor, held: Held) -> None:
    split = cut = 0
    target = machine(tiles)
    for op, found in plans(graph_for(name, target), target):
        for plan in found:
            stages = stages_of(op, plan)
            grid = grid_of(op, plan)
            reduced = [a.name for a in op.axes if a.kind == "reduce" and grid.cells[a.name][0].size > 1]
            along = any(grid.cells[a][0].size > 1 for a in op.rows)
            assert len(stages) == (2 if reduced or along else 1)
            for stage in stages:
                assert (held(stage.layout) == 1).all()
                _no_two_cells_in_one_place(stage.layout)
            result = stages[-1].layout
            assert result.shape == tuple(op.axis(a).size for a in op.result.axes)
            assert sum(s.macs for s in stages) == op.macs
            if along:
                make, join = stages
                parts = tuple(grid.cells[a][0].size for a in op.rows)
                assert make.layout.shape == (*parts, *(op.axis(a).size for a in op.statistics))
                # Every tile finishes the cell that it has statistics of, and hears of all parts of its rows.
                assert join.operands == tuple(range(len(op.operands)))
                assert set(make.operands) == {k for k, o in enumerate(op.operands) if not o.epilogue}
                assert join.grid is make.grid
                heard = operand_layout(partial_operand(op, make), join.grid)
                assert heard.cell[: len(parts)] == parts
                assert heard.replicas == prod(parts)
                cut += 1
                continue
            assert sorted(k for s in stages for k in s.operands) == list(range(len(op.operands)))
            if reduced:
                split += 1
                make, join = stages
                parts = [grid.cells[a][0].size for a in reduced]
                assert make.layout.shape == (*parts, *result.shape)
                assert not any(op.operands[k].epilogue for k in make.operands)
                assert all(op.operands[k].epilogue for k in join.operands)
                # A result cell is finished on a tile that made one of its partials.
                assert set(result.used_tiles) <= set(make.layout.used_tiles)
                whole = operand_layout(partial_operand(op, make), join.grid)
                assert whole.grid[: len(parts)] == (1,) * len(parts)
                assert whole.grid[len(parts) :] == result.grid
    assert split or name in ("sparse", "halves")
    assert cut or name not in ("attention", "halves")


def _no_two_cells_in_one_place(layout: Layout) -> None:
    slots = np.zeros(layout.grid, np.int64) if layout.slots is None else layout.slots
    places = set()
    for cell in np.ndindex(*layout.grid):
        if any(lo[i] == hi[i] for (lo, hi), i in zip(layout.cuts, cell, strict=True)):
            continue
        for tile in layout.tiles[cell].tolist():
            place = (tile, int(slots[cell]))
            assert place not in places
            places.add(place)


def test_little_memory_makes_serial_plans(graph_for: GraphFor, held: Held) -> None:
    target = machine(4, 65_536)
    serial, added = 0, 0
    graph = graph_for("mlp", target)
    for op, found in (*plans(graph, target, budget=12_000, keep=24), *plans(graph, target, budget=3_000, keep=24)):
        for plan in found:
            if plan.serial is None:
                continue
            serial += 1
            name, rounds = plan.serial
            grid = grid_of(op, plan)
            assert grid.rounds == rounds > 1
            assert grid.cells[name][0].size == dict(plan.parts)[name] * rounds
            stages = stages_of(op, plan)
            adds = stages[0].sums is not None
            assert op.axis(name).kind == ("reduce" if adds and not plan.rotates else "parallel")
            added += adds
            for stage in stages:
                assert (held(stage.layout) == 1).all()
                _no_two_cells_in_one_place(stage.layout)
                # Rounds that add up write one and the same cell.
                assert stage.layout.slot_count == (1 if adds else rounds)
    assert serial > added > 0


def test_sums_rotate_past_all_tiles_of_a_ring(graph_for: GraphFor, held: Held) -> None:
    op = next(op for op in graph_for("mlp", machine(64)).ops if op.kind == "MatMul")
    plan = Plan((("m", 2), ("k", 6), ("n", 2)), ("m", 3), rotates=True)
    (make, _), grid = stages_of(op, plan), grid_of(op, plan)
    assert make.sums is not None
    assert make.layout.grid[0] == 2  # two rings of three leave two partials
    seen: dict[tuple[int, ...], set[int]] = {}
    for turn, layout in enumerate(make.sums.layouts):
        tiles, at = grid.vertices(turn)
        assert np.unique(tiles).size == tiles.size == 24
        assert (held(layout) == 1).all()
        for i, tile in enumerate(tiles.tolist()):
            cell = int(at["k"][i]) // 3, int(at["m"][i]), int(at["n"][i])
            assert layout.tiles[(*cell, 0)] == tile
            seen.setdefault(cell, set()).add(int(at["k"][i]))
    # Every sum has met all of its share of the reduced axis.
    assert len(seen) == 2 * 6 * 2
    assert all(parts == {3 * g, 3 * g + 1, 3 * g + 2} for (g, _, _), parts in seen.items())


def test_rounds_that_cannot_add_up_are_refused(graph_for: GraphFor) -> None:
    graph = graph_for("mlp", machine(64))
    product = next(op for op in graph.ops if op.kind == "MatMul")
    with pytest.raises(ValueError, match="no rings of 2"):
        grid_of(product, Plan((("m", 2), ("k", 3), ("n", 2)), ("m", 2), rotates=True))
    with pytest.raises(ValueError, match="cannot add up k"):
        stages_of(replace(product, partial=None), Plan((("m", 1), ("k", 1), ("n", 1)), ("k", 2)))


@pytest.mark.parametrize("name", [*NAMES, "sparse"])
def test_plans_above_the_budget_are_dropped_while_others_are_left(name: str, graph_for: GraphFor) -> None:
    target = machine(16)
    graph = graph_for(name, target)
    for _, found in plans(graph, target, budget=1):
        # Nothing fits into one byte: the leanest plan alone is offered.
        assert len(found) == 1
    assert max(len(found) for _, found in plans(graph, target)) > 1


def test_an_axis_of_one_index_per_cell_is_cut_into_all_of_them(graph_for: GraphFor) -> None:
    target = machine(1472)
    pinned = [(op, a) for op in graph_for("sparse", target).ops for a in op.axes if a.pinned]
    for op, axis in pinned:
        hosted = ("weight",) * len(op.operands)
        for _, plan in enumerate_plans([op], hosted, target, 500_000, 12).plans:
            assert dict(plan.parts)[axis.name] == axis.size
    assert pinned
