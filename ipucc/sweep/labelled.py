"""Labelled data, and the share of it that a model classifies as labelled.

The file is an .npz with an array per graph input, called as the input or `in_` and its name (of a model with one input
the name does not matter), and `labels`. The first axis of every array counts samples. An input [b, ...] takes [n, ...]
b samples at a time, or [n, b, ...] with one run per sample. `labels` are integers of the shape of the outputs without
their axis of classes: the last one, or the second. Negative labels are not judged.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ipucc.diagnostics import CompileError, Diagnostic, error
from ipucc.evaluator import evaluator
from ipucc.graph.edit import dtype_name, static_shape, value_dtype
from ipucc.graph.schemas import oracle_model
from ipucc.npz import Npz, open_npz
from ipucc.values import Array, Declared, declared_type, missing_inputs, unknown_input

__all__ = ["Labelled", "accuracy", "graph_inputs", "read_labelled", "run_graph"]

LABELS: Final = "labels"
_FILE: Final = "IPU0605"

RunBatch = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples with their labels. `inputs` are [samples, ...]; `batch` is how many of them a run takes, None where a run
    takes one sample without an axis of samples."""

    inputs: Mapping[str, Array]
    labels: NDArray[np.int64]
    batch: int | None
    where: str

    def batches(self) -> Iterator[Mapping[str, Array]]:
        """What every run takes; the last one is filled up with its last sample."""
        for start in range(0, len(self.labels), self.batch or 1):
            if self.batch is None:
                yield {name: np.ascontiguousarray(array[start]) for name, array in self.inputs.items()}
                continue
            rows = np.minimum(np.arange(start, start + self.batch), len(self.labels) - 1)
            yield {name: np.ascontiguousarray(array[rows]) for name, array in self.inputs.items()}


def graph_inputs(model: ir.Model) -> list[Declared]:
    """The inputs of a graph that are no constants."""
    constants = set(model.graph.initializers)
    return [_declared(v) for v in model.graph.inputs if v.name not in constants]


def read_labelled(path: Path, model: ir.Model) -> Labelled:
    """The data for a model. Raises CompileError with everything that is wrong: IPU0605 (the file), IPU0601 to IPU0604
    (its inputs), IPU0801 (its labels)."""
    declared = graph_inputs(model)
    with open_npz(path, _FILE) as npz:
        if LABELS not in npz.members:
            raise _labels(f"{path} has no array {LABELS!r}", f"its arrays are: {', '.join(npz.members) or 'none'}")
        members = _members(npz, declared)
        problems: list[Diagnostic] = []
        batches: dict[str, int | None] = {}
        for name, kind, shape in declared:
            header = npz.header(members[name])
            if header.dtype.kind not in "biuf" or not np.can_cast(header.dtype, declared_type(kind), "same_kind"):
                text = f"input {name!r} has the element type {header.dtype.name}, the model takes {kind}"
                problems.append(Diagnostic("IPU0604", "error", text))
            if len(header.shape) == len(shape) + 1 and header.shape[1:] == shape:
                batches[name] = None
            elif shape and len(header.shape) == len(shape) and header.shape[1:] == shape[1:]:
                batches[name] = shape[0]
            else:
                text = f"input {name!r} has the shape {list(header.shape)}, a run of the model takes {list(shape)}"
                helps = ("the first axis counts samples: of several runs, or before the axes of the input",)
                problems.append(Diagnostic("IPU0603", "error", text, help=helps))
        if problems:
            raise CompileError(problems)
        labels = npz.read(LABELS)
        inputs = {name: npz.read(members[name]) for name, _, _ in declared}
    if labels.dtype.kind not in "iu" or not labels.ndim:
        raise _labels(f"{LABELS!r} has the element type {labels.dtype.name} and the shape {list(labels.shape)}")
    counts = {name: len(array) for name, array in {**inputs, LABELS: labels}.items()}
    if len(set(counts.values())) > 1 or not len(labels):
        said = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise _labels(f"the arrays of {path} have different numbers of samples, or none: {said}")
    if len(set(batches.values())) > 1:
        said = ", ".join(f"{name} {size or 'one'}" for name, size in batches.items())
        raise _labels(f"inputs take different numbers of samples in a run: {said}")
    found = Labelled(inputs, labels.astype(np.int64), next(iter(batches.values()), None), str(path))
    # Before anything is compiled: that an output can be held against the labels.
    for _, _, shape in (outputs := [_declared(v) for v in model.graph.outputs]):
        whole = (len(labels), *(shape if found.batch is None else shape[1:]))
        if _class_axis(whole, labels.shape) is not None:
            return found
    listed = "; ".join(f"{name} {list(shape)}" for name, _, shape in outputs)
    raise _labels(
        f"{LABELS!r} {list(labels.shape)} fit no output of the model: {listed}",
        "labels have the shape of an output without its last axis, or its second one, which then counts classes",
    )


