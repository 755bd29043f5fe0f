"""Power iteration on a sparse matrix: y = A x over and over, rows over all workers, what a tile needs of x gathered.

    python samples/machine/spmv.py
    python samples/machine/spmv.py --rows 200000 --degree 12

Rows are dealt to the workers in runs of about equally many non-zeros. Every tile gathers the elements of x that its
columns name, in one exchange. Cycles of the kernel are assumed: 6 issues a row and 4 a non-zero (two loads of the
matrix, one of x, multiply and add).
"""

import argparse
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ipucc.api import Executable
from ipucc.builder import Builder, Codelet, grid, register
from ipucc.target import Target, load_target


@register
@dataclass(frozen=True)
class Rows(Codelet):
    """Some rows of a matrix times x: values, the places of their rows in the result and of their columns in x."""

    scale: float

    name: ClassVar[str] = "sample.spmv_rows"
    code_bytes: ClassVar[int] = 160
    context: ClassVar[Literal["tile", "worker"]] = "worker"

    def cycles(self, n, target):
        return 30 + 6 * n["rows"] + 4 * n["nonzeros"]

    def compute(self, operands, cells):
        values, rows, columns, x = operands
        # Padding has the value 0, and adds it to the first row.
        vertex = np.arange(len(values))[:, None]
        out = np.zeros((len(values), cells.padded("rows")), np.float32)
        np.add.at(out, (vertex, rows), values * x[vertex, columns] * np.float32(self.scale))
        return [out]


@dataclass(frozen=True)
class Matrix:
    """Compressed rows: the columns and values of row i are those from `start[i]` to `start[i + 1]`."""

    start: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def times(self, x: np.ndarray) -> np.ndarray:
        """The product by numpy."""
        return np.add.reduceat(self.values * x[self.columns], self.start[:-1])


def random_matrix(rows: int, degree: int, seed: int = 0) -> Matrix:
    """Every row has one to 2 `degree` - 1 non-zeros; their columns lie near the diagonal more often than far off."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 2 * degree, rows)
    start = np.concatenate([[0], np.cumsum(counts)])
    row = np.repeat(np.arange(rows), counts)
    columns = (row + np.round(rng.standard_cauchy(row.size) * 4).astype(np.int64)) % rows
    return Matrix(start, columns, rng.random(row.size).astype(np.float32))


def power(target: str | Target, matrix: Matrix, times: int, scale: float) -> Executable:
    """The program: x = `scale` A x, `times` over."""
    b = Builder(target)
    rows, nonzeros = matrix.start.size - 1, int(matrix.start[-1])
    count = b.target.tiles * b.target.workers
    tiles = np.repeat(np.arange(b.target.tiles), b.target.workers)
    # Row edges at equal shares of the non-zeros; edges of a table of non-zeros follow.
    edges = np.searchsorted(matrix.start, np.arange(count + 1) * nonzeros / count)
    edges[0], edges[-1] = 0, rows
    inner = matrix.start[edges]
    vertex = np.repeat(np.arange(count), np.diff(inner))
    row = np.repeat(np.arange(rows), np.diff(matrix.start)) - edges[vertex]
    # What a tile needs of x: each column once, in ascending order.
    needed, where = np.unique(tiles[vertex] * rows + matrix.columns, return_inverse=True)
    bounds = np.searchsorted(needed, np.arange(b.target.tiles + 1) * rows)

    x = b.variable("x", "float32", (rows,), grid(edges, tiles=tiles))
    near = b.variable("near", "float32", (needed.size,), grid(bounds))
    values = b.constant("values", matrix.values, grid(inner, tiles=tiles))
    places = b.constant("rows", row.astype(np.int32), grid(inner, tiles=tiles))
    columns = b.constant("columns", (where - bounds[tiles[vertex]]).astype(np.int32), grid(inner, tiles=tiles))
    b.write(x)
    with b.repeat(times):
        b.copy(x[needed % rows], near, name="gather")
        b.compute(
            "product", Rows(scale), [values, places, columns, (near, tiles)], [x],
            axes={"rows": (x, 0), "nonzeros": np.diff(inner)},
        )  # fmt: skip
    b.read(x)
    return b.compile(name="power iteration", flops=2 * nonzeros * times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="gc200")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--degree", type=int, default=8, help="non-zeros a row, on average")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    machine = load_target(options.target)

    matrix = random_matrix(options.rows, options.degree)
    scale = 2 / options.degree
    exe = power(machine, matrix, options.times, scale)
    start = np.random.default_rng(1).random(options.rows, np.float32)
    got, expected = exe.run({"x": start}), start
    for _ in range(options.times):
        expected = np.float32(scale) * matrix.times(expected)
    assert np.allclose(got.outputs["x"], expected, rtol=1e-4)

    c, times = exe.cycles, options.times
    seconds = machine.cycles_to_seconds(c.total) / times
    print(f"{options.rows:,} rows, {matrix.values.size:,} non-zeros on {machine.name}; numbers as numpy's")
    print(
        f"{c.total // times:,} cycles a product: {c.compute // times:,} on the tiles, {c.exchange // times:,} exchange"
    )
    print(f"  {2 * matrix.values.size / seconds / 1e9:.1f} GFLOP/s")


if __name__ == "__main__":
    main()
