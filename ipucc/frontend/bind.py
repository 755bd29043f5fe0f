"""Inputs that get their value while compiling: shapes, axes and counts that a model takes from its caller."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from ipucc.diagnostics import CompileError, Diagnostic


def bound_shapes(bind: Mapping[str, ArrayLike]) -> dict[str, Sequence[int]]:
    """The shapes of bound values that give sizes to symbolic dimensions; one without elements gives none."""
    return {name: np.shape(value) for name, value in bind.items() if np.size(value)}


def bind_values(model: ir.Model, bind: Mapping[str, ArrayLike], where: str | None = None) -> None:
    """Make constants of inputs, in place; the model has these inputs no more.

    Raises CompileError with every problem found: IPU0110 (no such input), IPU0111 (a value of another type).
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    problems: list[Diagnostic] = []
    for name, given in bind.items():
        value = inputs.get(name)
        if value is None:
            near = get_close_matches(name, inputs, 1)
            text = f'the model has no input "{name}"\nit has: {", ".join(inputs) or "none"}'
            helps = (f'did you mean "{near[0]}"?',) if near else ()
            problems.append(Diagnostic("IPU0110", "error", text, where=where, help=helps))
            continue
        array = _array(value, given)
        if isinstance(array, str):
            problems.append(Diagnostic("IPU0111", "error", array, where=where))
            continue
        value.shape = ir.Shape(array.shape)
        value.const_value = ir.tensor(array, dtype=value.dtype, name=name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    if problems:
        raise CompileError(problems)


def _array(value: ir.Value, given: ArrayLike) -> NDArray[np.generic] | str:
    """The value in the type of the input, or what is wrong with it."""
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        return f'input "{value.name}" has no type of numbers, and cannot be bound to a value'
    dtype = value.dtype.numpy()
    array = np.asarray(given)
    if array.dtype != dtype and (isinstance(given, np.ndarray | np.generic) and not _widens(array.dtype, dtype)):
        return f'input "{value.name}" has the type {dtype}, its value the type {array.dtype}'
    try:
        return array.astype(dtype)
    except (TypeError, ValueError) as failure:
        return f'input "{value.name}" cannot have this value: {failure}'


def _widens(given: np.dtype[np.generic], wanted: np.dtype[np.generic]) -> bool:
    return given.kind in "iu" and wanted.kind in "iu" and np.can_cast(given, wanted)
