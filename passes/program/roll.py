"""Repeated layers become loops: equal step sequences over equally laid out buffers are run by one `Repeat`.

The code of a loop's body is on the tiles once. What differs from one iteration to the next, weights and the
like, is stacked: member i of a stack lies i times the stride behind the first, and the loop moves its addresses on by
the stride. Tensors that one iteration makes for the next are copied on their tiles at the end of the iteration. Buffers
that live within one iteration are shared by all.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ipucc.passes.plan.repeats import Repetition, repetitions
from ipucc.program.liveness import touched
from ipucc.program.model import (
    Binding,
    Buffer,
    Compute,
    Exchange,
    Fill,
    HostRead,
    HostWrite,
    Move,
    Program,
    Repeat,
    Step,
)
from ipucc.tiles.intersect import intersect
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

__all__ = ["renumbered", "roll", "stack_layout"]


def roll(program: Program, least: int = 6) -> Program:
    """The program with its repetitions as loops; repetitions that save fewer than `least` steps stay as they are."""
    maker = _Roller(program)
    keys = [maker.key(i, s) for i, s in enumerate(program.steps)]
    rolled = []
    for first in repetitions(keys, least):
        found = maker.aligned(first, keys)
        shorter = (found, _without_first(found), _without_last(found), _without_last(_without_first(found)))
        tried = (r for r in shorter if r.period * (r.count - 1) >= least and maker.plan(r))
        rolled += [r for r in (next(tried, None),) if r is not None]
    return maker.apply(rolled) if rolled else program


def _without_first(r: Repetition) -> Repetition:
    """The first layer may read one buffer where the others read two, the network's input for one."""
    return replace(r, start=r.start + r.period, count=r.count - 1)


def _without_last(r: Repetition) -> Repetition:
    return replace(r, count=r.count - 1)


