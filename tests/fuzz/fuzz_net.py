"""Random typed graphs under construction: every node is computed as it is added.

The values are at hand while a graph grows, so that an op is only added where it has a meaning: shapes and indices fit,
results are finite, integers do not wrap. Two oracles compute each of them from the same operands. Beside every value
goes a bound of what roundings may make of it: results are computed again from operands that are off by their bounds,
and an op that answers with another integer, or blows its operands' errors up, is not added. What is left must be met by
whoever computes the graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
import onnx.printer
import onnx.shape_inference
from fuzz_oracles import Unknown, computed, why_parted
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["FLOATS", "INTEGERS", "MARGIN", "Net", "Rejected", "Value", "nets"]

Array = NDArray[Any]
Make = Callable[["Net"], None]

FLOATS: Final = ("float32", "float16")
INTEGERS: Final = ("int64", "int32", "int8", "uint8")
OPSETS: Final = (20, 22, 24, 26)
MOST_ELEMENTS: Final = 3000
MOST_INTEGER: Final = 2**20
ROUNDING: Final = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
"""What a few roundings make of a value of a type, relative to the largest magnitude."""
ILL: Final = 0.02
"""A result whose bound is a larger share of its magnitude says nothing."""
MARGIN: Final = 4.0
"""Bounds are estimates: results may be off by so many times as much."""
STEP: Final = 2.0**-6
"""Numbers that are multiples of it, up to 16, are added and multiplied without rounding in float32, a few times."""

KEEPING: Final = frozenset(
    """
    Abs ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Clip Compress Concat DepthToSpace
    Equal Expand Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Hardmax Identity IsInf IsNaN Less
    LessOrEqual Max MaxPool Min Neg Not And Or Xor OneHot Pad ReduceMax ReduceMin Relu Reshape ReverseSequence Round
    ScatterElements ScatterND Sign Slice SpaceToDepth Split Squeeze Tile TopK Transpose Trilu Unsqueeze Where
    GlobalMaxPool CenterCropPad EyeLike NonZero Size Shape CastLike Unique
    """.split()  # noqa: SIM905
)
"""Ops that round nothing."""
SUMMING: Final = frozenset({"Add", "Sub", "Mul", "Sum", "ReduceSum", "MatMul", "Gemm", "Conv", "CumSum", "Einsum"})
"""Ops that round nothing where the numbers are small and their multiples of one step."""


class Rejected(Exception):
    """An op that has no meaning for these operands."""


@dataclass(frozen=True, eq=False)
class Value:
    """A value: its numbers, and by how much another who computes it may be off."""

    array: Array
    error: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> str:
        return self.array.dtype.name


@dataclass
class Net:
    """A graph under construction. With `halves`, bounds are those of a computation in half precision."""

    draw: st.DrawFn
    opset: int = 26
    halves: bool = False
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    parted: list[str] = field(default_factory=list)
    """Why the oracles part at some of the nodes."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How hypothesis prints a graph."""
        printer.text(onnx.printer.to_text(self.model()))

    def some(self, choices: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def coin(self) -> bool:
        return self.draw(st.booleans())

    def pick(self, *types: str, rank: int = 0, ranks: Sequence[int] | None = None) -> str:
        """A value of one of the types and of at least (or one of) so many dimensions, late ones rather than early; a
        new input if there is none."""
        allowed = range(rank, 6) if ranks is None else ranks
        fitting = [n for n, v in self.values.items() if v.dtype in types and v.array.ndim in allowed]
        if fitting and self.number(0, 7):
            return str(self.some(fitting[-4:]))
        return self.input(self.some(types), self.some([r for r in allowed if r <= 4 and (r or rank == 0)]))

    def input(self, dtype: str, rank: int) -> str:
        shape = tuple(self.number(1, 10 if rank > 2 else 30) for _ in range(rank))
        name = f"x{len(self.inputs)}"
        self.values[name] = Value(self.numbers(shape, dtype, len(self.inputs)))
        self.inputs.append(name)
        return name

    def numbers(self, shape: Sequence[int], dtype: str, seed: int = 0) -> Array:
        """Small numbers of a type."""
        rng = np.random.default_rng(100 * seed + self.number(0, 3))
        if dtype == "bool":
            return np.asarray(rng.random(shape) < 0.5)
        if "int" in dtype:
            return np.asarray(rng.integers(0 if dtype[0] == "u" else -4, 9, shape)).astype(dtype)
        kind = self.some(["around", "around", "unit", "above"])
        low, high = {"around": (-32, 33), "unit": (1, 16), "above": (17, 48)}[kind]
        return np.asarray(rng.integers(low, high, shape) / 16).astype(dtype)

    def constant(self, shape: Sequence[int], dtype: str) -> str:
        return self.tensor(self.numbers(shape, dtype, len(self.constants) + 50))

    def tensor(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        self.values[name] = Value(np.asarray(array))
        return name

    def ints(self, *numbers: int) -> str:
        return self.tensor(np.asarray(numbers, np.int64))

    def add(self, op: str, inputs: Sequence[str], results: int = 1, **attributes: Any) -> list[str]:
        """Add a node; the names of its results. Raises Rejected where it has no meaning."""
        names = [f"v{len(self.nodes)}" + (f".{i}" if i else "") for i in range(results)]
        node = helper.make_node(op, list(inputs), names, name=f"n{len(self.nodes)}", **attributes)
        operands = [self.values[n] for n in _names(node)]
        try:
            onnx.defs.get_schema(op, self.opset)
            alone = self._alone(node, [v.array for v in operands])
            inferred = onnx.shape_inference.infer_shapes(alone, check_type=True, strict_mode=True, data_prop=True)
        except Exception as failure:  # of several kinds
            raise Rejected(str(failure)) from failure
        found = self._computed(node, [v.array for v in operands])
        for port, array in zip(inferred.graph.output, found, strict=True):
            shape = port.type.tensor_type.shape.dim
            if any(d.HasField("dim_value") and d.dim_value != n for d, n in zip(shape, array.shape, strict=False)):
                raise Rejected("inferred otherwise")  # a fault of the evaluator
        bounds = self._bounds(op, node, operands, found)
        given = {n: v.array for n, v in zip(_names(node), operands, strict=True)}
        if why := why_parted(alone, given, found, [MARGIN * bound for bound in bounds]):
            self.parted.append(why)
        for name, array, bound in zip(names, found, bounds, strict=True):
            self.values[name] = Value(array, bound)
        self.nodes.append(node)
        return names

    def _alone(self, node: onnx.NodeProto, arrays: Sequence[Array]) -> onnx.ModelProto:
        """A model of one node, its operands inputs."""
        ports = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                 for n, a in zip(_names(node), arrays, strict=True)]  # fmt: skip
        known = {t.name: t for t in self.constants}
        graph = helper.make_graph(
            [node], "node", ports, [onnx.ValueInfoProto(name=n) for n in node.output],
            [known[n] for n in _names(node) if n in known],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def _computed(self, node: onnx.NodeProto, arrays: Sequence[Array]) -> list[Array]:
        given = dict(zip(_names(node), arrays, strict=True))
        try:
            found = computed(self._alone(node, arrays), given)
        except Unknown as failure:
            raise Rejected(str(failure)) from failure
        for a in found:
            if a.dtype.name not in (*FLOATS, *INTEGERS, "bool", "int16", "uint32", "uint16", "bfloat16"):
                raise Rejected(a.dtype.name)
            if not 0 < a.size <= MOST_ELEMENTS or a.ndim > 5:
                raise Rejected("size")
            if a.dtype.kind in "iu" and np.abs(a.astype(np.int64)).max() > MOST_INTEGER:
                raise Rejected("large")
            if _is_float(a) and not np.abs(a.astype(np.float64)).max() < 1000:  # NaN among them
                raise Rejected("large")
        return found

    def _bounds(self, op: str, node: onnx.NodeProto, operands: Sequence[Value], found: Sequence[Array]) -> list[float]:
        exact = all(v.error == 0 for v in operands)
        narrow = self.halves or any(v.dtype in ("float16", "bfloat16") for v in operands)
        if op in SUMMING and not any(_is_float(a) for a in found):
            self._does_not_wrap(node, operands, found)
        joins = [a.s for a in node.attribute if a.name == "reduction"]
        keeps = op in KEEPING and not {b"add", b"mul"} & set(joins)
        if exact and (keeps or all(not _is_float(a) for a in found)):
            return [0.0] * len(found)
        if exact and op in SUMMING and not narrow and all(map(_stepped, [*found, *(v.array for v in operands)])):
            return [0.0] * len(found)
        off = [0.0] * len(found)
        # What jumps where operands are alike (Hardmax, TopK, Round) shows it when they move apart: with each draw, half
        # of them do.
        for seed in range(0 if exact else 10 if keeps else 2):
            rng = np.random.default_rng(seed)
            moved = [v.array if not v.error else (v.array.astype(np.float64) + v.error * rng.choice([-1, 1], v.shape))
                     .astype(v.array.dtype) for v in operands]  # fmt: skip
            for i, (a, b) in enumerate(zip(self._computed(node, moved), found, strict=True)):
                if a.shape != b.shape:
                    raise Rejected("another shape")
                off[i] = max(off[i], float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()))
        # What sums cancel has been rounded at the size that it had before.
        largest = max((float(np.abs(v.array.astype(np.float64)).max()) for v in operands if _is_float(v.array)),
                      default=0.0)  # fmt: skip
        bounds = []
        for array, moved_by in zip(found, off, strict=True):
            if not _is_float(array):
                if moved_by:
                    raise Rejected("another integer")
                bounds.append(0.0)
                continue
            if keeps and (op != "Cast" or not narrow):
                bounds.append(2 * moved_by)
                continue
            size = float(np.abs(array.astype(np.float64)).max())
            rounding = max(ROUNDING["float16"] if narrow else 0.0, ROUNDING[array.dtype.name])
            bounds.append(2 * moved_by + rounding * max(size, self._summed(op, node, operands), min(1.0, largest)))
            if bounds[-1] > ILL * max(size, 0.1):
                raise Rejected("ill-conditioned")
        return bounds

    def _summed(self, op: str, node: onnx.NodeProto, operands: Sequence[Value]) -> float:
        """The largest sum of magnitudes, of ops that add products up."""
        if op not in ("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "ReduceSum", "CumSum"):
            return 0.0
        try:
            large = self._computed(node, [np.abs(v.array) for v in operands])
        except Rejected:
            return 1000.0
        return max(float(np.abs(a.astype(np.float64)).max()) for a in large)

    def _does_not_wrap(self, node: onnx.NodeProto, operands: Sequence[Value], found: Sequence[Array]) -> None:
        if any(v.dtype not in INTEGERS for v in operands):
            return
        try:
            wide = self._computed(node, [v.array.astype(np.int64) for v in operands])
        except Rejected:
            return
        if any((a != b).any() for a, b in zip(wide, found, strict=True)):
            raise Rejected("wraps")

    def outputs(self) -> list[str]:
        read = {name for node in self.nodes for name in node.input}
        made = [name for node in self.nodes for name in node.output]
        return [name for name in made if name not in read or name in self.kept]

    def model(self) -> onnx.ModelProto:
        def port(name: str) -> onnx.ValueInfoProto:
            value = self.values[name]
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.array.dtype), value.shape)

        read = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes, "random", [port(n) for n in self.inputs if n in read], [port(n) for n in self.outputs()],
            [t for t in self.constants if t.name in read],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model

    def feeds(self) -> dict[str, Array]:
        return {port.name: self.values[port.name].array for port in self.model().graph.input}


