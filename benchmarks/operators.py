"""docs/operators.md: what becomes of every op of ONNX, by the outcomes of its own tests.

    python benchmarks/conformance.py --json OUTCOMES.json
    python benchmarks/operators.py OUTCOMES.json

`make conformance` writes the page after a whole run.
"""

import inspect
import json
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import conformance
import numpy as np
import onnx
from conformance import Case, Outcome, as_array

from ipucc.codelets.base import Codelet
from ipucc.compiler import CompileOptions
from ipucc.diagnostics import CompileError
from ipucc.frontend.sizing import sizing_inputs
from ipucc.ops.spec import TileOp
from ipucc.ops.support import supported_ops
from ipucc.optimise import lower_ops, optimise_model
from ipucc.target import load_target

PAGE: Final = Path(__file__).parent.parent / "docs" / "operators.md"
LOOKED_AT: Final = 3
"""Passing cases of an op whose tile ops are looked at."""
KINDS: Final = ("parallel", "reduce", "row")
HEAD: Final = """\
# Operators

What becomes of every op of ONNX: made by `make conformance`, which compiles the cases of onnx's own backend tests for
simulated tiles and runs them. `ipucc validate MODEL` answers for a whole model, with every node that is not taken.

- *how*: `runs`: it has a lowering of its own; `in others`: the import writes it in other ops; `while compiling`: its
  results are constants of the program; `refused`: no case passes.
- *passes*: of how many cases (those of its written-out forms among them).
- *types*: element types of what the passing cases read and write; inputs that are bound while compiling do not count.
- *cuts*: axes along which its tile ops may be cut over tiles: `parallel` ones freely, `reduce` ones with partials,
  `row` ones with statistics ([ops.md](ops.md#an-op-is-an-iteration-space)); `view`: nothing moves by itself.
- *codelets*: what computes it; the source of each one's cycles is [below](#sources-of-cycles).
- *refused*: why the other cases are, with the number of them.
"""


@dataclass(frozen=True)
class Row:
    """One op."""

    op: str
    how: str
    passed: int
    cases: int
    types: tuple[str, ...]
    cuts: tuple[str, ...]
    codelets: tuple[str, ...]
    reasons: tuple[tuple[str, int], ...]

    def text(self) -> str:
        """The row of the table."""
        why = "; ".join(f"{reason} ({count})" for reason, count in self.reasons)
        cells = [f"`{self.op}`", self.how, f"{self.passed} of {self.cases}", " ".join(self.types),
                 ", ".join(self.cuts), " ".join(f"`{c}`" for c in self.codelets), why]  # fmt: skip
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def tile_ops(case: Case) -> tuple[Sequence[TileOp], bool]:
    """The tile ops of a case, and whether any of them reads an input."""
    inputs = dict(zip((v.name for v in case.model.graph.input), map(as_array, case.data[0][0]), strict=False))
    sizing = sizing_inputs(case.model.graph)
    bind = {name: array for name, array in inputs.items() if name in sizing and np.ndim(array) < 2}
    options = CompileOptions(bind=bind)
    graph = lower_ops(optimise_model(case.model, options).model, load_target(options.target), options)
    read = {s.tensor for op in graph.ops for operand in op.operands for s in operand.sources}
    return graph.ops, any(graph.tensors[t].kind == "input" for t in read)


def element_types(case: Case) -> set[str]:
    """Types of what a case reads and writes."""
    sizing = sizing_inputs(case.model.graph)
    ports = [v for v in (*case.model.graph.input, *case.model.graph.output) if v.name not in sizing]
    codes = {v.type.tensor_type.elem_type for v in ports} - {0}
    return {onnx.TensorProto.DataType.Name(code).lower() for code in codes}


