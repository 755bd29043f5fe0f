"""The rows of a sweep as a picture."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Final

from ipucc.diagnostics import error
from ipucc.sweep.grid import block_text
from ipucc.sweep.measure import Row

__all__ = ["draw"]

_INCHES: Final = 4.0, 3.0
_PANELS: Final[Sequence[tuple[str, Callable[[Row], float | None]]]] = (
    ("cycles", lambda row: row.cycles),
    ("KiB on the fullest tile", lambda row: None if row.max_tile_bytes is None else row.max_tile_bytes / 1024),
    ("accuracy", lambda row: row.accuracy),
)


def draw(title: str, rows: Sequence[Row]) -> bytes:
    """An SVG: per target cycles, memory and, where it is known, accuracy over density, a line per block, the dense
    model dashed. Equal rows give equal bytes. Raises CompileError IPU0802 without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as failure:
        raise error(
            "IPU0802", "no chart is drawn: matplotlib is not installed", help=["pip install 'ipucc[plots]'"]
        ) from failure
    targets = list(dict.fromkeys(row.target for row in rows))
    panels = [(name, value) for name, value in _PANELS if any(value(row) is not None for row in rows)]
    across = max(1, len(panels))
    # Names of parts of the picture are made of this word instead of chance; text stays text.
    with rc_context({"svg.hashsalt": "ipucc", "svg.fonttype": "none"}):
        figure = Figure((_INCHES[0] * across, _INCHES[1] * len(targets)), layout="constrained")
        figure.suptitle(title)
        places = figure.subplots(len(targets), across, squeeze=False)
        for across_target, target in zip(places, targets, strict=True):
            of_target = [row for row in rows if row.target == target]
            blocks = list(dict.fromkeys(row.block for row in of_target if row.block is not None))
            for axes, (name, value) in zip(across_target, panels, strict=False):
                for block in blocks:
                    points = sorted(
                        (row.density, y)
                        for row in of_target
                        if row.block == block and row.density is not None and (y := value(row)) is not None
                    )
                    label = f"block {block_text(block)}"
                    axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=label)
                for row in of_target:
                    if row.block is None and (y := value(row)) is not None:
                        axes.axhline(y, color="black", linestyle="--", linewidth=1, label="dense")
                axes.set(xlabel="density", ylabel=name, title=target, xscale="log", ylim=(0, None))
                ticks = sorted({row.density for row in of_target if row.density is not None})
                axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.set_xticks([], minor=True)
                axes.legend(fontsize="small")
        stream = BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
