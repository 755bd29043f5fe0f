"""The pass `fuse-epilogue`: elementwise work moves into the contraction before it, or into one node of its
own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ipucc.graph.edit import (
    AttrLike,
    Editor,
    all_graphs,
    attribute,
    copy_type,
    int_attribute,
    ints_attribute,
    merge_origin,
    prune,
    static_shape,
)
from ipucc.graph.expr import call, substitute
from ipucc.graph.match import Match
from ipucc.graph.patterns import OpPattern, Var, number, op
from ipucc.graph.rewrite import Builder, apply_rules, rewrite
from ipucc.graph.schemas import CONTRACTIONS, DOMAIN, attach_functions, expression, extra_operands
from ipucc.pass_manager import Pass, PassContext, option
from ipucc.passes.graph.identities import no_op
from ipucc.passes.graph.regions import Region, X, inline_constant, is_elementwise, users
from ipucc.passes.graph.views import VIEWS

_VIEWS = ("Reshape", "Transpose")


def _scaled(a: Var, b: Var, c: Var) -> tuple[OpPattern, ...]:
    return op.MatMul(a * number(c), b), op.MatMul(a, b * number(c))


@rewrite("scaled-operand", _scaled)
def scaled_operand(m: Match, new: Builder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value | None:
    """MatMul(a * c, b) is MatMul(a, b) * c for a scalar c: the product scales its result as it stores it."""
    return new.Mul(new.MatMul(a, b), c) if len(static_shape(c) or ()) <= 1 else None


@dataclass(frozen=True)
class FuseEpilogue(Pass):
    """Leaves no elementwise op outside of FusedMatMul, FusedConv, BlockSparseMatMul and FusedElementwise.

    The results of a contraction that only elementwise ops use (bias, residual, activation, masks) are
    computed where the contraction is; what remains is gathered into expressions as large as their shapes
    allow. Nothing is computed twice, and an operand larger than the result stays outside.

        m = MatMul (x, w)
        b = Add (m, bias)          ->   y = ipucc.FusedMatMul <expr = "Relu(Add(x, a0))"> (x, w, bias)
        y = Relu (b)
    """

    name: ClassVar[str] = "fuse-epilogue"

    max_operands: int = option(8, "operands beside the two of a contraction")
    max_ops: int = option(32, "elementwise ops in one expression")

    def run(self, model: ir.Model, ctx: PassContext) -> bool:
        hoister = Editor(model)
        count = sum(_hoist(node, hoister) for node in list(model.graph.all_nodes()))
        count += apply_rules(model, (scaled_operand, no_op, *VIEWS))
        fuser = _Fuser(Editor(model), ctx, self.max_operands, self.max_ops)
        for graph in all_graphs(model):
            # From the outputs: of two contractions that meet in one op, the one with more contractions before it
            # takes it. The end of a residual block is then the same op whether its shortcut has a product or not.
            for node in _deepest_first(graph):
                count += fuser.contraction(node)
            for node in reversed(list(graph)):
                count += fuser.elementwise(node)
        if count:
            prune(model)
            attach_functions(model)
        return count > 0


@dataclass
class _Fuser:
    editor: Editor
    ctx: PassContext
    max_operands: int
    max_ops: int

    def contraction(self, node: ir.Node) -> bool:
        """Moves what follows a contraction into it."""
        if node.graph is None or not _is_contraction(node):
            return False
        region, result = self._start(node), node.outputs[0]
        while True:
            extended = self._extend(region, result, node)
            if extended is None:
                break
            region, result = extended
        if not region.nodes and (node.domain == DOMAIN or region.exprs[result] == X):
            return False
        self._emit_contraction(node, region, result)
        return True

    def _start(self, node: ir.Node) -> Region:
        """The region that holds the expression which the contraction has already: its bias, or its
        epilogue."""
        region, result = Region(), node.outputs[0]
        if node.domain == DOMAIN:
            mapping = {f"a{i}": region.operand(v) for i, v in enumerate(extra_operands(node))}
            region.exprs[result] = substitute(expression(node), mapping)
            return region
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        region.exprs[result] = X
        if bias is not None:
            rank = len(static_shape(result) or ())
            region.exprs[result] = call("Add", (X, region.operand(self._channel_vector(bias, rank, node))))
        return region

    def elementwise(self, node: ir.Node) -> bool:
        """Makes one expression of an elementwise node and the producers that only it uses."""
        if node.graph is None or not is_elementwise(node):
            return False
        result = node.outputs[0]
        members = [node]
        while (more := self._widen(members, result)) is not None:
            members = more
        region = _region_of(members)
        if node.domain == DOMAIN and len(members) == 1:
            return False
        text, operands = region.finish(result)
        self._emit("FusedElementwise", operands, {"expr": text}, members[0], members)
        return True

    def _widen(self, members: list[ir.Node], result: ir.Value) -> list[ir.Node] | None:
        """The members and one more producer that nothing else uses and that has as many elements."""
        inside = set(members)
        for member in members:
            for value in member.inputs:
                producer = value.producer() if value is not None else None
                if value is None or producer is None or producer in inside or not is_elementwise(producer):
                    continue
                if producer.graph is not members[0].graph or value.is_graph_output():
                    continue
                if math.prod(static_shape(value) or ()) != math.prod(static_shape(result) or ()):
                    continue
                if not all(user in inside for user in users(value)):
                    continue
                wider = [*members, producer]
                region = _region_of(wider)
                # An expression of its own has no contraction, whose operands it may have instead.
                if self._fits(region, result, self.max_operands + 2) and not region.repeats(result):
                    return wider
        return None

    def _extend(self, region: Region, result: ir.Value, root: ir.Node) -> tuple[Region, ir.Value] | None:
        """The region with the nodes up to the next value that alone carries the result on, or None."""
        if result.is_graph_output() or not users(result):
            return None
        reached: list[ir.Node] = []
        frontier = users(result)
        for _ in range(self.max_ops):
            candidate = _next_in_order(frontier, reached, {result, *(n.outputs[0] for n in reached)})
            if candidate is None:
                break
            reached.append(candidate)
            exit_value = candidate.outputs[0]
            inner = {result, *(n.outputs[0] for n in reached[:-1])}
            if all(user in reached for value in inner for user in users(value)):
                extended = region.copy()
                for node in _in_order(reached):
                    extended.absorb(node)
                reason = self._refusal(extended, exit_value, result, root)
                if reason is None:
                    return extended, exit_value
                self.ctx.missed(root, f"{candidate.op_type} stays outside: {reason}")
                return None
            if exit_value.is_graph_output():
                break
            frontier = [*frontier, *users(exit_value)]
        blocked = dict.fromkeys(n.op_type for n in users(result) if is_elementwise(n))
        if blocked:
            self.ctx.missed(root, f"{', '.join(blocked)} stays outside: the result before it has other users")
        return None

    def _refusal(self, region: Region, exit_value: ir.Value, result: ir.Value, root: ir.Node) -> str | None:
        """Why the exit value cannot be the result of the contraction; None if it can."""
        shape = static_shape(root.outputs[0])
        if static_shape(exit_value) != shape or any(static_shape(n.outputs[0]) != shape for n in region.nodes):
            return "an operand is larger than the result"
        held = root.inputs[0].dtype if root.inputs[0] is not None else None
        if exit_value.dtype is None or not exit_value.dtype.is_floating_point():
            return f"its result is {exit_value.dtype}"
        if exit_value.dtype != held:
            return f"its result is {exit_value.dtype}, and the product is of {held}"
        if repeated := region.repeats(exit_value):
            return f"{', '.join(repeated)} would be computed twice"
        if not self._fits(region, exit_value, self.max_operands):
            return f"more than {self.max_operands} operands or {self.max_ops} ops"
        return None

    def _fits(self, region: Region, result: ir.Value, operands: int) -> bool:
        return len(region.finish(result)[1]) <= operands and region.size(result) <= self.max_ops

    def _emit_contraction(self, node: ir.Node, region: Region, result: ir.Value) -> None:
        text, extras = region.finish(result)
        last = region.nodes[-1] if region.nodes else node
        attrs: dict[str, AttrLike] = {"expr": text}
        if node.op_type == "MatMul":
            op_type = "FusedMatMul"
        elif node.op_type == "Conv":
            op_type = "FusedConv"
            attrs |= _conv_attributes(node)
        else:
            op_type = node.op_type
            attrs |= {n: v for n in node.attributes if n != "expr" and (v := attribute(node, n)) is not None}
        first = [v for v in node.inputs[: CONTRACTIONS[op_type]] if v is not None]
        self._emit(op_type, (*first, *extras), attrs, last, [node, *region.nodes])

    def _channel_vector(self, bias: ir.Value, rank: int, before: ir.Node) -> ir.Value:
        """The bias of a convolution as [C, 1, ...], so that it broadcasts to the result."""
        shape = (*(static_shape(bias) or ()), *(1,) * (rank - 2))
        dtype = bias.dtype or ir.DataType.FLOAT
        constant = self.editor.derived((bias,), np.asarray, shape, dtype, bias.name or "bias")
        if constant is not None:
            return constant
        return self.editor.node("Reshape", [bias, np.array(shape, dtype=np.int64)], before=before).outputs[0]

    def _emit(
        self,
        op_type: str,
        operands: Sequence[ir.Value],
        attrs: dict[str, AttrLike],
        last: ir.Node,
        sources: Sequence[ir.Node],
    ) -> None:
        """Puts the fused node where the last of its sources stands, and removes these."""
        result, name = last.outputs[0], last.name
        value_name, is_output = result.name, result.is_graph_output()
        fused = self.editor.node(op_type, operands, attrs, before=last, domain=DOMAIN, name=name)
        copy_type(result, fused.outputs[0])
        merge_origin(fused, sources)
        kinds = [n.op_type for n in sources]
        if len(kinds) > 1:
            self.ctx.passed(fused, f"fused {', '.join(kinds)}", expr=str(attrs["expr"]))
        self.editor.replace(result, fused.outputs[0])
        self.editor.remove_dead([last])
        fused.name = name
        if not is_output:
            fused.outputs[0].name = value_name


def _hoist(node: ir.Node, editor: Editor) -> bool:
    """f(view(y)) becomes view(f(y)) for ops with literals only, where f can then join what computes y."""
    if node.graph is None or not is_elementwise(node) or node.domain:
        return False
    sources = [v for v in node.inputs if v is not None and inline_constant(v) is None]
    views = _views_above(sources[0]) if len(sources) == 1 else []
    result = node.outputs[0]
    if not views or static_shape(result) != static_shape(sources[0]):
        return False
    top = views[-1].inputs[0]
    producer = top.producer() if top is not None else None
    if producer is None or producer.graph is not node.graph or len(users(producer.outputs[0])) != 1:
        return False
    if not (_is_contraction(producer) or is_elementwise(producer)):
        return False
    # The op moves up: it reads what the first view reads, and the views read it.
    node_inputs = [top if v is sources[0] else v for v in node.inputs]
    moved = ir.Node(
        "",
        node.op_type,
        node_inputs,
        node.attributes.values(),
        name=editor.fresh(node.name or node.op_type),
        metadata_props=dict(node.metadata_props),
    )
    moved.outputs[0].name = editor.fresh(f"{moved.name}_out")
    _graph_of(views[-1]).insert_before(views[-1], moved)
    editor.infer(moved)
    views[-1].replace_input_with(0, moved.outputs[0])
    for view in views:
        view.outputs[0].type = result.type
    if not editor.replace(result, sources[0]):
        return False
    editor.remove_dead([node])
    return True


def _deepest_first(graph: ir.Graph | ir.Function | ir.GraphView) -> list[ir.Node]:
    """The contractions of a graph by how many contractions they follow at most; of equals the last one first."""
    depth: dict[ir.Node, int] = {}
    for node in graph:
        before = (v.producer() for v in node.inputs if v is not None)
        depth[node] = max((depth.get(p, 0) for p in before if p is not None), default=0) + _is_contraction(node)
    found = [(depth[n], at, n) for at, n in enumerate(graph) if _is_contraction(n)]
    return [n for *_, n in sorted(found, key=lambda f: f[:2], reverse=True)]


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def _is_contraction(node: ir.Node) -> bool:
    """MatMul of matrices and Conv with static shapes, or a contraction that is fused already."""
    if node.domain == DOMAIN:
        return node.op_type in CONTRACTIONS
    if node.domain or node.op_type not in ("MatMul", "Conv") or static_shape(node.outputs[0]) is None:
        return False
    shapes = [static_shape(v) for v in node.inputs[:2] if v is not None]
    plain = node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    return plain and all(s is not None and len(s) >= 2 for s in shapes)


def _conv_attributes(node: ir.Node) -> dict[str, AttrLike]:
    spatial = len(static_shape(node.outputs[0]) or ()) - 2
    return {
        "dilations": ints_attribute(node, "dilations", (1,) * spatial),
        "group": int_attribute(node, "group", 1),
        "pads": ints_attribute(node, "pads", (0,) * 2 * spatial),
        "strides": ints_attribute(node, "strides", (1,) * spatial),
    }


def _in_order(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes with producers before users, else in the order given."""
    inside = set(nodes)
    ordered: dict[ir.Node, None] = {}

    def visit(node: ir.Node) -> None:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer in inside and producer is not None and producer not in ordered:
                visit(producer)
        ordered.setdefault(node)

    for node in nodes:
        visit(node)
    return list(ordered)


def _region_of(members: Sequence[ir.Node]) -> Region:
    region = Region()
    for node in _in_order(members):
        region.absorb(node)
    return region


def _next_in_order(frontier: Sequence[ir.Node], reached: Sequence[ir.Node], values: set[ir.Value]) -> ir.Node | None:
    """A node of the frontier whose operands from the region are all computed; None if one is not
    elementwise."""
    pending = [n for n in dict.fromkeys(frontier) if n not in reached]
    if not all(is_elementwise(n) for n in pending):
        return None
    made = {n.outputs[0] for n in pending}
    for node in pending:
        if not any(v in made and v not in values for v in node.inputs if v is not None):
            return node
    return None


def _views_above(value: ir.Value) -> list[ir.Node]:
    """The views between a value and what computes it, nearest first, each used by the next alone."""
    found: list[ir.Node] = []
    while True:
        producer = value.producer()
        single = len(users(value)) == 1 and not value.is_graph_output()
        if producer is None or producer.domain or producer.op_type not in _VIEWS or not single:
            return found
        source = producer.inputs[0]
        if source is None or not isinstance(producer.graph, ir.Graph):
            return found
        found.append(producer)
        value = source