def row(op: str, outcomes: Sequence[Outcome], lowered: set[str], used: dict[str, type[Codelet]]) -> Row:
    """What the outcomes of an op's cases say; codelets go to `used`, too."""
    passing = [o for o in outcomes if o.status in ("pass", "rounding")]
    plain = [o for o in passing if "expanded" not in o.name]
    types: set[str] = set()
    found: list[TileOp] = []
    computed = False
    for o in plain:
        types |= element_types(conformance.load(o.kind, o.name))
    for o in plain[:: -(-len(plain) // LOOKED_AT)] if plain else []:
        try:
            some, reads = tile_ops(conformance.load(o.kind, o.name))
        except CompileError:  # a case with inputs of open shape
            continue
        found += some
        computed |= reads
    codelets = {type(c).name: type(c) for f in found for x in f.all_forms
                for c in (x.codelet, x.partial, x.combine) if c is not None}  # fmt: skip
    used |= codelets
    kinds = {axis.kind for f in found for axis in f.axes if axis.size > 1}
    how = "runs" if op in lowered else "in others" if computed or not found else "while compiling"
    reasons = Counter(_shortened(o.reason) for o in outcomes if o not in passing)
    return Row(
        op, how if passing else "refused", len(passing), len(outcomes), tuple(sorted(types)),
        tuple(k for k in KINDS if k in kinds) or (("view",) if plain and op in lowered else ()),
        tuple(sorted(codelets)), tuple(reasons.most_common(2)),
    )  # fmt: skip


def _shortened(reason: str) -> str:
    """A reason without names and numbers of one case."""
    text = re.sub(r'"[^"]*"', "it", " ".join(reason.split()))
    return text if len(text) <= 110 else text[:107] + "..."


def page(outcomes: Sequence[Outcome]) -> str:
    """The text of the page."""
    networks = [o for o in outcomes if o.kind == "real"]
    outcomes = [o for o in outcomes if o.kind != "real"]
    by_op: Mapping[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_op[outcome.op].append(outcome)
    lowered = {op for domain, op in supported_ops() if not domain}
    newest = {s.name: s for s in onnx.defs.get_all_schemas() if not s.domain}
    used: dict[str, type[Codelet]] = {}
    rows = [row(op, by_op[op], lowered, used) for op in sorted(by_op)]
    without = sorted(name for name, s in newest.items() if name not in by_op and not s.deprecated)
    count = Counter(r.how for r in rows)
    passed = sum(o.status in ("pass", "rounding") for o in outcomes)
    lines = [
        HEAD,
        f"{passed:,} of {len(outcomes):,} cases pass. Of {len(rows)} ops that they are about, {count['runs']} have a "
        f"lowering, {count['in others']} are written\nin others, {count['while compiling']} are computed while "
        f"compiling, {count['refused']} are refused.",
        "",
        "| op | how | passes | types | cuts | codelets | refused |",
        "|---|---|---|---|---|---|---|",
        *(r.text() for r in rows),
    ]
    if without:
        lines += ["", "Without a case of their own: " + ", ".join(
            f"`{op}`" + (" (runs)" if op in lowered else "") for op in without) + "."]  # fmt: skip
    if networks:
        lines += ["", "## Whole networks", "", "Those that come with onnx, on a whole chip; weights are constants.", "",
                  "| network | outcome |", "|---|---|"]  # fmt: skip
        lines += [f"| {o.op} | {o.status}{': ' * bool(o.reason)}{_shortened(o.reason)} |" for o in networks]
    lines += ["", "## Sources of cycles", "", "| codelet | cycles |", "|---|---|"]
    lines += [f"| `{name}` | {_source(used[name])} |" for name in sorted(used)]
    return "\n".join(lines) + "\n"


def _source(codelet: type[Codelet]) -> str:
    """What a codelet says of its cycles."""
    text = inspect.getdoc(codelet.cycles) or ""
    if codelet.cycles.__doc__ == Codelet.cycles.__doc__ or not text:
        text = inspect.getdoc(codelet) or ""
    return " ".join(text.split()).replace("|", "\\|")


def write(outcomes: Sequence[Outcome]) -> None:
    """Write the page."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        PAGE.write_text(page(outcomes))


@click.command()
@click.argument("outcomes", type=click.Path(exists=True, path_type=Path))
def main(outcomes: Path) -> None:
    """Write docs/operators.md from the outcomes that `conformance.py --json` wrote."""
    known: list[dict[str, Any]] = json.loads(outcomes.read_text())
    write([Outcome(**{**o, "bound": tuple(o["bound"])}) for o in known])
    print(f"{PAGE}: {len(known):,} cases")


if __name__ == "__main__":
    main()
