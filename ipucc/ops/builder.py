"""From the graph level to the tile graph: one function per ONNX op, registered by name.

A lowering reads its operands as `Ref`s. Ops that only rename elements return new refs and move nothing. Ops that
compute add a `TileOp`. Where a chain of views would move less than a 32-bit word at a time, which the exchange cannot
do, the builder inserts a copy op.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.codelets.base import Array, Codelet
from ipucc.codelets.copy import Copy
from ipucc.diagnostics import CompileError, error
from ipucc.dtypes import STORAGE, itemsize, storage_type, to_storage
from ipucc.graph.edit import dtype_name
from ipucc.graph.tensors import is_missing
from ipucc.ops.distribution import Scheme
from ipucc.ops.graph import Output, Ref, TileGraph, TileTensor
from ipucc.ops.movement import begins_word, copy_axes, copy_dims, in_words
from ipucc.ops.spec import Along, Axis, DimMap, Operand, Result, Source, TileOp
from ipucc.target import Target
from ipucc.tiles.layout import GRAIN_BYTES
from ipucc.tiles.view import View

__all__ = ["BuildOptions", "Builder", "Form", "Lowering", "lowering", "lowerings", "origin"]

Lowering = Callable[["Builder", ir.Node], None]
_SMALL_BYTES: Final = 1 << 14
_TABLE: Final[dict[tuple[str, str], Lowering]] = {}


@dataclass(frozen=True)
class BuildOptions:
    """What the lowering of ops depends on besides the graph. `received` and `handed` are the inputs that come from
    other parts of the program and the outputs that go to them. `partials` is the type fp16 products accumulate in,
    `distributions` how many ways to deal the blocks of a sparse weight are offered to placement; with `alike` those of
    sparse products that differ in their patterns alone are ways for all of them, with the same exchanges."""

    target: Target
    partials: str = "float16"
    distributions: int = 4
    alike: bool = False
    received: frozenset[str] = frozenset()
    handed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Form:
    """Another form of an op: `changes` to the fields of its codelets, and its own `operands` if they are others."""

    name: str
    changes: Mapping[str, object]
    operands: tuple[Operand, ...] | None = None


def lowering(*ops: str, domain: str = "") -> Callable[[Lowering], Lowering]:
    """Decorator: this function lowers these op types."""

    def add(function: Lowering) -> Lowering:
        for op in ops:
            if (domain, op) in _TABLE:
                raise ValueError(f"two lowerings of {domain}::{op}")
            _TABLE[domain, op] = function
        return function

    return add


def lowerings() -> Mapping[tuple[str, str], Lowering]:
    """All registered lowerings by (domain, op type)."""
    return _TABLE


@dataclass(eq=False)
class Builder:
    """The tile graph under construction, and the values made so far."""

    options: BuildOptions
    graph: TileGraph = field(default_factory=TileGraph)
    env: dict[ir.Value, Ref] = field(default_factory=dict)
    constants: dict[ir.Value, Array] = field(default_factory=dict)
    alike: dict[Hashable, list[tuple[Scheme, int]]] = field(default_factory=dict)
    """How sparse products are dealt that differ in the places of their blocks alone, and the blocks of a run."""
    _node: ir.Node | None = None
    _weights: dict[tuple[str, tuple[int, ...]], int] = field(default_factory=dict)

    # Values

    def ref(self, node: ir.Node, i: int) -> Ref:
        """Operand i of a node. IPU0120 when it is absent."""
        value = node.inputs[i] if i < len(node.inputs) else None
        if value is None:
            raise self.fail("IPU0120", f"operand {i} is missing")
        if value not in self.env:
            self.env[value] = self._weight(value)
        return self.env[value]

    def has(self, node: ir.Node, i: int) -> bool:
        """Whether operand i is given."""
        return i < len(node.inputs) and node.inputs[i] is not None

    def constant(self, node: ir.Node, i: int) -> Array | None:
        """The value of operand i where it is known while compiling, else None."""
        value = node.inputs[i] if i < len(node.inputs) else None
        if value is None or value.const_value is None or is_missing(value.const_value):
            return None
        return np.asarray(value.const_value.numpy())

    def define(self, node: ir.Node, ref: Ref, i: int = 0) -> None:
        """Result i of a node is this ref. Raises IPU0203 for one of another element type: a fused op whose expression
        ends in another type than its product has."""
        value = node.outputs[i]
        if value.dtype is not None and (wanted := dtype_of(value)) != ref.dtype:
            raise self.fail("IPU0203", f"a {node.op_type} of {ref.dtype} with a result of {wanted} is not supported")
        self.env[value] = ref

    def view(self, ref: Ref, view: View) -> Ref:
        """A ref seen through one more view."""
        sources = tuple(Source(s.tensor, s.view.then(view)) for s in ref.sources)
        return Ref(sources, view.dst, ref.dtype, ref.gap)

    def reshape(self, ref: Ref, shape: Sequence[int]) -> Ref:
        """Row-major reshape."""
        return ref if tuple(shape) == ref.shape else self.view(ref, View.reshape(ref.shape, shape))

    def fail(self, id: str, message: str, *, help: Sequence[str] = ()) -> CompileError:
        """An error that names the node being lowered."""
        node = self._node
        name = origin(node)[0] if node is not None else None
        return error(id, message, node=name, op=node.op_type if node is not None else None, help=help)

    def _weight(self, value: ir.Value) -> Ref:
        if value.const_value is None or value.name is None:
            raise self.fail("IPU0117", f"value {value.name!r} is computed by no node")
        shape, dtype = shape_of(value), dtype_of(value)
        if value.name not in self.graph.weights:
            held: Array | None = None
            if not is_missing(value.const_value):
                try:
                    held = to_storage(np.asarray(value.const_value.numpy()), dtype)
                except OverflowError as e:
                    raise self.fail("IPU0409", f"constant {value.name!r}: {e}") from e
            self.graph.weights[value.name] = held
        grain = len(shape) - 1 if shape else 0
        tensor = self._tensor(value.name, shape, dtype, "weight", grain, key=value.name)
        return Ref((Source(tensor, View.identity(shape)),), shape, dtype)

    def literal(self, name: str, value: Array | None, dtype: str, shape: tuple[int, ...] | None = None) -> Ref:
        """A constant that the lowering itself makes, written by the host like a weight; one of which only the shape is
        known has no value. A name that is taken, by a node of the same origin say, gets a number."""
        taken = name
        for number in count(2):
            if taken not in self.graph.weights:
                break
            taken = f"{name}#{number}"
        name = taken
        dims = value.shape if value is not None else shape or ()
        self.graph.weights[name] = value
        tensor = self._tensor(name, dims, dtype, "weight", max(0, len(dims) - 1), key=name)
        return Ref((Source(tensor, View.identity(dims)),), dims, dtype)

    def add_input(self, value: ir.Value, declared: str, resident: bool = False) -> None:
        """A graph input; `declared` is the type that callers give it in. A resident one stays where it is needed for
        many runs, like a weight."""
        shape, dtype = shape_of(value), dtype_of(value)
        name = str(value.name)
        grain = len(shape) - 1 if shape else 0
        kind = "weight" if resident else "received" if name in self.options.received else "input"
        tensor = self._tensor(name, shape, dtype, kind, grain, key=name)
        self.graph.inputs.append((name, declared, shape))
        self.env[value] = Ref((Source(tensor, View.identity(shape)),), shape, dtype)

    def add_output(self, value: ir.Value, declared: str) -> None:
        """A graph output. One that is an input, a constant or made of several parts is copied to one tensor first, and
        so is one that is handed on in elements of less than a word, in another view than it is or in grains of another
        dimension than the last."""
        ref = self.env[value] if value in self.env else self._weight(value)
        tensor = self.graph.tensors[ref.sources[0].tensor]
        view = ref.sources[0].view
        lies = view.is_total if itemsize(ref.dtype) >= 4 else (
            view.is_identity and tensor.grain_dim == max(0, len(ref.shape) - 1)
        )  # fmt: skip
        if len(ref.sources) != 1 or tensor.kind != "result" or (str(value.name) in self.options.handed and not lies):
            ref = self.copied(ref, f"{value.name}")
        self.graph.outputs.append(Output(str(value.name), declared, ref.shape, ref.sources[0], ref.gap))

    def _tensor(
        self, name: str, shape: tuple[int, ...], dtype: str, kind: str, grain_dim: int, key: str = "",
        view: View | None = None,
    ) -> int:  # fmt: skip
        index = len(self.graph.tensors)
        self.graph.tensors.append(TileTensor(index, name, shape, dtype, kind, grain_dim, key, view))  # type: ignore[arg-type]
        return index

    # Operands and ops

    def operand(
        self,
        ref: Ref,
        dims: Sequence[DimMap],
        *,
        fill: float = 0.0,
        want: int | None = None,
        epilogue: bool = False,
        fetched: bool = False,
    ) -> Operand:
        """An operand of a tile op. `want` is the dimension that the codelet needs grains of (None: any).

        A weight is written by the host in the form that is wanted; so is an input that is read in this form first.
        With `fetched` it is not: for views in which elements come up often, which the host would write as often.
        """
        shape = ref.shape
        prefer = want if want is not None else max(0, len(shape) - 1)
        if not fetched and self.is_hosted(ref):
            ref = self._hosted(ref, prefer)
            pack = None
            grain = prefer
        else:
            grain = self._arrival(ref, prefer)
            if grain < 0:
                ref = self.copied(ref, self.name(), grain_dim=prefer)
                grain = prefer
            pack = None if want is None or want == grain or not shape else want
        return Operand(ref.sources, shape, tuple(dims), ref.dtype, grain, fill, ref.gap, pack, epilogue)

    def is_hosted(self, ref: Ref) -> bool:
        """Whether a ref is one input or weight, and all of its elements are elements of that."""
        kind = self.graph.tensors[ref.sources[0].tensor].kind
        return len(ref.sources) == 1 and kind in ("input", "weight") and ref.gap == 0.0

    def in_grains(self, ref: Ref, dim: int) -> Ref:
        """A ref for views that pick elements along another dimension than `dim`: an input or weight as the host writes
        it in grains of `dim`, a result that lies otherwise copied to a tensor of its own."""
        if self.is_hosted(ref):
            return self._hosted(ref, dim)
        whole = len(ref.sources) == 1 and ref.sources[0].view.is_identity
        lies = whole and self.graph.tensors[ref.sources[0].tensor].grain_dim == dim
        return ref if lies else self.copied(ref, self.name(), dim)

    def _hosted(self, ref: Ref, grain_dim: int) -> Ref:
        """An input or weight as a tensor of its own in the shape in which it is read: the host applies the view."""
        old = self.graph.tensors[ref.sources[0].tensor]
        view = ref.sources[0].view if old.view is None else old.view.then(ref.sources[0].view)
        # A small constant that several ops share is written for each of them: its bytes are few, an exchange is not,
        # and layers that share a bias stay alike.
        small = old.kind == "weight" and prod(ref.shape) * itemsize(ref.dtype) <= _SMALL_BYTES
        own = len(self.graph.ops) if small else -1
        key = (old.key, own, grain_dim, view.digest)
        if key not in self._hosted_views:
            self._hosted_views[key] = self._tensor(old.name, ref.shape, ref.dtype, old.kind, grain_dim, old.key, view)
        return Ref((Source(self._hosted_views[key], View.identity(ref.shape)),), ref.shape, ref.dtype, ref.gap)

    _hosted_views: dict[tuple[object, ...], int] = field(default_factory=dict)

    def arrival(self, ref: Ref) -> int:
        """The dimension whose grains arrive together when a ref is read without a wish; -1 if a copy comes before."""
        if self.is_hosted(ref):
            return max(0, len(ref.shape) - 1)
        return self._arrival(ref, max(0, len(ref.shape) - 1))

    def _arrival(self, ref: Ref, prefer: int) -> int:
        """The dimension whose grains arrive together from all sources, `prefer` if it can be; -1 if there is none."""
        order = [prefer, *(d for d in range(len(ref.shape) - 1, -1, -1) if d != prefer)]
        if not ref.shape:
            return 0 if all(begins_word(s.view, self.graph.tensors[s.tensor], ref.dtype) for s in ref.sources) else -1
        # Words of 4 bytes and more can be exchanged one by one, but runs of grains keep the exchange code short.
        for d in order:
            if all(in_words(s.view, self.graph.tensors[s.tensor].grain_dim, d, 16 // itemsize(ref.dtype) or 1)
                   for s in ref.sources):  # fmt: skip
                return d
        for d in order:
            if all(in_words(s.view, self.graph.tensors[s.tensor].grain_dim, d, -(-4 // itemsize(ref.dtype)))
                   for s in ref.sources):  # fmt: skip
                return d
        return prefer if itemsize(ref.dtype) >= 4 else -1

    def settled(self, ref: Ref, prefer: int) -> Ref:
        """The ref, copied to a tensor of its own if grains of it cannot be exchanged as they lie.

        For ops that read elements several times: what is gathered from a copy moves in whole words.
        """
        hosted = len(ref.sources) == 1 and self.graph.tensors[ref.sources[0].tensor].kind in ("input", "weight")
        return ref if hosted or self._arrival(ref, prefer) >= 0 else self.copied(ref, self.name(), prefer)

    def copied(self, ref: Ref, name: str, grain_dim: int | None = None) -> Ref:
        """The ref as one tensor of its own: a copy op gathers, on every tile, what its cell needs of each source."""
        grain = grain_dim if grain_dim is not None else max(0, len(ref.shape) - 1)
        axes = copy_axes(ref)
        operands, parts = [], []
        for s in ref.sources:
            tensor = self.graph.tensors[s.tensor]
            sources = (Source(s.tensor, View.identity(tensor.shape)),)
            operands.append(Operand(sources, tensor.shape, copy_dims(s.view), ref.dtype, tensor.grain_dim))
            groups = tuple((g.src, g.dst, None if g.is_identity else tuple(g.index.tolist())) for g in s.view.groups)
            parts.append((s.view.src, tensor.grain_dim, groups))
        codelet = Copy(ref.shape, tuple(parts), ref.dtype, ref.gap)
        return self.compute("Copy", axes, operands, [a.name for a in axes], ref.dtype, codelet, grain, name)

    def grain(self, dtype: str) -> int:
        """Elements of one grain."""
        return max(1, GRAIN_BYTES // itemsize(dtype))

    def name(self) -> str:
        """The name of the node being lowered."""
        return origin(self._node)[0] if self._node is not None else "copy"

    def compute(
        self,
        kind: str,
        axes: Sequence[Axis],
        operands: Sequence[Operand],
        result_axes: Sequence[str],
        dtype: str,
        codelet: Codelet,
        grain_dim: int,
        name: str | None = None,
        *,
        partial: Codelet | None = None,
        partial_dtype: str = "float32",
        combine: Codelet | None = None,
        statistics: tuple[str, ...] = (),
        macs: int = 0,
        sparse_macs: int | None = None,
        forms: Sequence[Form] = (),
    ) -> Ref:
        """Add a tile op; its result as a ref of the shape of `result_axes`. Grains of the axes follow the operands.

        An op on single elements has an axis of one index, so that every cell has an extent.
        """
        axes = axes or (Axis("one", 1, "whole"),)
        by_name = {a.name: a for a in axes}
        shape = tuple(by_name[a].size for a in result_axes)
        title = name if name is not None else self.name()
        tensor = self._tensor(title, shape, dtype, "result", grain_dim)
        result = Result(tensor, tuple(result_axes), dtype, grain_dim)
        op = TileOp(
            title, kind, self._grained(axes, operands, result), tuple(operands), result, codelet,
            partial, partial_dtype, combine, statistics, macs, sparse_macs,
            origin(self._node) if self._node else (),
        )  # fmt: skip
        self.graph.ops.append(replace(op, forms=tuple(self._form(op, axes, f) for f in forms)))
        return Ref((Source(tensor, View.identity(shape)),), shape, dtype)

    def _form(self, op: TileOp, axes: Sequence[Axis], form: Form) -> TileOp:
        operands = op.operands if form.operands is None else form.operands
        codelet = replace(op.codelet, **form.changes)  # type: ignore[type-var]
        partial = None if op.partial is None else replace(op.partial, **form.changes)  # type: ignore[type-var]
        cut = self._grained(axes, operands, op.result)
        return replace(op, form=form.name, axes=cut, operands=operands, codelet=codelet, partial=partial)

    def _grained(self, axes: Sequence[Axis], operands: Sequence[Operand], result: Result) -> tuple[Axis, ...]:
        """The axes with cuts at whole grains of what follows them."""
        grains = {a.name: a.grain for a in axes}
        if result.axes:
            name = result.axes[result.grain_dim]
            grains[name] = max(grains[name], self.grain(result.dtype))
        for o in operands:
            for d in {o.grain_dim, o.pack_dim} - {None}:
                along = o.dims[d] if o.dims else None  # type: ignore[index]
                if isinstance(along, Along):
                    grains[along.axis] = max(grains[along.axis], self.grain(o.dtype))
        return tuple(replace(a, grain=grains[a.name]) for a in axes)

    def offered(self, chains: Sequence[tuple[str, Callable[[], Ref]]]) -> Ref:
        """A value that each of several chains of ops computes, named and built by a function each: placement chooses
        one of them. All chains must have as many ops, of the same kinds, over as many operands, and end in a tensor of
        the same shape and type.
        """
        start = len(self.graph.ops)
        built: list[list[TileOp]] = []
        result: Ref | None = None
        for name, build in chains:
            made = build()
            ops = [replace(op, form=name, chained=len(chains) > 1) for op in self.graph.ops[start:]]
            del self.graph.ops[start:]
            if result is None:
                result = made
            elif [(op.kind, len(op.operands)) for op in ops] != [(op.kind, len(op.operands)) for op in built[0]]:
                raise RuntimeError(f"chain {name!r} of {self.name()} is built unlike the others")
            else:
                ops[-1] = replace(ops[-1], result=replace(ops[-1].result, tensor=built[0][-1].result.tensor))
            built.append(ops)
        if result is None:
            raise ValueError("no chain is offered")
        for first, *others in zip(*built, strict=True):
            self.graph.ops.append(replace(first, forms=tuple(others)))
        return result

    def begin(self, node: ir.Node) -> None:
        """From here on, ops and errors are those of this node."""
        self._node = node

    def lower(self, node: ir.Node) -> None:
        """Lower one node. IPU0201 for an op type without a lowering."""
        self.begin(node)
        function = _TABLE.get((node.domain, node.op_type))
        if function is None:
            raise self.fail("IPU0201", f"{node.op_type} is not supported")
        if node.outputs and all(value.shape is not None and 0 in value.shape for value in node.outputs):
            # Nothing is computed for results without elements, whatever the op.
            for i, value in enumerate(node.outputs):
                dtype = dtype_of(value)
                empty = np.zeros(shape_of(value), storage_type(dtype))
                self.define(node, self.literal(f"{value.name}.empty", empty, dtype), i)
            return
        function(self, node)


def origin(node: ir.Node | None) -> tuple[str, ...]:
    """Names of the ONNX nodes that a node comes from."""
    if node is None:
        return ()
    text = node.metadata_props.get("ipucc.origin", "") or node.name or node.outputs[0].name or node.op_type
    return tuple(text.split(","))


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a value. IPU0115 when it has none."""
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        raise error("IPU0115", f"value {value.name!r} has no static shape")
    return tuple(int(d) for d in value.shape)  # type: ignore[arg-type]


def dtype_of(value: ir.Value) -> str:
    """The element type of a value by its lower-case name. IPU0203 for a type that no tile holds."""
    if value.dtype is None:
        raise error("IPU0115", f"value {value.name!r} has no element type")
    name = "string" if value.dtype == ir.DataType.STRING else dtype_name(value.dtype)
    if name not in STORAGE:
        raise error("IPU0203", f"value {value.name!r} has type {name}, which is not supported on tiles")
    return name
