"""Attention (opset 23 and later) written out in MatMul, Softmax and elementwise ops.

ONNX's own function body for it is built from operands that may be absent, which its inliner does not survive; it also
recomputes constants (scale, causal frontier) at run time that are known here. Definition and order of the steps:
onnx/defs/nn, operator Attention, versions 23 to 25.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ipucc.diagnostics import CompileError, Diagnostic
from ipucc.graph.edit import ORIGIN, copy_type, describe, value_dtype

_RAW, _CAPPED, _BIASED, _SOFTMAX = range(4)


def expand_attention(model: ir.Model, where: str | None = None) -> int:
    """Replace every Attention node; the number replaced. Shapes of the operands must be static.

    Raises one CompileError with an IPU0207 for every node of a form that the definition does not allow.
    """
    problems: list[Diagnostic] = []
    found = [node for node in model.graph.all_nodes() if node.op_type == "Attention" and node.domain == ""]
    for node in found:
        if reason := _refuse(node):
            problems.append(Diagnostic("IPU0207", "error", reason, describe(node), "Attention", where))
    if problems:
        raise CompileError(problems)
    for node in found:
        _Writer(node).write()
    return len(found)


@dataclass(frozen=True, slots=True)
class _Sizes:
    batch: int
    queries: int
    past: int
    keys: int
    heads: int
    kv_heads: int
    features: int
    v_features: int

    @property
    def total(self) -> int:
        return self.past + self.keys


def _shape(value: ir.Value) -> tuple[int, ...] | None:
    return value.shape.numpy() if value.shape is not None and value.shape.is_static() else None


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _refuse(node: ir.Node) -> str | None:
    """Why a node cannot be written out, or None."""
    operands = [_input(node, index) for index in range(3)]
    if any(value is None for value in operands):
        return "query, key and value must be given"
    for value in node.inputs:
        if value is not None and (_shape(value) is None or value.dtype is None):
            return f'operand "{value.name}" has no static shape'
    shapes = [shape for value in operands if value is not None and (shape := _shape(value)) is not None]
    ranks = {len(shape) for shape in shapes}
    if len(ranks) != 1 or not ranks <= {3, 4}:
        return f"query, key and value must all have rank 3 or all rank 4, they have {[list(s) for s in shapes]}"
    if ranks == {3} and not (node.attributes.get_int("q_num_heads", 0) and node.attributes.get_int("kv_num_heads", 0)):
        return "operands of rank 3 need the attributes q_num_heads and kv_num_heads"
    if (_input(node, 4) is None) != (_input(node, 5) is None):
        return "past_key and past_value must be given together"
    if _input(node, 4) is not None and _input(node, 6) is not None:
        return "nonpad_kv_seqlen cannot be combined with past_key and past_value"
    if not 0 <= node.attributes.get_int("qk_matmul_output_mode", 0) <= _SOFTMAX:
        return "qk_matmul_output_mode must be 0, 1, 2 or 3"
    sizes = _sizes(node)
    if sizes.kv_heads == 0 or sizes.heads % sizes.kv_heads:
        return f"{sizes.heads} query heads cannot share {sizes.kv_heads} key heads evenly"
    if ranks == {3} and (shapes[0][2] % sizes.heads or shapes[1][2] % sizes.kv_heads or shapes[2][2] % sizes.kv_heads):
        return "the hidden sizes are no multiples of the numbers of heads"
    mask = _input(node, 3)
    mask_shape = _shape(mask) if mask is not None else None
    if mask_shape is not None and (not 1 <= len(mask_shape) <= 4 or mask_shape[-1] > max(sizes.total, 1)):
        return f"the mask of shape {list(mask_shape)} does not broadcast to the scores"
    return None


def _sizes(node: ir.Node) -> _Sizes:
    query, key, value = (s for v in node.inputs[:3] if v is not None and (s := _shape(v)) is not None)
    past_key = _input(node, 4)
    past = (_shape(past_key) or (0, 0, 0, 0))[2] if past_key is not None else 0
    if len(query) == 3:
        heads = node.attributes.get_int("q_num_heads", 1)
        kv_heads = node.attributes.get_int("kv_num_heads", 1)
        return _Sizes(
            query[0], query[1], past, key[1], heads, kv_heads, query[2] // heads, value[2] // kv_heads
        )  # fmt: skip
    return _Sizes(query[0], query[2], past, key[2], query[1], key[1], query[3], value[3])


class _Writer:
    """Builds the nodes of one Attention before it and lets them take its place."""

    def __init__(self, node: ir.Node) -> None:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        self.node, self.graph, self.sizes = node, graph, _sizes(node)
        query = node.inputs[0]
        assert query is not None  # checked by _refuse
        self.dtype = value_dtype(query)
        self.rank3 = len(_shape(query) or ()) == 3
        self.prefix = f"{node.outputs[0].name or node.name}/attention"
        self.count = 0

    def op(self, op_type: str, *inputs: ir.Value, **attributes: int | float | Sequence[int]) -> ir.Value:
        self.count += 1
        name = f"{self.prefix}/{op_type}_{self.count}"
        made = ir.node(op_type, list(inputs), attributes, name=name, metadata_props={ORIGIN: describe(self.node)})
        made.outputs[0].name = name
        self.graph.insert_before(self.node, made)
        return made.outputs[0]

    def constant(self, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        self.count += 1
        name = f"{self.prefix}/constant_{self.count}"
        dtype = dtype or ir.DataType.from_numpy(array.dtype)
        tensor = ir.tensor(array.astype(dtype.numpy()), dtype, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def number(self, number: float, dtype: ir.DataType | None = None) -> ir.Value:
        return self.constant(np.asarray(number), dtype or self.dtype)

    def ints(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

    def write(self) -> None:
        node, sizes = self.node, self.sizes
        query, key, value = (self.heads(v, n) for v, n in self.operands())
        past_key, past_value = _input(node, 4), _input(node, 5)
        if past_key is not None and past_value is not None:
            key = self.op("Concat", past_key, key, axis=2)
            value = self.op("Concat", past_value, value, axis=2)
        scores = self.scores(query, key)
        probabilities, shown = self.softmax(scores)
        result = self.matmul(probabilities, value, sizes.total, sizes.v_features)
        if self.rank3:
            result = self.op("Transpose", result, perm=[0, 2, 1, 3])
            shape = self.ints(sizes.batch, sizes.queries, sizes.heads * sizes.v_features)
            result = self.op("Reshape", result, shape)
        for old, new in zip(node.outputs, (result, key, value, shown), strict=False):
            self.replace(old, new)
        self.graph.remove(node, safe=True)

    def operands(self) -> list[tuple[ir.Value, int]]:
        counts = (self.sizes.heads, self.sizes.kv_heads, self.sizes.kv_heads)
        return [(v, n) for v, n in zip(self.node.inputs[:3], counts, strict=True) if v is not None]

    def heads(self, value: ir.Value, count: int) -> ir.Value:
        """[batch, tokens, heads x features] as [batch, heads, tokens, features]."""
        if not self.rank3:
            return value
        split = self.op("Reshape", value, self.ints(0, 0, count, -1))
        return self.op("Transpose", split, perm=[0, 2, 1, 3])

    def matmul(self, left: ir.Value, right: ir.Value, inner: int, columns: int) -> ir.Value:
        """left [b, heads, q, inner] times right [b, kv_heads, inner, columns]; heads of a group share a right side.

        The rows of a group are stacked, so that the shared operand is not repeated.
        """
        sizes = self.sizes
        if sizes.heads == sizes.kv_heads:
            return self.op("MatMul", left, right)
        rows = sizes.heads // sizes.kv_heads * sizes.queries
        stacked = self.op("Reshape", left, self.ints(sizes.batch, sizes.kv_heads, rows, inner))
        product = self.op("MatMul", stacked, right)
        return self.op("Reshape", product, self.ints(sizes.batch, sizes.heads, sizes.queries, columns))

    def scores(self, query: ir.Value, key: ir.Value) -> ir.Value:
        """Scaled products. The definition scales both sides by the root of the scale, to keep fp16 in range. Scaling
        the query alone keeps it as well and leaves cached keys as they are; so it is done where it is no less exact:
        in more than 16 bits, and by powers of two."""
        scale = self.node.attributes.get_float("scale", 1 / np.sqrt(self.sizes.features))
        if self.dtype.itemsize > 2 or np.frexp(scale)[0] == 0.5:
            query = self.op("Mul", query, self.number(scale))
        else:
            root = self.number(np.sqrt(scale))
            query, key = self.op("Mul", query, root), self.op("Mul", key, root)
        transposed = self.op("Transpose", key, perm=[0, 1, 3, 2])
        return self.matmul(query, transposed, self.sizes.features, self.sizes.total)

    def softmax(self, scores: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The probabilities, and what the optional fourth result shows."""
        attributes = self.node.attributes
        shown = [scores] * 4
        softcap = attributes.get_float("softcap", 0.0)
        if softcap:
            cap = self.number(softcap)
            scores = self.op("Mul", self.op("Tanh", self.op("Div", scores, cap)), cap)
        shown[_CAPPED] = scores
        bias = self.bias()
        if bias is not None:
            scores = self.op("Add", scores, bias)
        shown[_BIASED] = scores
        precision = ir.DataType(attributes.get_int("softmax_precision", self.dtype.value))
        if precision != self.dtype:
            scores = self.op("Cast", scores, to=precision.value)
        probabilities = self.op("Softmax", scores, axis=-1)
        if precision != self.dtype:
            probabilities = self.op("Cast", probabilities, to=self.dtype.value)
        if bias is not None and self.may_mask_whole_rows(bias):
            # A row in which no key is left has the result zero; its softmax alone would be NaN.
            highest = self.op("ReduceMax", bias, self.ints(-1), keepdims=1)
            empty = self.op("Equal", highest, self.number(-np.inf))
            probabilities = self.op("Where", empty, self.number(0.0), probabilities)
        shown[_SOFTMAX] = probabilities
        return probabilities, shown[attributes.get_int("qk_matmul_output_mode", 0)]

    def bias(self) -> ir.Value | None:
        """The sum of mask, causal frontier, window and padding, or None if nothing is masked."""
        parts = [part for part in (self.mask(), self.frontier(), self.padding()) if part is not None]
        if not parts:
            return None
        total = parts[0]
        for part in parts[1:]:
            total = self.op("Add", total, part)
        return total

    def mask(self) -> ir.Value | None:
        mask = _input(self.node, 3)
        if mask is None:
            return None
        shape = _shape(mask) or ()
        is_bool = mask.dtype == ir.DataType.BOOL
        if (missing := self.sizes.total - shape[-1]) > 0:
            pads = self.ints(*[0] * (2 * len(shape) - 1), missing)
            fill = self.constant(np.asarray(False)) if is_bool else self.number(-np.inf)
            mask = self.op("Pad", mask, pads, fill)
        return self.allowed(mask) if is_bool else mask

    def allowed(self, condition: ir.Value) -> ir.Value:
        return self.op("Where", condition, self.number(0.0), self.number(-np.inf))

    def frontier(self) -> ir.Value | None:
        """Causal order and sliding window: key j is seen from query i, at position p = i + offset, iff
        j <= p (causal), p - left <= j and j <= p + right."""
        attributes, sizes = self.node.attributes, self.sizes
        left, right = attributes.get_int("left_window_size", -1), attributes.get_int("right_window_size", -1)
        if attributes.get_int("is_causal", 0):
            right = 0
        if left < 0 and right < 0:
            return None
        ahead = np.arange(sizes.total) - np.arange(sizes.queries)[:, None]  # j - i
        filled = _input(self.node, 6)
        if filled is None:
            ahead = ahead - sizes.past
            seen = np.ones(ahead.shape, np.bool_)
            if left >= 0:
                seen &= ahead >= -left
            if right >= 0:
                seen &= ahead <= right
            return self.constant(np.where(seen, 0.0, -np.inf), self.dtype)
        # With an outer cache the offset is the number of filled keys less the number of queries, by batch.
        offset = self.op("Sub", self.op("Reshape", filled, self.ints(-1, 1, 1, 1)), self.ints(sizes.queries))
        relative = self.op("Sub", self.constant(ahead.astype(np.int64)), offset)
        conditions = []
        if left >= 0:
            conditions.append(self.op("GreaterOrEqual", relative, self.ints(-left)))
        if right >= 0:
            conditions.append(self.op("LessOrEqual", relative, self.ints(right)))
        both = conditions[0] if len(conditions) == 1 else self.op("And", *conditions)
        return self.allowed(both)

    def padding(self) -> ir.Value | None:
        filled = _input(self.node, 6)
        if filled is None:
            return None
        counts = self.op("Reshape", filled, self.ints(-1, 1, 1, 1))
        keys = self.constant(np.arange(self.sizes.total, dtype=np.int64))
        return self.allowed(self.op("Less", keys, counts))

    def may_mask_whole_rows(self, bias: ir.Value) -> bool:
        """Whether a row of the bias can be all -inf: not if the bias is a constant without such a row."""
        if bias.const_value is None:
            return True
        return bool(np.isneginf(bias.const_value.numpy().astype(np.float32)).all(axis=-1).any())

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        if new.shape is None:
            copy_type(old, new)  # The next Attention may read it before shapes are inferred again.
        if old.is_graph_output():
            producer = new.producer()
            if producer is None or new.is_graph_output():
                new = self.op("Identity", new)
            name = old.name
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            old.name = None
            new.name = name
        else:
            old.replace_all_uses_with(new)