@dataclass(eq=False)
class _Roller:
    program: Program
    merged: dict[int, int] = field(default_factory=dict)
    strided: dict[int, set[int]] = field(default_factory=dict)
    place: dict[int, tuple[int, int]] = field(default_factory=dict)
    carries: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    # Keys

    def _layout(self, b: int) -> str:
        buffer = self.program.buffers[b]
        root = "" if buffer.alias < 0 else "<" + self._layout(buffer.alias)
        return f"{buffer.dtype}{buffer.layout.digest.hex()}{root}"

    def key(self, at: int, step: Step) -> str:
        """Equal for steps that do the same to buffers of the same layouts."""
        h = hashlib.sha256()
        if isinstance(step, Exchange):
            h.update(f"exchange {step.order}".encode())
            for m in step.moves:
                h.update(f"{self._layout(m.src)} {self._layout(m.dst)}".encode())
                for t in m.tracks:
                    h.update(t.digest)
            for f in step.fills:
                h.update(f"fill {self._layout(f.buffer)} {f.value}".encode())
        elif isinstance(step, Compute):
            h.update(("compute" + json.dumps(step.codelet.to_json())).encode())
            h.update(step.tiles.tobytes())
            for table in (step.cells.lo, step.cells.n):
                for axis in sorted(table):
                    h.update(axis.encode() + table[axis].tobytes())
            for b in (*step.operands, *step.results):
                h.update(f"{self._layout(b.buffer)} {b.fill}".encode() + b.cells.tobytes())
        else:
            h.update(f"{type(step).__name__} {at}".encode())
        return h.hexdigest()

    # Planning one loop

    def aligned(self, r: Repetition, keys: Sequence[str]) -> Repetition:
        """The repetition from where no buffer is written on both sides of its start: an op's serial rounds write one
        result, and an iteration that begins between two of them would hand on half of it. Of such starts the one that
        hands on fewest bytes from one iteration to the next; one layer less where the steps are not periodic for long
        enough from any of them."""
        found: list[tuple[int, int, int]] = []
        for start in range(r.start, r.start + r.period):
            before = {b for s in self.program.steps[max(0, start - r.period) : start] for b in touched(s, {})[1]}
            behind = {b for s in self.program.steps[start : start + r.period] for b in touched(s, {})[1]}
            if before & behind:
                continue
            stop = start + r.period * r.count
            whole = stop <= len(keys) and keys[start : stop - r.period] == keys[start + r.period : stop]
            found.append((not whole, self._handed_bytes(start, r.period) if whole else 0, start))
        if not found:
            return r
        shorter, _, start = min(found)
        return replace(r, start=start, count=r.count - shorter)

    def _handed_bytes(self, start: int, period: int) -> int:
        """Bytes that the first iteration of a loop makes and the second one reads."""
        made, read = (
            {self._root(b) for s in self.program.steps[at : at + period] for b in touched(s, {})[side]}
            for at, side in ((start, 1), (start + period, 0))
        )
        return sum(self.program.buffers[b].nbytes for b in made & read)

    def plan(self, r: Repetition) -> bool:
        """Decide for every buffer of the loop whether it is shared, merged or stacked; False where that is not so."""
        steps = self.program.steps
        rounds: list[dict[int, int]] = []
        for j in range(r.count):
            mapping: dict[int, int] = {}
            for i in range(r.period):
                formal = _buffers(steps[r.start + i])
                actual = _buffers(steps[r.start + j * r.period + i])
                for x, y in zip(formal, actual, strict=True):
                    for p, q in ((x, y), (self._root(x), self._root(y))):
                        if mapping.setdefault(p, q) != q:
                            return False
            if len(set(mapping.values())) != len(mapping):
                return False
            rounds.append(mapping)
        users = self._users()
        body = sorted(b for b in rounds[0] if self._root(b) == b)
        merged: dict[int, int] = {}
        stacked: list[list[int]] = []
        for b in body:
            stands_for = [m[b] for m in rounds]
            if all(x == b for x in stands_for):
                continue
            inside = all(
                all(r.start + j * r.period <= s < r.start + (j + 1) * r.period for s in users[x])
                for j, x in enumerate(stands_for)
            )
            if inside:
                merged.update(dict.fromkeys(stands_for[1:], b))
            elif len(set(stands_for)) == r.count:
                stacked.append(stands_for)
            else:
                return False
        handed = self._handed_on(r, stacked, users)
        # Written to by the body of every iteration but the last's: the buffer of the last stands for all of them.
        merged.update({seq[1]: last for seq, last in handed})
        carried = {b for seq, last in handed for b in (*seq, last)}
        stacked = [s for s in stacked if not carried & set(s)]
        place = self._stack(stacked)
        if place is None:
            return False
        for m in rounds[1:]:
            for p, q in m.items():
                if self._root(p) != p and self._root(q) in merged:
                    merged[q] = p
        self.merged.update(merged)
        self.place = place
        self.strided[r.start] = {b for s in stacked for b in s[:1]}
        self.carries[r.start] = [(last, seq[0]) for seq, last in handed]
        return True

    def _handed_on(
        self, r: Repetition, stacked: Sequence[list[int]], users: dict[int, list[int]]
    ) -> list[tuple[list[int], int]]:
        """Tensors that each iteration makes for the next: ([first, ...], last) with one buffer per iteration."""
        out = []
        by_first = {s[0]: s for s in stacked}
        for seq in stacked:
            made = by_first.get(seq[1])
            if made is None or made[:-1] != seq[1:]:
                continue
            last = made[-1]
            early = all(at < r.start + r.period for at in users[seq[0]])
            between = all(
                r.start + (j - 1) * r.period <= at < r.start + (j + 1) * r.period
                for j, b in enumerate(seq[1:], 1)
                for at in users[b]
            )
            if early and between and self._layout(last) == self._layout(seq[0]):
                out.append((seq, last))
        return out

    def _root(self, b: int) -> int:
        alias = self.program.buffers[b].alias
        return alias if alias >= 0 else b

    def _users(self) -> dict[int, list[int]]:
        users: dict[int, list[int]] = {}
        for at, step in enumerate(self.program.steps):
            read, written = touched(step, self.program.functions)
            for b in {self._root(x) for x in (*read, *written)}:
                users.setdefault(b, []).append(at)
        return users

    def _stack(self, sequences: Sequence[Sequence[int]]) -> dict[int, tuple[int, int]] | None:
        """(stack, position) of every stacked buffer: members of a sequence follow each other, shared members agree."""
        place = dict(self.place)
        number = 1 + max((g for g, _ in place.values()), default=-1)
        for seq in sequences:
            known = [(place[b][0], place[b][1] - j) for j, b in enumerate(seq) if b in place]
            group, base = known[0] if known else (number, 0)
            number += not known
            for other, at in known[1:]:
                if other != group:
                    shift = base - at
                    place.update({b: (group, p + shift) for b, (g, p) in place.items() if g == other})
                elif at != base:
                    return None
            for j, b in enumerate(seq):
                if place.setdefault(b, (group, base + j)) != (group, base + j):
                    return None
        taken = list(place.values())
        if len(set(taken)) != len(taken):
            return None
        layout = {g: self._layout(b) for b, (g, _) in place.items()}
        if any(self._layout(b) != layout[g] for b, (g, _) in place.items()):
            return None
        return place

    # Carrying it out

    def apply(self, loops: Sequence[Repetition]) -> Program:
        old = self.program
        stacks = self._stacks()
        buffers: list[Buffer] = []
        number: dict[int, int] = {}
        roots: dict[int, int] = {}
        pitch: dict[int, int] = {}
        for g, (count, first) in stacks.items():
            member = old.buffers[first]
            roots[g] = len(buffers)
            buffers.append(Buffer(f"{member.name}.stack", member.dtype, stack_layout(member.layout, count)))
            pitch[g] = buffers[-1].nbytes // count
        order = [b for b in range(len(old.buffers)) if b not in self.merged]
        for b in order:
            number[b] = len(buffers)
            buffer = old.buffers[b]
            if b in self.place:
                g, p = self.place[b]
                buffers.append(Buffer(buffer.name, buffer.dtype, buffer.layout, -1, roots[g], p * pitch[g]))
            else:
                buffers.append(Buffer(buffer.name, buffer.dtype, buffer.layout, -1, buffer.alias, 0))
        for b in order:
            root = old.buffers[b].alias
            if root >= 0:
                root = self.merged.get(root, root)
                at = buffers[number[root]]
                if at.alias >= 0:
                    buffers[number[b]].alias, buffers[number[b]].alias_offset = at.alias, at.alias_offset
                else:
                    buffers[number[b]].alias = number[root]
        renumber = {b: number[self.merged.get(b, b)] for b in range(len(old.buffers))}
        steps: list[Step] = []
        here = 0
        by_start = {r.start: r for r in loops}
        while here < len(old.steps):
            r = by_start.get(here)
            if r is None:
                steps.append(renumbered(old.steps[here], renumber))
                here += 1
                continue
            body = tuple(renumbered(s, renumber) for s in old.steps[here : here + r.period])
            carry = self._carry(self.carries[r.start], body, renumber)
            body = (*body, *carry)
            moving = {roots[self.place[b][0]]: pitch[self.place[b][0]] for b in self.strided[r.start]}
            used = {b for s in body for b in _buffers(s)}
            strides = {b: moving[buffers[b].alias] for b in sorted(used) if buffers[b].alias in moving}
            rounds = [old.steps[at : at + r.period] for at in range(here, r.stop, r.period)]
            names = tuple((*map(_name, s), *[f"{_name(s[0])}.carry"] * len(carry)) for s in rounds)
            steps.append(Repeat(r.count, body, strides, names))
            here = r.stop
        used = {b for s in steps for b in (x for part in touched(s, old.functions) for x in part)}
        return _without_unused(old, buffers, steps, used)

    def _carry(self, pairs: Sequence[tuple[int, int]], body: Sequence[Step], to: dict[int, int]) -> tuple[Step, ...]:
        """The step at the end of an iteration that copies, on every tile, what it hands on to where the next reads."""
        if not pairs:
            return ()
        moves = []
        for src, dst in pairs:
            layout = self.program.buffers[src].layout
            view = View.identity(layout.shape)
            moves.append(Move(to[src], to[dst], intersect(layout, self.program.buffers[dst].layout, view), view))
        return (Exchange(f"{_name(body[0])}.carry", tuple(moves)),)

    def _stacks(self) -> dict[int, tuple[int, int]]:
        """Per stack the number of members and one of them; positions are shifted to begin at 0."""
        low: dict[int, int] = {}
        high: dict[int, int] = {}
        for g, p in self.place.values():
            low[g], high[g] = min(low.get(g, p), p), max(high.get(g, p), p)
        self.place = {b: (g, p - low[g]) for b, (g, p) in self.place.items()}
        first = {g: b for b, (g, p) in sorted(self.place.items(), reverse=True)}
        return {g: (high[g] - low[g] + 1, first[g]) for g in sorted(low)}


