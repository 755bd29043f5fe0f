"""Binding the symbolic dimensions of a model's inputs to sizes."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import onnx_ir as ir

from ipucc.diagnostics import CompileError, Diagnostic


def bind_dims(
    model: ir.Model,
    dims: Mapping[str, int],
    input_shapes: Mapping[str, Sequence[int]],
    where: str | None = None,
) -> None:
    """Make every input static: `dims` gives sizes by dimension name, `input_shapes` whole shapes by input name.

    A shape also binds the names in it, so one shape may settle other inputs. Raises CompileError with every
    problem found: IPU0109 (dimensions without size, all of them), IPU0110 (unknown names), IPU0111 (sizes that are
    no positive integers, ranks or sizes that contradict the file or each other).
    """
    binder = _Binder(model, where)
    for name, size in dims.items():
        binder.dim(name, size)
    for name, shape in input_shapes.items():
        binder.shape(name, shape)
    binder.apply()


class _Binder:
    def __init__(self, model: ir.Model, where: str | None) -> None:
        self.inputs = {value.name or "": value for value in model.graph.inputs}
        self.where = where
        self.problems: list[Diagnostic] = []
        self.sizes: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.names = list(
            dict.fromkeys(
                symbol
                for value in self.inputs.values()
                if value.shape is not None
                for dim in value.shape
                if isinstance(dim, ir.SymbolicDim)
                for symbol in (*_symbols(dim), dim.value)
                if symbol is not None
            )
        )

    def report(self, id: str, message: str, help: Sequence[str] = ()) -> None:
        self.problems.append(Diagnostic(id, "error", message, where=self.where, help=tuple(help)))

    def unknown(self, what: str, name: str, known: Iterable[str]) -> None:
        known = list(known)
        near = get_close_matches(name, known, 1)
        listed = ", ".join(f'"{entry}"' for entry in known) or "none"
        helps = [f'did you mean "{near[0]}"?'] if near else []
        self.report("IPU0110", f'the model has no {what} "{name}"\nit has: {listed}', helps)

    def dim(self, name: str, size: int) -> None:
        if name not in self.names:
            self.unknown("symbolic dimension", name, self.names)
        elif size < 1:
            self.report("IPU0111", f'dimension "{name}" cannot have the size {size}')
        else:
            self.sizes[name] = size

    def shape(self, name: str, shape: Sequence[int]) -> None:
        value = self.inputs.get(name)
        sizes = tuple(int(size) for size in shape)
        if value is None:
            self.unknown("input", name, self.inputs)
            return
        if any(size < 1 for size in sizes):
            self.report("IPU0111", f'input "{name}" cannot have the shape {list(sizes)}')
            return
        self.shapes[name] = sizes
        if value.shape is None:
            return
        declared = f'input "{name}" has the shape {value.shape} in the model, {list(sizes)} does not agree with it'
        if len(value.shape) != len(sizes):
            self.report("IPU0111", declared)
            return
        for dim, size in zip(value.shape, sizes, strict=True):
            if isinstance(dim, ir.SymbolicDim):
                # An expression is checked later, against the names in it.
                if (
                    dim.value is not None
                    and _symbols(dim) == [dim.value]
                    and self.sizes.setdefault(dim.value, size) != size
                ):
                    known = self.sizes[dim.value]
                    self.report("IPU0111", f'dimension "{dim.value}" is given the sizes {known} and {size}')
            elif dim >= 0 and dim != size:
                self.report("IPU0111", declared)
                return

    def apply(self) -> None:
        unbound: list[str] = []
        for name, value in self.inputs.items():
            if value.shape is None:
                if name in self.shapes:
                    value.shape = ir.Shape(self.shapes[name])
                else:
                    unbound.append(f'input "{name}" has no shape: --input-shape {name}=...')
                continue
            found: list[int] = []
            for axis, dim in enumerate(value.shape):
                size = self.evaluate(dim)
                if name in self.shapes and axis < len(self.shapes[name]):
                    wanted = self.shapes[name][axis]
                    if size is not None and size != wanted and isinstance(dim, ir.SymbolicDim):
                        text = f'axis {axis} of input "{name}" is {dim} = {size}, but is given as {wanted}'
                        self.report("IPU0111", text)
                    size = wanted
                if size is None:
                    unbound.append(self.option(name, value.shape, axis, dim))
                else:
                    found.append(size)
            if len(found) == len(value.shape):
                value.shape = ir.Shape(found)
        if unbound:
            lines = "\n".join(dict.fromkeys(unbound))
            self.report("IPU0109", f"the model has symbolic dimensions without a size\n{lines}")
        if self.problems:
            raise CompileError(self.problems)

    def evaluate(self, dim: int | ir.SymbolicDim) -> int | None:
        if not isinstance(dim, ir.SymbolicDim):
            return dim if dim >= 0 else None
        if dim.value is None:
            return None
        if dim.value in self.sizes:
            return self.sizes[dim.value]
        if _symbols(dim) == [dim.value]:
            return None
        try:
            size = dim.evaluate(self.sizes)
        except ValueError:  # a name that is no expression
            return None
        return size if isinstance(size, int) and size >= 0 else None

    def option(self, name: str, shape: ir.Shape, axis: int, dim: int | ir.SymbolicDim) -> str:
        place = f'axis {axis} of input "{name}"'
        missing = [s for s in _symbols(dim) if s not in self.sizes] if isinstance(dim, ir.SymbolicDim) else []
        if missing:
            options = " ".join(f"--dim {symbol}=N" for symbol in missing)
            text = f'"{dim}" ({place})' if str(dim) not in missing else f'"{dim}", {place}'
            return f"{text}: {options}"
        pattern = ",".join(str(d) if isinstance(d, int) and d >= 0 else "N" for d in shape)
        return f"unnamed, {place}: --input-shape {name}={pattern}"


def _symbols(dim: ir.SymbolicDim) -> list[str]:
    """The names that a dimension depends on; a text that is no expression counts as one name.

    So does a power, which no exporter writes and whose value could be of any length.
    """
    if dim.value is None:
        return []
    if "**" in dim.value:
        return [dim.value]
    try:
        return sorted(dim.free_symbols()) or [dim.value]
    except ValueError:  # a name that is no expression
        return [dim.value]