def _names(node: onnx.NodeProto) -> list[str]:
    """What a node reads, each once."""
    return [n for n in dict.fromkeys(node.input) if n]


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def _stepped(array: Array) -> bool:
    """Whether all numbers are small multiples of one step."""
    steps = array.astype(np.float64) / STEP
    return bool((steps == np.rint(steps)).all() and np.abs(steps).max() <= 16 / STEP)


@st.composite
def nets(draw: st.DrawFn, ops: Sequence[Make], halves: bool = False, most: int = 8) -> Net:
    """Graphs of up to so many nodes, each by one of `ops`."""
    net = Net(draw, draw(st.sampled_from(OPSETS)), halves)
    wanted = draw(st.integers(2, most))
    for _ in range(3 * wanted):
        op = draw(st.sampled_from(ops))
        before = dict(net.values), list(net.nodes), list(net.inputs), list(net.constants), list(net.parted)
        try:
            op(net)
        except Rejected:
            net.values, net.nodes, net.inputs, net.constants, net.parted = before
        if len(net.nodes) >= wanted:
            break
    if not net.nodes:
        net.add("Neg", [net.input("float32", 2)])
    inner = [n for node in net.nodes for n in node.output]
    net.kept = draw(st.lists(st.sampled_from(inner), max_size=2, unique=True))
    return net