def stack_layout(layout: Layout, count: int) -> Layout:
    """`count` tensors of one layout behind each other: a leading dimension with one slot per member. Numbers without a
    dimension have a grain each."""
    if not layout.shape:
        single = np.zeros(1, np.int32), np.ones(1, np.int32)
        layout = Layout((1,), (single,), layout.tiles[None], layout.itemsize, 0)
    ones = (np.arange(count, dtype=np.int32), np.arange(1, count + 1, dtype=np.int32))
    tiles = np.broadcast_to(layout.tiles[None], (count, *layout.tiles.shape))
    own = np.zeros(layout.grid, np.int32) if layout.slots is None else layout.slots
    slots = own[None] + np.arange(count, dtype=np.int32).reshape(-1, *([1] * own.ndim)) * layout.slot_count
    return Layout(
        (count, *layout.shape), (ones, *layout.cuts), np.ascontiguousarray(tiles), layout.itemsize,
        layout.grain_dim + 1, slots, layout.by_rows,
    )  # fmt: skip


def _name(step: Step) -> str:
    """The name of a step of a loop: only exchanges and compute sets are ever repeated."""
    assert isinstance(step, Exchange | Compute)
    return step.name


def _buffers(step: Step) -> list[int]:
    """Every buffer that a step names, in the order of its fields."""
    if isinstance(step, Exchange):
        return [b for m in step.moves for b in (m.src, m.dst)] + [f.buffer for f in step.fills]
    if isinstance(step, Compute):
        return [b.buffer for b in (*step.operands, *step.results)]
    if isinstance(step, HostWrite | HostRead):
        return [step.buffer]
    raise TypeError(f"a {type(step).__name__} is not rolled again")


