"""Why rows of no family are not rebuilt, by what they measure."""

import re

from validation.rows import Measurement

__all__ = ["reason"]

_REASONS = (
    ("metric", r"energy", "energy is not modelled"),
    ("metric", r"time to train|training", "training is not compiled"),
    ("workload", r"training|time to train", "training is not compiled"),
    ("op", r"training", "training is not compiled"),
    ("metric", r"compile", "compile time of the vendor's compiler"),
    ("metric", r"gain|speedup|threshold|fitted|exponent|error|difference",
     "a ratio or a fit of the source's, not a measurement of one program; see the claims"),
    ("metric", r"QPS", "the batch is not stated"),
    ("metric", r"session time|latency|queue", "timed on the host, queueing included"),
    ("workload", r"SigLIP|repeat x|MLP", "another compiler's whole program, whose layouts are not published as data"),
    ("op", r"blocked GEMM", "another compiler's whole program, whose layouts are not published as data"),
    ("workload", r"YOLO", "the network is not in the data: depth, widths and post-processing of the vendor's port"),
    ("workload", r"BERT|ALBERT|RoFormer|CLIP|ViT|Swin|Wide&Deep|NeRF|Conformer|DALL|UNet|GPT",
     "the source does not say which network with which options was run"),
)  # fmt: skip


def reason(row: Measurement) -> str:
    """One line for people."""
    for column, pattern, text in _REASONS:
        if re.search(pattern, row[column], re.IGNORECASE):
            return text
    return f"no program for {row['workload']!r}"
