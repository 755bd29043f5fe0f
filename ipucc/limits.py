"""Refusals before any long work."""

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ipucc.diagnostics import error
from ipucc.dtypes import itemsize
from ipucc.graph.edit import constant_array
from ipucc.sparsity.scan import zero_blocks_bound
from ipucc.target import Target

if TYPE_CHECKING:
    from ipucc.compiler import CompileOptions

__all__ = ["weights_fit"]


def weights_fit(model: ir.Model, target: Target, options: "CompileOptions") -> None:
    """Refuses at once a model whose weights alone exceed the chip, with all blocks that can be zero left out."""
    if options.mask or options.pattern == "zeros" or options.budget:
        return  # What they keep is not known yet.
    short = (options.block, options.density, options.score, options.pattern, options.calibrate)
    sparse = (0.1 if options.density is None else options.density) if any(short) else 1.0
    total = 0
    zeros: list[tuple[ir.Value, int]] = []
    for value in model.graph.initializers.values():
        if value.shape is None or value.dtype is None or not value.uses():
            continue
        name = {"FLOAT": "float32", "DOUBLE": "float64"}.get(value.dtype.name, value.dtype.name.lower())
        try:
            size = 2 if options.precision == "fp16" and name == "float32" else itemsize(name)
        except KeyError:
            continue
        count = 1
        for d in value.shape:
            count *= int(d) if isinstance(d, int) else 1
        total += int(count * size * (sparse if len(value.shape) == 2 else 1))
        zeros.append((value, count * size))
    limit = target.tiles * target.usable_bytes
    if total > limit and options.passes is None:
        if sparse == 1 and total - sum(_zero_bytes(value, held) for value, held in zeros) <= limit:
            return
        helps = []
        if options.precision != "fp16":
            helps.append(f"--precision fp16: weights of {total // 2:,} bytes")
        helps.append("--block 16 --density 0.25: a quarter of the weights of linear layers")
        helps.append("a target with more memory (--target)")
        raise error(
            "IPU0401",
            f"the weights take {total:,} bytes, the {target.tiles} tiles of {target.name} have {limit:,}",
            help=helps,
            data={"needed": total, "limit": limit},
        )


def _zero_bytes(value: ir.Value, held: int) -> int:
    """At most so many of the bytes held by a weight of two or more axes lie in blocks of 4 x 4 zeros or larger."""
    array = constant_array(value)
    if array is None or array.ndim < 2 or not array.size:
        return 0
    taps_last = array.reshape(*array.shape[:2], -1)
    return int(held * zero_blocks_bound(np.moveaxis(taps_last, -1, 0)))
