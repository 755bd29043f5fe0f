"""Whole numbers that are computed, as constants plus multiples of others: what is known of an index before it is known.

`affine` looks through sums, products with constants, casts and views, so that `end - start` of a slice is a number
though neither of them is. `bounds` says between what such a number lies.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import constant_of, operand, shape_or_none

__all__ = ["RANGE", "Affine", "affine", "bounds"]

RANGE: Final = "ipucc.range"
"""Key of the metadata of an integer scalar: its least and largest value, with a blank between."""

_LIMIT: Final = 64
"""Vectors of more elements are none that a shape, an axis or a place is made of."""

_VIEWS: Final = frozenset(("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"))

Element = tuple[ir.Value, int]


@dataclass(frozen=True)
class Affine:
    """`constant` plus, for every ((value, element), factor) of `terms`, a multiple of an element of a value."""

    constant: int
    terms: frozenset[tuple[Element, int]] = frozenset()

    def plus(self, other: "Affine", factor: int = 1) -> "Affine":
        """This plus a multiple of another one."""
        found = dict(self.terms)
        for element, times in other.terms:
            found[element] = found.get(element, 0) + factor * times
        kept = frozenset((element, times) for element, times in found.items() if times)
        return Affine(self.constant + factor * other.constant, kept)

    def known(self) -> int | None:
        """The number itself where it depends on nothing."""
        return None if self.terms else self.constant

    def of(self, value: ir.Value) -> int | None:
        """The factor of a scalar where this depends on it alone, 0 where it depends on nothing."""
        if not self.terms:
            return 0
        (element, factor), *more = self.terms
        return factor if not more and element == (value, 0) else None


Known = Mapping[ir.Value, Affine]


def affine(value: ir.Value | None, known: Known | None = None) -> list[Affine] | None:
    """The elements of an integer scalar or vector; None where it is no such thing. `known` says what some scalars
    are."""
    if value is None:
        return None
    if known is not None and value in known:
        return [known[value]]
    number = constant_of(value)
    if number is not None:
        if number.dtype.kind not in "iu" or number.size > _LIMIT:
            return None
        return [Affine(int(n)) for n in number.reshape(-1)]
    producer = value.producer()
    found = None if producer is None or producer.domain else _made(producer, known)
    return _opaque(value) if found is None else found


def _opaque(value: ir.Value) -> list[Affine] | None:
    """The elements of a value that nothing more is known of."""
    shape = shape_or_none(value)
    if shape is None or value.dtype is None or not value.dtype.is_integer() or math.prod(shape) > _LIMIT:
        return None
    return [Affine(0, frozenset({((value, i), 1)})) for i in range(math.prod(shape))]


def _made(node: ir.Node, known: Known | None) -> list[Affine] | None:
    op = node.op_type
    if op in _VIEWS:
        return affine(node.inputs[0], known)
    if op == "Cast":
        # Numbers that wrap around in a narrower type are no indices.
        return affine(node.inputs[0], known) if ir.DataType(node.attributes.get_int("to")).is_integer() else None
    if op == "Concat" and node.attributes.get_int("axis") == 0:
        parts = [affine(v, known) for v in node.inputs]
        return None if any(p is None for p in parts) else [a for p in parts if p is not None for a in p]
    if op == "Gather":
        data, index = affine(node.inputs[0], known), constant_of(node.inputs[1])
        if data is None or index is None or shape_or_none(node.inputs[0]) != (len(data),):
            return None
        places = [int(i) for i in index.reshape(-1)]
        return [data[i] for i in places] if all(-len(data) <= i < len(data) for i in places) else None
    if op == "Neg":
        found = affine(node.inputs[0], known)
        return None if found is None else [Affine(0).plus(a, -1) for a in found]
    if op in ("Add", "Sub", "Mul"):
        left, right = (affine(v, known) for v in node.inputs)
        return _combined(op, node, left, right)
    return None


def _combined(
    op: str, node: ir.Node, left: Sequence[Affine] | None, right: Sequence[Affine] | None
) -> list[Affine] | None:
    if left is None or right is None:
        return None
    if len(left) != len(right) and 1 not in (len(left), len(right)):
        return None
    if len(left) == len(right) > 1 and shape_or_none(node.inputs[0]) != shape_or_none(node.inputs[1]):
        return None
    size = max(len(left), len(right))
    pairs = [(left[i % len(left)], right[i % len(right)]) for i in range(size)]
    if op != "Mul":
        return [a.plus(b, 1 if op == "Add" else -1) for a, b in pairs]
    made = []
    for a, b in pairs:
        factor, other = (a.known(), b) if a.known() is not None else (b.known(), a)
        if factor is None:
            return None
        made.append(Affine(0).plus(other, factor))
    return made


def bounds(number: Affine) -> tuple[float, float]:
    """The least and the largest that a number can be, infinite where nothing is known."""
    low = high = float(number.constant)
    for (value, _), factor in number.terms:
        ends = [end * factor for end in _range(value)]
        low, high = low + min(ends), high + max(ends)
    return low, high


def _range(value: ir.Value) -> tuple[float, float]:
    said = value.metadata_props.get(RANGE)
    if said is not None:
        low, high = said.split()
        return float(low), float(high)
    node = value.producer()
    if node is None or node.domain:
        return -math.inf, math.inf
    if node.op_type in ("Min", "Max", "Clip"):
        return _limited(node)
    if node.op_type == "Mod":
        by = constant_of(node.inputs[1])
        if by is not None and by.size and not node.attributes.get_int("fmod", 0) and np.all(by > 0):
            return 0, float(by.max()) - 1
    if node.op_type in ("ArgMax", "ArgMin"):
        shape = shape_or_none(node.inputs[0])
        if shape:
            return 0, shape[node.attributes.get_int("axis", 0)] - 1
    return -math.inf, math.inf


def _limited(node: ir.Node) -> tuple[float, float]:
    """What Min, Max and Clip leave of the ranges of their operands."""
    ranges = []
    for value in node.inputs:
        found = affine(value) if value is not None else None
        ends = [bounds(a) for a in found] if found else []
        ranges.append((min(low for low, _ in ends), max(high for _, high in ends)) if ends else (-math.inf, math.inf))
    if node.op_type == "Clip":
        low, high = ranges[0]
        if operand(node, 1) is not None:
            low, high = max(low, ranges[1][0]), max(high, ranges[1][1])
        if operand(node, 2) is not None:
            low, high = min(low, ranges[2][0]), min(high, ranges[2][1])
        return low, high
    best = min if node.op_type == "Min" else max
    return best(low for low, _ in ranges), best(high for _, high in ranges)
