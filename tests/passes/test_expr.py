"""The expression language of fused elementwise ops."""

import math

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipucc.diagnostics import CompileError
from ipucc.graph import expr as ex

UNARY = sorted(op for op, (low, high) in ex.ELEMENTWISE.items() if low == high == 1 and op not in ex.ATTRIBUTES)
BINARY = sorted(op for op, arity in ex.ELEMENTWISE.items() if arity == (2, 2) and op not in ex.ATTRIBUTES)

leaves = st.one_of(
    st.sampled_from(["x", "a0", "a1", "a2", "a10"]).map(ex.Operand),
    st.floats(allow_nan=False).map(ex.Const),
    st.integers(-(2**40), 2**40).map(ex.Const),
    st.booleans().map(ex.Const),
)
exprs = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda op, a: ex.call(op, [a]), st.sampled_from(UNARY), inner),
        st.builds(lambda op, a, b: ex.call(op, [a, b]), st.sampled_from(BINARY), inner, inner),
        st.builds(lambda a, b, c: ex.call("Where", [a, b, c]), inner, inner, inner),
        st.builds(lambda a, t: ex.call("Cast", [a], {"to": t}), inner, st.sampled_from(["float16", "bool"])),
        st.builds(lambda a, v: ex.call("LeakyRelu", [a], {"alpha": v}), inner, st.floats(-2, 2)),
        st.builds(lambda args: ex.call("Max", args), st.lists(inner, min_size=1, max_size=4)),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(exprs)
def test_text_round_trips(expr: ex.Expr) -> None:
    text = ex.format(expr)
    assert ex.parse(text) == ex.canonical(expr)
    assert ex.format(ex.parse(text)) == text


@settings(deadline=None)
@given(exprs)
def test_canonical_keeps_ops_and_operands(expr: ex.Expr) -> None:
    same = ex.canonical(expr)
    assert sorted(ex.ops(same)) == sorted(ex.ops(expr))
    assert set(ex.operands(same)) == set(ex.operands(expr))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("Relu(Add(a0,x))", "Relu(Add(x, a0))"),
        ("Add(1.0, Mul(a10, a2))", "Add(Mul(a2, a10), 1.0)"),
        ("Sub(1.0, a0)", "Sub(1.0, a0)"),
        ('Gelu(a0, approximate="none")', "Gelu(a0)"),
        ('Gelu(a0, approximate="tanh")', 'Gelu(a0, approximate="tanh")'),
        ("LeakyRelu(a0, alpha=1)", "LeakyRelu(a0, alpha=1.0)"),
        ("Clip(x, -inf, 6)", "Clip(x, -inf, 6)"),
        ("Where(a0, true, false)", "Where(a0, true, false)"),
    ],
)
def test_canonical_text(given: str, wanted: str) -> None:
    assert ex.format(ex.parse(given)) == wanted


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("Relu(Add(x, a0)", "expected ','", 15),
        ("Relu(x) y", "unexpected text after the end", 8),
        ("Add(x, Sofmax(a0))", "no elementwise op", 7),
        ("Add(x)", "Add takes 2 arguments, not 1", 0),
        ("Clip(x, 0.0, 1.0, 2.0)", "Clip takes 1 to 3 arguments, not 4", 0),
        ("Gelu(x, aproximate=1)", "no attribute 'aproximate'", 0),
        ("Cast(x)", "needs the attribute 'to'", 0),
        ("Mod(x, a0, fmod=0.5)", "takes a int", 0),
        ("Add(x, 1e999)", "too large", 7),
        ("Add(x, $)", "unexpected character", 7),
        ("", "expected an operand", 0),
        ("LeakyRelu(alpha=0.5, x)", "an argument after an attribute", 22),
    ],
)
def test_errors_mark_their_place(text: str, message: str, column: int) -> None:
    with pytest.raises(CompileError) as caught:
        ex.parse(text)
    lines = caught.value.diagnostics[0].message.splitlines()
    assert message in lines[0]
    assert lines[-1] == " " * column + "^"


def test_deep_nesting_is_refused() -> None:
    assert ex.parse("Neg(" * 50 + "x" + ")" * 50)
    with pytest.raises(CompileError, match="nested"):
        ex.parse("Neg(" * 5000 + "x" + ")" * 5000)


def test_constants_keep_their_kind() -> None:
    assert ex.Const(1) != ex.Const(1.0)
    assert ex.Const(True) != ex.Const(1)
    assert ex.Const(math.nan) == ex.Const(math.nan)
    assert ex.parse("nan") == ex.Const(math.nan)


def test_operands_ops_and_substitution() -> None:
    expr = ex.parse("Where(Less(a1, a0), Mul(x, a1), 0.5)")
    assert ex.operands(expr) == ("a1", "a0", "x")
    assert ex.ops(expr) == ("Less", "Mul", "Where")
    replaced = ex.substitute(expr, {"x": ex.parse("Add(x, a2)")})
    assert ex.format(replaced) == "Where(Less(a1, a0), Mul(Add(x, a2), a1), 0.5)"


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("Add(a0, 1.0)", "float16"),
        ("Less(a0, 1.0)", "bool"),
        ("Where(a1, 0.0, a0)", "float16"),
        ("Where(a1, 1.0, 0.0)", "float32"),
        ('Where(a1, Cast(1.0, to="float16"), 0.0)', "float16"),
        ('Cast(a0, to="int32")', "int32"),
        ("Add(a2, 1)", "int64"),
    ],
)
def test_result_type(text: str, dtype: str) -> None:
    types = {"a0": "float16", "a1": "bool", "a2": "int64"}
    assert ex.result_type(ex.parse(text), types) == dtype


def test_mixed_types_are_refused() -> None:
    with pytest.raises(CompileError, match="mixes float16 and int64"):
        ex.result_type(ex.parse("Add(a0, a1)"), {"a0": "float16", "a1": "int64"})


@pytest.mark.parametrize("op", sorted(ex.ELEMENTWISE))
def test_tables_agree_with_the_schemas_of_onnx(op: str) -> None:
    schema = onnx.defs.get_schema(op, 26)
    low, high = ex.ELEMENTWISE[op]
    assert (low, high) == (schema.min_input, schema.max_input)
    defaults = {}
    for name, attribute in schema.attributes.items():
        value = onnx.helper.get_attribute_value(attribute.default_value) if attribute.default_value.type else None
        defaults[name] = value.decode() if isinstance(value, bytes) else value
    assert set(defaults) == set(ex.ATTRIBUTES.get(op, {}))
    for name, value in ex.ATTRIBUTES.get(op, {}).items():
        assert value == pytest.approx(defaults[name], rel=1e-6) if isinstance(value, float) else value == defaults[name]
