"""The matcher: what a pattern finds, what keeps it from matching, and what a rewrite leaves behind."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from ipucc.diagnostics import CompileError
from ipucc.graph.match import Match
from ipucc.graph.patterns import OpPattern, Var, const, either, maybe, op
from ipucc.graph.rewrite import Builder, Rule, apply_rules, require, rewrite
from ipucc.pass_manager import PassContext

Build = Callable[..., ir.Model]


def _silu_pattern(x: Var) -> OpPattern:
    return x * op.Sigmoid(x)


@rewrite("silu", _silu_pattern)
def silu(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    return new.HardSwish(x)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("product", ["Mul(x, s)", "Mul(s, x)"])
def test_commutative_operands_match_in_either_order(product: str, build: Build) -> None:
    model = build(f"g (float[2] x) => (float[2] y) {{ s = Sigmoid(x)\n y = {product} }}")
    assert apply_rules(model, [silu]) == 1
    assert ops(model) == ["HardSwish"]
    assert model.graph.outputs[0].name == "y"


def test_a_result_used_elsewhere_keeps_its_node(build: Build) -> None:
    model = build("g (float[2] x) => (float[2] y, float[2] z) { s = Sigmoid(x)\n y = Mul(x, s)\n z = Neg(s) }")
    assert apply_rules(model, [silu]) == 0


def test_an_inner_graph_output_keeps_its_node(build: Build) -> None:
    model = build("g (float[2] x) => (float[2] y, float[2] s) { s = Sigmoid(x)\n y = Mul(x, s) }")
    assert apply_rules(model, [silu]) == 0


def test_one_name_is_one_value(build: Build) -> None:
    model = build("g (float[2] x, float[2] z) => (float[2] y) { s = Sigmoid(z)\n y = Mul(x, s) }")
    assert apply_rules(model, [silu]) == 0


def test_shared_sub_patterns_are_one_node(build: Build) -> None:
    def pattern(x: Var) -> OpPattern:
        e = op.Exp(x)
        return e / (e + 1)

    @rewrite("sigmoid", pattern)
    def rule(m: Match, new: Builder, x: ir.Value) -> ir.Value:
        return new.Sigmoid(x)

    text = "g (float[2] x, float one) => (float[2] y) {{ e = Exp(x)\n f = Exp(x)\n p = Add({}, one)\n y = Div(e, p) }}"
    assert apply_rules(build(text.format("e"), one=np.float32(1)), [rule]) == 1
    assert apply_rules(build(text.format("f"), one=np.float32(1)), [rule]) == 0


def test_attributes_not_named_must_have_their_defaults(build: Build) -> None:
    def pattern(x: Var, axes: Var) -> OpPattern:
        return op.ReduceMean(x, axes)

    @rewrite("mean", pattern)
    def rule(m: Match, new: Builder, x: ir.Value, axes: ir.Value) -> ir.Value:
        return new.ReduceMax(x, axes)

    text = "g (float[2,3] x, int64[1] a) => (float[{}] y) {{ y = ReduceMean<{}>(x, a) }}"
    assert apply_rules(build(text.format("2,1", "keepdims = 1"), a=[1]), [rule]) == 1
    assert apply_rules(build(text.format("2", "keepdims = 0"), a=[1]), [rule]) == 0


def test_attributes_are_captured_with_their_defaults(build: Build) -> None:
    def pattern(x: Var, axis: Var) -> OpPattern:
        return op.Softmax(x, axis=axis)

    seen = []

    @rewrite("softmax", pattern)
    def rule(m: Match, new: Builder, x: ir.Value, axis: int) -> ir.Value | None:
        seen.append(axis)
        return None

    apply_rules(build("g (float[2,3] x) => (float[2,3] y) { t = Softmax<axis = 0>(x)\n y = Softmax(t) }"), [rule])
    assert seen == [-1, 0]


def test_optional_operands_and_alternatives(build: Build) -> None:
    def pattern(x: Var, low: Var, high: Var) -> OpPattern:
        return op.Neg(either(op.Clip(x, low, maybe(high)), op.Max(x, low)))

    seen = []

    @rewrite("clip", pattern)
    def rule(m: Match, new: Builder, low: ir.Value, high: ir.Value | None) -> ir.Value | None:
        seen.append((m.nodes[1].op_type, high is not None))
        return None

    text = "g (float[2] x, float l, float h) => (float[2] y) {{ c = {}\n y = Neg(c) }}"
    for call in ("Clip(x, l)", "Clip(x, l, h)", "Max(x, l)"):
        apply_rules(build(text.format(call)), [rule])
    assert seen == [("Clip", False), ("Clip", True), ("Max", False)]


@pytest.mark.parametrize(("value", "found"), [(1.702, 1), (1.7021, 1), (1.8, 0), ([1.702, 1.702], 0)])
def test_constants_match_within_their_tolerance(value: float, found: int, build: Build) -> None:
    def pattern(x: Var) -> OpPattern:
        return x * const(1.702, rtol=1e-4)

    @rewrite("scale", pattern)
    def rule(m: Match, new: Builder, x: ir.Value) -> ir.Value:
        return new.Neg(x)

    shape = "[2]" if isinstance(value, list) else ""
    model = build(f"g (float[2] x, float{shape} c) => (float[2] y) {{ y = Mul(x, c) }}", c=np.float32(value))
    assert apply_rules(model, [rule]) == found


def test_the_larger_pattern_wins_from_the_outputs(build: Build) -> None:
    def small(x: Var) -> OpPattern:
        return op.Relu(x)

    def large(x: Var) -> OpPattern:
        return op.Neg(op.Relu(x))

    @rewrite("small", small)
    def first(m: Match, new: Builder, x: ir.Value) -> ir.Value:
        return new.Abs(x)

    @rewrite("large", large)
    def second(m: Match, new: Builder, x: ir.Value) -> ir.Value:
        return new.Ceil(x)

    model = build("g (float[2] x) => (float[2] y) { r = Relu(x)\n y = Neg(r) }")
    apply_rules(model, [first, second])
    assert ops(model) == ["Ceil"]


@rewrite("never", _silu_pattern)
def never(m: Match, new: Builder, x: ir.Value) -> ir.Value:
    made = new.Neg(x)
    require(False, "x is not what it should be")
    return made


def test_a_missed_rule_leaves_a_remark_and_no_nodes(build: Build) -> None:
    model = build("g (float[2] x) => (float[2] y) { s = Sigmoid(x)\n y = Mul(x, s) }")
    ctx = PassContext()
    assert apply_rules(model, [never], ctx) == 0
    assert ops(model) == ["Sigmoid", "Mul"]
    (remark,) = ctx.remarks
    assert (remark.id, remark.node, remark.op) == ("IPU0321", "n1", "Mul")
    assert remark.message == "never: x is not what it should be"


def test_provenance_is_merged_and_names_stay(build: Build) -> None:
    model = build("g (float[2] x) => (float[2] z) { s = Sigmoid(x)\n y = Mul(x, s)\n z = Neg(y) }")
    ctx = PassContext()
    apply_rules(model, [silu], ctx)
    node = model.graph[0]
    assert (node.name, node.outputs[0].name) == ("n1", "y")
    assert node.metadata_props["ipucc.origin"] == "n0,n1"
    assert [r.id for r in ctx.remarks] == ["IPU0320"]


def test_another_type_is_refused_by_name(build: Build) -> None:
    @rewrite("to-bool", _silu_pattern)
    def rule(m: Match, new: Builder, x: ir.Value) -> ir.Value:
        return new.IsNaN(x)

    model = build("g (float[2] x) => (float[2] y) { s = Sigmoid(x)\n y = Mul(x, s) }")
    with pytest.raises(CompileError, match="rule 'to-bool' replaces FLOAT"):
        apply_rules(model, [rule])


def test_an_output_that_cannot_be_replaced_stays(build: Build) -> None:
    def pattern(x: Var) -> OpPattern:
        return op.Identity(x)

    @rewrite("identity", pattern)
    def rule(m: Match, new: Builder, x: ir.Value) -> ir.Value:
        return x

    model = build("g (float[2] x) => (float[2] y, float[2] z) { y = Identity(x)\n t = Identity(x)\n z = Neg(t) }")
    apply_rules(model, [rule])
    assert ops(model) == ["Identity", "Neg"]


def test_wrong_captures_are_an_error_of_the_author() -> None:
    with pytest.raises(ValueError, match="w is no capture"):

        @rewrite("wrong", _silu_pattern)
        def rule(m: Match, new: Builder, w: ir.Value) -> ir.Value:
            return w


def test_rules_reach_into_subgraphs(build: Build) -> None:
    model = build(
        """g (float[2] x, bool c) => (float[2] y) {
          y = If (c) <then_branch = t () => (float[2] a) { s = Sigmoid(x)
                                                          a = Mul(x, s) },
                      else_branch = e () => (float[2] b) { b = Neg(x) }> }"""
    )
    assert apply_rules(model, [silu]) == 1
    branch = model.graph[0].attributes["then_branch"].as_graph()
    assert [node.op_type for node in branch] == ["HardSwish"]
    assert isinstance(silu, Rule)
