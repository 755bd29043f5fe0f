"""Simulated over measured, one panel per family."""

from collections.abc import Sequence
from pathlib import Path

import click

from validation.rows import Result

__all__ = ["draw"]


def draw(results: Sequence[Result], path: Path) -> None:
    """Writes a picture in the format of the path's suffix. Needs matplotlib."""
    try:
        import matplotlib
    except ImportError as failure:
        raise click.ClickException("plots need matplotlib: pip install matplotlib") from failure
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    families = sorted({r.family for r in results})
    wide = 4
    high = -(-len(families) // wide)
    figure, axes = pyplot.subplots(high, wide, figsize=(3 * wide, 2.6 * high), squeeze=False)
    for axis in axes.flat[len(families) :]:
        axis.set_visible(False)
    for axis, family in zip(axes.flat, families, strict=False):
        of = [r for r in results if r.family == family]
        for half, marker in (("fitted", "x"), ("held", "o")):
            some = [r for r in of if r.half == half]
            axis.scatter(
                [r.measured for r in some], [r.simulated / r.measured for r in some], s=10, marker=marker, label=half
            )
        axis.axhline(1.0, color="black", linewidth=0.6)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        # Small errors are to look small.
        ratios = [r.simulated / r.measured for r in of]
        axis.set_ylim(min(0.88, *ratios) - 0.02, max(1.12, *ratios) + 0.02)
        axis.set_title(family, fontsize=8)
        axis.tick_params(labelsize=6)
    axes.flat[0].set_ylabel("simulated / measured", fontsize=7)
    axes.flat[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
