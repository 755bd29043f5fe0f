"""Fourier transforms as products with constant matrices."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.frontend.emit import Emitter, constant_of, operand, shape_or_none

__all__ = ["dft", "stft"]

Matrix = NDArray[np.float64]


def dft(node: ir.Node) -> bool:
    """DFT of a constant length along a constant axis."""
    e = Emitter(node)
    x = node.inputs[0]
    shape = shape_or_none(x)
    length, axis = operand(node, 1), operand(node, 2)
    if x is None or shape is None or any(v is not None and constant_of(v) is None for v in (length, axis)):
        return False
    along = node.attributes.get_int("axis", 1) if "axis" in node.attributes else -2
    given = constant_of(axis)
    along = int(given.reshape(-1)[0]) if given is not None else along
    along %= len(shape)
    inverse, half = (bool(node.attributes.get_int(name, 0)) for name in ("inverse", "onesided"))
    size = constant_of(length)
    found = shape[along] if not (inverse and half) else 2 * (shape[along] - 1)
    n = int(size.reshape(-1)[0]) if size is not None else found
    e.finish(_transform(e, x, shape, along, n, inverse, half))
    return True


def stft(node: ir.Node) -> bool:
    """Fourier transforms of frames, of constant step and length, which may overlap."""
    e = Emitter(node)
    x, window = node.inputs[0], operand(node, 2)
    shape = shape_or_none(x)
    step, size = constant_of(operand(node, 1)), constant_of(operand(node, 3))
    spread = shape_or_none(window)
    if x is None or shape is None or step is None or (size is None and spread is None):
        return False
    length = int(size.reshape(-1)[0]) if size is not None else (spread or (0,))[0]
    jump = int(step.reshape(-1)[0])
    if len(shape) == 2:
        shape = (*shape, 1)
        x = e.op("Reshape", x, e.ints(*shape))
    count = (shape[1] - length) // jump + 1
    frames = e.op("Gather", x, e.constant(np.arange(count)[:, None] * jump + np.arange(length)), axis=1)
    if window is not None:
        frames = e.op("Mul", frames, e.op("Reshape", window, e.ints(length, 1)))
    frames.type = x.type
    form = (shape[0], count, length, shape[2])
    half = bool(node.attributes.get_int("onesided", 1))
    e.finish(_transform(e, frames, form, 2, length, False, half))
    return True


def _transform(
    e: Emitter, x: ir.Value, shape: tuple[int, ...], axis: int, n: int, inverse: bool, half: bool
) -> ir.Value:
    """[..., length, ..., components] to [..., bins, ..., components]."""
    rank, components = len(shape), shape[-1]
    rest = [d for d in range(rank - 1) if d != axis]
    # Components and positions become one dimension, the last.
    moved = e.op("Transpose", x, perm=[*rest, rank - 1, axis])
    lead = [shape[d] for d in rest]
    flat = e.op("Reshape", moved, e.ints(*lead, components * shape[axis]))
    matrix, bins, parts = _matrix(shape[axis], components, n, inverse, half)
    product = e.op("MatMul", flat, e.constant(matrix, e.like(x)))
    apart = e.op("Reshape", product, e.ints(*lead, parts, bins))
    order = [0] * rank
    for place, d in enumerate([*rest, rank - 1, axis]):
        order[d] = place
    return e.op("Transpose", apart, perm=order)


def _matrix(have: int, components: int, n: int, inverse: bool, half: bool) -> tuple[Matrix, int, int]:
    """What a transform of length n multiplies `have` positions of so many components with; bins and components of the
    result. Positions behind n do not count, missing ones are zero."""
    if inverse and half:
        bins, parts, held = n, 1, n // 2 + 1
    else:
        bins, parts, held = (n // 2 + 1 if half else n), 2, n
    j = np.arange(have)[:, None]
    angle = 2 * np.pi * ((j * np.arange(bins)[None, :]) % n) / n
    cos, sin = np.cos(angle), np.sin(angle)
    scale = (np.arange(have) < held).astype(np.float64)
    if inverse:
        scale = scale / n
    if inverse and half:
        # The half that is not there is the conjugate of the one that is.
        scale = scale * np.where((np.arange(have) == 0) | (2 * np.arange(have) == n), 1, 2)
    sign = 1.0 if inverse else -1.0
    rows = [[cos, sign * sin], [-sign * sin, cos]]
    full = np.block([[rows[c][p] * scale[:, None] for p in range(parts)] for c in range(components)])
    return full, bins, parts
