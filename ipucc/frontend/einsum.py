"""Einsum as transposes, sums and one batched product after another."""

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import Emitter, shape_or_none

__all__ = ["einsum"]

_FREE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class _Term:
    """A value and the label of each of its dimensions."""

    def __init__(self, value: ir.Value, labels: str, sizes: dict[str, int]) -> None:
        self.value, self.labels, self.sizes = value, labels, sizes

    def shape(self, labels: str) -> list[int]:
        return [self.sizes[label] for label in labels]


def einsum(node: ir.Node) -> bool:
    """Write out an Einsum; False for an equation that cannot be read."""
    text = node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, right = text.partition("->")
    operands = left.split(",")
    values = [v for v in node.inputs if v is not None]
    shapes = [shape_or_none(v) for v in values]
    if len(operands) != len(values) or any(shape is None for shape in shapes):
        return False
    free = [label for label in _FREE if label not in text]
    ranks = [len(s or ()) - len(o.replace("...", "")) for o, s in zip(operands, shapes, strict=True) if "..." in o]
    hidden = "".join(free[: max(ranks, default=0)])
    terms = [o.replace("...", hidden[len(hidden) - len(s or ()) + len(o.replace("...", "")) :])
             for o, s in zip(operands, shapes, strict=True)]  # fmt: skip
    if not arrow:
        plain = "".join(terms)
        right = hidden + "".join(sorted(c for c in set(plain) - set(hidden) if plain.count(c) == 1))
    right = right.replace("...", hidden)
    sizes: dict[str, int] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        for label, n in zip(labels, shape or (), strict=True):
            sizes[label] = max(n, sizes.get(label, 1))
    if any(label not in sizes for label in right):
        return False
    if any(n not in (sizes[label],) for t, s in zip(terms, shapes, strict=True)
           for label, n in zip(t, s or (), strict=True)):  # fmt: skip
        return False  # broadcast dimensions under an ellipsis
    e = Emitter(node)
    found = [_diagonal(e, _Term(v, labels, sizes)) for v, labels in zip(values, terms, strict=True)]
    total = found[0]
    for i, term in enumerate(found[1:], 1):
        later = right + "".join(t.labels for t in found[i + 1 :])
        total = _product(e, _summed(e, total, term.labels + later), _summed(e, term, total.labels + later), later)
    e.finish(_ordered(e, _summed(e, total, right), right).value)
    return True


def _diagonal(e: Emitter, term: _Term) -> _Term:
    """Of a label that stands twice, the elements at which both are the same."""
    labels, value = term.labels, term.value
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first, second = (i for i, c in enumerate(labels) if c == label and labels[:i].count(label) < 2)
            rest = [i for i in range(len(labels)) if i not in (first, second)]
            n = term.sizes[label]
            value = e.op("Transpose", value, perm=[*rest, first, second])
            kept = "".join(labels[i] for i in rest)
            value = e.op("Reshape", value, e.ints(*term.shape(kept), n * n))
            value = e.op("Gather", value, e.constant(np.arange(n) * (n + 1)), axis=len(rest))
            labels = kept + label
    return _Term(value, labels, term.sizes)


def _summed(e: Emitter, term: _Term, wanted: str) -> _Term:
    """Without the dimensions that nobody reads."""
    gone = [i for i, label in enumerate(term.labels) if label not in wanted]
    if not gone:
        return term
    value = e.op("ReduceSum", term.value, e.ints(*gone), keepdims=0)
    return _Term(value, "".join(c for c in term.labels if c in wanted), term.sizes)


def _ordered(e: Emitter, term: _Term, labels: str) -> _Term:
    if term.labels == labels:
        return term
    perm = [term.labels.index(label) for label in labels]
    return _Term(e.op("Transpose", term.value, perm=perm), labels, term.sizes)


def _product(e: Emitter, a: _Term, b: _Term, wanted: str) -> _Term:
    """The sum of products over what both have and nobody else wants."""
    common = [c for c in a.labels if c in b.labels]
    batch = "".join(c for c in common if c in wanted)
    inner = "".join(c for c in common if c not in wanted)
    rows = "".join(c for c in a.labels if c not in common)
    columns = "".join(c for c in b.labels if c not in common)
    size = {name: int(np.prod(a.shape(labels), dtype=np.int64))
            for name, labels in (("rows", rows), ("inner", inner), ("columns", columns))}  # fmt: skip
    lead = a.shape(batch)
    left = e.op("Reshape", _ordered(e, a, batch + rows + inner).value, e.ints(*lead, size["rows"], size["inner"]))
    right = e.op(
        "Reshape", _ordered(e, b, batch + inner + columns).value, e.ints(*lead, size["inner"], size["columns"])
    )
    made = e.op("Reshape", e.op("MatMul", left, right), e.ints(*lead, *a.shape(rows), *a.shape(columns)))
    return _Term(made, batch + rows + columns, a.sizes)
