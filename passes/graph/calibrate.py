"""Inputs of layers, from running the graph on calibration data.

The graph is run as it stands, by onnxruntime where it is installed and else by onnx's reference evaluator: a layer sees
the inputs that it has in the dense model.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product as every
from math import prod
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from ipucc.diagnostics import CompileError, Diagnostic, error
from ipucc.evaluator import evaluator
from ipucc.graph.edit import dtype_name, ints_attribute, static_shape, value_dtype
from ipucc.graph.schemas import oracle_model
from ipucc.npz import Header, open_npz
from ipucc.passes.graph.products import Product
from ipucc.sparsity.blocks import Array
from ipucc.sparsity.scores import Gram
from ipucc.values import Declared, missing_inputs, unknown_input

__all__ = ["layer_inputs", "read_calibration"]

_MOST_BYTES: Final = 1 << 32
"""What an array of calibration data may take."""


def layer_inputs(
    model: ir.Model, products: Sequence[Product], batches: Sequence[Mapping[str, Array]], whole: bool
) -> dict[ir.Value, Gram]:
    """By weight, what its layers read in all batches; with `whole` X^T X, else its diagonal. Raises CompileError
    IPU0315 where the model cannot be run on them."""
    grams = {p.constant: Gram(p.shape[0] * p.shape[1], whole) for p in products}
    names = list(dict.fromkeys(str(p.node.inputs[0].name) for p in products))  # type: ignore[union-attr]
    if not names:
        return grams
    run = _runner(model, names)
    for batch in batches:
        found = run(batch)
        for product in products:
            x = found[str(product.node.inputs[0].name)]  # type: ignore[union-attr]
            try:
                grams[product.constant].add(_rows(x, product))
            except ValueError as failure:
                raise error("IPU0315", f"the layer {product.names[0]!r} got {failure}") from failure
    return grams


def read_calibration(path: str, model: ir.Model) -> list[dict[str, Array]]:
    """The batches in an .npz of arrays by graph input: of the input's shape (one batch), with an axis of batches before
    it, or with several batches along its first axis; as many of every input.

    Raises CompileError with everything that is wrong: IPU0605 (the file), IPU0601 to IPU0604 (its inputs).
    """
    constants = set(model.graph.initializers)
    inputs = [v for v in model.graph.inputs if v.name not in constants]
    declared: list[Declared] = [(str(v.name), dtype_name(value_dtype(v)), static_shape(v) or ()) for v in inputs]
    problems: list[Diagnostic] = []
    found: dict[str, Array] = {}
    with open_npz(path, "IPU0605") as npz:
        problems += [unknown_input(name, declared) for name in npz.members if name not in {d[0] for d in declared}]
        if missing := [d for d in declared if d[0] not in npz.members]:
            problems.append(missing_inputs(missing))
        for name, kind, shape in declared:
            if name not in npz.members:
                continue
            try:
                header = npz.header(name)
                wrong = _problems(name, kind, shape, header)
                problems += wrong
                if not wrong:
                    array = npz.read(name).astype(np.dtype(kind), copy=False)
                    found[name] = array.reshape(-1, *shape)
            except CompileError as failure:
                problems += failure.diagnostics
    counts = {name: len(array) for name, array in found.items()}
    if not problems and len(set(counts.values())) > 1:
        text = "the inputs have different numbers of batches: " + ", ".join(f"{n} {c}" for n, c in counts.items())
        problems.append(Diagnostic("IPU0603", "error", text, where=path))
    if problems:
        raise CompileError(problems)
    return [{name: array[i] for name, array in found.items()} for i in range(next(iter(counts.values()), 0))]


def _problems(name: str, kind: str, shape: tuple[int, ...], header: Header) -> list[Diagnostic]:
    """What is wrong with an array for an input."""
    problems = []
    one = header.shape == shape or (len(header.shape) == len(shape) + 1 and header.shape[1:] == shape)
    along = bool(shape) and len(header.shape) == len(shape) and header.shape[1:] == shape[1:]
    if not (one or (along and header.shape[0] % shape[0] == 0)) or not prod(header.shape):
        text = f"input {name!r} has the shape {list(header.shape)}, the model takes {list(shape)}"
        helps = ("give one batch, batches along a new first axis, or a multiple of the first axis",)
        problems.append(Diagnostic("IPU0603", "error", text, help=helps))
    elif header.size > _MOST_BYTES:
        text = f"input {name!r} has {header.size:,} bytes of calibration data, {_MOST_BYTES:,} are read at most"
        problems.append(Diagnostic("IPU0603", "error", text))
    if header.dtype.kind not in "biuf" or not np.can_cast(header.dtype, np.dtype(kind), "same_kind"):
        text = f"input {name!r} has the element type {header.dtype}, the model takes {kind}"
        problems.append(Diagnostic("IPU0604", "error", text))
    return problems


def _runner(model: ir.Model, names: Sequence[str]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """A function from inputs of a model to these values of it."""
    proto = oracle_model(model)
    given = {v.name for v in proto.graph.input}
    made = [name for name in names if name not in given]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    evaluate: Callable[[Mapping[str, Array]], Sequence[Array]] | None = None

    def run(batch: Mapping[str, Array]) -> Mapping[str, Array]:
        nonlocal evaluate
        found = {name: array for name, array in batch.items() if name in given}
        if not made:
            return found
        try:
            if evaluate is None:
                evaluate = evaluator(proto, made)
            found.update(zip(made, evaluate(found), strict=True))
        except Exception as failure:  # both libraries raise errors of many kinds for what they cannot run
            text = str(failure).strip().splitlines()
            reason = f"{type(failure).__name__}: {text[0][:300]}" if text else type(failure).__name__
            raise error(
                "IPU0315", "the model cannot be run on the calibration inputs", notes=[reason],
                help=["the scores l1, l2 and max need no inputs"],
            ) from failure  # fmt: skip
        return found

    return run


def _rows(x: Array, product: Product) -> Array:
    """What a product reads, as rows [samples, taps * k]: for a convolution the window of every output position."""
    if product.kind == "matmul":
        return x.reshape(-1, product.shape[1])
    node, kernel = product.node, product.dims[2:]
    spatial = len(kernel)
    pads = ints_attribute(node, "pads", (0,) * 2 * spatial)
    strides = ints_attribute(node, "strides", (1,) * spatial)
    dilations = ints_attribute(node, "dilations", (1,) * spatial)
    out = (static_shape(node.outputs[0]) or ())[2:]
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    windows = []
    for tap in every(*(range(n) for n in kernel)):
        begins = [t * d for t, d in zip(tap, dilations, strict=True)]
        places = [slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(begins, out, strides, strict=True)]
        windows.append(padded[(slice(None), slice(None), *places)])
    # [taps, batch, channels, positions...] with channels last, and taps before them.
    gathered = np.moveaxis(np.stack(windows), 2, -1)
    return np.moveaxis(gathered, 0, -2).reshape(-1, product.shape[0] * product.shape[1])
