"""Random graphs without end: `python tests/fuzz/fuzz.py [--minutes M] [--seed N]`.

Every round draws graphs from a seed that it prints. A graph whose numbers neither oracle has, or that fails in another
way than by a refusal, is made as small as it can be and printed, and the next round goes on; the exit code is 1 then.
"""

import sys
import time
import traceback
import warnings
from collections import Counter
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from fuzz_check import held_against_the_oracles
from fuzz_net import Net, nets
from fuzz_ops import OPS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

ROUND = 60


@click.command()
@click.option("--minutes", type=float, default=None, help="Stop after this time; without it, never.")
@click.option("--seed", default=0, show_default=True, help="The seed of the first round.")
def main(minutes: float | None, seed: int) -> None:
    """Compile and run random graphs, and hold them against two oracles."""
    warnings.simplefilter("ignore")
    begin, failures, counted = time.monotonic(), 0, Counter[str]()
    with TemporaryDirectory() as folder:
        machines = {}
        for tiles in (3, 16, 64):
            path = Path(folder) / f"tiles{tiles}.toml"
            path.write_text(f'base = "gc200"\ntiles = {tiles}\nphase_cycles = {tiles}\n')
            machines[tiles] = str(path)
        for n in count(seed):
            if minutes is not None and time.monotonic() - begin > 60 * minutes:
                break
            failures += not _round(n, machines, counted)
            listed = ", ".join(f"{k} {v}" for k, v in sorted(counted.items()))
            print(f"seed {n}: {listed}, {failures} failures, {time.monotonic() - begin:.0f} s", flush=True)
    sys.exit(1 if failures else 0)


def _round(number: int, machines: dict[int, str], counted: Counter[str]) -> bool:
    @seeded(number)
    @settings(max_examples=ROUND, deadline=None, database=None, report_multiple_bugs=True,
              suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])  # fmt: skip
    @given(
        net=st.booleans().flatmap(lambda halves: nets(OPS, halves=halves)),
        tiles=st.sampled_from(list(machines)), solver=st.sampled_from(["greedy", "cpsat"]),
    )  # fmt: skip
    def graphs(net: Net, tiles: int, solver: str) -> None:
        found = held_against_the_oracles(net, machines[tiles], solver)  # type: ignore[arg-type]
        counted["graphs"] += 1
        counted["nodes"] += len(net.nodes)
        counted["oracles disagree"] += found.torn
        if found.refused:
            counted[found.refused] += 1

    try:
        graphs()
    except Exception:
        print(f"seed {number} fails:")
        traceback.print_exc(file=sys.stdout)
        return False
    return True


if __name__ == "__main__":
    main()
