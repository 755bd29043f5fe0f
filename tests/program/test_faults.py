"""Faults put into compiled programs: each is noticed, and it is known by whom.

The verifier reads the program. Checked mode sees words that are stale or foreign. The fingerprint sees every element
that is not where its view says. Numbers are those of a second run with other inputs in the same memory, so that data
of the first run cannot stand in for what is missing.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from ipucc.diagnostics import CompileError
from ipucc.program.model import Compute, Exchange, Program, Repeat, Step
from ipucc.program.verify import verify_program
from ipucc.runtime.checked import checked_engine
from ipucc.runtime.engine import Engine
from ipucc.runtime.fingerprint import check_exchanges
from ipucc.tiles.intersect import Track

Programs = Callable[[str], Program]
Feeds = Callable[[Program, int], dict[str, np.ndarray]]
Change = Callable[[Track], Track | None]
NAMES = ("mlp", "half", "conv", "layers", "call")


def fails(run: Callable[[], object], *ids: str) -> bool:
    found: tuple[str, ...] = ()
    try:
        run()
    except CompileError as problem:
        found = tuple(d.id for d in problem.diagnostics)
    assert set(found) <= set(ids)
    return bool(found)


def noticed_by(good: Program, bad: Program, feeds: Feeds) -> set[str]:
    """Which of the four notice that `bad` is not `good`."""
    first, second = feeds(good, 0), feeds(good, 1)
    found = set()
    if fails(lambda: verify_program(bad), "IPU0507", "IPU0509"):
        found.add("verifier")
    if fails(lambda: check_exchanges(bad), "IPU0902"):
        found.add("fingerprint")
    checked = checked_engine(bad)
    if fails(lambda: (checked.run(first), checked.run(second)), "IPU0611"):
        found.add("checked")
    engine = Engine(bad)
    engine.run(first)
    if not np.array_equal(engine.run(second)["y"], Engine(good).run(second)["y"]):
        found.add("numbers")
    return found


def test_nobody_complains_without_a_fault(program: Programs, feeds: Feeds) -> None:
    for name in NAMES:
        assert noticed_by(program(name), program(name), feeds) == set()


def walk(steps: list[Step] | tuple[Step, ...]) -> Iterator[Step]:
    for s in steps:
        yield s
        if isinstance(s, Repeat):
            yield from walk(s.body)


def damaged(p: Program, change: Callable[[Exchange], Exchange | None]) -> int:
    """Apply a change to the first exchange to which it applies; returns how many exchanges it was applied to."""
    done = [0]

    def visit(s: Step) -> Step:
        if isinstance(s, Repeat):
            return replace(s, body=tuple(visit(x) for x in s.body))
        if isinstance(s, Exchange) and not done[0]:
            other = change(s)
            done[0] += other is not None
            return s if other is None else other
        return s

    p.steps = [visit(s) for s in p.steps]
    return done[0]


def in_track(change: Change) -> Callable[[Exchange], Exchange | None]:
    """A change of an exchange from a change of one of its tracks: the first to which it applies."""

    def apply(step: Exchange) -> Exchange | None:
        for m, move in enumerate(step.moves):
            for t, track in reversed(list(enumerate(move.tracks))):
                other = change(track)
                if other is not None:
                    tracks = (*move.tracks[:t], other, *move.tracks[t + 1 :])
                    moves = (*step.moves[:m], replace(move, tracks=tracks), *step.moves[m + 1 :])
                    return replace(step, moves=moves)
        return None

    return apply


def drop(t: Track) -> Track | None:
    return Track(*(getattr(t, f)[1:] for f in Track.FIELDS)) if len(t) > 1 else None


def shift_destination(t: Track) -> Track | None:
    at = t.dst_at.copy()
    at[0] += 16
    return replace(t, dst_at=at) if t.run.any() else None


def shift_source(t: Track) -> Track | None:
    at = t.src_at.copy()
    at[0] += 16
    return replace(t, src_at=at) if t.run.any() else None


def swap_sources(t: Track) -> Track | None:
    """Two sequences of equal form take their data from each other's tile."""
    same = [np.diff(getattr(t, f)) == 0 for f in ("count", "src_step", "run", "src_at")]
    pairs = np.flatnonzero(np.logical_and.reduce(same) & (np.diff(t.src_cell) != 0))
    if not pairs.size:
        return None
    cells = t.src_cell.copy()
    i = pairs[0]
    cells[i], cells[i + 1] = cells[i + 1], cells[i]
    return replace(t, src_cell=cells)


TRACKS: list[tuple[Change, set[str], set[str]]] = [
    (drop, {"verifier", "checked", "fingerprint"}, set()),
    (shift_destination, {"verifier", "checked", "fingerprint"}, set()),
    (shift_source, {"fingerprint", "numbers"}, set()),
    # Right version, right size, wrong box: neither the text of the program nor the tags can tell.
    (swap_sources, {"fingerprint", "numbers"}, {"verifier", "checked"}),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("fault", "by", "not_by"), TRACKS, ids=lambda x: getattr(x, "__name__", ""))
def test_faults_of_one_transfer(
    fault: Change, by: set[str], not_by: set[str], name: str, program: Programs, feeds: Feeds
) -> None:
    bad = program(name)
    assert damaged(bad, in_track(fault)) == 1
    found = noticed_by(program(name), bad, feeds)
    assert by <= found
    assert not found & not_by


@pytest.mark.parametrize("name", NAMES)
def test_two_tiles_of_a_layout_swapped(name: str, program: Programs, feeds: Feeds) -> None:
    """The exchange serves the wrong tiles, and the vertices are where they were."""
    bad = program(name)
    step = next(s for s in walk(bad.steps) if isinstance(s, Exchange) and s.moves)
    buffer = bad.buffers[step.moves[0].dst]
    tiles = buffer.layout.tiles.copy()
    cells = tiles.reshape(-1, buffer.layout.replicas)
    cells[0, 0], cells[-1, 0] = cells[-1, 0], cells[0, 0]
    buffer.layout = replace(buffer.layout, tiles=tiles)
    found = noticed_by(program(name), bad, feeds)
    assert "verifier" in found
    assert found & {"numbers", "checked"}


@pytest.mark.parametrize("name", ["mlp", "half", "conv", "layers"])
def test_a_buffer_at_the_address_of_a_live_one(name: str, program: Programs, feeds: Feeds) -> None:
    bad = program(name)
    step = next(s for s in walk(bad.steps) if isinstance(s, Compute) and len(s.operands) > 1)
    bad.buffers[step.operands[0].buffer].offset = bad.buffers[step.operands[1].buffer].offset
    found = noticed_by(program(name), bad, feeds)
    assert {"verifier", "checked"} <= found


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_exchange(name: str, program: Programs, feeds: Feeds) -> None:
    bad = program(name)
    at = next(i for i, s in enumerate(bad.steps) if isinstance(s, Exchange) and s.moves)
    del bad.steps[at]
    assert {"verifier", "checked", "numbers"} <= noticed_by(program(name), bad, feeds)


@pytest.mark.parametrize("name", NAMES)
def test_two_vertices_with_each_others_cells(name: str, program: Programs, feeds: Feeds) -> None:
    bad = program(name)
    at, step = next((i, s) for i, s in enumerate(bad.steps) if isinstance(s, Compute))
    tiles = step.tiles.copy()
    tiles[0], tiles[-1] = tiles[-1], tiles[0]
    bad.steps[at] = replace(step, tiles=tiles)
    # Where cells are of one size every tile still works on what it has: only the program's text is wrong.
    assert "verifier" in noticed_by(program(name), bad, feeds)
