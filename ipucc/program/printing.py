"""Programs as stable text: buffers with their layouts and addresses, steps with what they move, compute and cost."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from ipucc.codelets.base import Codelet
from ipucc.program.model import (
    Binding,
    Buffer,
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
)
from ipucc.program.regions import Regions
from ipucc.program.timing import Exchanges, step_time
from ipucc.tiles.intersect import Track
from ipucc.tiles.printing import layout_text, tile_ranges
from ipucc.tiles.view import View

__all__ = ["print_program"]

_LONGEST = 60


def print_program(program: Program) -> str:
    """The whole program, one line per buffer and two or more per step. Cycles are those that a run counts.

    Arrays are shown by sizes and hashes, so that two texts differ where two programs do. Weights are not shown.
    """
    printer = _Printer(program)
    return "\n".join(printer.lines()) + "\n"


class _Printer:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.exchanges = Exchanges(program.target)
        self.regions = Regions(program)

    def lines(self) -> Iterator[str]:
        p = self.program
        sizes = f"{len(p.buffers)} buffers, {len(p.steps)} steps, {p.code_bytes} bytes of code"
        yield f"program for {p.target.name}: {sizes}"
        for kind, ports in (("input", p.inputs), ("output", p.outputs)):
            for name, dtype, shape in ports:
                cuts = p.extents.get(name, ()) if kind == "output" else ()
                yield f"{kind} {name}: {dtype}{_shape(shape)}" + "".join(f", d{d} up to {c}" for d, c in cuts)
        yield "buffers"
        for i, b in enumerate(p.buffers):
            yield f"  %{i} {b.name}: {b.dtype} {layout_text(b.layout)} {_place(b)}"
        yield "steps"
        yield from self._steps(p.steps, 1)
        for name, body in p.functions.items():
            yield f"function {name}"
            yield from self._steps(body, 1)

    def _steps(self, steps: Sequence[Step], depth: int) -> Iterator[str]:
        pad = "  " * depth
        for step in steps:
            first, *rest = self._step(step)
            yield pad + first
            yield from (f"{pad}  {line}" for line in rest)
            if isinstance(step, Repeat | While):
                yield from self._steps(step.body, depth + 1)
            elif isinstance(step, If):
                yield from self._steps(step.then, depth + 1)
                if step.otherwise:
                    yield f"{pad}else"
                    yield from self._steps(step.otherwise, depth + 1)

    def _step(self, step: Step) -> list[str]:
        if isinstance(step, HostWrite):
            return [f"host write %{step.buffer} = {step.tensor}{_view(step.view)}: {self._host(step)}"]
        if isinstance(step, HostRead):
            return [f"host read {step.tensor} = %{step.buffer}{_view(step.view)}: {self._host(step)}"]
        if isinstance(step, Exchange):
            return self._exchange(step)
        if isinstance(step, Compute):
            return self._compute(step)
        if isinstance(step, Repeat):
            return [f"repeat {step.count} times{_strides(step.strides)}"]
        if isinstance(step, While):
            most = f", {step.bound} times at most" if step.bound is not None else ""
            return [f"while %{step.condition} {step.name}{most}{_strides(step.strides)}: {self._test()}"]
        if isinstance(step, If):
            return [f"if %{step.condition} {step.name}: {self._test()}"]
        assert isinstance(step, Call)
        copies = [f"%{b} = %{a}" for a, b in step.inputs], [f"%{b} = %{a}" for a, b in step.outputs]
        return [f"call {step.function}", *(", ".join(c) for c in copies if c)]

    def _test(self) -> str:
        return f"{self.program.target.launch_cycles} cycles a test"

    def _host(self, step: HostWrite | HostRead) -> str:
        return f"{step_time(step, self.program).host} host cycles"

    def _exchange(self, step: Exchange) -> list[str]:
        t = self.exchanges.time(step, self.program.buffers)
        head = (
            f"exchange {step.name}: {t.sent_bytes} bytes sent, {t.received_bytes} received, {t.fragments} fragments, "
            f"{t.exchange} cycles (bound {t.bound_cycles}, ports {t.port_cycles}), copies {t.copy} cycles, {step.order}"
        )
        lines = [head]
        lines += [f"%{f.buffer} = fill {f.value!r}" for f in step.fills]
        for m in step.moves:
            sizes = " x ".join(str(int(track.count.sum())) for track in m.tracks) or "nothing"
            into = f"part of %{m.dst}" if m.keeps else f"%{m.dst}"
            lines.append(f"{into} = %{m.src}{_view(m.view)}: {sizes} runs {_hash(m.tracks)}")
        return lines

    def _compute(self, step: Compute) -> list[str]:
        cycles = step_time(step, self.program, self.exchanges, self.regions).compute
        sizes = " ".join(f"{axis}<={int(n.max(initial=0))}" for axis, n in step.cells.n.items())
        head = f"compute {step.name}: {step.tiles.size} vertices on {tile_ranges(step.tiles)}, {cycles} cycles"
        reads = ", ".join(_binding(b) for b in step.operands)
        writes = ", ".join(_binding(b) for b in step.results)
        lines = [head, f"{writes} = {_codelet(step.codelet)}({reads})", f"cells {sizes or 'of one element'}"]
        for part in step.beside:
            first, *rest = self._compute(part)
            lines += [f"beside {first.removeprefix('compute ')}", *rest]
        return lines


def _place(b: Buffer) -> str:
    place = "without an address" if b.offset < 0 else f"at {b.offset}"
    return f"{place}, {b.nbytes} bytes" + (f", alias of %{b.alias}" if b.alias >= 0 else "")


def _binding(b: Binding) -> str:
    return f"%{b.buffer}" + (f" or {b.fill!r}" if b.fill else "")


def _strides(strides: Mapping[int, int]) -> str:
    text = " ".join(f"%{b}{s:+}" for b, s in sorted(strides.items()))
    return f", per iteration {text}" if text else ""


def _shape(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _codelet(codelet: Codelet) -> str:
    """Name and parameters; long ones are cut and get a hash."""
    params = {k: v for k, v in codelet.to_json().items() if k != "name"}
    texts = []
    for key, value in params.items():
        text = value if isinstance(value, str) else repr(value).replace(" ", "")
        if len(text) > _LONGEST:
            text = f"{text[:_LONGEST]}..#{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        texts.append(f"{key}={text}")
    return f"{codelet.name}{{{' '.join(texts)}}}"


def _view(view: View) -> str:
    """What a view does, as far as it can be said shortly; nothing for the identity."""
    if view.is_identity:
        return ""
    order = [d for g in view.groups for d in g.src]
    kind = "reshaped"
    if not all(g.is_identity and g.size == prod(view.src[d] for d in g.src) for g in view.groups):
        digest = hashlib.sha256(b"".join(g.index.astype(np.int64).tobytes() for g in view.groups)).hexdigest()
        kind = f"gathered #{digest[:6]}"
    elif order != sorted(order) or [d for g in view.groups for d in g.dst] != list(range(len(view.dst))):
        kind = "transposed"
    return f" {kind} {_shape(view.src)} to {_shape(view.dst)}"


def _hash(tracks: Sequence[Track]) -> str:
    digest = hashlib.sha256()
    for t in tracks:
        for f in Track.FIELDS:
            digest.update(getattr(t, f).astype(np.int64).tobytes())
    return f"#{digest.hexdigest()[:6]}"
