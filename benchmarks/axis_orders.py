"""What it would be worth to offer every plan in all orders of its axes over the tiles.

    python benchmarks/axis_orders.py [--model resnet50]... [--target gc200] [--precision fp16]

The enumeration gives every plan one order. Here every plan comes in up to six orders of the axes that it cuts, and the
joint choice among all of these is put beside the usual one. Cycles are estimates, as the solver minimises them.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, permutations
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import click
from placement import cap_of, made, tile_graph

from ipucc.cli.output import table
from ipucc.compiler import CompileOptions
from ipucc.passes.plan import build_problem as building
from ipucc.passes.plan.effort import BUDGETS
from ipucc.passes.plan.enumerate import Enumerated, enumerate_plans, plans_with_cuts
from ipucc.passes.plan.grid import Plan
from ipucc.passes.plan.numbers import Numbers
from ipucc.passes.plan.search import search
from ipucc.target import load_target

MODELS: Final[dict[str, tuple[str, ...]]] = {
    "bert-base-b1": ("bert-base", "--seq", "128"),
    "bert-base-b16": ("bert-base", "--seq", "128", "--batch", "16"),
    "resnet50": ("resnet50",),
    "mobilenet-v2": ("mobilenet-v2",),
}
_ORDERS: Final = 6


def orders(plan: Plan) -> Iterator[Plan]:
    """The plan, and the same cut in other orders of its axes."""
    cut = tuple(p for p in plan.parts if p[1] > 1)
    whole = tuple(p for p in plan.parts if p[1] == 1)
    yield plan
    for other in islice((o for o in permutations(cut) if o != cut), _ORDERS - 1):
        yield replace(plan, parts=whole + other)


def in_all_orders(made_by: Any) -> Any:
    """An enumeration whose plans come in all orders."""

    def enumerated(*args: Any) -> Enumerated:
        found = made_by(*args)
        return Enumerated([(form, other) for form, plan in found.plans for other in orders(plan)], found.combinations)

    return enumerated


def measure(name: str, path: Path, options: CompileOptions) -> list[str]:
    """The cells of a row: candidates and cycles with one order per plan and with all, and the ratio."""
    target = load_target(options.target)
    graph, cap, budget = tile_graph(path, target, options), cap_of(target), BUDGETS[options.effort]
    cells, cycles = [name], []
    for every in (False, True):
        plans, cuts = enumerate_plans, plans_with_cuts
        if every:
            plans, cuts = in_all_orders(plans), in_all_orders(cuts)
        with patch.object(building, "enumerate_plans", plans), patch.object(building, "plans_with_cuts", cuts):
            numbers = Numbers.of(building.build_problem(graph, target, cap, budget.plans))
        found = search(numbers, cap, budget)
        assert found.cycles is not None
        cycles.append(found.cycles)
        cells += [f"{sum(c.size for c in numbers.cycles):,}", found.status, f"{found.cycles:,}"]
    return [*cells, f"{cycles[0] / cycles[1]:.4f}"]


@click.command(help=__doc__.split("\n")[0])
@click.option("--model", "models", type=click.Choice(list(MODELS)), multiple=True, help="May be repeated.")
@click.option("--target", default="gc200", show_default=True)
@click.option("--precision", type=click.Choice(["model", "fp16"]), default="fp16", show_default=True)
def main(models: Sequence[str], target: str, precision: str) -> None:
    options = CompileOptions(target=target, precision=precision)  # type: ignore[arg-type]
    columns = ("model", "candidates", "status", "one order", "candidates", "status", "all orders", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(n, made(MODELS[n][0], Path(folder), *MODELS[n][1:]), options) for n in models or MODELS]
    click.echo(table("axis orders", columns, rows))


if __name__ == "__main__":
    main()
