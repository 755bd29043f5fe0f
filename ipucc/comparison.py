"""What two programs differ in: where they come from, their cycles by op, their plans, their memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ipucc.api import Executable, load
from ipucc.diagnostics import JsonValue
from ipucc.program.fields import plain
from ipucc.program.op_cycles import OpCycles, cycles_by_op
from ipucc.program.timing import StepTime

__all__ = ["Change", "Comparison", "OpChange", "diff"]

V = TypeVar("V", covariant=True)

_OPTIONS: Final = ("ipucc", "pipeline", "precision", "partials", "effort", "recompute", "dims", "input_shapes")
_PLACEMENT: Final = ("solver", "status", "objective_cycles", "bound_cycles", "gap")


@dataclass(frozen=True)
class Change(Generic[V]):
    """A figure of both programs."""

    before: V
    after: V

    @property
    def differs(self) -> bool:
        """Whether the figure is another one."""
        return self.before != self.after


@dataclass(frozen=True)
class OpChange:
    """The ops of one name in both programs: their cycles and plans in running order. `before` or `after` is None, and
    the plans are empty, where a program has no op of that name."""

    name: str
    kinds: tuple[str, ...]
    before: OpCycles | None
    after: OpCycles | None
    plans: Change[tuple[str, ...]]

    @property
    def difference(self) -> int:
        """Cycles that the second program takes more."""
        return (self.after.total if self.after else 0) - (self.before.total if self.before else 0)

    @property
    def differs(self) -> bool:
        """Whether cycles or plans are other ones."""
        return self.before != self.after or self.plans.differs

    def to_json(self) -> dict[str, JsonValue]:
        """The op as plain JSON values."""
        return {
            "name": self.name,
            "kinds": list(self.kinds),
            "difference": self.difference,
            "before": _op_json(self.before, self.plans.before),
            "after": _op_json(self.after, self.plans.after),
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two programs side by side.

    `settings` are model, target and options, `placement` is what the solver said, both as the manifests have it (None
    where one says nothing). `cycles` are those of a run. `memory` is in bytes: of the fullest tile, the mean of all
    tiles, their sum, and code. `tiles` counts the tiles that hold more, less, and as much. `steps`
    are the supersteps of a run. `ops` come in the order of the absolute difference of their cycles, the largest first.
    """

    settings: Mapping[str, Change[JsonValue]]
    placement: Mapping[str, Change[JsonValue]]
    cycles: Mapping[str, Change[int]]
    memory: Mapping[str, Change[int]]
    tiles: Mapping[str, int]
    steps: Change[int]
    reordered: bool
    ops: tuple[OpChange, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing that is compared differs."""
        tables = (self.settings, self.placement, self.cycles, self.memory)
        changes: Iterable[Change[object] | OpChange] = (
            *(change for table in tables for change in table.values()), self.steps, *self.ops
        )  # fmt: skip
        return not (self.reordered or self.tiles["more"] or self.tiles["less"] or any(c.differs for c in changes))

    def to_json(self, top: int | None = None) -> dict[str, JsonValue]:
        """The comparison as plain JSON values, with at most `top` ops."""
        return {
            "equal": self.equal,
            "settings": {key: _json(change) for key, change in self.settings.items()},
            "placement": {key: _json(change) for key, change in self.placement.items()},
            "cycles": {key: _counted(change) for key, change in self.cycles.items()},
            "memory": {key: _counted(change) for key, change in self.memory.items()},
            "tiles": dict(self.tiles),
            "steps": _counted(self.steps),
            "reordered": self.reordered,
            "op_count": len(self.ops),
            "ops": [op.to_json() for op in self.ops[:top]],
        }


def diff(before: Executable | str | Path, after: Executable | str | Path) -> Comparison:
    """Compare two programs, given as they are or as files.

    Ops are matched by name. Raises what `load` raises for a file that is no program.
    """
    old, new = (x if isinstance(x, Executable) else load(x) for x in (before, after))
    a, b = old.profile(), new.profile()
    cycles = {key: Change(getattr(a.cycles, key), getattr(b.cycles, key))
              for key in ("total", "compute", "exchange", "sync", "host")}  # fmt: skip
    width = max(a.tile_bytes.size, b.tile_bytes.size)
    more = _padded(b.tile_bytes, width) - _padded(a.tile_bytes, width)
    return Comparison(
        _settings(old, new),
        _of_manifests(old, new, _PLACEMENT, "placement"),
        cycles,
        {
            "max_tile_bytes": Change(int(a.tile_bytes.max(initial=0)), int(b.tile_bytes.max(initial=0))),
            "mean_tile_bytes": Change(round(a.tile_bytes.mean()), round(b.tile_bytes.mean())),
            "total_bytes": Change(int(a.tile_bytes.sum()), int(b.tile_bytes.sum())),
            "code_bytes": Change(old.program.code_bytes, new.program.code_bytes),
        },
        {"more": int((more > 0).sum()), "less": int((more < 0).sum()), "same": int((more == 0).sum())},
        Change(len(a.steps), len(b.steps)),
        _reordered(old, new),
        _ops(_Side(old, a.steps), _Side(new, b.steps)),
    )


def _settings(old: Executable, new: Executable) -> dict[str, Change[JsonValue]]:
    found: dict[str, Change[JsonValue]] = {
        **_of_manifests(old, new, ("name", "sha256"), "model"),
        "target": Change(old.target.name, new.target.name),
        "target_digest": Change(old.target.digest(), new.target.digest()),
        **_of_manifests(old, new, _OPTIONS),
    }
    return {{"name": "model", "sha256": "model_sha256"}.get(key, key): change for key, change in found.items()}


def _of_manifests(
    old: Executable, new: Executable, keys: Iterable[str], table: str | None = None
) -> dict[str, Change[JsonValue]]:
    """Entries of both manifests, or of one table in them; a file from elsewhere may lack any."""
    a, b = (x.manifest if table is None else x.manifest.get(table) for x in (old, new))
    before, after = (x if isinstance(x, Mapping) else {} for x in (a, b))
    return {
        key: Change(cast("JsonValue", plain(before.get(key))), cast("JsonValue", plain(after.get(key))))
        for key in keys
        if key in before or key in after
    }


def _ops(*sides: "_Side") -> tuple[OpChange, ...]:
    old, new = sides
    changes = []
    for name in dict.fromkeys((*old.cycles, *new.cycles)):
        kinds = tuple(dict.fromkeys(kind for side in sides for kind in side.kinds.get(name, ())))
        plans = Change(tuple(old.plans.get(name, ())), tuple(new.plans.get(name, ())))
        changes.append(OpChange(name, kinds, old.cycles.get(name), new.cycles.get(name), plans))
    return tuple(sorted(changes, key=lambda op: (-abs(op.difference), not op.differs)))


class _Side:
    """Cycles, kinds and plans of one program by the name of the op."""

    def __init__(self, executable: Executable, times: Sequence[StepTime]) -> None:
        self.kinds: dict[str, list[str]] = {}
        self.plans: dict[str, list[str]] = {}
        for op in executable.program.ops:
            self.kinds.setdefault(op.name, []).append(op.kind)
            self.plans.setdefault(op.name, []).append(op.plan)
        self.cycles = {name: OpCycles(name) for name in self.plans}
        self.cycles.update(cycles_by_op(times, self.plans))


def _reordered(old: Executable, new: Executable) -> bool:
    """Whether the ops that both have run in another order."""
    a, b = ([op.name for op in x.program.ops] for x in (old, new))
    both = set(a) & set(b)
    return list(dict.fromkeys(n for n in a if n in both)) != list(dict.fromkeys(n for n in b if n in both))


def _padded(sizes: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    return np.pad(sizes, (0, width - sizes.size))


def _json(change: Change[JsonValue]) -> dict[str, JsonValue]:
    return {"before": change.before, "after": change.after}


def _counted(change: Change[int]) -> dict[str, JsonValue]:
    return {"before": change.before, "after": change.after, "difference": change.after - change.before}


def _op_json(found: OpCycles | None, plans: tuple[str, ...]) -> JsonValue:
    if found is None:
        return None
    return {
        "cycles": found.total, "compute": found.compute, "exchange": found.exchange, "sync": found.sync,
        "steps": found.steps, "plans": list(plans),
    }  # fmt: skip