def renumbered(step: Step, to: Mapping[int, int]) -> Step:
    """A step with other numbers of buffers."""
    if isinstance(step, Exchange):
        moves = tuple(replace(m, src=to[m.src], dst=to[m.dst]) for m in step.moves)
        return Exchange(step.name, moves, tuple(Fill(to[f.buffer], f.value) for f in step.fills), step.order)
    if isinstance(step, Compute):

        def bound(bindings: Sequence[Binding]) -> tuple[Binding, ...]:
            return tuple(Binding(to[b.buffer], b.cells, b.fill) for b in bindings)

        return replace(step, operands=bound(step.operands), results=bound(step.results))
    if isinstance(step, HostWrite):
        return HostWrite(step.tensor, to[step.buffer], step.view, step.fill)
    if isinstance(step, HostRead):
        return HostRead(step.tensor, to[step.buffer], step.view, step.fill)
    if isinstance(step, Repeat):
        strides = {to[b]: n for b, n in step.strides.items()}
        return replace(step, body=tuple(renumbered(s, to) for s in step.body), strides=strides)
    raise TypeError(f"a {type(step).__name__} is not rolled again")


def _without_unused(old: Program, buffers: list[Buffer], steps: list[Step], used: set[int]) -> Program:
    """The program without the buffers that no step names and no alias needs."""
    kept = sorted(used | {buffers[b].alias for b in used if buffers[b].alias >= 0})
    number = {b: i for i, b in enumerate(kept)}
    final = []
    for b in kept:
        x = buffers[b]
        final.append(Buffer(x.name, x.dtype, x.layout, -1, number[x.alias] if x.alias >= 0 else -1, x.alias_offset))
    renamed = [renumbered(s, number) for s in steps]
    return Program(
        old.target,
        final,
        renamed,
        old.inputs,
        old.outputs,
        old.weights,
        old.functions,
        0,
        old.manifest,
        patterns=old.patterns,
        extents=old.extents,
    )
