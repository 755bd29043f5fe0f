"""A 3 x 3 Gaussian blur of an image of four channels, over and over: halos with their corners, then a stencil.

    python samples/machine/blur.py
    python samples/machine/blur.py --target gc2x2 --min-rows 24 --min-columns 64

The image is cut as in github.com/thorbenlouw/lbm-graphcore: among chips by the side that divides more evenly, among
tiles in blocks of at least so many rows and columns, as square as can be, among workers in strips of rows or columns.
Its codelet is compiled C++; what that takes for a pixel is fitted on published times of a GC2.
"""

import argparse
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, sqrt
from typing import ClassVar

import numpy as np

from ipucc.api import Executable
from ipucc.builder import Builder, Codelet, grid, register
from ipucc.target import Target, load_target

_ROWS, _COLUMNS = 102, 117
"""Issues of a worker for a pixel, where workers have strips of rows, and of columns: those are gathered first."""


@register
@dataclass(frozen=True)
class Blur(Codelet):
    """Weights 4, 2, 1 over 16, fp32; a tile's block with halos of one pixel, its halos undefined in the result."""

    pixel_rows: int = _ROWS
    pixel_columns: int = _COLUMNS

    name: ClassVar[str] = "sample.blur"
    code_bytes: ClassVar[int] = 2048

    def cycles(self, n, target):
        """Pixels of the busiest worker, in strips of the side that divides more evenly; a call and its edges 400."""
        rows, columns, w = n["d0"], n["d1"], target.workers
        by_rows = (rows % w) * columns <= (columns % w) * rows
        pixels = np.where(by_rows, -(-rows // w) * columns, -(-columns // w) * rows)
        each = np.where(by_rows, self.pixel_rows, self.pixel_columns)
        return target.launch_cycles + w * (400 + pixels * each)

    def compute(self, operands, cells):
        (x,) = operands
        rows = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
        out = np.zeros_like(x)
        out[:, 1:-1, 1:-1] = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / np.float32(16)
        return [out]


def even(size: int, parts: int) -> list[int]:
    """Edges of parts that differ by one at most, the larger ones first."""
    sizes = [size // parts + (i < size % parts) for i in range(parts)]
    return [0, *np.cumsum(sizes).tolist()]


@dataclass(frozen=True)
class Partition:
    """How an image is cut: among chips by its rows or its columns, the part of a chip in blocks down and across."""

    by_rows: bool
    down: int
    across: int


def partition(target: Target, rows: int, columns: int, min_rows: int = 6, min_columns: int = 6) -> Partition:
    """The source's rule, for blocks of at least so many rows and columns."""
    chips, tiles = target.ipus, target.tiles_per_ipu
    by_rows = (rows % chips) * columns < (columns % chips) * rows
    rows, columns = (-(-rows // chips), columns) if by_rows else (rows, -(-columns // chips))
    aspect = max(min_columns, columns) / max(min_rows, rows)
    across = min(tiles, columns // min_columns, ceil(sqrt(tiles * aspect)))
    return Partition(by_rows, min(tiles, rows // min_rows, tiles // across), across)


def blur(target: str | Target, rows: int, columns: int, times: int, cut: Partition | None = None,
         codelet: Blur | None = None) -> Executable:  # fmt: skip
    """The program: `times` times two steps over an image of that size, zeros around it."""
    b = Builder(target)
    chips, per = b.target.ipus, b.target.tiles_per_ipu
    cut = cut or partition(b.target, rows, columns)
    outer = even(rows, chips if cut.by_rows else 1), even(columns, 1 if cut.by_rows else chips)
    edges = [
        [0, *(a + e for a, z in pairwise(cells) for e in even(z - a, parts)[1:])]
        for cells, parts in zip(outer, (cut.down, cut.across), strict=True)
    ]
    one = np.arange(cut.down * cut.across).reshape(cut.down, cut.across)
    tiles = np.concatenate([one + c * per for c in range(chips)], axis=0 if cut.by_rows else 1)
    layout = grid(*edges, tiles=tiles[:, :, None], halo=(1, 1, 0))
    x, y = (b.variable(name, "float32", (rows, columns, 4), layout) for name in "xy")
    kernel = codelet or Blur()
    b.write(x)
    with b.repeat(times):
        for src, dst in ((x, y), (y, x)):
            b.halo_exchange(src, corners=True)
            b.compute("blur", kernel, [src], [dst], fills=[0.0])
    b.read(x)
    return b.compile(name="gaussian blur")


def reference(x: np.ndarray, times: int) -> np.ndarray:
    """The same by numpy."""
    for _ in range(2 * times):
        (out,) = Blur().compute([np.pad(x, ((1, 1), (1, 1), (0, 0)))[None]], None)
        x = out[0, 1:-1, 1:-1]
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="gc2")
    parser.add_argument("--rows", type=int, default=1122)
    parser.add_argument("--columns", type=int, default=2200)
    parser.add_argument("--min-rows", type=int, default=6)
    parser.add_argument("--min-columns", type=int, default=6)
    options = parser.parse_args()
    machine = load_target(options.target)

    small = replace(machine, tiles=24 * machine.ipus)
    image = np.random.default_rng(0).random((45, 70, 4), np.float32)
    got = blur(small, 45, 70, 2).run({"x": image}).outputs["x"]
    assert np.allclose(got, reference(image, 2), rtol=1e-5, atol=1e-6)

    size = options.rows, options.columns
    exe = blur(machine, *size, 1, partition(machine, *size, options.min_rows, options.min_columns))
    c, steps = exe.cycles, 2
    seconds = machine.cycles_to_seconds(c.total) / steps
    rate = 2 * 16 * options.rows * options.columns / seconds
    print(f"numbers as numpy's on {small.tiles} tiles")
    print(f"{options.columns} x {options.rows} pixels on {machine.name}: {c.total // steps:,} cycles a step, "
          f"{c.exchange // steps:,} of exchange, {c.sync // steps:,} of sync")  # fmt: skip
    print(f"  {1e6 * seconds:.1f} microseconds a step, {rate / 1e9:.0f} GB/s of pixels read and written once")


if __name__ == "__main__":
    main()