def accuracy(data: Labelled, inputs: Sequence[Declared], run: RunBatch) -> tuple[float, int]:
    """The share of the samples that are classified as labelled, and how many labels were judged. `run` takes arrays in
    the types of `inputs`.

    The class is the index of the largest value along the axis of classes, of the first output that fits the labels.
    Raises CompileError IPU0801 for a label that is no class, and where no label is to be judged.
    """
    types = {name: declared_type(kind) for name, kind, _ in inputs}
    parts: dict[str, list[Array]] = {}
    for batch in data.batches():
        for name, array in run({name: a.astype(types[name], copy=False) for name, a in batch.items()}).items():
            parts.setdefault(name, []).append(array)
    join = np.stack if data.batch is None else np.concatenate
    for found in parts.values():
        logits = join(found)[: len(data.labels)]
        axis = _class_axis(logits.shape, data.labels.shape)
        if axis is None:
            continue
        judged = data.labels >= 0
        if not judged.any():
            raise _labels(f"all labels of {data.where} are negative, and none is judged")
        if data.labels.max() >= logits.shape[axis]:
            text = f"{data.where} has the label {data.labels.max()}, the output has {logits.shape[axis]} classes"
            raise _labels(text, "classes are counted from 0")
        right = (logits.argmax(axis=axis) == data.labels) & judged
        return float(right.sum() / judged.sum()), int(judged.sum())
    raise _labels(f"no output of the model fits the labels of {data.where}")


def run_graph(model: ir.Model) -> RunBatch:
    """Runs a graph as it stands, ops of ipucc by their bodies, in onnxruntime or else the evaluator of onnx."""
    names = [str(v.name) for v in model.graph.outputs]
    # One thread: points run side by side, and sums do not depend on how many there are.
    evaluate = evaluator(oracle_model(model), names, threads=1)
    return lambda batch: dict(zip(names, evaluate(batch), strict=True))


def _declared(value: ir.Value) -> Declared:
    return str(value.name), dtype_name(value_dtype(value)), static_shape(value) or ()


def _members(npz: Npz, declared: Sequence[Declared]) -> dict[str, str]:
    """The array of the file for every input."""
    others = [name for name in npz.members if name != LABELS]
    if len(declared) == 1 == len(others):
        return {declared[0][0]: others[0]}
    found = {name: key for name, _, _ in declared for key in (name, f"in_{name}") if key in npz.members}
    problems = [unknown_input(name, declared) for name in others if name not in found.values()]
    if missing := [d for d in declared if d[0] not in found]:
        problems.append(missing_inputs(missing))
    if problems:
        raise CompileError(problems)
    return found


def _class_axis(output: tuple[int, ...], labels: tuple[int, ...]) -> int | None:
    """The axis of classes of an output, None where it does not fit the labels."""
    if len(output) != len(labels) + 1:
        return None
    for axis in (len(output) - 1, 1):
        if output[:axis] + output[axis + 1 :] == labels:
            return axis
    return None


def _labels(text: str, *help: str) -> CompileError:
    return error("IPU0801", text, help=help)
