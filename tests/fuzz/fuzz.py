"""Random graphs without end: `python tests/fuzz/fuzz.py [--minutes M] [--seed N]`.

Every round draws graphs from a seed that it prints. A graph whose numbers are not the oracles', that fails in another
way than by a refusal, or at whose nodes the oracles part for no known reason, is made as small as it can be and
printed, and the next round goes on; the exit code is 1 then.
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
    begin, failures, counted, parted = time.monotonic(), 0, Counter[str](), Counter[str]()
    with TemporaryDirectory() as folder:
        machines = {}
        for tiles in (3, 16, 64):
            path = Path(folder) / f"tiles{tiles}.toml"
            path.write_text(f'base = "gc200"\ntiles = {tiles}\nphase_cycles = {tiles}\n')
            machines[tiles] = str(path)
        for n in count(seed):
            if minutes is not None and time.monotonic() - begin > 60 * minutes:
                break
            failures += not _round(n, machines, counted, parted)
            listed = ", ".join(f"{k} {v}" for k, v in sorted(counted.items()))
            print(f"seed {n}: {listed}, {failures} failures, {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{parted.total()} of {counted['nodes']} nodes at which the oracles part:")
    for why, times in sorted(parted.items()):
        print(f"{times:6} {why}")
    sys.exit(1 if failures else 0)


def _round(number: int, machines: dict[int, str], counted: Counter[str], parted: Counter[str]) -> bool:
    @seeded(number)
    @settings(max_examples=ROUND, deadline=None, database=None, report_multiple_bugs=True,
              suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink])  # fmt: skip
    @given(
        net=st.booleans().flatmap(lambda halves: nets(OPS, halves=halves)),
        tiles=st.sampled_from(list(machines)), solver=st.sampled_from(["greedy", "cpsat"]),
    )  # fmt: skip
    def graphs(net: Net, tiles: int, solver: str) -> None:
        refused = held_against_the_oracles(net, machines[tiles], solver)  # type: ignore[arg-type]
        counted["graphs"] += 1
        counted["nodes"] += len(net.nodes)
        parted.update(net.parted)
        if refused:
            counted[refused] += 1

    try:
        graphs()
    except Exception:
        print(f"seed {number} fails:")
        traceback.print_exc(file=sys.stdout)
        return False
    return True


if __name__ == "__main__":
    main()
