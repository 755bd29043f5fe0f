"""Small models as ONNX text, run before and after passes in two oracles: onnxruntime and the reference
evaluator."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import RemoveInitializersFromInputsPass, ShapeInferencePass

from ipucc.graph.schemas import oracle_model
from ipucc.pass_manager import PassContext, run_pipeline

ort = pytest.importorskip("onnxruntime")

Array = np.ndarray
Build = Callable[..., ir.Model]
Check = Callable[..., list[str]]


def build_model(text: str, **constants: Array) -> ir.Model:
    """A typed model of the working opset from the text of its graph; constants are listed among its
    inputs."""
    header = '<ir_version: 10, opset_import: ["" : 26, "ipucc" : 1]>\n'
    tensors = [ir.tensor(np.asarray(a), name=name) for name, a in constants.items()]
    model = ir.from_onnx_text(header + text, initializers=tensors)
    RemoveInitializersFromInputsPass()(model)
    ShapeInferencePass()(model)
    for i, node in enumerate(model.graph):
        node.name = node.name or f"n{i}"
        node.metadata_props["ipucc.origin"] = node.name
    return model


@pytest.fixture
def build() -> Build:
    return build_model


def random_inputs(model: ir.Model, seed: int = 0) -> dict[str, Array]:
    """Numbers of every sign for the inputs of a model; the same for the same seed."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        shape, dtype = [int(d) for d in value.shape], value.dtype.numpy()
        if dtype == np.bool_:
            feeds[value.name] = rng.random(shape) < 0.5
        elif dtype.kind in "iu":
            feeds[value.name] = rng.integers(0, 3, shape).astype(dtype)
        else:
            feeds[value.name] = rng.uniform(-2, 2, shape).astype(dtype)
    return feeds


def run_ort(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def run_reference(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(proto).run(None, dict(feeds))


def assert_close(actual: Sequence[Array], wanted: Sequence[Array], tolerance: float) -> None:
    for a, b in zip(actual, wanted, strict=True):
        scale = max(1.0, float(np.max(np.abs(b[np.isfinite(b)]), initial=0.0))) if b.dtype.kind == "f" else 1.0
        np.testing.assert_allclose(
            a.astype(np.float64), b.astype(np.float64), rtol=tolerance, atol=tolerance * scale, equal_nan=True
        )


@pytest.fixture
def oracles() -> SimpleNamespace:
    """`ort` and `reference` run a model, `close` compares results."""
    return SimpleNamespace(ort=run_ort, reference=run_reference, close=assert_close, inputs=random_inputs)


def spell(node: ir.Node) -> str:
    """`FusedMatMul: Relu(Add(x, a0))` or the op type."""
    text = node.attributes.get_string("expr")
    return node.op_type if text is None else f"{node.op_type}: {text}"


@pytest.fixture
def check() -> Check:
    """Runs a pipeline on a model; numbers must agree before and after in both oracles. Returns the ops.

    `reference=False` leaves the reference evaluator out, for ops where it is known to be wrong.
    """

    def run(
        model: ir.Model,
        pipeline: str,
        tolerance: float = 2e-6,
        feeds: Mapping[str, Array] | None = None,
        context: PassContext | None = None,
        reference: bool = True,
    ) -> list[str]:
        before = ir.to_proto(model.clone())
        feeds = dict(feeds or random_inputs(model))
        wanted = run_ort(before, feeds)
        if reference:
            assert_close(run_reference(before, feeds), wanted, tolerance)
        names = [v.name for v in (*model.graph.inputs, *model.graph.outputs)]
        run_pipeline(model, pipeline, context=context)
        assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == names
        fused = ir.to_proto(model)
        onnx.checker.check_model(fused, full_check=True)
        assert_close(run_ort(fused, feeds), wanted, tolerance)
        inlined = oracle_model(model)
        assert_close(run_ort(inlined, feeds), wanted, tolerance)
        if reference:
            assert_close(run_reference(inlined, feeds), wanted, tolerance)
        return [spell(node) for node in model.graph]

    return run
