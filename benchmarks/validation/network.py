"""ResNet-50 on a C600 over batch sizes, by the vendor's plan of each op (../conv_plans.py); nothing is fitted.

The network is that of samples/make_models.py. With data on the device (`synthetic`) the time is that of the ops; with
real data that are moved while the device computes, it is the longer one of the two.
"""

import sys
from functools import cache
from pathlib import Path

import onnx
from conv_plans import OpCycles, network_cycles, network_memory
from poplibs_plans import DTYPES

from ipucc.target import load_target
from validation.rows import Measurement, NotRebuilt

__all__ = ["device_cycles", "family", "group", "memory_share", "simulate"]

_METRICS = ("inference throughput", "fits in SRAM")
_SAMPLES = Path(__file__).parents[2] / "samples"


def family(row: Measurement) -> str | None:
    """`network resnet50 fp16` and `fp32` of runs without a host, `network resnet50 real data` of those with one."""
    if not row["workload"].startswith("ResNet-50 inference") or row["metric"] not in _METRICS:
        return None
    if "synthetic" in row["workload"]:
        return f"network resnet50 {_dtype(row)}"
    return "network resnet50 real data"


def _dtype(row: Measurement) -> str:
    """fp16, fp32, or for convolutions in 8 bits what `network_cycles` calls them."""
    if not row["dtype"].startswith("fp8"):
        return row["dtype"]
    return "fp8" if "first conv" in row["op"] else "fp8 throughout"


def group(row: Measurement) -> str:
    """Rows of one program."""
    return f"network {_dtype(row)} {row['batch']}"


def _resnet50(batch: int) -> onnx.ModelProto:
    if str(_SAMPLES) not in sys.path:
        sys.path.append(str(_SAMPLES))
    from networks.convolutional import resnet50

    return resnet50(batch, 0)


@cache
def device_cycles(batch: int, dtype: str, machine: str) -> OpCycles:
    """Cycles of the network on the device."""
    return network_cycles(_resnet50(batch), dtype, load_target(machine))


def memory_share(batch: int, dtype: str, machine: str) -> float:
    """Of a chip's memory, what weights and the largest activation take."""
    return network_memory(_resnet50(batch), dtype, load_target(machine))


def simulate(row: Measurement) -> tuple[float, int]:
    """Images a second, and cycles of a batch on the device."""
    if row["unit"] != "samples/s":
        raise NotRebuilt(f"unit {row['unit']} of a network")
    if row.param("bps") == 1:
        raise NotRebuilt("one batch per launch: the host between batches is in the time")
    batch = row.whole("batch")
    target = load_target(row.machine)
    cycles = device_cycles(batch, _dtype(row), row.machine).total
    moved = batch * 3 * 224 * 224 * DTYPES["fp32" if _dtype(row) == "fp32" else "fp16"][1]
    host = 0.0 if "synthetic" in row["workload"] else moved / target.host_bytes_per_second
    return batch / max(target.cycles_to_seconds(cycles), host), cycles
