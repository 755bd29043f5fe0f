"""Exchange phases of osmarks/ipu-stack on a C600, from the entry of the last tile to the exit of the last.

Where a row gives the length of the schedule that ran, what is simulated is the boundary around it. The fragmented
redistributions of queries, keys and values are scheduled by ipucc: as many transfers as the row says, from the 162
tiles on which the projections' sums lay to the tiles of the attention, each sender with the words of the row's endpoint
bound (docs/PROFILE_LAYOUT_DIAGNOSIS.md there). Every transfer is a selection of its own at the receiver, and its
payload arrives 52 + 2 x row cycles after it (docs/EXCHANGE_INSTRUCTION_REFERENCE.md): the lanes are held for so long.
"""

import re
from collections.abc import Sequence
from statistics import median

import numpy as np

from ipucc.program.order import FIRST_ORDER
from ipucc.program.transfers import Transfers
from ipucc.target import Target, load_target
from validation.fit import constant
from validation.phases import one_to_one, phase_cycles
from validation.rows import Measurement, NotRebuilt

__all__ = ["family", "fit", "fragmented", "simulate"]

_SENDERS = 162
"""Tiles with the sums of a projection, nine partials reduced onto them."""
_SELECT = 52 + 2 * 11
"""Cycles from selecting a source to its first word, on the middle one of 23 rows of tiles."""
_WORD = 4


def family(row: Measurement) -> str | None:
    """`exchange scheduled` for phases of a known schedule, `exchange fragmented` and `exchange multicast` for those
    that ipucc schedules."""
    if row["workload"] == "exchange latency":
        return "exchange latency"
    if row["workload"] != "exchange phase":
        return None
    if row.param("endpoint bound") is not None:
        return "exchange fragmented"
    return "exchange scheduled" if row.param("scheduled") is not None else "exchange multicast"


def _transfers(row: Measurement) -> int:
    found = re.search(r"(\d+) transfers", row["params"])
    if found is None:
        raise NotRebuilt("the number of transfers is not given")
    return int(found[1])


def fragmented(count: int, words: int, target: Target) -> int:
    """Cycles of `count` transfers from few tiles to all others, each sender with so many words in all."""
    n = np.arange(count)
    sender, nth = n % _SENDERS, n // _SENDERS
    others = target.tiles - _SENDERS
    # A sender's transfers go to tiles that lie together, as rows of heads do.
    receiver = _SENDERS + (sender * (others // _SENDERS) + nth) % others
    each = words * _SENDERS / count
    held = np.full(count, round((each + _SELECT + target.fragment_cycles) * _WORD))
    return phase_cycles(one_to_one(sender, receiver, held, target.tiles), _alone(target), FIRST_ORDER)


def _alone(target: Target) -> Target:
    """The machine with no factor on bytes: what holds the lanes is counted here."""
    from dataclasses import replace

    return replace(target, exchange_factor=1.0)


def multicast(m: int, k: int, n: int, target: Target) -> int:
    """Cycles of bringing the weights of a product, in fp16, to a grid of 4 row parts by 92 column parts by 4 parts of k
    (docs/PROFILE_LAYOUT_DIAGNOSIS.md there): every panel goes to the row parts at once."""
    rows, columns, deep = 4, 92, 4
    panel = -(-k // deep) * (-(-n // columns // 16) * 16) * 2
    count = columns * deep
    receivers = np.arange(count * rows).reshape(count, rows)
    ones = np.ones(count, np.int64)
    first = np.arange(count + 1) * rows
    moved = Transfers(
        receivers[:, 0] * 0 + np.arange(count) * rows, ones * panel, ones, first, receivers.reshape(-1), ones * 0,
        np.zeros(target.tiles, np.int64),
    )  # fmt: skip
    return phase_cycles(moved, _alone(target)) + _SELECT


def simulate(row: Measurement) -> tuple[float, int]:
    """Cycles behind the arrival of the last tile."""
    if row["unit"] != "cycles":
        raise NotRebuilt(f"a figure of the machine in {row['unit']}, not a phase")
    target = load_target(row.machine)
    boundary = constant("exchange scheduled", "boundary_cycles")
    name = family(row)
    if name == "exchange scheduled":
        transfers = row.need("scheduled")
    elif name == "exchange fragmented":
        transfers = fragmented(_transfers(row), row.need("endpoint bound"), target)
    else:
        found = re.search(r"(\d+)x(\d+)x(\d+) first exchange", row["op"])
        if found is None:
            raise NotRebuilt("neither the schedule nor the transfers are given")
        transfers = multicast(int(found[1]), int(found[2]), int(found[3]), target)
    return transfers + boundary, round(transfers + boundary)


def fit(rows: Sequence[Measurement]) -> dict[str, tuple[float, str]]:
    """The boundary of a phase."""
    if family(rows[0]) != "exchange scheduled":
        return {}
    left = median(row.value - row.need("scheduled") for row in rows)
    return {"boundary_cycles": (left, "cycles of synchronisation around a phase: median beyond the schedule")}
