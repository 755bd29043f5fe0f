"""Memory that opening a model of 3 GB takes: its weights stay on disk.

    python benchmarks/open_large.py [--gigabytes 3.2] [--json OUT]

A chain of products with external weights is written to a temporary folder, and `ipucc validate` opens it as `compile`
does, up to the lowering of its ops, in a process of its own. The peak of resident memory is that of this process less
that of a bare interpreter. The exit code is 1 beyond the bound.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
import numpy as np
import onnx
from onnx import TensorProto, helper

BOUND: Final = 300
"""MB above the interpreter's own."""
WIDTH: Final = 5000


def write_model(folder: Path, layers: int) -> Path:
    """A chain of products of 5000 x 5000 float32 whose weights lie in one external file."""
    size = 4 * WIDTH * WIDTH
    block = np.random.default_rng(0).standard_normal(WIDTH * WIDTH, np.float32).tobytes()
    with (folder / "weights").open("wb") as data:
        for _ in range(layers):
            data.write(block)
    weights, nodes = [], []
    for i in range(layers):
        tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights"), ("offset", str(i * size)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        weights.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"layer{i}"))
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, WIDTH]) for n in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], weights)
    path = folder / "chain.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    return path


def peak(*command: str) -> tuple[float, float]:
    """The largest resident memory of a Python process in MB, and its wall seconds. RuntimeError where it fails."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(process.stderr.read().decode() if process.stderr is not None else "")
    if process.stderr is not None:
        process.stderr.close()
    return usage.ru_maxrss / 1024, time.perf_counter() - begin


@click.command()
@click.option("--gigabytes", default=3.2, show_default=True, help="Size of the weights.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here.")
def main(gigabytes: float, json_path: Path | None) -> None:
    """Open a large model and print the memory that it takes."""
    verb = "import sys; from ipucc.cli.main import main; sys.argv[0] = 'ipucc'; main()"
    with TemporaryDirectory() as folder:
        bare, _ = peak("-c", "pass")
        small, _ = peak("-c", verb, "validate", str(write_model(Path(folder), 1)))
        path = write_model(Path(folder), round(gigabytes * 1e9 / (4 * WIDTH * WIDTH)))
        size = (Path(folder) / "weights").stat().st_size
        large, seconds = peak("-c", verb, "validate", str(path))
    print(f"weights {size / 1e9:.1f} GB: {large - bare:.0f} MB above the {bare:.0f} MB of the interpreter "
          f"({small - bare:.0f} MB with one weight), {seconds:.1f} s; bound {BOUND} MB")  # fmt: skip
    if json_path is not None:
        figures = {"bytes": size, "bare_mb": bare, "one_weight_mb": small, "large_mb": large, "seconds": seconds}
        json_path.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(large - bare > BOUND)


if __name__ == "__main__":
    main()
