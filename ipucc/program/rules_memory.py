"""Rules about what buffers are and where they lie."""

from collections.abc import Sequence
from math import prod

import numpy as np

from ipucc.dtypes import STORAGE
from ipucc.program.facts import Facts, Found, Problem, filled_cells, name_of
from ipucc.program.model import (
    Call,
    Compute,
    Exchange,
    HostRead,
    HostWrite,
    If,
    Program,
    Repeat,
    Step,
    While,
    bodies,
)  # fmt: skip
from ipucc.tiles.cuts import Cut
from ipucc.tiles.layout import GRAIN_BYTES, Layout

__all__ = ["addresses", "aliases", "layouts", "names", "overlaps", "ports", "structure", "views"]

_MAX_EXECUTED = 1 << 22
_MAX_EXPANDED = 1 << 18
_MAX_DEPTH = 64
_CHUNK = 1 << 16
_MAX_BUFFERS = 1 << 15
_MAX_HELD = 1 << 30


def structure(facts: Facts) -> Found:
    """Steps name buffers and functions that exist, functions do not call themselves, and all of it ends some time."""
    program = facts.program
    count = len(program.buffers)
    for body in (program.steps, *program.functions.values()):
        for step in _nested(body):
            if isinstance(step, Call) and step.function not in program.functions:
                yield Problem(f"{name_of(step)}: there is no such function")
            if isinstance(step, Repeat) and step.count < 1:
                yield Problem(f"{name_of(step)}: a loop runs at least once")
            if isinstance(step, While) and (step.bound < 1 if step.bound is not None else bool(step.strides)):
                yield Problem(f"{name_of(step)}: a bound is at least 1, and where addresses move there is one")
            for b in _buffer_ids(step):
                if not 0 <= b < count:
                    yield Problem(f"{name_of(step)} refers to buffer %{b} of {count}", "IPU0507")
                    return
    for i, buffer in enumerate(program.buffers):
        if not -1 <= buffer.alias < count:
            yield Problem(f"{facts.label(i)} is an alias of %{buffer.alias} of {count}", "IPU0507")
    try:
        expanded, executed = _lengths(program)
    except KeyError:
        return
    except RecursionError:
        yield Problem(f"functions and loops are nested deeper than {_MAX_DEPTH}, or call themselves")
        return
    if expanded > _MAX_EXPANDED or executed > _MAX_EXECUTED:
        yield Problem(
            f"the program runs {executed:,} steps from a text of {expanded:,}; "
            f"at most {_MAX_EXECUTED:,} from {_MAX_EXPANDED:,} are taken",
            "IPU0505",
        )


def names(facts: Facts) -> Found:
    """A loop with names has one for every step of its body in every iteration."""
    for step in facts.steps:
        if isinstance(step, Repeat) and step.names:
            rows = {len(row) for row in step.names}
            if len(step.names) != step.count or rows != {len(step.body)}:
                yield Problem(f"{name_of(step)}: every step has one name per iteration, or none has any")


def layouts(facts: Facts) -> Found:
    """Every layout lies on the target, cells and grid agree, and no two cells share a place on a tile."""
    known: set[bytes] = set()
    for i, b in enumerate(facts.buffers):
        if b.dtype not in STORAGE or STORAGE[b.dtype].itemsize != b.layout.itemsize:
            yield Problem(f"{facts.label(i)}: items of {b.layout.itemsize} bytes are no {b.dtype}")
        if b.layout.digest in known:
            continue
        known.add(b.layout.digest)
        why = _layout_problem(b.layout, facts.target.tiles, facts.target.tile_bytes)
        if why:
            # Where a layout does not fit the machine, addresses are at fault; else the layout itself.
            yield Problem(f"{facts.label(i)}: {why}", "IPU0507" if "target" in why else "IPU0509")


def _layout_problem(layout: Layout, tiles: int, tile_bytes: int) -> str:
    rank = len(layout.shape)
    if layout.tiles.ndim != rank + 1 or len(layout.cuts) != rank or not 0 <= layout.grain_dim < max(1, rank):
        return "shape, cuts and tiles have different ranks"
    for d, (lo, hi) in enumerate(layout.cuts):
        if lo.shape != (layout.grid[d],) or hi.shape != lo.shape or bool((lo > hi).any()):
            return f"the cuts of dimension {d} do not fit the grid"
    if layout.core is not None and not _inside(layout.core, layout.cuts):
        return "what cells own lies outside of them, or does not ascend"
    if layout.tiles.size == 0 or int(layout.tiles.min()) < 0 or int(layout.tiles.max()) >= tiles:
        return f"it names a tile outside of the target's 0..{tiles - 1}"
    if layout.slots is not None and (layout.slots.shape != layout.grid or int(layout.slots.min()) < 0):
        return "its slots do not fit the grid"
    if layout.nbytes > tile_bytes:
        return f"it takes {layout.nbytes:,} bytes of a tile of the target, which has {tile_bytes:,}"
    cells = prod(layout.grid)
    slots = np.zeros(cells, np.int64) if layout.slots is None else layout.slots.reshape(-1).astype(np.int64)
    place = layout.tiles.reshape(cells, -1).astype(np.int64) * layout.slot_count + slots[:, None]
    # Cells without elements may be anywhere.
    place = np.where(filled_cells(layout)[:, None], place, -1)
    pairs = np.sort((place * cells + np.arange(cells)[:, None])[place >= 0])
    # Replicas of a cell on one tile are one.
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    owners = pairs // cells
    if (np.diff(owners) == 0).any():
        at = int(owners[:-1][np.diff(owners) == 0][0])
        return f"two cells lie at the same place of tile {at // layout.slot_count}"
    return ""


