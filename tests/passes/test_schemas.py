"""The ops of the domain ipucc: schema, inference, and bodies that two evaluators run."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ipucc.diagnostics import CompileError
from ipucc.graph import schemas
from ipucc.graph.edit import Editor, static_shape
from ipucc.graph.expr import ELEMENTWISE

RNG = np.random.default_rng(0)


def node_model(op: str, inputs: dict[str, np.ndarray], **attrs: object) -> ir.Model:
    """One node of the domain ipucc, typed by its own inference."""
    values = [ir.val(n, ir.DataType.from_numpy(a.dtype), a.shape) for n, a in inputs.items()]
    node = ir.node(op, values, attributes=attrs, domain="ipucc", name="n")
    node.outputs[0].name = "y"
    graph = ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 26, "ipucc": 1}, name="g")
    model = ir.Model(graph, ir_version=11)
    Editor(model).infer(node)
    schemas.attach_functions(model)
    return model


@pytest.fixture
def run(oracles: SimpleNamespace) -> Callable[..., np.ndarray]:
    """The result of one node: fused in onnxruntime, inlined in both oracles, all equal."""

    def evaluate(op: str, inputs: dict[str, np.ndarray], **attrs: object) -> np.ndarray:
        model = node_model(op, inputs, **attrs)
        fused, inlined = ir.to_proto(model), schemas.oracle_model(model)
        onnx.checker.check_model(fused, full_check=True)
        assert not [n for n in inlined.graph.node if n.domain == "ipucc"]
        (wanted,) = oracles.ort(fused, inputs)
        oracles.close(oracles.ort(inlined, inputs), [wanted], 2e-6)
        oracles.close(oracles.reference(inlined, inputs), [wanted], 2e-3 if wanted.dtype == np.float16 else 2e-6)
        value = model.graph.outputs[0]
        assert (value.dtype.numpy(), static_shape(value)) == (wanted.dtype, wanted.shape)
        return wanted

    return evaluate


@pytest.mark.parametrize("op", sorted(ELEMENTWISE))
def test_every_elementwise_op_runs(op: str, run: Callable[..., np.ndarray]) -> None:
    x, row = RNG.uniform(0.1, 0.9, (2, 3)).astype(np.float32), RNG.uniform(0.1, 0.9, 3).astype(np.float32)
    low, high = ELEMENTWISE[op]
    args = [x, row, x][: 2 if high > 3 else low]
    extra = ""
    if op in ("And", "Or", "Xor", "Not"):
        args = [a > 0.5 for a in args]
    elif op == "BitShift":
        args, extra = [(a * 10).astype(np.uint32) for a in args], ', direction="LEFT"'
    elif op.startswith("Bitwise"):
        args = [(a * 10).astype(np.int32) for a in args]
    elif op == "Mod":
        args = [(a * 10 + 1).astype(np.int32) for a in args]
    elif op == "Where":
        args = [x > 0.5, row, x]
    elif op == "Acosh":
        args = [x + 1]
    elif op == "Clip":
        extra = ", 0.2, 0.6"
    elif op == "Cast":
        extra = ', to="float16"'
    elif op == "BitCast":
        extra = ', to="int32"'
    names = [f"a{i}" for i in range(len(args))]
    run("FusedElementwise", dict(zip(names, args, strict=True)), expr=f"{op}({', '.join(names)}{extra})")


@pytest.mark.parametrize(
    ("expr", "wanted"),
    [
        ("Where(a0, a1, 0.5)", np.float16),
        ('Where(a0, Cast(1.0, to="float16"), Cast(Sub(a1, a1), to="float16"))', np.float16),
        ('Where(a0, Cast(Mul(Cast(a1, to="float32"), 0.1), to="float16"), a1)', np.float16),
        ("And(a0, Less(a1, 0.25))", np.bool_),
    ],
)
def test_literals_take_the_type_beside_them(expr: str, wanted: type, run: Callable[..., np.ndarray]) -> None:
    mask = np.array([[True, False]])
    found = run("FusedElementwise", {"a0": mask, "a1": np.array([[0.5, 0.1]], dtype=np.float16)}, expr=expr)
    assert found.dtype == wanted


def test_matmul_with_batch_and_epilogue(run: Callable[..., np.ndarray]) -> None:
    a, b = RNG.standard_normal((2, 3, 4, 5)), RNG.standard_normal((3, 5, 6))
    bias = RNG.standard_normal(6)
    inputs = {"A": a, "B": b, "a0": bias}
    found = run("FusedMatMul", {n: v.astype(np.float32) for n, v in inputs.items()}, expr="Relu(Add(x, a0))")
    np.testing.assert_allclose(found, np.maximum(a @ b + bias, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "group"), [((1, 1), 1), ((2, 3), 2)])
def test_conv_with_epilogue(stride: tuple[int, int], group: int, run: Callable[..., np.ndarray]) -> None:
    inputs = {
        "X": RNG.standard_normal((1, 4, 9, 8)).astype(np.float32),
        "W": RNG.standard_normal((6, 4 // group, 3, 2)).astype(np.float32),
        "a0": RNG.standard_normal((6, 1, 1)).astype(np.float32),
    }
    attrs = {"pads": [1, 0, 2, 1], "strides": stride, "dilations": [2, 1], "group": group}
    run("FusedConv", inputs, expr="Mul(Add(x, a0), Sigmoid(Add(x, a0)))", **attrs)


def test_block_sparse_matmul_is_the_product_with_its_blocks(run: Callable[..., np.ndarray]) -> None:
    values = RNG.standard_normal((3, 4, 4)).astype(np.float32)
    values[1:, 1:] = 0  # the weight has 5 rows: block row 1 holds only one
    values[[0, 2], :, 2:] = 0  # and 6 columns
    weight = np.zeros((5, 6), dtype=np.float32)
    weight[:4, 4:], weight[4:, :4], weight[4:, 4:] = values[0, :, :2], values[1, :1], values[2, :1, :2]
    a, bias = RNG.standard_normal((2, 3, 5)).astype(np.float32), np.ones(6, dtype=np.float32)
    attrs = {"rows": [0, 1, 1], "cols": [1, 0, 1], "block": [4, 4], "shape": [5, 6]}
    found = run("BlockSparseMatMul", {"A": a, "values": values, "a0": bias}, expr="Add(x, a0)", **attrs)
    np.testing.assert_allclose(found, a @ weight + 1, rtol=1e-5, atol=1e-5)


SPARSE = {"block": [4, 4], "shape": [8, 8], "expr": "x"}
SPARSE_CONV = {
    "block": [4, 4], "shape": [5, 8, 3, 2], "expr": "x", "taps": [5], "rows": [1], "cols": [1],
    "pads": [0] * 4, "strides": [1, 1], "dilations": [1, 1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "message"),
    [
        ("FusedElementwise", [(2,), (3,)], {"expr": "Add(a0, a1)"}, "broadcast"),
        ("FusedElementwise", [(2,)], {"expr": "Add(a0, a1)"}, "a1 is no operand"),
        ("FusedElementwise", [(2,), (2,)], {"expr": "Relu(a0)"}, "a1 does not appear"),
        ("FusedElementwise", [(2,)], {"expr": "Relu(a0"}, "expected ','"),
        ("FusedMatMul", [(2, 3), (4, 5)], {"expr": "x"}, "contracted dimensions"),
        (
            "FusedMatMul",
            [(2, 3), (3, 5), (4, 1, 5)],
            {"expr": "Add(x, a0)"},
            "do not broadcast to the result",
        ),
        (
            "FusedConv",
            [(1, 4, 5, 5), (2, 3, 3, 3)],
            {"expr": "x", "pads": [0] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1},
            "input channels",
        ),
        (
            "BlockSparseMatMul",
            [(2, 8), (2, 4, 4)],
            {**SPARSE, "rows": [0, 0], "cols": [1, 1]},
            "every block once",
        ),
        (
            "BlockSparseMatMul",
            [(2, 8), (1, 4, 4)],
            {**SPARSE, "rows": [2], "cols": [1]},
            "rows must lie in 0..1",
        ),
        ("BlockSparseMatMul", [(2, 8), (1, 4, 8)], {**SPARSE, "rows": [1], "cols": [1]}, "are not 1 blocks"),
        ("BlockSparseMatMul", [(2, 9), (1, 4, 4)], {**SPARSE, "rows": [1], "cols": [1]}, "does not fit"),
        ("BlockSparseConv", [(1, 8, 5, 5), (1, 4, 4)], {**SPARSE_CONV, "taps": [6]}, "taps must lie in 0..5"),
        ("BlockSparseConv", [(1, 8, 5, 5), (1, 4, 4)], {**SPARSE_CONV, "cols": [2]}, "cols must lie in 0..1"),
        ("BlockSparseConv", [(1, 8, 5, 5), (1, 4, 4)], {**SPARSE_CONV, "taps": [1, 2]}, "every block once"),
        ("BlockSparseConv", [(1, 9, 5, 5), (1, 4, 4)], SPARSE_CONV, "input channels"),
        ("BlockSparseConv", [(1, 8, 5, 5), (1, 4, 4)], {**SPARSE_CONV, "shape": [5, 8]}, "three or more"),
    ],
)
def test_inference_refuses(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, object], message: str) -> None:
    names = schemas.onnx.defs.get_schema(op, "ipucc").inputs
    fixed = [p.name for p in names[:-1]]
    labels = [*fixed, *(f"a{i}" for i in range(len(shapes)))][: len(shapes)]
    inputs = {n: np.zeros(s, dtype=np.float32) for n, s in zip(labels, shapes, strict=True)}
    with pytest.raises(CompileError, match=message):
        node_model(op, inputs, **attrs)


def test_equal_bodies_are_one_function() -> None:
    x = {"A": np.zeros((2, 3), np.float32), "B": np.zeros((3, 4), np.float32), "a0": np.zeros(4, np.float32)}
    one, two = (node_model("FusedMatMul", x, expr=e) for e in ("Add(x, a0)", "Add(a0, x)"))
    assert list(one.functions) == list(two.functions)
    other = node_model("FusedMatMul", x, expr="Sub(x, a0)")
    assert list(other.functions) != list(one.functions)


def test_functions_follow_their_nodes() -> None:
    model = node_model("FusedElementwise", {"a0": np.zeros(2, np.float32)}, expr="Relu(a0)")
    (before,) = model.functions
    model.graph[0].attributes["expr"] = ir.AttrString("expr", "Neg(a0)")
    schemas.attach_functions(model)
    (after,) = model.functions
    assert after != before
    schemas.attach_functions(model)
    assert list(model.functions) == [after]


def test_oracle_model_leaves_the_model_alone() -> None:
    model = node_model("FusedElementwise", {"a0": np.zeros(2, np.float32)}, expr="Relu(a0)")
    text = ir.to_proto(model).SerializeToString()
    schemas.oracle_model(model)
    assert ir.to_proto(model).SerializeToString() == text
