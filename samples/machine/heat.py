"""The heat equation on a 2-D or 3-D mesh: halos are exchanged, then every tile applies a 5- or 7-point stencil.

    python samples/machine/heat.py                             an 8000 x 8000 and a 360^3 mesh on one chip
    python samples/machine/heat.py --target gc200x2 --mesh 10000 10000 --mesh 403 403 403

The mesh has a border of zeros. It is cut into one block per tile with the least surface, and blocks among the workers
of a tile, as in github.com/simehaa/IPU (HeatEquation2D, HeatEquation3D). A vertex reads rows with their halos from one
piece of memory, so that every step copies the whole block behind an exchange of its borders. Cycles of the kernel are
those of the loops in that source's compiled codelets, issue by issue.
"""

import argparse
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import ClassVar

import numpy as np

from ipucc.api import Executable
from ipucc.builder import Builder, Codelet, grid, register
from ipucc.target import Target, load_target


@register
@dataclass(frozen=True)
class Heat(Codelet):
    """(1 - 2 d alpha) x + alpha (sum of the 2 d neighbours), fp32, in `dims` = d dimensions; the tile's block is cut
    among workers in `workers` parts per dimension."""

    dims: int
    alpha: float
    workers: tuple[int, ...]

    name: ClassVar[str] = "sample.heat"
    code_bytes: ClassVar[int] = 1024

    def cycles(self, n, target):
        """Rows of the busiest worker x (two points an iteration + what a row takes around that).

        An iteration has 16 issues and one for the branch. Around it a row takes 17 issues for its addresses and 36 for
        its two ends in 2-D (20 if the length is odd, as only one end is left then), 35 and 52 (27) in 3-D; a call 40.
        """
        *outer, last = (n[f"d{d}"] for d in range(self.dims))
        rows = 1
        for size, parts in zip(outer, self.workers, strict=True):
            rows = rows * -(-size // parts)
        addresses, even, odd = (17, 36, 20) if self.dims == 2 else (35, 52, 27)
        row = 17 * (-(-last // 2) - 1) + addresses + np.where(last % 2 == 0, even, odd)
        return target.launch_cycles + target.workers * (40 + rows * row)

    def compute(self, operands, cells):
        (x,) = operands
        core = (slice(None), *(slice(1, -1) for _ in range(self.dims)))
        around = np.zeros_like(x[core])
        for d in range(self.dims):
            for side in (slice(0, -2), slice(2, None)):
                around += x[(*core[: 1 + d], side, *core[2 + d :])]
        return [np.float32(1 - 2 * self.dims * self.alpha) * x[core] + np.float32(self.alpha) * around]


def splits(shape: tuple[int, ...], target: Target) -> tuple[int, ...]:
    """Blocks per dimension, one per tile, that have the least surface; the last dimension is cut among chips first, so
    that the halos between chips lie in it."""
    best, least = (), float("inf")
    tiles = target.tiles_per_ipu
    last = shape[-1] // target.ipus
    divisors = [i for i in range(1, tiles + 1) if tiles % i == 0]
    for head in product(divisors, repeat=len(shape) - 1):
        if tiles % prod(head):
            continue
        parts = (*head, tiles // prod(head))
        block = [n / p for n, p in zip((*shape[:-1], last), parts, strict=True)]
        surface = sum(prod(block) / side for side in block)
        if surface <= least:
            best, least = (*head, parts[-1] * target.ipus), surface
    return best


def heat(target: str | Target, mesh: tuple[int, ...], steps: int, alpha: float = 0.1) -> Executable:
    """The program: `steps` steps, an even number, over the mesh; its border stays zero and is not stored."""
    b = Builder(target)
    shape = tuple(n - 2 for n in mesh)
    parts = splits(shape, b.target)
    chips, per = b.target.ipus, parts[-1] // b.target.ipus
    # Chips cut the last dimension: their tiles follow each other.
    order = np.arange(b.target.tiles).reshape(chips, *parts[:-1], per)
    tiles = np.moveaxis(order, 0, -2).reshape(parts)
    x, y = (b.variable(name, "float32", shape, grid(*parts, tiles=tiles)) for name in "xy")
    wide = b.variable("wide", "float32", shape, grid(*parts, tiles=tiles, halo=1))
    kernel = Heat(len(shape), alpha, (6,) if len(shape) == 2 else (2, 3))
    b.write(x)
    with b.repeat(steps // 2):
        for src, dst in ((x, y), (y, x)):
            b.copy(src, wide, name="halos")
            b.compute("heat", kernel, [wide], [dst], fills=[0.0])
    b.read(x)
    return b.compile(name="heat", flops=(2 * len(shape) + 2) * prod(shape) * steps)


def reference(x: np.ndarray, steps: int, alpha: float = 0.1) -> np.ndarray:
    """The same by numpy."""
    kernel = Heat(x.ndim, alpha, (1,) * (x.ndim - 1))
    for _ in range(steps):
        (x,) = kernel.compute([np.pad(x, 1)[None]], None)
        x = x[0]
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="gc200")
    parser.add_argument("--mesh", type=int, nargs="+", action="append", help="its sides, two or three")
    options = parser.parse_args()
    machine = load_target(options.target)

    for mesh in ((98, 130), (26, 30, 34)):
        values = np.random.default_rng(0).standard_normal([n - 2 for n in mesh], np.float32)
        small = replace(machine, tiles=32 * machine.ipus)
        got = heat(small, mesh, 4).run({"x": values}).outputs["x"]
        assert np.allclose(got, reference(values, 4), rtol=1e-5, atol=1e-6)
    print(f"numbers as numpy's on {small.tiles} tiles")

    for mesh in options.mesh or ([8000, 8000], [360, 360, 360]):
        exe = heat(machine, tuple(mesh), 2)
        c = exe.cycles
        seconds = machine.cycles_to_seconds(c.total) / 2
        name, flops = " x ".join(map(str, mesh)), exe.run(timing_only=True).flops / 2
        print(
            f"{name}: {c.total // 2:,} cycles a step, {c.compute // 2:,} on the tiles, {c.exchange // 2:,} of exchange"
        )
        print(f"  1000 steps in {1000 * seconds:.3f} s, {flops / seconds / 1e12:.2f} TFLOP/s")


if __name__ == "__main__":
    main()
