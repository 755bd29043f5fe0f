"""A Kalman filter over independent tracks (trackr, GC2): the same codelet on 2 tiles to all, warm engine.

Tracks of a tile are dealt to its workers; nothing is exchanged. A run costs the host a launch. The codelet is compiled
C++, whose cycles per track are fitted, one figure per version of it, and so is the launch: what is simulated is how
throughput scales over tiles, tracks, workers and chips.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from ipucc.codelets.base import Counts
from ipucc.target import Target, load_target
from validation.fit import constant
from validation.rows import Measurement, NotRebuilt
from validation.tile import TimedKernel, kernel_cycles

__all__ = ["family", "fit", "simulate"]

_FAMILY = "scaling kalman"
_VERSIONS = ("scalar", "vector", "vector manual")


@dataclass(frozen=True)
class Track(TimedKernel):
    """`steps` instructions of a worker per track; `threads` workers share a tile's tracks, each issues every sixth
    cycle whether or not others run."""

    steps: int
    threads: int

    name: ClassVar[str] = "validation_track"

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        return target.launch_cycles + target.workers * -(-n["tracks"] // self.threads) * self.steps


def family(row: Measurement) -> str | None:
    """`scaling kalman` for warm runs, `scaling kalman cold` for those that hold the start of the engine."""
    if not row["workload"].startswith("Kalman filter"):
        return None
    return _FAMILY if "warm" in row["params"] else f"{_FAMILY} cold"


def _version(row: Measurement) -> str:
    words = row["params"]
    return "vector manual" if "vector manual" in words else "vector" if "vector" in words else "scalar"


def _threads(row: Measurement, target: Target) -> int:
    found = re.search(r"threaded \((\d+) workers\)", row["op"])
    return int(found[1]) if found else 1 if "single worker" in row["op"] else target.workers


def _rate(tiles: int, tracks: int, cycles: float, launch: float, target: Target) -> float:
    """Million tracks a second."""
    return tiles * tracks / (target.cycles_to_seconds(cycles) + launch * 1e-6) / 1e6


def _cycles(row: Measurement, steps: float) -> tuple[int, int, int, Target]:
    target = load_target(row.machine)
    tiles, tracks = row.need("tiles"), row.need("tracks_per_tile")
    if tiles > target.tiles:
        raise NotRebuilt(f"{tiles} tiles on a chip of {target.tiles}")
    kernel = Track(round(steps), _threads(row, target))
    return tiles, tracks, kernel_cycles(kernel, {"tracks": tracks}, target, tiles), target


def simulate(row: Measurement) -> tuple[float, int]:
    """Million tracks a second, and cycles on the device."""
    if family(row) != _FAMILY:
        raise NotRebuilt("cold engine: the time holds the start of the host's engine")
    if row["unit"] != "M tracks/s":
        raise NotRebuilt(f"unit {row['unit']} of a throughput")
    steps = constant(_FAMILY, _version(row).replace(" ", "_") + "_steps")
    tiles, tracks, cycles, target = _cycles(row, steps)
    return _rate(tiles, tracks, cycles, constant(_FAMILY, "launch_us"), target), cycles


def fit(rows: Sequence[Measurement]) -> dict[str, tuple[float, str]]:
    """The launch from scalar runs with different numbers of tracks (a line through their run times), then the steps of
    each version, on the chip that has most rows."""
    if family(rows[0]) != _FAMILY:
        return {}
    by_tracks: dict[int, list[float]] = {}
    target = load_target("gc2")
    own = [r for r in rows if r.machine == "gc2"]
    for row in (r for r in own if _version(r) == "scalar"):
        tracks = row.need("tracks_per_tile")
        by_tracks.setdefault(tracks, []).append(row.need("tiles") * tracks / row.value)
    few, many = min(by_tracks), max(by_tracks)
    share = [-(-t // target.workers) for t in (few, many)]
    times = [median(by_tracks[t]) for t in (few, many)]
    each = (times[1] - times[0]) / (share[1] - share[0])
    launch = times[0] - share[0] * each
    found = {"launch_us": (launch, "microseconds of a launch by the host, from the line through few and many tracks")}
    for version in _VERSIONS:
        of = [r for r in own if _version(r) == version]
        worker = [
            (r.need("tiles") * r.need("tracks_per_tile") / r.value - launch)
            * target.clock_hz / 1e6 / target.workers / -(-r.need("tracks_per_tile") // _threads(r, target))
            for r in of
        ]  # fmt: skip
        if worker:
            name = version.replace(" ", "_") + "_steps"
            found[name] = (round(median(worker)), f"instructions of a worker per track, {version} codelet")
    return found