def _inside(core: Sequence[Cut], cuts: Sequence[Cut]) -> bool:
    if len(core) != len(cuts):
        return False
    for (low, high), (lo, hi) in zip(core, cuts, strict=True):
        if low.shape != lo.shape or high.shape != lo.shape or (low < lo).any() or (low > high).any():
            return False
        if (high > hi).any() or (np.diff(low) < 0).any() or (low[1:] < high[:-1]).any():
            return False
    return True


def views(facts: Facts) -> Found:
    """Views fit the tensors on their two sides."""
    for step in facts.steps:
        if isinstance(step, HostWrite) and step.view.dst != facts.buffers[step.buffer].layout.shape:
            yield Problem(f"{name_of(step)}: the view makes {step.view.dst}, the buffer holds another shape")
        if isinstance(step, HostRead) and step.view.src != facts.buffers[step.buffer].layout.shape:
            yield Problem(f"{name_of(step)}: the view reads {step.view.src}, the buffer holds another shape")
        if isinstance(step, Exchange):
            for m in step.moves:
                ends = facts.buffers[m.src].layout.shape, facts.buffers[m.dst].layout.shape
                if (m.view.src, m.view.dst) != ends:
                    yield Problem(f"{name_of(step)}: a view of {m.view.src} as {m.view.dst} between {ends}")


def ports(facts: Facts) -> Found:
    """The host writes inputs and weights of the declared shapes, and reads every output once, in its shape."""
    program = facts.program
    inputs = {name: shape for name, _, shape in program.inputs}
    outputs = {name: shape for name, _, shape in program.outputs}
    read: list[str] = []
    for step in facts.steps:
        if isinstance(step, HostWrite):
            weight = program.weights.get(step.tensor)
            shape = inputs.get(step.tensor, None if weight is None else tuple(weight.shape))
            if step.tensor not in inputs and step.tensor not in program.weights:
                yield Problem(f"{name_of(step)}: there is no such input or weight")
            elif weight is not None and tuple(weight.shape) != shape:
                yield Problem(f"{name_of(step)}: its value has the shape {tuple(weight.shape)}, it is declared {shape}")
            elif shape is not None and step.view.src != shape:
                yield Problem(f"{name_of(step)}: it has the shape {shape}, the view reads {step.view.src}")
        if isinstance(step, HostRead):
            read.append(step.tensor)
            if outputs.get(step.tensor) != step.view.dst:
                yield Problem(f"{name_of(step)}: the view makes {step.view.dst}, which is no declared output")
    if sorted(read) != sorted(outputs):
        yield Problem(f"the outputs {sorted(outputs)} are declared, {sorted(read)} are read")
    kinds = {name: kind for name, kind, _ in program.outputs}
    for name, cuts in program.extents.items():
        for axis, counter in cuts:
            if name not in outputs or axis >= len(outputs[name]):
                yield Problem(f"the output {name!r} has no dimension {axis} to be cut")
            elif outputs.get(counter) != () or kinds[counter] != "int64":
                yield Problem(f"what counts of the output {name!r}, {counter!r}, is no scalar of int64")


def addresses(facts: Facts) -> Found:
    """Buffers that are used lie in tile memory, behind what is reserved and the code, on multiples of 16 bytes."""
    low = facts.target.reserved_bytes + facts.program.code_bytes
    for i, b in enumerate(facts.buffers):
        if facts.live[facts.root(i), 0] < 0:
            continue
        first, end = facts.reach[i].tolist()
        if first < low or end > facts.target.tile_bytes:
            yield Problem(
                f"{facts.label(i)} lies at bytes {first}..{end} of a tile, which has {low}..{facts.target.tile_bytes}",
                "IPU0507",
            )
        elif b.offset % GRAIN_BYTES:
            yield Problem(f"{facts.label(i)} lies at byte {b.offset}, no multiple of {GRAIN_BYTES}", "IPU0507")
    for step in facts.steps:
        if isinstance(step, Repeat | While):
            for moved, stride in step.strides.items():
                if stride % GRAIN_BYTES:
                    yield Problem(f"{name_of(step)}: {facts.label(moved)} moves by {stride} bytes", "IPU0507")


