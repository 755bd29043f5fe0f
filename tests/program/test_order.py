"""The order of transfers: the text of a rule, the schedule it makes against a plain reading of it, and the search."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.program.order import FIRST_ORDER, Order, schedule, search_order
from ipucc.program.transfers import Transfers, port_cycles
from ipucc.target import load_target

TARGET = replace(load_target("gc200"), tiles=8)


def moving(*listed: tuple[int, int, int, tuple[int, ...]], paired: tuple[int, ...] = ()) -> Transfers:
    """Transfers of (sender, bytes, fragments, receivers)."""
    sender, size, fragments, receivers = zip(*listed, strict=True)
    first = np.cumsum([0, *map(len, receivers)])
    marks = np.zeros(len(listed), np.int64)
    marks[list(paired)] = 1
    return Transfers(
        *(np.asarray(x, np.int64) for x in (sender, size, fragments)), first,
        np.asarray([r for to in receivers for r in to], np.int64), marks, np.zeros(TARGET.tiles, np.int64),
    )  # fmt: skip


def plainly(moved: Transfers, order: Order) -> int:
    """The schedule as the docstring of `Order` says it, written down without a heap and without remembered bounds."""
    n = len(moved)
    hears = [moved.receivers[moved.first[x] : moved.first[x + 1]].tolist() for x in range(n)]
    pieces = np.minimum(moved.fragments, order.pieces).tolist()
    cost = [-(-(int(b) * 8 // (8 if p else 4)) // k) for b, p, k in zip(moved.size, moved.paired, pieces, strict=True)]
    key = {
        "near": [(max(hears[x]) - int(moved.sender[x])) % TARGET.tiles for x in range(n)],
        "long": (-moved.size).tolist(),
        "wide": [-len(to) for to in hears],
        "given": list(range(n)),
    }[order.queue]
    queues = {s: sorted(np.flatnonzero(moved.sender == s).tolist(), key=lambda x: (key[x], x)) for s in range(8)}
    lanes = [[int(s)] + ([int(s) ^ 1] if p else []) for s, p in zip(moved.sender, moved.paired, strict=True)]
    lane, ear, asks = [0] * 8, [0] * 8, dict.fromkeys(range(8), 0)
    last = 0

    def to_send(s: int) -> int:
        return sum(cost[x] * pieces[x] for x in range(n) if s in lanes[x])

    def to_hear(r: int) -> int:
        return sum(cost[x] * pieces[x] for x in range(n) if r in hears[x])

    seen = {s: to_send(s) for s in range(8)}
    while any(queues.values()):
        s = min((s for s in queues if queues[s]), key=lambda s: (asks[s], -seen[s], s))
        now = asks[s]
        starts = {x: max([lane[i] for i in lanes[x]] + [ear[r] for r in hears[x]]) for x in queues[s][: order.look]}
        free = [x for x in queues[s][: order.look] if starts[x] <= now]
        if lane[s] > now or not free:
            asks[s], seen[s] = (lane[s] if lane[s] > now else min(starts.values())), to_send(s)
            continue
        x = max(free, key=lambda x: max(to_hear(r) for r in hears[x]))
        end = now + cost[x]
        for i in lanes[x]:
            lane[i] = end
        for r in hears[x]:
            ear[r] = end
        pieces[x] -= 1
        if not pieces[x]:
            queues[s].remove(x)
        asks[s], seen[s] = end, to_send(s)
        last = max(last, end)
    return -(-last // 8)


@st.composite
def traffic(draw: st.DrawFn) -> Transfers:
    listed, paired = [], []
    for i in range(draw(st.integers(1, 20))):
        sender = draw(st.integers(0, 7))
        others = [t for t in range(8) if t != sender]
        receivers = tuple(sorted(draw(st.sets(st.sampled_from(others), min_size=1, max_size=4))))
        if draw(st.booleans()):
            pair = draw(st.sampled_from([p for p in range(4) if p != sender // 2]))
            receivers = (2 * pair, 2 * pair + 1)
            paired.append(i)
        listed.append((sender, 4 * draw(st.integers(1, 40)), draw(st.integers(1, 6)), receivers))
    return moving(*listed, paired=tuple(paired))


SEARCHED = ((64, 1), (64, 4), (512, 4), (512, 16))
ORDERS = st.builds(Order, st.sampled_from(["near", "long", "wide"]), st.sampled_from([1, 2, 64]), st.integers(1, 5))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(moved=traffic(), order=ORDERS)
def test_the_schedule_is_what_the_rule_says(moved: Transfers, order: Order) -> None:
    cycles = schedule(moved, order, TARGET)
    assert cycles == plainly(moved, order)
    assert cycles >= port_cycles(moved, TARGET)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(moved=traffic())
def test_the_search_is_never_worse_than_the_first_rule(moved: Transfers) -> None:
    order, found = search_order(moved, 0, TARGET)
    assert found == schedule(moved, order, TARGET)
    assert found <= schedule(moved, FIRST_ORDER, TARGET)
    enough = schedule(moved, FIRST_ORDER, TARGET)
    assert search_order(moved, enough, TARGET) == (FIRST_ORDER, enough)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(moved=traffic())
def test_the_search_misses_no_rule_that_is_better(moved: Transfers) -> None:
    every = [Order(queue, look, pieces) for queue in ("near", "long", "wide") for look, pieces in SEARCHED]
    assert search_order(moved, 0, TARGET)[1] == min(plainly(moved, order) for order in every)


def test_everyone_to_everyone_takes_as_long_as_one_port() -> None:
    moved = moving(*((a, 64, 1, (b,)) for a in range(8) for b in range(8) if a != b))
    assert schedule(moved, FIRST_ORDER, TARGET) == 7 * 16


def test_a_pair_takes_both_lanes_of_the_sender_at_twice_the_rate() -> None:
    # Tile 1 cannot send while tile 0 sends to a pair.
    moved = moving((0, 64, 1, (2, 3)), (1, 64, 1, (4,)), paired=(0,))
    assert schedule(moved, FIRST_ORDER, TARGET) == 8 + 16


def test_a_long_transfer_makes_room_between_its_fragments() -> None:
    # Both send their long one first and then wait for each other at tile 5.
    moved = moving((1, 200, 4, (4,)), (1, 100, 4, (5,)), (2, 200, 4, (3,)), (2, 100, 4, (5,)))
    assert port_cycles(moved, TARGET) == 75
    assert schedule(moved, Order("near", 64, 1), TARGET) == 100
    assert schedule(moved, Order("near", 64, 4), TARGET) == 75


def test_an_exchange_of_nothing_needs_no_search() -> None:
    none = np.zeros(0, np.int64)
    moved = Transfers(none, none, none, np.zeros(1, np.int64), none, none, np.zeros(8, np.int64))
    assert search_order(moved, 0, TARGET) == (FIRST_ORDER, 0)


@pytest.mark.parametrize("order", [FIRST_ORDER, Order("long", 1, 1024), Order("wide", 512, 16)])
def test_a_rule_survives_its_text(order: Order) -> None:
    assert Order.parse(str(order)) == order


@pytest.mark.parametrize(
    "text",
    ["", "linear", "greedy", "greedy{queue=far,look=64,pieces=1}", "greedy{queue=near,look=0,pieces=1}",
     "greedy{queue=near,look=64,pieces=01}", "greedy{queue=near,look=64,pieces=9999}",
     "greedy{queue=near,look=1025,pieces=1}", "greedy{queue=near,look=64,pieces=1} "],
)  # fmt: skip
def test_no_other_text_is_a_rule(text: str) -> None:
    with pytest.raises(ValueError, match="unknown order of transfers"):
        Order.parse(text)
