"""Whether any choice of plans fits, with a proof, and what to say where none does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ipucc.diagnostics import CompileError, error
from ipucc.dtypes import itemsize
from ipucc.passes.plan.numbers import Choice, Numbers
from ipucc.passes.plan.problem import Problem, Row

__all__ = ["Lean", "enough", "least_bytes", "not_found", "require_room", "too_large"]

_LIMIT = 1.0
"""Deterministic time of the search for the leanest choice."""

More = Callable[[], Problem]
"""Makes the problem again with as many plans per op as the largest effort keeps."""


@dataclass(frozen=True, eq=False)
class Lean:
    """The choice whose fullest step is least full: bytes that no choice goes below, and the choice that was found."""

    bound: int
    choice: Choice


def least_bytes(problem: Problem) -> int:
    """Bytes that every choice needs on the fullest tile: of each step the sum of what its tensors take at least."""
    return int(Numbers.of(problem).extremes()[0].max(initial=0))


def require_room(problem: Problem, cap: int, more: More | None) -> None:
    """Raises IPU0402 where it is certain that no choice needs `cap` bytes or less; edges may be missing yet."""
    if least_bytes(problem) > cap:
        raise too_large(problem, cap, more)


def lean_choice(problem: Problem) -> Lean:
    """The leanest choice; its bound is exact unless the search for it ran out of time."""
    numbers = Numbers.of(problem)
    from ipucc.passes.plan.cpsat import leanest  # ortools: imported only where it runs

    found = leanest(numbers, _LIMIT)
    if found.choice is not None:
        return Lean(found.bound, found.choice)
    sums = [r + h + t for r, h, t in zip(numbers.resident, numbers.result, numbers.temp, strict=True)]
    return Lean(found.bound, np.asarray([int(s.argmin()) for s in sums], np.int64))


def too_large(problem: Problem, cap: int, more: More | None) -> CompileError:
    """IPU0402: the fullest step of the leanest choice, its tensors and bytes, and what every option would free there.

    To be used where a proof exists that no choice keeps to `cap` bytes.
    """
    lean = lean_choice(problem)
    needed = max(lean.bound, cap + 1)
    return _explained(problem, cap, lean, needed, "IPU0402", "at least ", more)


def not_found(problem: Problem, cap: int) -> CompileError:
    """IPU0405, for a search that ended without a choice and without a proof that there is none."""
    lean = lean_choice(problem)
    return _explained(problem, cap, lean, problem.evaluate(lean.choice.tolist()).peak_bytes, "IPU0405", "", None)


def _explained(
    problem: Problem, cap: int, lean: Lean, needed: int, id: str, least: str, more: More | None
) -> CompileError:
    graph, choice = problem.graph, lean.choice.tolist()
    score = problem.evaluate(choice)
    op = graph.ops[score.peak_op]
    row = next((r for r in problem.rows if r.op == score.peak_op), problem.rows[0])
    chosen = [c[p] for c, p in zip(problem.candidates, choice, strict=True)]
    first = {v: problem.variable.index(v) for v in range(len(chosen))}

    def name(v: int) -> str:
        others = problem.weight[v] - 1
        return graph.ops[first[v]].name + (f" and {others} like it" if others else "")

    weights = sorted(((problem.weight[v] * c.resident, name(v)) for v, c in enumerate(chosen) if c.resident),
                     key=lambda x: (-x[0], x[1]))  # fmt: skip
    live = sorted(((n * chosen[v].result, graph.ops[first[v]].name) for v, n in row.live),
                  key=lambda x: (-x[0], x[1]))  # fmt: skip
    temp = chosen[row.variable].temp
    resident = problem.resident(choice)
    notes = [
        f"at the leanest choice of plans, {score.peak_bytes:,} B: weights and inputs {resident:,} B, results alive "
        f"{sum(s for s, _ in live):,} B, temporaries of {op.name} {temp:,} B"
    ]
    if weights:
        notes.append("largest weights and inputs: those of " + ", ".join(f"{n} {s:,} B" for s, n in weights[:4]))
    if live:
        notes.append("largest results alive: " + ", ".join(f"{n} {s:,} B" for s, n in live[:4]))
    message = f"step {score.peak_op} needs {least}{needed:,} bytes of a tile, which has {cap:,} for data"
    if id == "IPU0405":
        message = f"no placement within {cap:,} bytes of a tile was found; the leanest that is known takes {needed:,}"
    return error(
        id,
        message,
        node=op.origin[0] if op.origin else op.name,
        op=op.kind,
        notes=notes,
        help=_helps(problem, row, choice, needed - cap, cap, more),
        data={"tile": 0, "step": score.peak_op, "needed": needed, "limit": cap, "proof": id == "IPU0402"},
    )


def _helps(problem: Problem, row: Row, choice: Sequence[int], over: int, cap: int, more: More | None) -> list[str]:
    """What each option frees in the fullest step, from the bytes of the leanest choice."""
    graph = problem.graph
    wide, sparse, batch = 0, 0, 0
    for v, p in enumerate(choice):
        c, op = problem.candidates[v][p], graph.ops[problem.variable.index(v)]
        held = problem.weight[v] * c.resident
        hosted = [graph.tensors[o.sources[0].tensor] for o in op.operands]
        sizes = {t.index: prod(t.shape) * itemsize(t.dtype) for t in hosted if t.kind != "result"}
        linear = [t.index for t in hosted if t.kind == "weight" and len(t.shape) == 2]
        halved = [t.index for t in hosted if t.kind != "result" and t.dtype == "float32"]
        everything = max(1, sum(sizes.values()))
        wide += held * sum(sizes[i] for i in halved) // (2 * everything)
        if op.macs and op.sparse_macs is None:
            sparse += 3 * held * sum(sizes[i] for i in linear) // (4 * everything)
        alive = dict(row.live).get(v, 0) * c.result + (c.temp if v == row.variable else 0)
        wide += alive // 2 if op.result.dtype == "float32" else 0
        batch += alive
    helps = []
    if wide:
        helps.append(f"--precision fp16 frees about {wide:,} B of this step ({enough(wide, over)})")
    if sparse:
        helps.append(f"--block 16 --density 0.25 frees about {sparse:,} B of weights ({enough(sparse, over)})")
    if batch:
        helps.append(
            f"half the batch or sequence (--input-shape, --dim) frees up to {batch // 2:,} B of results and "
            f"temporaries ({enough(batch // 2, over)})"
        )
    if more is not None:
        least = least_bytes(more())
        left = "which may fit" if least <= cap else f"{least - cap:,} B too many"
        helps.append(f"--effort max keeps leaner plans: they need at least {least:,} B, {left}")
    helps.append("a target with more memory per tile, or more tiles (--target)")
    return helps


def enough(freed: int, over: int) -> str:
    """Whether so many bytes that an option frees are enough where `over` are missing, in words."""
    return f"{over:,} B are missing" if freed < over else f"enough for the {over:,} B that are missing"
