"""The machines: `Target`, the machine files they are read from, and where every figure comes from."""

from ipucc.target.machine_file import (
    KINDS,
    Figure,
    dump_target,
    list_targets,
    load_target,
    parse_target,
    target_figures,
)
from ipucc.target.target import Amp, AmpType, Target

__all__ = [
    "KINDS",
    "Amp",
    "AmpType",
    "Figure",
    "Target",
    "dump_target",
    "list_targets",
    "load_target",
    "parse_target",
    "target_figures",
]
