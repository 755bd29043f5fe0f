"""The text of `--explain`: the plans of an op that were considered, and why one of them was taken."""

from typing import TYPE_CHECKING

from ipucc.cli.output import pairs, table

if TYPE_CHECKING:
    from ipucc.passes.plan.explain import Considered, Explanation

__all__ = ["explanation_text"]


def explanation_text(found: "Explanation") -> str:
    """One explanation as it is printed."""
    tight = found.tightest
    live = ", ".join(f"{name} {size:,}" for name, size in tight.largest)
    rows = [
        ("nodes", ", ".join(found.nodes)),
        ("considered", f"{found.combinations:,} combinations priced, {len(found.candidates):,} plans kept"),
        ("chosen", found.candidates[0].plan),
        ("tightest", f"step {tight.step}: {tight.bytes:,} of {found.cap:,} bytes: resident {tight.resident_bytes:,}, "
                     f"live {tight.live_bytes:,}{f' ({live})' if live else ''}, "
                     f"temporary {tight.temporary_bytes:,}"),
    ]  # fmt: skip
    if found.alike > 1:
        rows.insert(1, ("alike", f"{found.alike:,} equal ops share the plan; cycles are those of all of them"))
    near = [(n.role, n.name, n.plan, f"{n.cycles:,}") for n in found.neighbours]
    parts = [pairs(f"{found.op} ({found.kind})", rows)]
    if near:
        parts.append(table("neighbours", ("", "op", "plan", "cycles"), near))
    heads = ("plan", "cycles", "own", "edges", "difference", "resident", "result", "temporary", "why")
    parts.append(table("plans", heads, [_row(c) for c in found.candidates]))
    return "\n\n".join(parts)


def _row(c: "Considered") -> tuple[str, ...]:
    why = f"{c.reason}; {c.eliminated}" if c.eliminated else c.reason
    if c.verdict == "excluded":
        return c.plan, "", f"{c.cycles:,}", "", "", *_bytes(c), why
    difference = f"{c.difference:+,}" if c.difference else "0"
    return c.plan, f"{c.total:,}", f"{c.cycles:,}", f"{sum(c.edges):,}", difference, *_bytes(c), why


def _bytes(c: "Considered") -> tuple[str, str, str]:
    return f"{c.resident_bytes:,}", f"{c.result_bytes:,}", f"{c.temporary_bytes:,}"
