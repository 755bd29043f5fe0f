"""The rows of a sweep as a picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from ipucc.diagnostics import error
from ipucc.sweep.grid import block_text
from ipucc.sweep.measure import Row

__all__ = ["Panel", "curves_of", "draw", "draw_panels"]

_INCHES: Final = 3.8, 2.9
_FIGURES: Final[Sequence[tuple[str, Callable[[Row], float | None]]]] = (
    ("cycles", lambda row: row.cycles),
    ("KiB on the fullest tile", lambda row: None if row.max_tile_bytes is None else row.max_tile_bytes / 1024),
    ("accuracy", lambda row: row.accuracy),
)


@dataclass(frozen=True)
class Panel:
    """Curves over density by name, points in the order of densities, and a level that they are held against."""

    title: str
    axis: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    level: float | None


def draw(title: str, rows: Sequence[Row]) -> bytes:
    """An SVG: per target cycles, memory and, where it is known, accuracy over density, a curve per block, the dense
    model dashed. Raises CompileError IPU0802 without matplotlib."""
    figures = [(name, value) for name, value in _FIGURES if any(value(row) is not None for row in rows)]
    panels = []
    for target in dict.fromkeys(row.target for row in rows):
        of_target = [row for row in rows if row.target == target]
        dense = next((row for row in of_target if row.block is None), None)
        for name, value in figures:
            level = None if dense is None else value(dense)
            panels.append(Panel(target, name, curves_of(of_target, value), level))
    return draw_panels(title, panels, max(1, len(figures)))


def curves_of(rows: Sequence[Row], value: Callable[[Row], float | None]) -> dict[str, list[tuple[float, float]]]:
    """A figure of sparse points by block, in the order of densities; points without the figure are left out."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.block is not None and row.density is not None:
            points = found.setdefault(f"block {block_text(row.block)}", [])
            if (y := value(row)) is not None:
                points.append((row.density, y))
    return {name: sorted(points) for name, points in found.items()}


def draw_panels(title: str, panels: Sequence[Panel], across: int) -> bytes:
    """An SVG of panels, so many in a row. Equal panels give equal bytes. Raises CompileError IPU0802 without
    matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as failure:
        raise error(
            "IPU0802", "no chart is drawn: matplotlib is not installed", help=["pip install 'ipucc[plots]'"]
        ) from failure
    down = -(-len(panels) // across)
    # Names of parts of the picture are made of this word instead of chance; text stays text.
    with rc_context({"svg.hashsalt": "ipucc", "svg.fonttype": "none"}):
        figure = Figure((_INCHES[0] * across, _INCHES[1] * max(1, down)), layout="constrained")
        figure.suptitle(title)
        places = figure.subplots(max(1, down), across, squeeze=False).flatten()
        for axes, panel in zip(places, panels, strict=False):
            for name, points in panel.curves.items():
                axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=name)
            if panel.level is not None:
                axes.axhline(panel.level, color="black", linestyle="--", linewidth=1, label="dense")
            axes.set(title=panel.title, xlabel="density", xscale="log", ylabel=panel.axis, ylim=(0, None))
            ticks = sorted({x for points in panel.curves.values() for x, _ in points})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.legend(fontsize="small")
        for axes in places[len(panels) :]:
            axes.set_visible(False)
        stream = BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