def aliases(facts: Facts) -> Found:
    """An alias lies inside the bytes of a buffer that is no alias itself, on tiles of that buffer."""
    for i, b in enumerate(facts.buffers):
        if b.alias < 0:
            continue
        root = facts.buffers[b.alias]
        if root.alias >= 0 or b.alias == i:
            yield Problem(f"{facts.label(i)} is an alias of {facts.label(b.alias)}, which is an alias too")
            continue
        (first, end), (low, high) = facts.reach[i].tolist(), facts.reach[b.alias].tolist()
        if first < low or end > high or b.offset != root.offset + b.alias_offset:
            yield Problem(
                f"{facts.label(i)} lies at {first}..{end}, {b.alias_offset} behind the start of {facts.label(b.alias)} "
                f"at {low}..{high}",
                "IPU0507",
            )
        elif not np.isin(b.layout.used_tiles, root.layout.used_tiles).all():
            yield Problem(f"{facts.label(i)} is on tiles that do not hold what it is an alias of")


def overlaps(facts: Facts) -> Found:
    """Two buffers that are live in the same step do not share bytes of a tile."""
    ids = np.flatnonzero(facts.live[:, 0] >= 0)
    if ids.size > _MAX_BUFFERS or ids.size * facts.target.tiles > _MAX_HELD:
        yield Problem(f"{ids.size:,} buffers on {facts.target.tiles:,} tiles are too many to check", "IPU0505")
        return
    span, live = facts.reach[ids], facts.live[ids]
    bits = np.zeros((ids.size, -(-facts.target.tiles // 8)), np.uint8)
    for k, i in enumerate(ids.tolist()):
        held = np.zeros(facts.target.tiles, bool)
        held[facts.buffers[i].layout.used_tiles] = True
        bits[k] = np.packbits(held)
    for k in range(ids.size):
        later = slice(k + 1, None)
        close = (span[later, 0] < span[k, 1]) & (span[k, 0] < span[later, 1])
        close &= (live[later, 0] <= live[k, 1]) & (live[k, 0] <= live[later, 1])
        near = np.flatnonzero(close) + k + 1
        for start in range(0, near.size, _CHUNK):
            part = near[start : start + _CHUNK]
            shared = np.flatnonzero((bits[part] & bits[k]).any(axis=1))
            if shared.size:
                a, b = int(ids[k]), int(ids[part[shared[0]]])
                tile = int(np.flatnonzero(np.unpackbits(bits[k] & bits[part[shared[0]]]))[0])
                moment = max(int(facts.live[a, 0]), int(facts.live[b, 0]))
                yield Problem(
                    f"{facts.label(a)} and {facts.label(b)} share bytes "
                    f"{max(facts.reach[a, 0], facts.reach[b, 0])}..{min(facts.reach[a, 1], facts.reach[b, 1])} "
                    f"of tile {tile} while both are live (step {moment} of the text)",
                    "IPU0507",
                )


def _nested(steps: Sequence[Step]) -> list[Step]:
    """Steps and those of loop bodies and branches, without called functions."""
    out: list[Step] = []
    stack = list(reversed(steps))
    while stack:
        step = stack.pop()
        out.append(step)
        for body in reversed(bodies(step)):
            stack.extend(reversed(body))
        if isinstance(step, Compute):
            stack.extend(reversed(step.beside))
    return out


def _buffer_ids(step: Step) -> list[int]:
    if isinstance(step, HostWrite | HostRead):
        return [step.buffer]
    if isinstance(step, Exchange):
        return [b for m in step.moves for b in (m.src, m.dst)] + [f.buffer for f in step.fills]
    if isinstance(step, Compute):
        return [b.buffer for b in (*step.operands, *step.results)]
    if isinstance(step, Repeat):
        return list(step.strides)
    if isinstance(step, While):
        return [step.condition, *step.strides]
    if isinstance(step, If):
        return [step.condition]
    return [b for pair in (*step.inputs, *step.outputs) for b in pair]


def _lengths(program: Program) -> tuple[int, int]:
    """(steps of the text with functions written out, steps that run, those of a conditional loop at its bound, or once
    where it has none). RecursionError where functions never end."""
    known: dict[str, tuple[int, int]] = {}

    def body(steps: Sequence[Step], depth: int) -> tuple[int, int]:
        if depth > _MAX_DEPTH:
            raise RecursionError
        text = runs = 0
        for step in steps:
            own = (1, 1)
            if isinstance(step, Repeat | While):
                inner = body(step.body, depth + 1)
                count = step.count if isinstance(step, Repeat) else step.bound or 1
                own = (1 + inner[0], 1 + count * inner[1])
            elif isinstance(step, If):
                one, two = body(step.then, depth + 1), body(step.otherwise, depth + 1)
                own = (1 + one[0] + two[0], 1 + max(one[1], two[1]))
            elif isinstance(step, Call):
                if step.function not in known:
                    known[step.function] = body(program.functions[step.function], depth + 1)
                own = (1 + known[step.function][0], 1 + known[step.function][1])
            text, runs = text + own[0], runs + own[1]
        return text, runs

    return body(program.steps, 0)
