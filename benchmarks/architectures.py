"""Networks of every kind at a small size, compiled, run on simulated tiles and held against the references.

    python benchmarks/architectures.py [--target gc200] [--model NAME]... [--json OUT]

All are written by samples/networks. A row says the cycles of a run, which are those predicted for its decisions, what
data decided, and the largest error relative to the scale of an output; `oracle` decides on it, and where the other
reference disagrees the run ends with an error. Times of the clock are left out: they are those of this machine.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import onnx

import ipucc
from ipucc.oracle import check

sys.path.append(str(Path(__file__).parent.parent / "samples"))
from networks.tiny import TINY, inputs_of


@dataclass(frozen=True)
class Row:
    """One network: nodes of the file, steps of the program, cycles of a run, and how right it is."""

    name: str
    nodes: int
    steps: int
    cycles: int
    compute: int
    exchange: int
    sync: int
    decided: str
    error: float
    oracle: str
    ok: bool


def measure(name: str, target: str, folder: Path) -> Row:
    """Compile and run one network."""
    model = TINY[name]()
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    exe = ipucc.compile(path, target=target, effort="fast")
    inputs = inputs_of(name, model)
    result = exe.run(inputs)
    if exe.predict(result.decisions) != result.cycles:
        raise RuntimeError(f"{name}: predicted {exe.predict(result.decisions)}, counted {result.cycles}")
    found = check(result.outputs, inputs, path)
    decided = " ".join(f"{loop} {','.join(map(str, n))}" for loop, n in result.decisions.items())
    nodes = sum(1 for _ in _all_nodes(model.graph))
    c = result.cycles
    ok = found.ok and not any(d.severity == "warning" for d in found.remarks)
    return Row(name, nodes, len(exe.program.steps), c.total, c.compute, c.exchange, c.sync, decided or "-",
               found.max_rel_error, found.oracle, ok)  # fmt: skip


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [n for node in graph.node for a in node.attribute if a.HasField("g") for n in _all_nodes(a.g)]
    return [*graph.node, *inner]


@click.command()
@click.option("--target", default="gc200", show_default=True)
@click.option("--model", "names", type=click.Choice(list(TINY)), multiple=True, help="Only these.")
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(target: str, names: tuple[str, ...], out: Path | None) -> None:
    """Compile and run every network."""
    rows = []
    print(
        f"{'network':<16} {'nodes':>5} {'steps':>5} {'cycles':>9} {'compute':>9} {'exchange':>8} {'sync':>8}  decided"
    )
    with TemporaryDirectory() as folder:
        for name in names or TINY:
            row = measure(name, target, Path(folder))
            rows.append(row)
            right = "" if row.ok else f"  WRONG by {row.error:.2g}"
            print(f"{row.name:<16} {row.nodes:>5} {row.steps:>5} {row.cycles:>9,} {row.compute:>9,} {row.exchange:>8,} "
                  f"{row.sync:>8,}  {row.decided}{right}", flush=True)  # fmt: skip
    if out is not None:
        out.write_text(json.dumps({"schema": "ipucc.architectures/1", "rows": [asdict(row) for row in rows]}, indent=1))
    wrong = [row.name for row in rows if not row.ok]
    print(f"{len(rows) - len(wrong)} of {len(rows)} right")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
