"""How long a model of one node takes: compile and run, warm.

    python benchmarks/small.py [--json OUT]

Cases of onnx's backend tests are compiled and run again and again on a machine of eight tiles, as `make conformance`
does. Milliseconds are those of the processor, the least of the repetitions: other work on the machine counts less. The
exit code is 1 if an op takes longer than the bound.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
import conformance
import numpy as np

BOUND: Final = 50
CASES: Final = (
    "test_add", "test_relu", "test_matmul_2d", "test_gemm_all_attributes", "test_basic_conv_with_padding",
    "test_maxpool_2d_default", "test_softmax_axis_1", "test_rms_normalization_2d_axis1",
    "test_reduce_sum_default_axes_keepdims_random", "test_transpose_default", "test_gather_0",
    "test_scatter_elements_with_axis", "test_top_k", "test_quantizelinear",
)  # fmt: skip


@click.command()
@click.option("--repeat", default=10, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the milliseconds here.")
def main(repeat: int, json_path: Path | None) -> None:
    """Print milliseconds of models of one node."""
    warnings.simplefilter("ignore")
    taken = {}
    with TemporaryDirectory() as folder, np.errstate(all="ignore"):
        machine = Path(folder) / "machine.toml"
        machine.write_text(f'base = "gc200"\ntiles = {conformance.TILES}\n')
        for name in CASES:
            case = conformance.load("node", name)
            seconds = []
            for _ in range(repeat + 1):
                begin = time.process_time()
                outcome = conformance.run_case(case, str(machine))
                seconds.append(time.process_time() - begin)
                assert outcome.status == "pass", outcome
            taken[case.op] = 1000 * min(seconds[1:])
    for op, milliseconds in taken.items():
        print(f"{op:<20} {milliseconds:6.0f} ms")
    if json_path is not None:
        json_path.write_text(json.dumps(taken, indent=1) + "\n")
    sys.exit(max(taken.values()) > BOUND)


if __name__ == "__main__":
    main()
