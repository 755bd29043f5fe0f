"""STREAM triad, a = b + q c: how many bytes a second the memories of all tiles move.

    python samples/machine/stream.py
    python samples/machine/stream.py --target bow --elements 7500

Every worker of every tile has so many elements of each vector, as in github.com/simehaa/IPU, STREAMTriad, whose kernel
in assembly this codelet counts: two loads and a store of 64 bits in one issue.
"""

import argparse
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ipucc.api import Executable
from ipucc.builder import Builder, Codelet, linear, register


@register
@dataclass(frozen=True)
class Triad(Codelet):
    """a = b + q c, fp32, by one worker."""

    q: float

    name: ClassVar[str] = "sample.triad"
    code_bytes: ClassVar[int] = 96
    context: ClassVar[Literal["tile", "worker"]] = "worker"

    def cycles(self, n, target):
        """An issue per two elements; 15 to enter, fill the pipe, set the loop up, empty the pipe and leave."""
        return 15 + -(-n["d0"] // 2)

    @property
    def streams(self):
        """Both loads and the store reach memory in the same issue."""
        return (0, 1), (0,)

    def compute(self, operands, cells):
        b, c = operands
        return [b + np.float32(self.q) * c]


def triad(target: str, elements: int, times: int, q: float = 3.0) -> Executable:
    """The program: vectors of `elements` per worker, the triad `times` over."""
    b = Builder(target)
    workers = np.repeat(np.arange(b.target.tiles), b.target.workers)
    spread = linear(workers.size, tiles=workers)
    vectors = {v: b.variable(v, "float32", (workers.size * elements,), spread) for v in "abc"}
    b.write(vectors["b"])
    b.write(vectors["c"])
    with b.repeat(times):
        b.compute("triad", Triad(q), [vectors["b"], vectors["c"]], [vectors["a"]])
    b.read(vectors["a"])
    return b.compile(name="stream triad", flops=2 * workers.size * elements * times)


def bandwidth(exe: Executable, elements: int, times: int) -> float:
    """Bytes a second: two vectors read, one written."""
    count = exe.target.tiles * exe.target.workers * elements
    return 12 * count * times / exe.target.cycles_to_seconds(exe.cycles.total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="gc200")
    parser.add_argument("--elements", type=int, default=7500, help="elements of each vector per worker")
    parser.add_argument("--times", type=int, default=1000)
    options = parser.parse_args()

    small = triad(options.target, 50, 1)
    shape = small.inputs[0][2]
    rng = np.random.default_rng(0)
    b, c = rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)
    got = small.run({"b": b, "c": c}).outputs["a"]
    assert np.array_equal(got, b + np.float32(3) * c)

    exe = triad(options.target, options.elements, options.times)
    rate = bandwidth(exe, options.elements, options.times)
    peak = 24 * exe.target.tiles * exe.target.clock_hz
    print(
        f"triad on {exe.target.name}: {exe.cycles.total:,} cycles for {options.times} times {options.elements} elements"
    )
    print(f"{rate / 1e12:.2f} TB/s, {rate / peak:.1%} of 24 bytes a cycle and tile; numbers as numpy's")


if __name__ == "__main__":
    main()
