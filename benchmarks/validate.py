"""The cycle model against published measurements of real IPUs: every experiment that can be rebuilt, run for timing.

    python benchmarks/validate.py                              all rows of benchmarks/data/measurements.csv
    python benchmarks/validate.py --family amp --family dense  some families, by name or first word
    python benchmarks/validate.py --measurements mine.csv --json out.json
    python benchmarks/validate.py --rows --family kernel       every row
    python benchmarks/validate.py --claims quick               what the sources claim in words, and the sense of curves
                                                               where nobody measured; `all` has S1 to S7 (spmm.py) too
    python benchmarks/validate.py --plot docs/validation.png   simulated over measured, by family (matplotlib)

An experiment is known by its columns (workload, op, sizes, types), whatever its id. Errors are relative to the measured
value, in its unit; per family their median, 90th percentile and worst, of all rows and of those `held` apart from
fitting. Rows that are not rebuilt are listed with the reason. No measured value stands anywhere but in the table.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click
from validation.claims import Claim, quick_claims, sparse_claims
from validation.curves import curves
from validation.fit import fitted_families
from validation.rows import Measurement, Result, figures, read_measurements
from validation.run import MODULES, OWN, run_rows

from ipucc.cli.output import table

SCHEMA = "ipucc.validate/1"


def summary(results: list[Result]) -> dict[str, dict[str, object]]:
    """Per family the figures of all its rows, and of those held apart where constants were fitted."""
    made: dict[str, dict[str, object]] = {}
    for family in sorted({r.family for r in results}):
        of = [r for r in results if r.family == family]
        made[family] = asdict(figures([r.error for r in of]))
        held = [r.error for r in of if r.half == "held"]
        made[family]["fitted"] = family in fitted_families()
        made[family]["held"] = asdict(figures(held)) if held else None
    return made


def shown(families: dict[str, dict[str, object]]) -> str:
    """The summary as a table."""

    def cells(found: object) -> tuple[str, ...]:
        if not isinstance(found, dict):
            return "", "", ""
        return tuple(f"{found[name]:.1%}" for name in ("median", "p90", "worst"))

    rows = [
        (name, str(found["rows"]), *cells(found), *cells(found["held"]), "yes" if found["fitted"] else "")
        for name, found in families.items()
    ]
    return table(
        "", ("family", "rows", "median", "90 %", "worst", "held: median", "90 %", "worst", "fitted"), rows
    )  # fmt: skip


def document(results: list[Result], skipped: list[tuple[str, str]]) -> dict[str, object]:
    """What --json writes."""
    return {
        "schema": SCHEMA, "rows": [asdict(r) for r in results], "families": summary(results),
        "skipped": [{"id": id, "reason": reason} for id, reason in skipped],
    }  # fmt: skip


def claims_shown(made: list[Claim]) -> str:
    """Claims as a table."""
    state = {True: "holds", False: "does not hold", None: "not modelled"}
    return table("", ("", "claim", "found", ""), [(c.name, c.claim, c.found, state[c.holds]) for c in made])


def outcomes(
    rows: list[Measurement], families: tuple[str, ...], own: bool
) -> tuple[list[Result], list[tuple[str, str]]]:
    """Simulated rows and others, in the order of the table."""
    order = {row.id: i for i, row in enumerate(rows)}
    results: list[Result] = []
    skipped: list[tuple[str, str]] = []
    for found in run_rows(rows, families, own):
        if isinstance(found, Result):
            results.append(found)
        else:
            skipped.append(found)
    return sorted(results, key=lambda r: order[r.id]), sorted(skipped, key=lambda s: order[s[0]])


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--measurements", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=OWN,
              help="A table like the project's own.")  # fmt: skip
@click.option("--family", "families", multiple=True, help="Rows of this family only; may be repeated.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write all rows to this file.")
@click.option("--own", is_flag=True, help="ipucc's own plans beside the vendor's, where there are any.")
@click.option("--rows", "listed", is_flag=True, help="Show every row.")
@click.option("--claims", type=click.Choice(["quick", "all"]), help="Check claims and curves instead of rows.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw simulated over measured into this file.")
@click.option("--fit", "refit", is_flag=True, help="Fit the constants again and write data/fitted.toml.")
def main(
    measurements: Path, families: tuple[str, ...], out: Path | None, own: bool, listed: bool, claims: str | None,
    plot: Path | None, refit: bool,
) -> None:  # fmt: skip
    if refit:
        from validation.refit import fit_all

        fit_all()
    try:
        rows = read_measurements(measurements)
    except (ValueError, OSError) as failure:
        raise click.ClickException(str(failure)) from failure
    if claims:
        sparse = sparse_claims() if claims == "all" else []
        click.echo(claims_shown([*quick_claims(rows), *sparse, *curves()]))
        return
    results, skipped = outcomes(rows, families, own)
    if listed:
        click.echo(table("", ("id", "family", "", "measured", "simulated", "unit", "error", "half", "ours"), [
            (r.id, r.family, r.at, f"{r.measured:.5g}", f"{r.simulated:.5g}", r.unit, f"{r.error:+.1%}", r.half,
             "" if r.ours is None else f"{r.ours:.5g}")
            for r in results
        ]))  # fmt: skip
    if results:
        click.echo(shown(summary(results)))
    if skipped:
        reasons = Counter(reason for _, reason in skipped)
        click.echo(table("", ("rows not rebuilt", ""), [(str(n), text) for text, n in reasons.most_common()]))
    click.echo(f"{len(results)} rows rebuilt, {len(skipped)} not")
    if out is not None:
        out.write_text(json.dumps(document(results, skipped), indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from validation.plot import draw

        draw(results, plot)
    if families and not results and not skipped:
        click.echo(f"no row of {', '.join(families)}; modules: {', '.join(MODULES)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
